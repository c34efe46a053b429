"""The hashed backbone: features by hand, invariances, and what a linear model can learn from real pairs."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rewardsmith.data import load_data
from rewardsmith.models import train
from rewardsmith.models.hashed import CONSTANT, DENSE_WEIGHT, LENGTH, OVERLAP, HashedBackbone
from rewardsmith.models.reward_model import RewardModel

texts = st.text(min_size=0, max_size=60)


def random_model(seed: int = 0) -> RewardModel:
    backbone = HashedBackbone(buckets=4096)
    with torch.no_grad():
        backbone.table.normal_(generator=torch.Generator().manual_seed(seed))
    return RewardModel(backbone)


def test_features_of_a_short_text():
    bag = HashedBackbone().encode(["Is it raining?"], ["it rains and it pours"]).items[0]
    weight = dict(zip(bag.ids.tolist(), bag.weights.tolist()))
    assert weight[CONSTANT] == 1
    assert weight[LENGTH] == pytest.approx(DENSE_WEIGHT * math.log(6))
    assert weight[OVERLAP] == pytest.approx(DENSE_WEIGHT * 2 / 5)  # `it`, twice
    # it (2), rains, and, pours; four pairs; it, in the prompt (2)
    others = sorted(w for i, w in weight.items() if i > OVERLAP)
    assert others == pytest.approx([1.0] * 7 + [1 + math.log(2)] * 2)


def test_no_feature_crosses_from_one_row_to_the_next():
    backbone = HashedBackbone()
    together = backbone.encode(["p", "q"], ["one two", "three four"]).items
    alone = [backbone.encode([p], [c]).items[0] for p, c in (("p", "one two"), ("q", "three four"))]
    for a, b in zip(together, alone):
        assert np.array_equal(a.ids, b.ids) and np.array_equal(a.weights, b.weights)


def test_case_is_ignored_and_punctuation_counts():
    backbone = HashedBackbone()
    low, high, marked = backbone.encode(["", "", ""], ["yes it is", "Yes It IS", "yes it is!"]).items
    assert np.array_equal(low.ids, high.ids)
    assert len(marked.ids) == len(low.ids) + 2


def test_rare_features_weigh_more_and_rows_have_norm_one_on_average():
    backbone = HashedBackbone()
    items = backbone.encode([""] * 3, ["the cat", "the dog", "the the bird"]).items
    backbone.fit(items)
    norms = [np.linalg.norm((bag.weights * backbone.factor.numpy()[bag.ids])[bag.ids > OVERLAP]) for bag in items]
    assert np.mean(norms) == pytest.approx(1, abs=1e-6)
    the = set(items[0].ids) & set(items[1].ids) - {CONSTANT, LENGTH, OVERLAP}
    rare = set(items[0].ids) - set(items[1].ids)
    ratio = float(backbone.factor[rare.pop()] / backbone.factor[the.pop()])
    assert ratio == pytest.approx(math.log(4 / 2) + 1)  # `the` is in all three rows: log(4/4) + 1 = 1


def test_scripts_without_spaces_are_split():
    bag = HashedBackbone().encode([""], ["東京は晴れ"]).items[0]
    assert len(bag.ids) == 3 + 5 + 4


@pytest.mark.parametrize("empty", ["", "   ", "\n", []])
def test_an_empty_completion_is_a_failure_and_never_a_score(empty):
    scores = random_model().score({"prompt": ["a"] * 2, "completion": ["fine", empty]})
    assert scores.failures[1].kind == "empty"
    assert math.isnan(scores.values[1]) and math.isfinite(scores.values[0])


@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(texts, texts), min_size=2, max_size=6), st.randoms())
def test_a_score_does_not_depend_on_the_rest_of_the_batch(rows, random):
    model = random_model()
    whole = model.score([{"prompt": p, "completion": c} for p, c in rows]).values
    order = list(range(len(rows)))
    random.shuffle(order)
    shuffled = model.score([{"prompt": rows[i][0], "completion": rows[i][1]} for i in order]).values
    alone = np.array([model.score({"prompt": [p], "completion": [c]}).values[0] for p, c in rows])
    np.testing.assert_allclose(whole[order], shuffled, atol=1e-5)
    np.testing.assert_allclose(whole, alone, atol=1e-5)


def test_plain_text_and_one_message_score_the_same():
    plain = random_model().score({"prompt": ["hello there"], "completion": ["hello you"]}).values
    chat = {
        "prompt": [[{"role": "user", "content": "hello there"}]],
        "completion": [[{"role": "assistant", "content": "hello you"}]],
    }
    assert random_model().score(chat).values == pytest.approx(plain)


def test_saving_keeps_every_score(tmp_path):
    backbone = random_model().backbone
    backbone.fit(backbone.encode(["a"], ["a text of some length"]).items)
    backbone.save(str(tmp_path))
    again = RewardModel(HashedBackbone.load(str(tmp_path)))
    batch = {"prompt": ["x", "y"], "completion": ["one two", "three"]}
    np.testing.assert_array_equal(again.score(batch).values, RewardModel(backbone).score(batch).values)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["hashed.json", "hashed.safetensors"]


def test_length_can_be_learned():
    rng = np.random.default_rng(0)
    words = [f"w{i}" for i in range(300)]

    def pair() -> dict[str, str]:
        short, long = (" ".join(rng.choice(words, n)) for n in (rng.integers(5, 15), rng.integers(20, 60)))
        return {"prompt": "p", "chosen": long, "rejected": short}

    rows = [pair() for _ in range(300)]
    model = train(rows[:200], "hashed").model
    held_out = rows[200:]
    logits = model.preference(*([row[name] for row in held_out] for name in ("prompt", "chosen", "rejected")))
    assert np.mean(logits > 0) >= 0.98


def test_real_pairs_are_told_apart_as_well_as_by_tf_idf(shared_data):
    folder = shared_data / "hh-rlhf"
    pairs, held_out = (load_data(folder / f"{name}.jsonl.xz", on_bad="skip")[0] for name in ("train", "test"))
    accuracies = []
    for seed in (0, 1):
        model = train(pairs, "hashed", seed=seed).model
        logits = model.preference(*(held_out[name] for name in ("prompt", "chosen", "rejected")))
        accuracies.append(np.mean(logits > 0))
    assert min(accuracies) >= 0.62  # a TF-IDF logistic regression on the same pairs: 0.62 to 0.64


KINDS = [
    ["exact", "measured", "cited", "tested"],
    ["glad", "lovely", "thanks", "welcome"],
    ["short", "yes", "done", "brief"],
]


def cyclic_pairs(seed: int, count: int, wrong: float) -> list[dict[str, str]]:
    """Pairs in which each of three kinds of words beats the next in a circle, a share `wrong` of them flipped."""
    rng = np.random.default_rng(seed)

    def text(kind: int) -> str:
        words = [*rng.choice(KINDS[kind], 3), *rng.choice(["the", "answer", "is", "here", "now"], 4)]
        return " ".join(str(word) for word in rng.permutation(words))

    rows = []
    for kind in rng.integers(3, size=count):
        better, worse = text(kind), text((kind + 1) % 3)
        if rng.random() < wrong:
            better, worse = worse, better
        rows.append({"prompt": "Tell me.", "chosen": better, "rejected": worse})
    return rows


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_defaults_learn_a_cycle_from_noisy_labels(seed):
    small = {"buckets": 4096}
    model = train(cyclic_pairs(seed, 900, 0.05), "hashed", head="gpm", seed=seed, model_options=small).model
    held_out = cyclic_pairs(seed + 100, 300, 0.0)
    logits = model.preference(*([row[name] for row in held_out] for name in ("prompt", "chosen", "rejected")))
    assert np.mean(logits > 0) >= 0.95


def test_the_seed_of_train_covers_the_start_of_what_it_builds():
    def trained(seed: int, before: int) -> dict:
        torch.manual_seed(before)
        options = {"head": "gpm", "epochs": 1, "seed": seed, "model_options": {"buckets": 4096}}
        return train(cyclic_pairs(0, 60, 0.0), "hashed", **options).model.fingerprint()

    assert trained(0, before=1) == trained(0, before=2)
    assert trained(0, before=1) != trained(1, before=1)


def test_every_text_starts_at_one_small_vector():
    torch.manual_seed(0)
    table = HashedBackbone(hidden_size=400, buckets=16).table
    assert 0.15 < table[CONSTANT].std() < 0.25
    assert not table[LENGTH:].any() and not HashedBackbone(buckets=16).table.any()
