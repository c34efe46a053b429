"""Variational preference learning: closed forms, the encoder's symmetries, a small world of two kinds of users."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from tiny import tiny_gpt2

from rewardsmith.data import with_histories
from rewardsmith.data.personas import pets
from rewardsmith.models import load_model, train
from rewardsmith.models.arrays import ArrayBackbone
from rewardsmith.models.personal import PersonalModel
from rewardsmith.models.vpl import (
    SCALINGS,
    Annealing,
    ComparableReward,
    VariationalHead,
    cyclic_annealing,
    gaussian_kl,
    mixture_gain,
    scale_rewards,
)


def head(seed: int = 0, **config) -> VariationalHead:
    torch.manual_seed(seed)
    return VariationalHead(3, 4, width=16, **config).eval()


def test_kl_of_gaussians():
    zeros = torch.zeros(2)
    assert gaussian_kl(torch.tensor([1.0, 0.0]), zeros).item() == pytest.approx(0.5)
    assert gaussian_kl(zeros, zeros).item() == 0
    mean, log_var, other, wide = torch.randn(4, 5, 3)
    expected = torch.distributions.kl_divergence(
        torch.distributions.Normal(mean, (0.5 * log_var).exp()),
        torch.distributions.Normal(other[0], (0.5 * wide[0]).exp()),
    ).sum(-1)
    assert torch.allclose(gaussian_kl(mean, log_var, other[0], wide[0]), expected, atol=1e-5)
    assert gaussian_kl(other[:1], wide[:1], other[0], wide[0]).item() == pytest.approx(0, abs=1e-6)


def test_the_weight_of_the_kl_rises_in_cycles():
    assert [cyclic_annealing(t, cycles=2) for t in (0.0, 0.25, 0.5, 0.75)] == pytest.approx([0, 0.5, 0, 0.5])
    assert cyclic_annealing(0.4999, cycles=2) == pytest.approx(1, abs=1e-5)
    assert cyclic_annealing(0.0, baseline=0.1) == pytest.approx(0.1)
    assert cyclic_annealing(0.125, cycles=4, baseline=0.2) == pytest.approx(0.6)


def test_a_user_is_a_set_of_choices():
    made, history = head(), torch.randn(2, 5, 2, 3)
    mask = torch.ones(2, 5, dtype=torch.bool)
    mean, log_var = made.encode(history, mask)
    shuffled, _ = made.encode(history[:, torch.randperm(5)], mask)
    assert (mean - shuffled).abs().max() < 1e-6
    swapped, _ = made.encode(history.flip(2), mask)
    assert (mean - swapped).abs().max() > 1e-3
    # What is behind the mask is not read, and a user without choices is anybody.
    padded = torch.cat([history, torch.full((2, 3, 2, 3), 7.0)], 1)
    behind = torch.cat([mask, torch.zeros(2, 3, dtype=torch.bool)], 1)
    behind[1] = False
    again, again_log_var = made.encode(padded, behind)
    assert torch.allclose(again[0], mean[0], atol=1e-6) and torch.allclose(again_log_var[0], log_var[0], atol=1e-6)
    assert torch.equal(again[1], made.prior[0]) and torch.equal(again_log_var[1], made.prior[1])
    # So do the particles, whose mean is that of q.
    who = made.posterior(history[0])
    assert torch.allclose(who.mean, mean[0], atol=1e-5) and who.weights.sum().item() == pytest.approx(1)
    assert torch.equal(who.states, made.posterior(history[0]).states)
    anybody = made.posterior(history[0, :0]).states
    assert anybody.std(0, correction=0).mean().item() == pytest.approx(1, abs=0.2)  # the prior is N(0, I) at the start
    assert head(particles=1).posterior(history[0]).states.shape == (1, 4)


def test_bounds_and_lengths_of_the_paper_for_language():
    made = head(bound=0.01, rescale=True, learned_prior=False)
    mean, log_var = made.encode(torch.randn(6, 4, 2, 3) * 100, torch.ones(6, 4, dtype=torch.bool))
    assert mean.abs().max() <= 0.01 and log_var.abs().max() <= 0.01
    assert torch.equal(made.sample(mean, log_var), mean)
    made.train()
    assert torch.allclose(made.sample(mean, log_var).norm(dim=-1), torch.full((6,), 2.0))
    assert "prior" not in dict(made.named_parameters())


def test_rewards_of_many_states_are_those_of_each():
    made = head()
    hidden, states = torch.randn(7, 3), torch.randn(5, 4)
    together = made.reward_for(hidden, states)
    assert together.shape == (5, 7)
    assert torch.allclose(together, torch.stack([made.decode(hidden, z) for z in states]), atol=1e-6)
    assert torch.allclose(
        made.preference(hidden, hidden.flip(0), history=torch.zeros(7, 0, 2, 3), history_mask=torch.ones(7, 0).bool()),
        made.decode(hidden, made.prior[0]) - made.decode(hidden.flip(0), made.prior[0]),
    )


def test_the_loss_of_a_row_is_the_bound_per_pair():
    options = {"history": torch.randn(2, 3, 2, 3), "history_mask": torch.tensor([[True] * 3, [True, False, False]])}
    a, b = torch.randn(2, 2, 3)
    both, target = head(), head(reconstruct=False, kl_weight=0.5)
    mean, log_var = both.encode(options["history"], options["history_mask"])
    kl = gaussian_kl(mean, log_var)
    losses, logits = both.loss(a, b, **options)
    rewards = [both.decode(options["history"][i], mean[i]) for i in range(2)]
    known = [-torch.nn.functional.logsigmoid(r[:, 0] - r[:, 1]) for r in rewards]
    own = -torch.nn.functional.logsigmoid(logits)
    assert losses[0].item() == pytest.approx(((own[0] + known[0].sum() + kl[0]) / 4).item(), abs=1e-5)
    assert losses[1].item() == pytest.approx(((own[1] + known[1][0] + kl[1]) / 2).item(), abs=1e-5)
    target.anneal = 0.5
    assert torch.allclose(target.loss(a, b, **options)[0], own + 0.25 * kl, atol=1e-5)


def test_information_is_what_answers_would_change():
    same = torch.randn(1, 3).expand(4, 3)
    assert mixture_gain(same, torch.zeros(4, 3)).item() == pytest.approx(0, abs=1e-6)
    apart = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    assert mixture_gain(apart, torch.zeros(2, 2)).item() == pytest.approx(0.5 * math.log(2))
    # An answer that nobody would give counts for nothing where answers are weighted.
    assert mixture_gain(apart, torch.zeros(2, 2), torch.tensor([1.0, 0.0])).item() == pytest.approx(0, abs=1e-6)
    # Two answers to one question, by hand.
    made = head()
    a, b, history = torch.randn(6, 3), torch.randn(6, 3), torch.randn(2, 2, 3)
    ones = torch.ones(1, 3, dtype=torch.bool)
    who = made.posterior(history)
    for q in range(6):
        pairs = [torch.stack([a[q], b[q]]), torch.stack([b[q], a[q]])]
        found = [made.encode(torch.cat([pair[None], history])[None], ones) for pair in pairs]
        first = torch.sigmoid(made.reward_for(a[q : q + 1], who.states) - made.reward_for(b[q : q + 1], who.states))
        p = first.mean()
        expected = mixture_gain(
            torch.cat([m for m, _ in found]), torch.cat([v for _, v in found]), torch.stack([p, 1 - p])
        )
        assert made.information_gain(a, b, history)[q].item() == pytest.approx(expected.item(), abs=1e-4)
        assert expected > 0
    many = made.set_gain(torch.randn(3, 8, 3), torch.randn(3, 8, 3), patterns=20)
    assert many.shape == (3,) and (many > 0).all()
    with pytest.raises(ValueError, match="weights must be one of"):
        made.set_gain(a[None], b[None], weights="none")


def test_one_scale_for_all_users():
    against = torch.randn(2, 50)
    rates = scale_rewards(against, against)
    assert ((rates > 0) & (rates < 1)).all() and rates.mean(1).tolist() == pytest.approx([0.5, 0.5])
    assert scale_rewards(torch.tensor([[0.0]]), torch.tensor([[0.0, -math.log(3)]])).item() == pytest.approx(0.625)
    assert torch.allclose(scale_rewards(against + 5, against + 5), rates, atol=1e-5)
    limits = scale_rewards(against, against, "min_max")
    assert limits.amin(1).tolist() == [0, 0] and limits.amax(1).tolist() == [1, 1]
    assert scale_rewards(against * 9, against * 9, "max").abs().amax(1).tolist() == pytest.approx([1, 1])
    level = torch.full((1, 4), 3.0)
    assert scale_rewards(level, level, "exponential").tolist() == [[1.0] * 4]
    for scaling in SCALINGS:
        assert (scale_rewards(against, against, scaling).argsort(1) == against.argsort(1)).all()
    with pytest.raises(ValueError, match="scaling must be one of"):
        scale_rewards(against, against, "none")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Users who want the first number large, or small; and where it was saved."""
    rng = np.random.default_rng(0)
    rows = []
    for user in range(40):
        for items in rng.normal(size=(10, 2, 2)):
            best = (items[:, 0] * (-1) ** user).argmax()
            rows.append({"prompt": "", "chosen": items[best].tolist(), "rejected": items[1 - best].tolist()})
            rows[-1]["user"] = user
    rows = with_histories(rows, (2, 5))
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("vpl") / "model"
    made = VariationalHead(2, 4, width=16)
    options = {"head": made, "epochs": 15, "batch_size": 32, "learning_rate": 1e-2, "callbacks": [Annealing()]}
    return train(rows, ArrayBackbone(2), output_dir=folder, **options).model, folder


