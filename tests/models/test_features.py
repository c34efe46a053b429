"""Measured features: what is asked when, what fails, what is learned from them, and on real opinion summaries."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from rewardsmith import from_function
from rewardsmith.data import iter_rows
from rewardsmith.data.opinions import OPINION, opinion_pairs
from rewardsmith.functions import ColumnReward
from rewardsmith.judges import Judge
from rewardsmith.models import load_model, train
from rewardsmith.models.features import FeatureBackbone, FeatureHead, naive_mean, search

sys.path.append(str(Path(__file__).resolve().parents[1] / "judges"))
from judge_scripts import Script

TEXTS = ["a plain summary", "short", "an ALL CAPS text", "four words are here"]


def rules(calls: list | None = None) -> dict:
    """Words and capitals of a completion; each text asked for is written down in `calls`."""

    def words(completion):
        if calls is not None:
            calls.append(completion)
        return len(completion.split())

    def capitals(completion):
        return None if completion == "short" else sum(map(str.isupper, completion))

    return {"words": from_function(words), "capitals": from_function(capitals)}


def backbone(calls: list | None = None) -> FeatureBackbone:
    return FeatureBackbone(rules(calls), {"words": (0, 5), "capitals": (0, 10)})


def rows(count=200, seed=0):
    """More words win, capitals lose."""
    rng = np.random.default_rng(seed)
    out = []
    for row in range(count):
        texts = [
            " ".join([*(["W" * c] if c else []), *["word"] * w])
            for w, c in zip(rng.integers(1, 5, 2), rng.integers(0, 6, 2))
        ]
        worth = [len(text.split()) - 0.9 * sum(map(str.isupper, text)) for text in texts]
        if worth[0] != worth[1]:
            better = int(worth[1] > worth[0])
            out.append({"prompt": f"p{row}", "chosen": texts[better], "rejected": texts[1 - better]})
    return out


def accuracy(model, pairs) -> float:
    logits = model.preference(*([pair[name] for pair in pairs] for name in ("prompt", "chosen", "rejected")))
    return float(np.mean(logits > 0))


def test_measurements_become_numbers_from_0_to_1_and_a_failure_is_no_zero():
    encoded = backbone().encode(["q"] * 4, TEXTS)
    np.testing.assert_allclose(np.stack([encoded.items[i] for i in (0, 2, 3)]), [[0.6, 0], [0.8, 0.7], [0.8, 0]])
    assert encoded.items[1] is None
    assert encoded.failures[1].kind == "missing"
    assert encoded.failures[1].reason.startswith("capitals: ")
    measured = backbone().measure({"completion": TEXTS})
    np.testing.assert_allclose(measured[1], [0.2, np.nan])


def test_a_measurement_outside_its_scale_fails():
    encoded = FeatureBackbone({"words": rules()["words"]}, (0, 3)).encode(["", ""], ["one two three four", "one"])
    assert encoded.failures[0].kind == "out_of_range"
    assert encoded.failures[0].reason == "words: 4 is outside 0 to 3"
    assert list(encoded.failures) == [0]


def test_a_text_is_measured_once_and_what_failed_is_asked_again():
    calls: list[str] = []
    made = backbone(calls)
    made.encode(["q"] * 5, [*TEXTS, TEXTS[0]])
    assert sorted(calls) == sorted(TEXTS)
    made.encode(["q"] * 4, TEXTS)
    assert len(calls) == 4  # `short` lacks its capitals alone
    made.encode(["another"], TEXTS[:1])
    assert len(calls) == 5


def test_training_leaves_out_what_could_not_be_measured_and_scores_it_nan():
    data = [*rows(40), {"prompt": "x", "chosen": "a b c", "rejected": "short"}]
    with pytest.warns(UserWarning, match="1 of .* rows left out"):
        result = train(data, backbone(), head="features", epochs=1)
    assert result.skipped == {"missing": 1}
    scores = result.model.score({"prompt": ["q"] * 4, "completion": TEXTS})
    assert np.isnan(scores.values).tolist() == [False, True, False, False]
    np.testing.assert_allclose(scores.parts["capitals"], [0, 0, 0.7, 0], atol=1e-6)


def test_the_weights_of_the_features_are_learned():
    torch.manual_seed(0)
    made = backbone()
    head = FeatureHead.build(made, layers=[])
    options = {"epochs": 40, "learning_rate": 0.1, "weight_decay": 0.0}
    model = train(rows(300), made, head=head, **options).model
    assert accuracy(model, rows(200, seed=1)) > 0.95
    assert accuracy(naive_mean(made), rows(200, seed=1)) < 0.7
    words, capitals = model.head.net[0].weight[0].tolist()
    assert words > 0 > capitals


def test_equal_weights_order_as_the_naive_mean_and_a_constant_changes_no_preference():
    made = FeatureBackbone({name: ColumnReward(name) for name in OPINION})
    rng = np.random.default_rng(0)
    scores = rng.uniform(0, 5, size=(30, 7))
    texts = [f"text {i}" for i in range(30)]
    made.measure({"completion": texts, **dict(zip(OPINION, scores.T))})
    model = naive_mean(made)
    values = model.score({"completion": texts}).values
    np.testing.assert_allclose(values, scores.mean(1) / 5, atol=1e-6)
    pairs = (["", ""], texts[:2], texts[2:4])
    before = model.preference(*pairs)
    with torch.no_grad():
        model.head.net[0].bias += 3
    np.testing.assert_allclose(model.preference(*pairs), before, atol=1e-5)


def test_rewards_one_apart_have_the_loss_of_bradley_terry():
    head = FeatureHead(1, layers=[])
    with torch.no_grad():
        head.net[0].weight.fill_(1.0)
    losses, logits = head.loss(torch.tensor([[2.0]]), torch.tensor([[1.0]]))
    assert losses.item() == pytest.approx(0.313262, abs=1e-6)
    assert logits.item() == 1.0


@pytest.mark.parametrize("activation", ["tanh", "relu", "sigmoid", "none"])
def test_the_paper_s_sizes_and_activations_can_be_built(activation):
    head = FeatureHead(7, (6, 4, 2), activation)
    shapes = [tuple(p.shape) for name, p in head.named_parameters() if name.endswith("weight")]
    assert shapes == [(6, 7), (4, 6), (2, 4), (1, 2)]
    assert head.reward(torch.rand(3, 7)).shape == (3,)


def test_scores_in_columns_are_measured_before_the_texts_are_read():
    made = FeatureBackbone({"score": ColumnReward("score")}, (0, 1))
    with pytest.raises(ValueError, match=r"feature 'score' cannot be measured: no column 'score'.*measure\(batch\)"):
        made.encode(["q"], ["a"])
    made.measure({"prompt": ["q", "q"], "completion": ["a", "b"], "score": [0.25, None]})
    encoded = made.encode(["q"], ["a"])
    assert encoded.items[0].tolist() == [0.25]


def test_a_saved_model_asks_for_rewards_that_it_cannot_rebuild(tmp_path):
    made = FeatureBackbone(
        {"given": ColumnReward("given"), "words": rules()["words"]}, {"given": (0, 1), "words": (0, 9)}
    )
    batch = {"prompt": ["q"] * 2, "completion": TEXTS[2:], "given": [0.5, 1.0]}
    made.measure(batch)
    model = train(
        [{"prompt": "q", "chosen": TEXTS[2], "rejected": TEXTS[3]}],
        made,
        head="features",
        epochs=1,
        output_dir=tmp_path / "m",
    ).model
    loaded = load_model(tmp_path / "m")
    assert loaded.fingerprint() == model.fingerprint()
    assert loaded.backbone.features == ("given", "words")
    with pytest.raises(ValueError, match=r"'words' has no reward: give it with backbone\.attach"):
        loaded.backbone.measure(batch)
    with pytest.warns(UserWarning, match="'words' was measured by another reward"):
        loaded.backbone.attach({"words": from_function(lambda completion: 1.0)})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded.backbone.attach({"words": rules()["words"]})
    loaded.backbone.measure(batch)
    np.testing.assert_allclose(loaded.score(batch).values, model.score(batch).values)
    with pytest.raises(ValueError, match="'other' is no feature"):
        loaded.backbone.attach({"other": rules()["words"]})
    with pytest.raises(TypeError, match="method, not a Reward"):
        loaded.backbone.attach({"words": len})


@pytest.mark.parametrize(
    ("rewards", "scale", "problem"),
    [
        ({}, (0, 5), "no features"),
        ({"words": None}, (5, 0), "must rise"),
        ({"words": None}, {"other": (0, 1)}, "has no scale"),
    ],
)
def test_features_without_rewards_or_scales_are_refused(rewards, scale, problem):
    with pytest.raises(ValueError, match=problem):
        FeatureBackbone(rewards, scale)


def test_seven_judges_measure_a_summary():
    def answer(text, _):
        return (
            "Nothing is missing.\n<score>3.75</score>" if "score for relevance" in text else "Fine.\n<score>5</score>"
        )

    judge = Script(answer)
    judges = {name: Judge(judge, f"opinion_{name.replace('-', '_')}") for name in OPINION}
    measured = FeatureBackbone(judges).measure({"prompt": ["1. good\n2. bad"], "completion": ["People differ."]})
    expected = [0.75 if name == "relevance" else 1.0 for name in OPINION]
    np.testing.assert_allclose(measured, [expected])
    assert judge.calls == [(1, 1)] * 7
    unread = FeatureBackbone({"relevance": Judge(Script(lambda text, _: "5 of 5"), "opinion_relevance")})
    assert unread.encode(["q"], ["a"]).failures[0].kind == "unparsed"


def test_a_search_returns_the_network_with_the_least_held_out_loss():
    train_rows, held_out, made = rows(120), rows(80, seed=1), backbone()
    found = search(train_rows, held_out, made, trials=3, epochs=4, seed=0)
    losses = [trial["eval_loss"] for trial in found.trials]
    assert len(losses) == 3
    assert losses == sorted(losses)
    head = found.best.model.head
    assert (head.layers, head.activation) == (found.trials[0]["layers"], found.trials[0]["activation"])
    assert found.best.options["learning_rate"] == found.trials[0]["learning_rate"]
    once, again = (search(train_rows, held_out, made, trials=1, epochs=1, seed=5).trials for _ in range(2))
    assert once == again
    with pytest.raises(ValueError, match="at least 1"):
        search(train_rows, held_out, made, trials=0)


def test_real_summaries_are_ordered_by_seven_scores_and_a_hundred_choices_are_enough(shared_data):
    """Nath et al.'s human choices, in 3 splits of 660 and 140. A bag of words does as well on them."""
    file = shared_data / "opinion-summaries" / "annotations-train.jsonl.xz"
    if not file.is_file():
        pytest.skip(f"no opinion summaries at {file}")
    pairs, scored = opinion_pairs(iter_rows(file))
    made = FeatureBackbone({name: ColumnReward(name) for name in OPINION})
    assert np.isfinite(made.measure({name: [row[name] for row in scored] for name in scored[0]})).all()

    def fitted(records):
        head = FeatureHead.build(made, layers=[])
        options = {"epochs": 25, "batch_size": 660, "learning_rate": 0.1, "weight_decay": 0.05}
        return train(records, made, head=head, **options).model

    found: dict[str, list[float]] = {name: [] for name in ("all", "100", "50", "shuffled", "mean")}
    for seed in range(3):
        torch.manual_seed(seed)
        rng = np.random.default_rng(seed)
        order = rng.permutation(len(pairs))
        held_out, rest = [pairs[i] for i in order[:140]], [pairs[i] for i in order[140:]]
        coin = [
            {**row, "chosen": row["rejected"], "rejected": row["chosen"]} if flip else row
            for row, flip in zip(rest, rng.random(len(rest)) < 0.5)
        ]
        models = (fitted(rest), fitted(rest[:100]), fitted(rest[:50]), fitted(coin), naive_mean(made))
        for name, model in zip(found, models):
            found[name].append(accuracy(model, held_out))
    mean = {name: float(np.mean(each)) for name, each in found.items()}
    assert mean["all"] >= 0.72
    assert mean["50"] >= 0.69
    assert mean["100"] >= mean["all"] - 0.02  # the standard error on 420 choices
    assert abs(mean["shuffled"] - 0.5) <= 0.08
    assert abs(mean["mean"] - mean["all"]) <= 0.03  # little is won over the naive mean here
