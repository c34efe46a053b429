"""Preference strength: who votes on what, that votes find wrong labels, and that a killed call goes on."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from tiny import tiny_llama

from rewardsmith.models import HashedBackbone, train
from rewardsmith.models.arrays import ArrayBackbone
from rewardsmith.models.strength import Strengths, VotingHead, preference_strength

SIZE = 30


def noisy(seed: int, count: int = 1500, wrong: float = 0.2) -> tuple[dict[str, list], np.ndarray]:
    """Preferences of a linear gold over vectors, a share of them flipped, and which."""
    rng = np.random.default_rng(seed)
    gold = rng.normal(size=SIZE)
    two = rng.normal(size=(count, 2, SIZE))
    best = (two @ gold).argmax(1)
    flipped = rng.random(count) < wrong
    first, rows = np.where(flipped, 1 - best, best), np.arange(count)
    return {"chosen": two[rows, first].tolist(), "rejected": two[rows, 1 - first].tolist()}, flipped


def texts(count: int = 40) -> dict[str, list]:
    good, bad = ["clear", "kind", "right", "short"], ["rude", "vague", "wrong", "long"]
    return {
        "prompt": [f"Question {i}" for i in range(count)],
        "chosen": [f"A {good[i % 4]} and {good[(i + 1) % 4]} answer" for i in range(count)],
        "rejected": [f"A {bad[i % 4]} and {bad[(i + 1) % 4]} answer" for i in range(count)],
    }


def test_figures_of_votes_by_hand():
    votes = np.array([[1.0, np.nan, -1.0], [3.0, np.nan, np.nan], [2.0, np.nan, np.nan]])
    found = Strengths(votes, True, 0.0)
    assert np.array_equal(found.voters, [3, 0, 1])
    assert np.allclose(found.mean, [2.0, np.nan, -1.0], equal_nan=True)
    assert np.allclose(found.std, [1.0, np.nan, np.nan], equal_nan=True)
    assert found.error[0] == pytest.approx(1 / np.sqrt(3))
    rows = found.attach({"chosen": list("abc"), "rejected": list("def")})
    assert rows[0] == {"chosen": "a", "rejected": "d", "strength": 2.0, "strength_std": 1.0}
    assert (rows[1]["strength"], rows[2]["strength"], rows[2]["strength_std"]) == (None, -1.0, None)
    assert found.to_dict()["unjudged"] == 1
    with pytest.raises(ValueError, match="3 rows were voted on, but there are 1"):
        found.attach({"chosen": ["a"], "rejected": ["b"]})


def test_votes_find_wrong_labels_in_one_run():
    """One label in five is wrong; of the lowest fifth by votes at least three in four are."""
    found = []
    for seed in (0, 1):
        data, wrong = noisy(seed)
        strengths = preference_strength(data, ArrayBackbone(SIZE), 10, seed=seed)
        assert strengths.one_run
        lowest = np.argsort(strengths.mean)[:300]
        found.append(wrong[lowest].mean())
        assert wrong[strengths.mean < 0].mean() > 0.55
    assert np.mean(found) >= 0.75


def test_each_row_is_voted_on_by_members_that_have_not_seen_it():
    strengths = preference_strength(texts(), "hashed", 5, share=0.6)
    assert strengths.votes.shape == (5, 40)
    assert np.array_equal(strengths.voters, [2] * 40)
    again = preference_strength(texts(), "hashed", 5, share=0.6)
    assert np.array_equal(strengths.votes, again.votes, equal_nan=True)
    other = preference_strength(texts(), "hashed", 5, share=0.6, seed=1)
    assert not np.array_equal(strengths.votes, other.votes, equal_nan=True)


def test_a_column_of_the_hashed_table_learns_as_a_table_of_its_own():
    """Two members with the same rows, and a model that has them alone, in the same order."""
    data = texts(16)
    head = VotingHead(2, np.ones((2, 16), dtype=bool), direct=True)
    options = {"optim": "sgd", "epochs": 2, "batch_size": 8}
    both = train(data, HashedBackbone(2), head=head, learning_rate=0.2, **options).model  # the mean of two losses
    alone = train(data, "hashed", learning_rate=0.1, **options).model
    hidden, _, _ = both.network.hidden(data["prompt"], data["chosen"])
    rejected, _, _ = both.network.hidden(data["prompt"], data["rejected"])
    apart = (hidden - rejected).numpy()
    assert np.allclose(apart[:, 0], apart[:, 1], atol=1e-6)
    assert np.allclose(apart[:, 0], alone.preference(data["prompt"], data["chosen"], data["rejected"]), atol=1e-5)


def test_a_member_does_not_learn_from_rows_that_it_has_not_seen():
    seen = np.array([[True, False], [False, True]])
    head = VotingHead(3, seen)
    chosen, rejected = torch.randn(2, 3), torch.randn(2, 3)
    losses, _ = head.loss(chosen, rejected, rows=torch.tensor([0, 1]))
    losses[0].backward()
    assert head.maps.last.weight.grad[0].abs().sum() > 0
    assert head.maps.last.weight.grad[1].abs().sum() == 0
    assert head.preference_std(chosen, rejected).shape == (2,)


def test_an_unreadable_row_has_no_strength():
    data = texts()
    data["chosen"][3] = " "
    with pytest.warns(UserWarning, match="1 of 40 rows left out"):
        strengths = preference_strength(data, "hashed", 4, share=0.5)
    assert np.isnan(strengths.mean[3]) and strengths.voters[3] == 0
    assert strengths.attach(data)[3]["strength"] is None


def test_members_as_runs_of_their_own_go_on_after_a_kill(tmp_path):
    file = tmp_path / "votes.jsonl"
    seen: list[tuple[int, int]] = []

    def stop_after_two(done: int, members: int) -> None:
        seen.append((done, members))
        if done == 2:
            raise KeyboardInterrupt

    options = {"members": 3, "share": 1.0, "votes_file": file}
    with pytest.raises(KeyboardInterrupt):
        preference_strength(texts(), "hashed", on_member=stop_after_two, **options)
    assert len(file.read_text().splitlines()) == 2
    later: list[tuple[int, int]] = []
    resumed = preference_strength(texts(), "hashed", on_member=lambda *done: later.append(done), **options)
    assert (seen, later) == ([(1, 3), (2, 3)], [(3, 3)])
    assert not resumed.one_run
    whole = preference_strength(texts(), "hashed", 3, share=1.0)
    assert np.array_equal(resumed.votes, whole.votes)
    assert np.array_equal(resumed.voters, [3] * 40)
    assert len({json.dumps(row.tolist()) for row in whole.votes}) == 3  # different orders, different models
    with pytest.raises(ValueError, match="another seed"):
        preference_strength(texts(), "hashed", seed=5, **options)


def test_members_of_a_transformer_do_not_share_weights():
    backbone = tiny_llama()
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    strengths = preference_strength(texts(6), backbone, 2, share=0.5, learning_rate=1e-3, batch_size=2)
    assert not strengths.one_run
    assert np.array_equal(strengths.voters, [1] * 6)
    assert all(torch.equal(tensor, before[name]) for name, tensor in backbone.state_dict().items())


def test_bad_options_are_refused():
    with pytest.raises(ValueError, match="at least two members"):
        preference_strength(texts(), "hashed", 1)
    with pytest.raises(ValueError, match="share must lie in"):
        preference_strength(texts(), "hashed", 4, share=0.0)
    with pytest.raises(ValueError, match="leaves no voters"):
        preference_strength(texts(), "hashed", 2, share=0.9)
    with pytest.raises(ValueError, match="no column 'rejected'"):
        preference_strength({"prompt": ["a"], "chosen": ["b"]}, "hashed", 4)