UP = [{"prompt": "", "chosen": [2.0, x], "rejected": [-2.0, -x]} for x in (-1.0, 0.0, 1.0)]
DOWN = [{"prompt": "", "chosen": row["rejected"], "rejected": row["chosen"]} for row in UP]
BATCH = {"completion": [[1.5, 0.0], [-1.5, 0.0], [1.5, 1.0]]}


def test_two_kinds_of_users(trained):
    model, _ = trained
    assert isinstance(model, PersonalModel) and model.head.anneal == 1
    up, down = model.for_user(UP).score(BATCH), model.for_user(DOWN).score(BATCH)
    assert up.values[0] > up.values[1] + 1 and down.values[1] > down.values[0] + 1
    nobody = model.for_user([]).score(BATCH)
    assert (nobody.std > up.std).all() and (up.std > 0).all()
    both = model.score_users(BATCH, [UP, DOWN, []])
    assert np.allclose(both, np.stack([up.values, down.values, nobody.values]), atol=1e-5)
    # What divides them is the question to ask.
    candidates = [{"prompt": "", "chosen": [0.0, x], "rejected": [0.0, -x]} for x in (0.1, 1.0)]
    assert model.ask([*candidates, UP[0]]) == 2
    # Training reads the same: logits in the column form agree in sign.
    logits = model.preference([""] * 2, [[1.5, 0.0]] * 2, [[-1.5, 0.0]] * 2, history=[UP, DOWN])
    assert logits[0] > 1 and logits[1] < -1


