"""An endpoint that fails, refuses and dawdles: every prompt gets its answers or its reason."""

from __future__ import annotations

import threading
import time

import pytest
from chat_server import FAULTS, Server

from rewardsmith.chat import EndpointModel


def texts(groups) -> list[list[str]]:
    return [[answer.text for answer in group] for group in groups]


def test_answers_in_order_with_seed_and_settings():
    with Server() as server:
        model = EndpointModel("tiny", server.url)
        prompts = ["a", [{"role": "system", "content": "s"}, {"role": "user", "content": "b"}]]
        found = list(model.generate(prompts, 2, max_new_tokens=7, temperature=0.5, top_p=0.9, stop=["x"], seed=3))
        assert texts(found) == [["a|3|0", "a|3|1"], ["b|3|0", "b|3|1"]]
        body = next(body for body in server.requests if len(body["messages"]) == 2)
        assert body["model"] == "tiny" and body["messages"][0]["role"] == "system"
        assert {k: body[k] for k in ("max_tokens", "temperature", "top_p", "stop", "n", "seed")} == {
            "max_tokens": 7, "temperature": 0.5, "top_p": 0.9, "stop": ["x"], "n": 2, "seed": 3,
        }  # fmt: skip
        assert model.usage.requests == 2 and model.usage.answers == 4 and model.usage.completion_tokens == 20


def test_every_prompt_is_accounted_for_where_a_third_of_attempts_fail():
    prompts = [f"prompt {i}" + (" hopeless" if i % 50 == 7 else "") for i in range(300)]
    # The timeout is far above what a busy machine takes for an answer, and below the slow ones.
    with Server(faults=0.3, slow=3.5, hopeless="hopeless") as server:
        model = EndpointModel("tiny", server.url, concurrency=24, timeout=3.0, retries=9, backoff=0.005)
        found = list(model.generate(prompts, 2, seed=5))
        assert len(found) == 300
        for prompt, group in zip(prompts, found):
            assert len(group) == 2
            if "hopeless" in prompt:
                assert all(answer.error and "500" in answer.error and not answer.text for answer in group)
            else:
                assert [answer.text for answer in group] == [f"{prompt}|5|0", f"{prompt}|5|1"]
        assert set(FAULTS) <= set(server.kinds)
        assert model.usage.failed == 12 and model.usage.answers == 588 and model.usage.retries > 100
        assert model.usage.requests == 300
        assert server.most_at_once <= 24 + server.kinds["slow"]  # those that were given up sleep on


def test_a_server_that_gives_one_answer_at_a_time():
    with Server(choices=1) as server:
        model = EndpointModel("tiny", server.url)
        assert texts(model.generate(["a"], 3, seed=1)) == [["a|1|0", "a|2|0", "a|3|0"]]
        assert texts(model.generate(["b"], 2, seed=1)) == [["b|1|0", "b|2|0"]]
        assert len(server.requests) == 5
    with Server(refuse_n=True) as server:
        model = EndpointModel("tiny", server.url)
        assert texts(model.generate(["a"], 2, seed=1)) == [["a|1|0", "a|2|0"]]


def test_what_is_refused_is_not_tried_again(monkeypatch):
    monkeypatch.setenv("SECRET_KEY", "sk-secret")
    with Server(status=401) as server:
        model = EndpointModel("tiny", server.url, api_key="SECRET_KEY")
        ((answer,),) = model.generate(["a"])
        assert answer.error is not None and "401" in answer.error and len(server.requests) == 1
        assert server.headers[0]["Authorization"] == "Bearer sk-secret"
        assert "sk-secret" not in str(model.fingerprint()) + repr(vars(model)) + answer.error


def test_a_key_that_the_server_repeats_stays_out_of_the_error(monkeypatch):
    monkeypatch.setenv("SECRET_KEY", "sk-secret")
    with Server(status=403) as server:
        server._send = lambda handler, status, data, headers=None: Server._send(
            server, handler, status, b"bad sk-secret"
        )
        ((answer,),) = EndpointModel("tiny", server.url, api_key="SECRET_KEY").generate(["a"])
        assert answer.error is not None and "bad ***" in answer.error


def test_nobody_listens():
    with Server() as server:
        url = server.url
    ((answer,),) = EndpointModel("tiny", url, retries=1, backoff=0.0).generate(["a"])
    assert answer.error is not None and "connection failed" in answer.error and "2 attempts" in answer.error


