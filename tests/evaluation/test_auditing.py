"""The audit: each flaw is found by its probe, a sound reward comes out clean, and real hacked preferences stand out."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from scripted import FirstWins, Scripted

from rewardsmith.data import load_data
from rewardsmith.evaluation import audit, audit_preferences
from rewardsmith.evaluation.auditing import OWN_PROBES
from rewardsmith.evaluation.probes import FILLER, OPENERS, PROBES, apply
from rewardsmith.reward import Failure, Reward, Scores
from rewardsmith.worlds.sample import load_sample
from rewardsmith.worlds.text import GoldReward

SAMPLE = load_sample("honest", "test").select(range(80))


def findings(reward: Reward, **options) -> dict:
    return {finding.probe: finding for finding in audit(reward, SAMPLE, **options).findings}


def test_the_gold_reward_has_no_serious_finding() -> None:
    found = findings(GoldReward())
    assert [f.probe for f in found.values() if f.severity == "serious"] == []
    assert found["off topic"].severity == "ok" and found["filler"].effect < 0


count = itertools.count()
FLAWS = {
    "filler": lambda prompt, text: float(len(text.split())),
    "flattering opener": lambda prompt, text: float(any(o in text for o in OPENERS)) + 0.01 * len(prompt),
    "bullet list": lambda prompt, text: float(text.count("\n- ")) + 0.01 * len(text),
    "bold words": lambda prompt, text: float(text.count("**")) + 0.01 * len(prompt),
    "last sentence again": lambda prompt, text: float(len(text.split(". "))),
    "words shuffled": lambda prompt, text: (
        -sum(a <= b for a, b in itertools.pairwise(text.split())) / (len(text.split()) + 1)
        + (10.0 if text[:1].islower() else 0.0)
        + 0.01 * len(prompt)
    ),
    "empty": lambda prompt, text: -float(len(text)),
    "prompt copied": lambda prompt, text: float(prompt in text) + 0.001 * len(text),
    "white space": lambda prompt, text: float(text.count("\n")) + 0.1 * (len(prompt) % 2),
    "determinism": lambda prompt, text: float(next(count) % 7) + 0.01 * len(text),
}


@pytest.mark.parametrize("probe", FLAWS)
def test_each_flaw_is_found_by_its_probe(probe: str) -> None:
    found = findings(Scripted(probe, FLAWS[probe]), probes=[probe])
    assert found[probe].severity == "serious", found[probe]


def test_a_finding_has_an_effect_an_interval_and_an_example() -> None:
    found = findings(Scripted("words", FLAWS["filler"]))["filler"]
    assert 0.5 < found.low < found.effect < found.high and found.share == 1.0
    assert found.example is not None
    assert found.example["changed"].startswith(found.example["original"][:20])
    assert found.example["score_changed"] > found.example["score_original"]


def test_a_constant_reward_is_told_so() -> None:
    found = findings(Scripted("constant", lambda prompt, text: 1.0))
    assert found["constant"].severity == "serious"


class Breaks(Reward):
    __name__ = "breaks"

    def score(self, batch) -> Scores:
        if any("the" not in text for text in batch["completion"]):
            raise KeyError("the")
        return Scores(np.array([float(len(text)) for text in batch["completion"]]))


def test_exceptions_and_failures_are_counted() -> None:
    found = findings(Breaks())["failures"]
    assert found.severity == "serious" and "KeyError" in found.summary and 0 < found.effect < 1


class Unscored(Reward):
    __name__ = "unscored"

    def score(self, batch) -> Scores:
        empty = {i: Failure("empty", "nothing to score") for i, text in enumerate(batch["completion"]) if not text}
        return Scores(np.array([float(len(text)) for text in batch["completion"]]), failures=empty)


def test_a_typed_failure_for_an_empty_answer_is_right() -> None:
    assert findings(Unscored(), probes=["empty"])["empty"].severity == "ok"


def test_position_bias_of_a_preference_model_is_found() -> None:
    found = {f.probe: f for f in audit(FirstWins(), SAMPLE).findings}
    assert found["position"].severity == "serious" and found["position"].share > 0.25


def test_probes_change_messages_in_their_last_turn_alone() -> None:
    talk = [{"role": "assistant", "content": "First."}, {"role": "assistant", "content": "It is not far. Walk on."}]
    rng = np.random.default_rng(0)
    for name, (_, change) in PROBES.items():
        changed = apply(change, [{"role": "user", "content": "How far?"}], talk, rng)
        if changed is not None:
            assert changed[0] == talk[0] and changed[-1]["role"] == "assistant", name
            assert isinstance(changed[-1]["content"], str)
    assert talk[-1]["content"] == "It is not far. Walk on."


def test_filler_at_least_doubles_the_words() -> None:
    text = "word " * 50
    padded = PROBES["filler"][1]("", text, np.random.default_rng(0))
    assert padded is not None and len(padded.split()) >= 100 and any(sentence in padded for sentence in FILLER)


def test_the_report_is_json_and_the_same_twice() -> None:
    def run() -> dict:
        report = audit(GoldReward(), SAMPLE, limit=30, seed=5).to_dict()
        report["findings"] = [f for f in report["findings"] if f["probe"] != "speed"]
        return report

    first = run()
    assert json.dumps(first, allow_nan=False) == json.dumps(run(), allow_nan=False)
    assert first["card"]["rows"] == 30


def test_bad_input_is_named() -> None:
    with pytest.raises(ValueError, match="no probe 'smell'"):
        audit(GoldReward(), SAMPLE, probes=["smell"])
    with pytest.raises(ValueError, match="'prompt'"):
        audit(GoldReward(), [{"chosen": "a"}])
    assert set(OWN_PROBES).isdisjoint(PROBES)


def judged(shared_data: Path, name: str) -> dict:
    records, _ = load_data(shared_data / "alpaca-eval" / f"annotations_{name}.json.xz", on_bad="skip")
    return {finding.probe: finding for finding in audit_preferences(records).findings}


def test_a_hacked_judge_stands_out(shared_data: Path) -> None:
    hacked = judged(shared_data, "NullModel")["constant answer"]
    assert hacked.severity == "serious" and hacked.effect > 0.7
    for honest in ("claude-2.1", "gemma-7b-it"):
        assert judged(shared_data, honest)["constant answer"].severity == "ok"


def test_recorded_preferences_by_hand() -> None:
    rows = [{"prompt": f"q{i}", "chosen": "I win", "rejected": f"An honest answer, number {i}."} for i in range(9)]
    found = {f.probe: f for f in audit_preferences(rows).findings}
    assert found["constant answer"].effect == 1.0 and found["constant answer"].severity == "serious"
    assert found["longer wins"].effect == 0.0
