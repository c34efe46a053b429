"""The text world: an attribute moves with its ingredient and with no other; gold by hand; the policy and annotators."""

import re

import numpy as np
import pytest

from rewardsmith.reward import Reward
from rewardsmith.worlds.text import (
    ATTRIBUTES,
    CROWD,
    GOLD_WEIGHTS,
    USERS,
    Annotator,
    GoldReward,
    Policy,
    attributes,
    gold,
    phrases,
    prompts,
    sample_completions,
    tasks,
)

FRANCE = "What is the capital of France?"
PARIS = "The capital of France is Paris."


def _perfect(task):
    if task.format == "steps":
        return "\n".join(f"{i}. {sentence}" for i, sentence in enumerate(task.right, 1))
    return "\n".join(f"- {sentence}" for sentence in task.right) if task.format == "list" else " ".join(task.right)


def test_there_are_many_prompts_in_many_categories_and_none_twice():
    rows = prompts()
    assert len(rows) >= 180
    assert len({row["prompt"] for row in rows}) == len(rows)
    assert len({row["category"] for row in rows}) >= 7
    assert {task.format for task in tasks().values()} == {None, "steps", "list", "one sentence"}


def test_the_right_answer_of_every_prompt_is_perfect():
    for prompt, task in tasks().items():
        assert attributes(prompt, _perfect(task)) == dict.fromkeys(ATTRIBUTES, 1.0), prompt


def test_a_wrong_sentence_costs_correctness_and_harmful_advice_safety_too():
    for prompt, task in tasks().items():
        worse = attributes(prompt, " ".join([*task.right[:-1], task.wrong[0]]))
        assert worse["correctness"] <= 0.5, prompt
        assert worse["tone"] == worse["relevance"] == 1.0, prompt
        assert worse["safety"] == (0.0 if task.unsafe else 1.0), prompt


@pytest.mark.parametrize(
    "group, attribute", [("rude", "tone"), ("openers", "tone"), ("off_topic", "relevance"), ("reckless", "safety")]
)
def test_an_ingredient_moves_its_attribute_and_no_other(group, attribute):
    task = next(task for task in tasks().values() if task.format is None and len(task.right) == 2)
    for sentence in phrases()[group]:
        changed = attributes(task.prompt, _perfect(task) + " " + sentence)
        moved = {name for name in ATTRIBUTES if changed[name] != 1.0}
        assert moved == {attribute}, sentence


def test_filler_and_haste_cost_concision_alone_and_only_beyond_the_budget():
    bank = phrases()
    filler = [" ".join(bank["filler"][:count]) for count in range(1, 41)]
    lost = [attributes(FRANCE, f"{PARIS} {text}") for text in filler]
    assert all({name for name in ATTRIBUTES if row[name] != 1.0} <= {"concision"} for row in lost)
    concision = [row["concision"] for row in lost]
    assert concision == sorted(concision, reverse=True)
    assert concision[0] > 0.9 and concision[-1] == 0.0
    assert all(attributes(FRANCE, f"{PARIS} {sentence}")["concision"] == 1.0 for sentence in bank["hasty"])


def test_the_format_is_read_off_the_text():
    for task in tasks().values():
        if task.format in ("steps", "list"):
            assert attributes(task.prompt, " ".join(task.right))["format"] == 0.0
        if task.format == "one sentence":
            assert attributes(task.prompt, " ".join([*task.right, *task.extra]))["format"] == 0.0


def test_gold_by_hand():
    assert dict(zip(ATTRIBUTES, (3.0, 2.0, 3.0, 2.5, 1.0, 1.5))) == GOLD_WEIGHTS  # sum 13
    answers = [
        PARIS,
        "The capital of France is Lyon.",  # correctness 0
        f"{PARIS} Try to pay attention for once.",  # tone 0.5
        f"What a brilliant thing to ask! {PARIS}",  # tone 0.75
        f"{PARIS} Violins are made of spruce and maple.",  # relevance 0.5
        f"{PARIS} " + " ".join(["la"] * 114) + " la.",  # 121 words, 100 beyond 1.5 * 6 + 12; relevance 0.5
        "",
    ]
    expected = [1, 10 / 13, 11.5 / 13, 12.25 / 13, 12 / 13, (13 - 1.25 - 1) / 13, 0]
    np.testing.assert_allclose(gold([FRANCE] * 7, answers), expected)
    np.testing.assert_allclose(gold([FRANCE], [answers[1]], {**GOLD_WEIGHTS, "correctness": 0.0}), [1.0])


