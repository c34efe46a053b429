"""Scripts, and chat models by name."""

from __future__ import annotations

import pytest

from rewardsmith.chat import Answer, EndpointModel, ScriptedModel, load_chat


def test_a_list_is_read_in_turn_and_a_function_sees_the_messages():
    script = ScriptedModel(["one", Answer("", "error", error="lost")])
    assert list(script.generate(["a", "b"], 2)) == [[Answer("one"), Answer("", "error", error="lost")]] * 2
    assert script.usage.requests == 2 and script.usage.answers == 2 and script.usage.failed == 2
    loud = ScriptedModel(lambda messages, sample: messages[-1]["content"].upper() + str(sample))
    assert [[a.text for a in group] for group in loud.generate(["x"], 2)] == [["X0", "X1"]]
    assert loud.asked == [[{"role": "user", "content": "x"}]]
    with pytest.raises(ValueError, match="empty"):
        ScriptedModel([])


def test_chat_models_by_name():
    model = load_chat("http://localhost:8000/v1#Qwen/Qwen3-8B", concurrency=4)
    assert isinstance(model, EndpointModel)
    assert (model.name, model.base_url, model.concurrency) == ("Qwen/Qwen3-8B", "http://localhost:8000/v1", 4)
    assert load_chat("openai:gpt-x").base_url == "https://api.openai.com/v1"
    assert load_chat(model) is model
    with pytest.raises(ValueError, match="which model"):
        load_chat("http://localhost:8000/v1")
    with pytest.raises(ValueError, match="no causal language model"):
        load_chat("/nowhere/at/all")
