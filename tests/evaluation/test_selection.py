"""Best of n: picks, the curve, and no over-optimization where there is none (paper 64, check 4)."""

from __future__ import annotations

import numpy as np
import pytest
from scripted import LongerWins, Scripted

from rewardsmith.evaluation import best_of_n, order_statistics_curve

NUMBER = Scripted("number", lambda prompt, text: float(text.split()[0]))
GOLD = Scripted("gold", lambda prompt, text: float(text.split()[1]))
NS = [1, 4, 16, 64, 256]


def world(seed: int, *, hacks: float) -> tuple[np.ndarray, np.ndarray]:
    """Proxy = gold + noise; a share `hacks` of candidates has a style that the proxy loves and that is worth -3."""
    rng = np.random.default_rng(seed)
    gold = rng.normal(size=(100, 256))
    proxy = gold + 0.5 * rng.normal(size=gold.shape)
    hacked = rng.random(gold.shape) < hacks
    return proxy + 5.0 * hacked, gold - 3.0 * hacked


@pytest.mark.parametrize("seed", range(5))
def test_hacks_make_gold_fall_while_the_proxy_rises(seed: int) -> None:
    curve, peak, fall = order_statistics_curve(*world(seed, hacks=0.02), NS)
    proxy = [row["proxy"] for row in curve]
    assert proxy == sorted(proxy)
    assert peak in (4, 16) and fall is not None and fall["low"] > 0
    assert curve[-1]["gold"] < curve[0]["gold"]


@pytest.mark.parametrize("seed", range(5))
def test_noise_alone_is_no_over_optimization(seed: int) -> None:
    curve, _, fall = order_statistics_curve(*world(seed, hacks=0.0), NS)
    assert fall is not None and not fall["low"] > 0
    assert curve[-1]["gold"] > curve[2]["gold"]


def test_picks_name_the_best_and_the_runner_up() -> None:
    rows = [{"prompt": "p", "candidates": ["1 5", "3 2", "2 9"]}, {"prompt": "q", "candidates": ["4 0", "4 1", "0 7"]}]
    found = best_of_n(NUMBER, rows, gold=GOLD)
    assert [(pick["index"], pick["score"], pick["margin"], pick["gold"]) for pick in found.picks] == [
        (1, 3.0, 1.0, 2.0),
        (0, 4.0, 0.0, 0.0),
    ]
    assert [row["n"] for row in found.curve] == [1, 2]


def test_a_preference_model_picks_by_its_mean_logit() -> None:
    found = best_of_n(LongerWins(), [{"prompt": "p", "candidates": ["aa", "aaaa", "a"]}])
    assert found.picks[0]["index"] == 1 and found.peak is None


def test_candidates_without_a_score_are_counted_and_not_picked() -> None:
    reward = Scripted("half", lambda prompt, text: float("nan") if text.startswith("9") else float(text.split()[0]))
    found = best_of_n(
        reward, [{"prompt": "p", "candidates": ["9 0", "1 0"]}, {"prompt": "q", "candidates": ["9 1", "9 2"]}], ns=[1]
    )
    assert found.unscored == 3
    assert found.picks[0]["index"] == 1 and found.picks[1]["completion"] is None


def test_bad_input_is_named() -> None:
    with pytest.raises(ValueError, match="'candidates'"):
        best_of_n(NUMBER, [{"prompt": "p", "completion": "1"}])
    with pytest.raises(ValueError, match="row 0, column 'worth'"):
        best_of_n(NUMBER, [{"prompt": "p", "candidates": ["1", "2"], "worth": [1.0]}], gold="worth")
    with pytest.raises(ValueError, match="'nothing'"):
        best_of_n(NUMBER, [{"prompt": "p", "candidates": ["1", "2"]}], gold="nothing")
