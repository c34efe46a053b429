"""Splits share no prompt; near-duplicates are those that an exact comparison finds; overlap is counted."""

from __future__ import annotations

import itertools
import random

import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from rewardsmith.data import contamination, near_duplicates, split_by_prompt


def rows(prompts: list[object]) -> Dataset:
    return Dataset.from_list([{"prompt": prompt, "number": i} for i, prompt in enumerate(prompts)])


@settings(max_examples=30, deadline=None)
@given(groups=st.lists(st.integers(1, 5), min_size=4, max_size=20), seed=st.integers(0, 9))
def test_a_split_shares_no_prompt_and_loses_no_row(groups: list[int], seed: int) -> None:
    data = rows([f"p{i}" for i, size in enumerate(groups) for _ in range(size)])
    parts = split_by_prompt(data, 0.3, seed)
    assert not set(parts["train"]["prompt"]) & set(parts["test"]["prompt"])
    assert sorted([*parts["train"]["number"], *parts["test"]["number"]]) == list(range(len(data)))
    assert len(set(parts["test"]["prompt"])) == round(0.3 * len(groups))


def test_a_split_depends_on_prompts_and_seed_alone() -> None:
    prompts = [f"p{i % 20}" for i in range(60)]
    held = set(split_by_prompt(rows(prompts), 0.25, 3)["test"]["prompt"])
    assert held == set(split_by_prompt(rows(prompts[::-1]), 0.25, 3)["test"]["prompt"])
    assert held != set(split_by_prompt(rows(prompts), 0.25, 4)["test"]["prompt"])


def test_conversations_with_one_beginning_stay_together() -> None:
    prompts = [[{"role": "user", "content": f"p{i % 6}"}] for i in range(18)]
    parts = split_by_prompt(rows(prompts), 0.5)
    assert {len(part) for part in parts.values()} == {9}


def test_impossible_splits_are_refused() -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        split_by_prompt(rows(["a", "b"]), 1.0)
    with pytest.raises(ValueError, match="1 different prompts"):
        split_by_prompt(rows(["a", "a"]), 0.5)
    with pytest.raises(ValueError, match=r"no column 'prompt'.*'x'"):
        split_by_prompt(Dataset.from_dict({"x": [1]}))


def shingles(text: str) -> set[str]:
    text = " ".join(text.lower().split())
    return {text[i : i + 5] for i in range(max(1, len(text) - 4))}


def test_near_duplicates_are_those_of_a_full_comparison() -> None:
    rng = random.Random(0)
    words = ["".join(rng.choices("abcdefgh", k=rng.randint(2, 7))) for _ in range(300)]
    texts = [" ".join(rng.choices(words, k=25)) for _ in range(60)]
    for text in texts[:30]:  # variants with one to six words changed
        parts = text.split()
        for at in rng.sample(range(25), rng.randint(1, 6)):
            parts[at] = rng.choice(words)
        texts.append(" ".join(parts))
    texts += ["", "ab", "AB ", "ä" * 40, "Ä" * 40]
    wanted = {}
    for (i, a), (j, b) in itertools.combinations([(i, shingles(text)) for i, text in enumerate(texts)], 2):
        similarity = len(a & b) / len(a | b)
        if similarity >= 0.8:
            wanted[i, j] = similarity
    found = {(i, j): similarity for i, j, similarity in near_duplicates(texts, 0.8)}
    assert found == pytest.approx(wanted) and len(wanted) > 5


def test_near_duplicates_of_nothing_and_of_a_crowd() -> None:
    assert near_duplicates([]) == [] and near_duplicates(["alone"]) == []
    found = near_duplicates(["the same words"] * 200)
    assert {j for _, j, _ in found} == set(range(1, 200))  # each is found, without 19,900 pairs
    assert len(found) < 1000
    with pytest.raises(ValueError, match="threshold"):
        near_duplicates(["a"], 0)


def test_texts_do_not_leak_into_their_neighbors() -> None:
    text = "a text that stands between others"
    for around in (["", text, "zz"], ["x" * 30, text, "y"], [text]):
        assert near_duplicates([*around, text], 0.99) == [(around.index(text), len(around), 1.0)]


def test_contamination_counts_exact_and_near_prompts() -> None:
    long = "What is the tallest mountain on the continent of Africa, and who first climbed it?"
    test = [{"prompt": p} for p in ["What is up?", long, "Quite another question.", "what is  UP?"]]
    train = [{"prompt": p} for p in ["what is up?", long.replace("climbed it", "climbed  that")]]
    found = contamination(test, train)
    assert (found.prompts, found.exact, found.near) == (4, 2, 1)
    [near] = [example for example in found.examples if example[2] < 1]
    assert near[0] == long and near[1] == train[1]["prompt"] and 0.8 <= near[2] < 1
    assert contamination(test, [{"prompt": "unrelated words only"}]).to_dict()["examples"] == []
    with pytest.raises(ValueError, match="no column 'prompt'"):
        contamination([{"x": 1}], train)