def test_a_rate_is_kept():
    with Server() as server:
        model = EndpointModel("tiny", server.url, requests_per_minute=1200)
        start = time.monotonic()
        list(model.generate([f"{i}" for i in range(40)]))
        assert time.monotonic() - start > 0.9  # 20 a second, a second's worth at once; a slow machine only adds to it
    with Server() as server:
        model = EndpointModel("tiny", server.url, tokens_per_minute=60_000)
        start = time.monotonic()
        list(model.generate([f"{i}" for i in range(20)], max_new_tokens=200))
        assert time.monotonic() - start > 0.5


def test_log_probabilities_where_the_server_has_them():
    with Server() as server:
        ((answer,),) = EndpointModel("tiny", server.url).generate(["a"], logprobs=1)
        assert answer.logprobs is not None and answer.logprobs[0].top == (("A", -0.5),)
        ((plain,),) = EndpointModel("tiny", server.url).generate(["a"])
        assert plain.logprobs is None


def test_cost_and_reading_ahead():
    with Server() as server:
        model = EndpointModel("tiny", server.url, concurrency=2, price_per_million=(1.0, 2.0))
        stream = model.generate([f"{i}" for i in range(100)])
        next(stream)
        time.sleep(0.3)
        assert len(server.requests) <= 9  # the reader sets the pace
        stream.close()
    assert model.usage.cost == pytest.approx((10 * 1.0 + 5 * 2.0) / 1e6 * model.usage.answers)


def test_threads_share_a_model():
    with Server(delay=0.01) as server:
        model = EndpointModel("tiny", server.url, concurrency=3)
        results: dict[int, list] = {}

        def ask(k: int) -> None:
            results[k] = texts(model.generate([f"{k}-{i}" for i in range(9)]))

        threads = [threading.Thread(target=ask, args=(k,)) for k in range(4)]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
        assert all(results[k] == [[f"{k}-{i}|0|0"] for i in range(9)] for k in range(4))
        assert server.most_at_once <= 3


def test_impossible_settings():
    for options in ({"concurrency": 0}, {"timeout": 0}, {"retries": -1}, {"requests_per_minute": 0}):
        with pytest.raises(ValueError):
            EndpointModel("m", "http://localhost/v1", **options)
    for url in ("localhost/v1", "ftp://host", "http://user:word@host/v1"):
        with pytest.raises(ValueError, match="base_url"):
            EndpointModel("m", url)
    with pytest.raises(ValueError, match="temperature"):
        EndpointModel("m", "http://localhost/v1").generate(["a"], 2, temperature=0)


def test_half_a_surrogate_pair_and_what_is_no_json():
    prompts = ["half \ud83d", "whole", [{"role": "user", "content": object()}]]
    with Server(answer=lambda body, number: str(len(body["messages"][0]["content"]))) as server:
        half, whole, neither = (group[0] for group in EndpointModel("tiny", server.url).generate(prompts))
    assert (half.text, whole.text) == ("6", "5") and neither.error is not None and "no JSON" in neither.error


@pytest.mark.parametrize("key", ["sk-\nsecret", "sk-\u00e9secret"])
def test_a_key_that_can_be_none_is_not_quoted(monkeypatch, key):
    monkeypatch.setenv("SECRET_KEY", key)
    with Server() as server:
        ((answer,),) = EndpointModel("tiny", server.url, api_key="SECRET_KEY").generate(["a"])
        assert answer.error is not None and "SECRET_KEY" in answer.error and "secret" not in answer.error
        monkeypatch.setenv("SECRET_KEY", "sk-fine\n")  # as a shell reads it from a file
        assert texts(EndpointModel("tiny", server.url, api_key="SECRET_KEY").generate(["a"])) == [["a|0|0"]]
        assert server.headers[-1]["Authorization"] == "Bearer sk-fine"


def test_a_prompt_that_is_refused_does_not_cost_the_others_their_n():
    with Server(refuse="too long") as server:
        model = EndpointModel("tiny", server.url)
        (first,) = model.generate(["too long"], 2, seed=1)
        assert all(answer.error and "400" in answer.error for answer in first)
        assert texts(model.generate(["a"], 2, seed=1)) == [["a|1|0", "a|1|1"]]
        assert len(server.requests) == 3


def test_fields_that_a_server_refuses_by_name():
    with Server(refuse_fields={"max_tokens": "use max_completion_tokens", "top_p": "no top_p", "seed": "no seed"}) as s:
        model = EndpointModel("tiny", s.url)
        assert texts(model.generate(["a", "b"], max_new_tokens=9)) == [["a|None|0"], ["b|None|0"]]
        assert s.requests[-1]["max_completion_tokens"] == 9 and "temperature" in s.requests[-1]
        ((answer,),) = model.generate(["a"], top_p=0.5)
        assert answer.error is not None and "top_p" in answer.error  # what was asked for is not left out
