"""Public layouts become our columns, and kinds become each other, with nothing lost on the way."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewardsmith.data import RecordError, check, iter_rows, load_data
from rewardsmith.data.convert import (
    candidates_to_preferences,
    preferences_to_ratings,
    ratings_to_candidates,
    segments_to_steps,
    steps_to_completions,
    steps_to_segments,
    unpaired_to_preferences,
    users_to_preferences,
)
from rewardsmith.data.layouts import (
    as_chat,
    fine_grained_preferences,
    fine_grained_segments,
    recognize,
    tldr_prompt,
    transcripts,
    transcripts_as_messages,
)

BEGIN = "\n\nHuman: Hi\n\nAssistant: Hello.\n\nHuman: And now?\n\nAssistant:"


def said(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def test_transcripts_part_at_the_last_common_turn_of_the_assistant() -> None:
    row = transcripts({"chosen": BEGIN + " Bye.", "rejected": BEGIN + " But no.", "id": 4})
    assert row == {"prompt": BEGIN, "chosen": " Bye.", "rejected": " But no.", "id": 4}


def test_transcripts_that_part_early_keep_their_later_turns() -> None:
    chosen, rejected = " A.\n\nHuman: x\n\nAssistant: y", " B.\n\nAssistant: z"
    row = transcripts({"chosen": BEGIN + chosen, "rejected": BEGIN + rejected})
    assert row == {"prompt": BEGIN, "chosen": chosen, "rejected": rejected}
    # one goes on with "Assistant:" where the other has "Human:": the turn before is the last common one
    row = transcripts({"chosen": BEGIN + " A.\n\nAssistant: y", "rejected": BEGIN + " A.\n\nHuman: z"})
    assert row["prompt"] == BEGIN


@given(prompt=st.text(max_size=30), chosen=st.text(max_size=30), rejected=st.text(max_size=30))
def test_transcripts_lose_no_character(prompt: str, chosen: str, rejected: str) -> None:
    whole = {
        "chosen": f"\n\nHuman: {prompt}\n\nAssistant:{chosen}",
        "rejected": f"\n\nHuman: {prompt}\n\nAssistant:{rejected}",
    }
    row = transcripts(whole)
    assert {name: row["prompt"] + row[name] for name in whole} == whole
    assert row["prompt"].endswith("\n\nAssistant:")


def test_conversations_part_where_they_differ() -> None:
    begin = [said("system", "s"), said("user", "u")]
    a, b = said("assistant", "a"), said("assistant", "b")
    data, report = load_data([{"chosen": [*begin, a], "rejected": [*begin, b], "source": "x"}])
    assert data.to_list() == [{"prompt": begin, "chosen": [a], "rejected": [b], "source": "x"}]
    assert report.notes == {"rows read as two transcripts": 1}


def test_completions_that_repeat_the_prompt_lose_it() -> None:
    user, a, b = said("user", "Why?"), said("assistant", "So."), said("assistant", "No.")
    rows = [{"prompt": prompt, "chosen": [user, a], "rejected": [user, b]} for prompt in ("Why?", [user])]
    for row in rows:
        data, report = load_data([row])
        assert data.to_list() == [{"prompt": [user], "chosen": [a], "rejected": [b]}]
        assert report.notes == {"rows whose completions repeated the prompt": 1}


@pytest.mark.parametrize(
    "row, column, word",
    [
        ({"chosen": "a", "rejected": "b"}, "chosen", "no prompt"),
        ({"chosen": None, "rejected": BEGIN}, "chosen", "missing"),
        ({"chosen": BEGIN, "rejected": 3}, "rejected", "int"),
        ({"chosen": BEGIN, "rejected": [said("user", "x")]}, "rejected", "string"),
        ({"chosen": [said("user", "x")] * 2, "rejected": [said("user", "y")] * 2}, "chosen", "no first message"),
        ({"instruction": "i", "output_1": "a", "output_2": "b", "preference": None}, "preference", "missing"),
        ({"instruction": "i", "output_1": "a", "output_2": "b", "preference": 1.5}, "preference", "tie"),
        ({"instruction": "i", "output_1": "a", "output_2": "b", "preference": 7}, "preference", "7"),
        ({"input": "i", "output_1": "a", "output_2": "b", "label": 3}, "label", "1 or 2"),
        ({"info": {"post": "p"}, "summaries": [{"text": "a"}, {"text": "b"}], "choice": 2}, "choice", "0 or 1"),
        ({"instruction": "i", "completions": ["a", "b"]}, "completions", "response"),
    ],
)
def test_rows_that_are_not_as_their_layout_are_refused(row: dict, column: str, word: str) -> None:
    with pytest.raises(RecordError, match=f"row 0, column '{column}'.*{word}"):
        load_data([row])


def test_a_missing_part_of_a_layout_is_named() -> None:
    with pytest.raises(RecordError, match=r"row 0: .*summarize_from_feedback.*'text'"):
        load_data([{"info": {"post": "p"}, "summaries": [{}, {}], "choice": 0}])


def test_alpaca_eval_keeps_who_wrote_what_and_how_sure_the_judge_was() -> None:
    row = {"instruction": "i", "output_1": "a", "output_2": "b", "generator_1": "m", "generator_2": "n"}
    assert load_data([{**row, "preference": 1.75}])[0][0] == {
        **{"prompt": "i", "chosen": "b", "rejected": "a", "generator_chosen": "n", "generator_rejected": "m"},
        **{"chosen_position": 2, "target_prob": 0.75},
    }
    assert load_data([{**row, "preference": 1}])[0][0]["target_prob"] == 1.0


def test_rewardbench_rows() -> None:
    one = {"prompt": "p", "chosen": "a", "rejected": "b", "chosen_model": "m", "rejected_model": "n", "subset": "s"}
    data, _ = load_data([one])
    assert data[0]["generator_chosen"] == "m" and data[0]["subset"] == "s"
    two = {"id": "1", "prompt": "p", "chosen": ["a"], "rejected": ["b", "c"], "num_correct": 1, "total_completions": 3}
    data, report = load_data([two])
    assert report.kind == "candidates" and data[0]["candidates"] == ["a", "b", "c"] and data[0]["num_correct"] == 1
    pairs, _ = load_data([two], kind="preference")
    assert [(row["chosen"], row["rejected"]) for row in pairs] == [("a", "b"), ("a", "c")]


def test_helpsteer_ratings_become_pairs_of_one_prompt() -> None:
    rows = [{"prompt": p, "response": r, "helpfulness": h, "verbosity": 1} for p, r, h in
            [("p", "a", 4), ("p", "b", 1), ("q", "c", 2), ("q", "d", 2)]]  # fmt: skip
    rated, report = load_data(rows)
    assert report.kind == "rating" and rated["rating"] == [4, 1, 2, 2]
    pairs, report = load_data(rows, kind="preference")
    assert pairs.to_list() == [{"prompt": "p", "chosen": "a", "rejected": "b", "margin": 3.0}]
    assert report.notes["rows of kind rating made into preference"] == 4


def test_ultrafeedback_scores_become_pairs() -> None:
    row = {"instruction": "i", "completions": [{"response": r, "overall_score": s} for r, s in zip("abc", (2, 9, 5))]}
    assert load_data([row])[0][0] == {"prompt": "i", "candidates": ["a", "b", "c"], "ratings": [2, 9, 5]}
    pairs, _ = load_data([row], kind="preference")
    assert {(p["chosen"], p["rejected"], p["margin"]) for p in pairs} == {("b", "a", 7), ("c", "a", 3), ("b", "c", 4)}


def test_a_long_post_loses_its_last_lines_first() -> None:
    """Paper 64: whole last lines go; title and `TL;DR:` stay."""
    info = {"subreddit": "tea", "title": "Too hot", "post": "one two\nthree four\nfive six"}
    frame = "SUBREDDIT: r/tea\n\nTITLE: Too hot\n\nPOST: {}\n\nTL;DR:"
    assert tldr_prompt(info) == tldr_prompt(info, 13) == frame.format("one two\nthree four\nfive six")
    assert tldr_prompt(info, 12) == tldr_prompt(info, 11) == frame.format("one two\nthree four")
    assert tldr_prompt(info, 8) == frame.format("one")
    with pytest.raises(ValueError, match="limit is 5"):
        tldr_prompt(info, 5)
    assert tldr_prompt({"article": "News."}) == "News.\n\nTL;DR:"


def test_summary_comparisons() -> None:
    row = {
        "info": {"title": "t", "subreddit": "s", "post": "p"},
        "summaries": [{"text": "a", "policy": "m"}, {"text": "b", "policy": "n"}],
        "choice": 1,
        "worker": "w",
    }
    found = load_data([row])[0][0]
    assert found["prompt"] == "SUBREDDIT: r/s\n\nTITLE: t\n\nPOST: p\n\nTL;DR:"
    assert (found["chosen"], found["rejected"], found["generator_chosen"], found["user"]) == ("b", "a", "n", "w")


def test_our_own_columns_are_no_foreign_layout() -> None:
    for columns in (["prompt", "chosen", "rejected"], ["prompt", "completion"], ["prompt", "completions", "labels"]):
        assert recognize(columns) is None


def test_transcripts_as_messages() -> None:
    row = transcripts({"chosen": BEGIN + " Bye.", "rejected": BEGIN + " No.", "id": 1})
    [chat] = transcripts_as_messages([row])
    assert chat == {
        "prompt": [said("user", "Hi"), said("assistant", "Hello."), said("user", "And now?")],
        "chosen": [said("assistant", "Bye.")],
        "rejected": [said("assistant", "No.")],
        "id": 1,
    }
    assert check([chat])[1].kept == 1
    with pytest.raises(RecordError, match=r"row 0, column 'prompt'.*Human"):
        transcripts_as_messages([{**row, "prompt": "Hi"}])
    with pytest.raises(RecordError, match=r"row 0, column 'chosen'.*after"):
        transcripts_as_messages([{**row, "chosen": " A\n\nHuman: b"}])
    with pytest.raises(ValueError, match="begins with"):
        as_chat("no turns")


@given(
    worth=st.lists(st.integers(0, 4), min_size=1, max_size=7),
    gap=st.integers(0, 2),
)
def test_every_pair_that_differs_by_more_than_the_gap_is_made_once(worth: list[int], gap: int) -> None:
    texts = [f"t{i}" for i in range(len(worth))]
    by_rating = candidates_to_preferences([{"prompt": "p", "candidates": texts, "ratings": worth}], min_gap=gap)
    value = dict(zip(texts, worth))
    wanted = {(a, b) for a in texts for b in texts if value[a] - value[b] > gap}
    assert Counter((row["chosen"], row["rejected"]) for row in by_rating) == Counter(wanted)
    assert all(row["margin"] == value[row["chosen"]] - value[row["rejected"]] for row in by_rating)
    ranked = [{"prompt": "p", "candidates": texts, "ranks": [5 - w for w in worth]}]
    by_rank = candidates_to_preferences(ranked, min_gap=gap)
    assert [(row["chosen"], row["rejected"]) for row in by_rank] == [(r["chosen"], r["rejected"]) for r in by_rating]


def test_candidates_without_an_order_cannot_be_paired() -> None:
    with pytest.raises(RecordError, match=r"row 0, column 'candidates'.*'ratings'"):
        candidates_to_preferences([{"prompt": "p", "candidates": ["a", "b"]}])


def test_preferences_and_ratings_there_and_back() -> None:
    pairs = [{"prompt": p, "chosen": p + "a", "rejected": p + "b"} for p in "xyz"]
    back = candidates_to_preferences(ratings_to_candidates(preferences_to_ratings(pairs)))
    assert back == [{**pair, "margin": 1.0} for pair in pairs]


def test_desirable_and_undesirable_completions_are_paired() -> None:
    rows = [{"prompt": p, "completion": c, "label": good} for p, c, good in
            [("p", "a", True), ("p", "b", False), ("q", "c", True), ("p", "d", True)]]  # fmt: skip
    assert [(r["chosen"], r["rejected"]) for r in unpaired_to_preferences(rows)] == [("a", "b"), ("d", "b")]
    assert len(load_data(rows, kind="preference")[0]) == 2


def test_users_become_a_majority_with_its_share() -> None:
    ab, ba = {"prompt": "p", "chosen": "a", "rejected": "b"}, {"prompt": "p", "chosen": "b", "rejected": "a"}
    other = {"prompt": "q", "chosen": "a", "rejected": "b"}
    rows = [{**row, "user": str(i)} for i, row in enumerate([ab, ba, ba, other, ba])]
    assert users_to_preferences(rows) == [{**ba, "target_prob": 0.75}, {**other, "target_prob": 1.0}]
    assert users_to_preferences([{**ab, "user": 1}, {**ba, "user": 2}]) == [{**ab, "target_prob": 0.5}]


@given(
    steps=st.lists(st.tuples(st.text(st.characters(exclude_characters="\n"), min_size=1), st.booleans()), min_size=1)
)
def test_steps_and_segments_there_and_back(steps: list[tuple[str, bool]]) -> None:
    texts, labels = [list(column) for column in zip(*steps)]
    row = {"prompt": "p", "completions": texts, "labels": labels, "id": "1"}
    [parts] = steps_to_segments([row])
    assert check([parts], "segments")[1].kept == 1
    assert parts["completion"] == "\n".join(texts) == steps_to_completions([row])[0]["completion"]
    assert parts["segments"][-1]["end"] == len(parts["completion"])
    assert segments_to_steps([parts]) == [row]


def test_segments_without_labels_are_no_steps() -> None:
    with pytest.raises(RecordError, match=r"row 0, column 'segments'.*label"):
        segments_to_steps([{"prompt": "p", "completion": "ab", "segments": [{"end": 2, "score": 0.5}]}])


def test_fine_grained_segments_cover_the_text_and_overlaps_are_cut() -> None:
    errors = [{"error type": kind, "start": a, "end": b} for kind, a, b in [("X", 6, 9), ("Y", 2, 4), ("Z", 8, 99)]]
    row = {"question": "q", "prediction 1": "0123456789", "feedback": {"errors": errors}}
    [found] = fine_grained_segments([row])
    assert [(part["end"], part["label"]) for part in found["segments"]] == [
        (2, "ok"), (4, "Y"), (6, "ok"), (9, "X"), (10, "Z")
    ]  # fmt: skip


def test_real_fine_grained_feedback(shared_data: Path) -> None:
    rows = list(iter_rows(shared_data / "finegrained-rlhf" / "dev_feedback.json.xz"))
    segments = fine_grained_segments(rows)
    kept, report = check(segments, "segments")
    assert report.kept == len(rows) == 500
    for row in kept:
        assert row["segments"][-1]["end"] == len(row["completion"])
    pairs = fine_grained_preferences(rows)
    assert len(pairs) == sum(winner != 0 for row in rows for winner in row["preference"])
    first = rows[0]  # 0, 1, 2, 1, 0, 2
    assert pairs[0]["chosen"] == first["prediction 1"] and pairs[0]["rejected"] == first["prediction 3"]
    assert pairs[1]["chosen"] == first["prediction 4"] and pairs[1]["rejected"] == first["prediction 1"]
    with pytest.raises(RecordError, match="row 0, column 'preference'"):
        fine_grained_preferences([{**first, "preference": [1, 2]}])


def test_real_transcripts_as_messages(shared_data: Path) -> None:
    pairs, _ = load_data(shared_data / "hh-rlhf" / "train.jsonl.xz", on_bad="skip")
    chats, refused = [], 0
    for row in pairs:
        try:
            chats += transcripts_as_messages([row])
        except RecordError:
            refused += 1
    kept, report = check(chats, on_bad="skip")
    assert refused + report.rows == 1372
    assert report.kept >= 1350
    assert all(row["prompt"][-1]["role"] == "user" for row in kept)
