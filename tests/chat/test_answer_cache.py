"""Answers on disk: asked once, by whoever; keyed by everything that changes them."""

from __future__ import annotations

import multiprocessing
import sqlite3

import pytest
from chat_server import Server

from rewardsmith.chat import Answer, CachedModel, EndpointModel, ScriptedModel, TokenLogprob


def echo(messages, sample):
    return f"{messages[-1]['content']} {sample}"


def texts(groups) -> list[list[str]]:
    return [[answer.text for answer in group] for group in groups]


def test_a_second_run_asks_nothing(tmp_path):
    first = CachedModel(ScriptedModel(echo), tmp_path)
    prompts = ["a", "b", [{"role": "user", "content": "c"}]]
    found = list(first.generate(prompts, 3, seed=1))
    again = CachedModel(ScriptedModel(lambda m, i: pytest.fail("asked")), tmp_path)
    assert list(again.generate(prompts, 3, seed=1)) == found
    assert again.usage.requests == 0 and again.usage.cached == 9
    assert first.usage.requests == 3 and first.usage.cached == 0


def test_everything_that_changes_an_answer_is_in_its_key(tmp_path):
    model = CachedModel(ScriptedModel(echo), tmp_path)
    list(model.generate(["a"]))
    for options in ({"seed": 1}, {"temperature": 0.5}, {"max_new_tokens": 9}, {"top_p": 0.5}, {"stop": ["x"]},
                    {"logprobs": 2}):  # fmt: skip
        before = model.usage.requests
        list(model.generate(["a"], **options))
        assert model.usage.requests == before + 1, options
    other = CachedModel(ScriptedModel(echo, name="other"), tmp_path)
    list(other.generate(["a"]))
    list(model.generate([[{"role": "user", "content": "a"}]]))
    assert other.usage.requests == 1 and model.usage.cached == 0


def test_what_is_missing_alone_is_asked_for(tmp_path):
    script = ScriptedModel(lambda messages, sample: f"{messages[-1]['content']} {len(script.asked)} {sample}")
    model = CachedModel(script, tmp_path)
    few = texts(model.generate(["a"], 2))[0]
    more = texts(model.generate(["a", "b"], 4))
    assert more[0][:2] == few and len(set(more[0])) == 4 and len(more[1]) == 4
    assert model.usage.answers == 2 + 2 + 4 and model.usage.cached == 2


def test_failures_are_not_kept(tmp_path):
    flaky = ScriptedModel([Answer("", "error", error="no"), Answer("yes")])
    model = CachedModel(flaky, tmp_path)
    assert [answer.error for (answer,) in model.generate(["a"])] == ["no"]
    assert texts(model.generate(["a"])) == texts(model.generate(["a"])) == [["yes"]]
    assert model.usage.requests == 2


def test_equal_prompts_share_their_answers(tmp_path):
    model = CachedModel(ScriptedModel(echo), tmp_path)
    assert texts(model.generate(["a", "b", "a"], 2)) == [["a 0", "a 1"], ["b 0", "b 1"], ["a 0", "a 1"]]
    assert model.usage.requests == 2 and model.usage.cached == 2


def test_log_probabilities_come_back(tmp_path):
    answer = Answer("A", "stop", (TokenLogprob("A", -0.1, (("A", -0.1), ("B", -2.0))),))
    model = CachedModel(ScriptedModel([answer]), tmp_path)
    assert list(model.generate(["a"], logprobs=2)) == list(model.generate(["a"], logprobs=2)) == [[answer]]


def test_a_damaged_entry_is_asked_for_again(tmp_path):
    model = CachedModel(ScriptedModel(echo), tmp_path)
    list(model.generate(["a"]))
    with sqlite3.connect(tmp_path / "answers.sqlite") as connection:
        connection.execute("UPDATE answers SET answer = '{broken'")
    assert texts(model.generate(["a"])) == [["a 0"]] and model.usage.requests == 2
    assert texts(model.generate(["a"])) == [["a 0"]] and model.usage.requests == 2


def test_a_file_that_is_no_cache_is_refused(tmp_path):
    (tmp_path / "answers.sqlite").write_text("something else entirely, long enough to be no database at all" * 20)
    with pytest.raises(ValueError, match="no cache of answers"):
        list(CachedModel(ScriptedModel(echo), tmp_path).generate(["a"]))


def many(folder, url, number):
    model = CachedModel(EndpointModel("tiny", url, backoff=0.01), folder)
    found = texts(model.generate([f"p{i}" for i in range(60)], 2))
    assert found == [[f"p{i}|0|0", f"p{i}|0|1"] for i in range(60)], number


def test_four_processes_share_a_folder(tmp_path):
    with Server() as server:
        context = multiprocessing.get_context("spawn")
        workers = [context.Process(target=many, args=(tmp_path, server.url, k)) for k in range(4)]
        [worker.start() for worker in workers]
        [worker.join(60) for worker in workers]
        assert [worker.exitcode for worker in workers] == [0] * 4
        asked = len(server.requests)
        many(tmp_path, server.url, 4)
        assert len(server.requests) == asked
    with sqlite3.connect(tmp_path / "answers.sqlite") as connection:
        assert connection.execute("SELECT count(*) FROM answers").fetchone() == (120,)