def test_win_rates_of_a_user(trained):
    model, _ = trained
    sample = {"completion": np.random.default_rng(1).normal(size=(50, 2)).tolist()}
    reward = ComparableReward(model.for_user(UP), sample)
    scores = reward.score({"completion": [*BATCH["completion"], "no array"]})
    assert ((scores.values[:3] > 0) & (scores.values[:3] < 1)).all() and np.isnan(scores.values[3])
    assert scores.values[0] > 0.8 and scores.values[1] < 0.2 and (scores.std[:3] >= 0).all()
    with pytest.raises(ValueError, match="comparison 1 cannot be read"):
        ComparableReward(model.for_user(UP), {"completion": [[0.0, 0.0], "no array"]})
    with pytest.raises(ValueError, match="nothing to compare"):
        ComparableReward(model.for_user(UP), {"completion": []})
    with pytest.raises(ValueError, match="scaling must be one of"):
        ComparableReward(model.for_user(UP), sample, "none")


def test_saved_and_loaded(trained):
    model, folder = trained
    again = load_model(folder)
    assert again.head.config() == model.head.config()
    assert np.array_equal(again.for_user(UP).score(BATCH).values, model.for_user(UP).score(BATCH).values)


def test_on_a_transformer_by_name_of_the_head(tmp_path):
    rows = with_histories(pets(4, 4), (1, 3))
    result = train(rows, tiny_gpt2(), head="vpl", epochs=1, batch_size=8, output_dir=tmp_path / "m")
    assert np.isfinite(result.history[-1]["loss"])
    history, batch = rows[0]["history"], {"prompt": ["Which?"] * 2, "completion": ["A cat.", "A dog."]}
    scores = result.model.for_user(history).score(batch).values
    assert np.isfinite(scores).all()
    assert np.allclose(load_model(tmp_path / "m").for_user(history).score(batch).values, scores, atol=1e-5)


def test_bad_options_are_named():
    for options, message in (
        ({"latent": 0}, "at least 1"), ({"kl_weight": -1.0}, "kl_weight"), ({"particles": 3}, "even"),
        ({"bound": 0.0}, "bound"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            VariationalHead(2, **options)
    with pytest.raises(ValueError, match="cycles"):
        Annealing(0)