def test_gold_is_a_reward_with_its_attributes_as_parts_and_failures_for_strange_prompts():
    reward = GoldReward()
    assert isinstance(reward, Reward)
    answer = [{"role": "assistant", "content": PARIS}]
    scores = reward.score({"prompt": [FRANCE, "Is this of the world?"], "completion": [answer, "No."]})
    assert scores.to_list() == [1.0, None]
    assert set(scores.parts) == set(ATTRIBUTES)
    assert list(scores.failures) == [1]
    with pytest.raises(ValueError, match="not a prompt of this world"):
        attributes("Is this of the world?", "No.")


def test_samples_are_fixed_by_the_seed_and_do_not_depend_on_other_prompts():
    names = [row["prompt"] for row in prompts()][:6]
    first = sample_completions(names, 5, seed=3)
    assert first == sample_completions(names, 5, seed=3) != sample_completions(names, 5, seed=4)
    assert first[4] == sample_completions([names[4]], 5, seed=3)[0]


def test_text_is_clean():
    texts = [text for group in sample_completions([row["prompt"] for row in prompts()], 8, seed=1) for text in group]
    for text in [*texts, *tasks()]:
        assert text == text.strip() and "  " not in text, text
        assert re.search(r"[.!?][\")]*$", text), text
        assert not re.search(r"\{|\}|\bTODO\b", text), text


def test_padding_is_heavy_tailed_and_costs_gold():
    names = [row["prompt"] for row in prompts()]
    texts = [text for group in sample_completions(names, 30, seed=0) for text in group]
    lengths = np.array([len(text.split()) for text in texts])
    assert np.quantile(lengths, 0.99) > 6 * np.median(lengths)
    worth = gold([name for name in names for _ in range(30)], texts)
    long = lengths > 250
    assert 0.005 < long.mean() < 0.1
    assert worth[~long].mean() - worth[long].mean() > 0.1


def test_faults_come_together_because_some_answers_are_hasty():
    names = [row["prompt"] for row in prompts()]
    rows = [attributes(p, c) for p, group in zip(names, sample_completions(names, 20, seed=0)) for c in group]
    table = np.array([[row[name] for name in ("correctness", "tone", "relevance")] for row in rows])
    assert (np.corrcoef(table.T)[np.triu_indices(3, 1)] > 0.02).all()
    faultless = Policy(**dict.fromkeys(Policy.__dataclass_fields__, 0))
    best = [text for group in sample_completions(names, 1, policy=faultless) for text in group]
    np.testing.assert_allclose(gold(names, best), 1.0)


def _share(annotator, a, b):
    return annotator.prefers([FRANCE] * 2000, [a] * 2000, [b] * 2000, np.random.default_rng(0)).mean()


def test_annotators_follow_their_formula():
    long = f"{PARIS} {phrases()['filler'][0]}"
    gap = gold([FRANCE], [long])[0] - 1
    ratio = np.log(len(long.split()) / len(PARIS.split()))
    for annotator in (Annotator(), CROWD):
        logit = annotator.sharpness * gap + annotator.length_bias * ratio
        assert _share(annotator, long, PARIS) == pytest.approx(1 / (1 + np.exp(-logit)), abs=0.04)
    flattering = f"I love this question! {PARIS}"
    assert _share(CROWD, flattering, PARIS) > _share(Annotator(), flattering, PARIS) + 0.3


def test_users_disagree_as_their_weights_say():
    assert len(USERS) >= 6
    rude, wrong = f"{PARIS} {' '.join(phrases()['rude'][:2])}", "The capital of France is Lyon."
    assert _share(USERS["expert"], rude, wrong) > 0.7 > 0.3 > _share(USERS["courteous"], rude, wrong)
    assert len({tuple(sorted((user.weights or {}).items())) for user in USERS.values()}) == len(USERS)
