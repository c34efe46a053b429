"""Prompts filled with real requests and responses, and cues in real preferences."""

from __future__ import annotations

import pytest
from judge_scripts import shown

from rewardsmith.data import load_data
from rewardsmith.judges import judging_tasks, spurious_token_report


@pytest.mark.parametrize("prompt", ["pairwise", "listwise", "chain_of_rubrics"])
def test_real_texts_come_back_out_of_the_delimiters(shared_data, prompt):
    files = sorted((shared_data / "llmbar").glob("*.json*"))
    if not files:
        pytest.skip("no LLMBar")
    for file in files:
        data, _ = load_data(str(file))
        tasks = judging_tasks(data, prompt, both_orders=True)
        for messages, ratings, row in zip(tasks["prompt"], tasks["ratings"], tasks["row"]):
            texts = {data[row]["chosen"]: 1.0, data[row]["rejected"]: 0.0}
            assert [texts[text] for text in shown(messages[-1]["content"])] == ratings


def test_cues_of_real_preferences_are_weak(shared_data):
    files = sorted((shared_data / "hh-rlhf").glob("*.jsonl*"))
    if not files:
        pytest.skip("no hh-rlhf")
    data, _ = load_data(str(files[0]), limit=1000, on_bad="skip")
    cues = spurious_token_report(data["chosen"], data["rejected"], threshold=0.02)
    assert all(0.4 < cue.accuracy < 0.65 for cue in cues)
    stray = {"role": "user", "content": "<|endoftext|>"}
    marked = [f"{text} <|endoftext|>" if isinstance(text, str) else [*text, stray] for text in data["rejected"]]
    assert spurious_token_report(data["chosen"], marked)[0].token == "<|endoftext|>"
