"""Names on the command line: what each kind of name becomes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from rewardsmith.adapters.remote import RemoteReward
from rewardsmith.functions import FunctionReward, from_function
from rewardsmith.loading import load_records, load_reward

FILE = Path(__file__).with_name("function_rewards.py")


def test_an_object_is_returned_as_it_is() -> None:
    reward = from_function(lambda completion: 1.0)
    assert load_reward(reward) is reward


@pytest.mark.parametrize(
    ("url", "form"),
    [
        ("http://127.0.0.1:8000/get_reward", "openrlhf"),
        ("http://127.0.0.1:8000/score", "score"),
        ("https://host/v1/classify", "classify"),
        ("https://host/classify/", "classify"),
    ],
)
def test_an_address_is_an_endpoint(url: str, form: str) -> None:
    reward = load_reward(url, timeout=3.0)
    assert isinstance(reward, RemoteReward)
    assert (reward.form, reward.url, reward.timeout) == (form, url, 3.0)


def test_a_path_with_a_name_is_a_function() -> None:
    reward = load_reward(f"{FILE}:length", on_failure="raise")
    assert isinstance(reward, FunctionReward)
    assert (reward(["p"], ["abc"]), reward.on_failure) == ([3.0], "raise")


def test_a_folder_is_a_model(tmp_path: Path) -> None:
    from rewardsmith.models import train

    rows = [{"prompt": f"q{i}", "chosen": "a good answer", "rejected": "a bad answer"} for i in range(8)]
    made = train(rows, "hashed", output_dir=tmp_path / "model").model
    loaded = load_reward(str(tmp_path / "model"))
    batch = {"prompt": ["q1", "q1"], "completion": ["a good answer", "a bad answer"]}
    np.testing.assert_allclose(loaded.score(batch).values, made.score(batch).values, rtol=1e-6)
    assert loaded.preference(["q1"], ["a good answer"], ["a bad answer"])[0] > 0


@pytest.mark.parametrize("spec", ["no_such_module_anywhere:f", "no_such_file.py:f", "no-such-folder"])
def test_nothing_under_a_name_is_a_value_error(spec: str) -> None:
    with pytest.raises((ValueError, OSError), match="no"):
        load_reward(spec)


def test_records_from_a_file(tmp_path: Path) -> None:
    row = {"prompt": "p", "chosen": "a", "rejected": "b"}
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps({**row, "prompt": f"p{i}"}) + "\n" for i in range(3)), encoding="utf-8")
    records, report = load_records(str(path), kind="preference")
    assert (len(records), report.kept, report.skipped) == (3, 3, 0)


def test_records_from_the_embedded_sample() -> None:
    sample, _ = load_records("sample", kind="preference", limit=5)
    assert len(sample) == 5
    assert {"prompt", "chosen", "rejected"} <= set(sample.column_names)
    test, _ = load_records("sample:pairs", split="test")
    train, _ = load_records("sample", split="train")
    assert not set(test["prompt"]) & set(train["prompt"])
