"""OpenRLHF's local form, and RemoteReward against a server that misbehaves on cue."""

from __future__ import annotations

import importlib.util
import json
import pickle
import threading
from collections.abc import Callable
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rewardsmith.adapters.openrlhf import RemoteReward, as_reward_func, score_queries, split_query
from rewardsmith.functions import from_function
from rewardsmith.reward import RewardError

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def length(prompt: str, completion: str) -> float | None:
    return None if completion == "bad" else float(len(completion))


def exact(completion: str, answer: str) -> float:
    return float(completion == answer)


# ---- the local file form


def test_a_query_is_split_at_its_prompt() -> None:
    assert split_query("<s>Hi there", "Hi ") == ("Hi ", "there")
    ends = ("<|im_end|>", "</s>")
    assert split_query("Hi there<|im_end|>\n</s>", "Hi ", ends) == ("Hi ", "there")
    assert split_query("Hi there<|im_end|>", "Hi ") == ("Hi ", "there<|im_end|>")
    with pytest.raises(ValueError, match="does not hold its prompt"):
        split_query("re", "there")


def test_reward_func_answers_tensors() -> None:
    reward = from_function(length) + 2 * from_function(exact)
    func = as_reward_func(reward, parse=partial(split_query, end_tokens=("<eos>",)))
    answer = func(["Q: 4<eos>", "Q: five"], ["Q: ", "Q: "], ["4", "5"])
    assert set(answer) == {"rewards", "scores", "extra_logs"}
    torch.testing.assert_close(answer["rewards"], torch.tensor([3.0, 4.0]))
    torch.testing.assert_close(answer["scores"], torch.tensor([1.0, 1.0]))
    assert set(answer["extra_logs"]) == {"length", "exact", "failed"}
    torch.testing.assert_close(answer["extra_logs"]["exact"], torch.tensor([1.0, 0.0]))


def test_a_failure_is_raised_unless_a_number_is_chosen() -> None:
    queries, prompts, labels = ["Q: ok", "Q: bad", "cut"], ["Q: "] * 3, [None] * 3
    with pytest.raises(RewardError, match="row 1: missing"):
        as_reward_func(from_function(length))(queries, prompts, labels)
    answer = as_reward_func(from_function(length), failed=-2.0)(queries, prompts, labels)
    torch.testing.assert_close(answer["rewards"], torch.tensor([2.0, -2.0, -2.0]))
    torch.testing.assert_close(answer["scores"], torch.tensor([1.0, 0.0, 0.0]))
    torch.testing.assert_close(answer["extra_logs"]["failed"], torch.tensor([0.0, 1.0, 1.0]))
    scores = score_queries(from_function(length), ["cut", *queries], ["Q: "] * 4, None)
    assert [scores.failures[i].kind for i in (0, 2, 3)] == ["unparsed", "missing", "unparsed"]
    assert scores.values[1] == 2.0


def test_the_example_is_what_openrlhf_loads() -> None:
    # As openrlhf/utils/agent.py: the file by its path, lists of one, positionally.
    spec = importlib.util.spec_from_file_location("reward_func", EXAMPLES / "openrlhf_reward.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    prompt = "<|im_start|>user\nWhat is 6 * 7?<|im_end|>\n<|im_start|>assistant\n"
    answer = module.reward_func([prompt + "It is 42.<|im_end|>"], [prompt], ["42"])
    assert answer["rewards"].shape == (1,)
    wrong = module.reward_func([prompt + "It is 41.<|im_end|>"], [prompt], ["42"])
    assert answer["rewards"].item() > wrong["rewards"].item()


# ---- endpoints


class Server:
    """A server whose answers are a function of (path, body, number of the request)."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, dict, dict]] = []
        self.answer: Callable[[dict, int], Any] = lambda body, n: (200, {"rewards": [1.0] * len(body["query"])})
        lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with lock:
                    outer.requests.append((self.path, body, dict(self.headers)))
                    number = len(outer.requests)
                said = outer.answer(body, number)
                if said is None:  # hang up without a word
                    self.connection.close()
                    return
                status, reply, *headers = said
                content = reply if isinstance(reply, bytes) else json.dumps(reply).encode()
                self.send_response(status)
                for name, value in headers:
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *args: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("REWARDSMITH_TOKEN", raising=False)
    made = Server()
    yield made
    made.http.shutdown()
    made.http.server_close()


def remote(server: Server, path: str = "/get_reward", **options: Any) -> RemoteReward:
    return RemoteReward(server.url + path, **{"backoff": 0.001, "timeout": 10.0, **options})


def batch(n: int) -> dict:
    return {"prompt": ["Q: "] * n, "completion": [f"{i}" for i in range(n)], "answer": [f"a{i}" for i in range(n)]}


def by_digits(body: dict, number: int) -> tuple[int, dict]:
    values = [float(query.removeprefix("Q: ")) for query in body["query"]]
    return 200, {"rewards": values, "extra_logs": {"x": [0] * len(values)}}


def test_openrlhfs_form_in_chunks_and_in_order(server: Server) -> None:
    server.answer = by_digits
    scores = remote(server, batch_size=3, concurrency=4, token="s3cret").score(batch(10))
    assert scores.values.tolist() == list(range(10))
    assert scores.parts["x"].tolist() == [0.0] * 10
    assert sorted(len(body["query"]) for _, body, _ in server.requests) == [1, 3, 3, 3]
    path, body, headers = min(server.requests, key=lambda request: request[1]["query"][0])
    assert (path, headers["Authorization"]) == ("/get_reward", "Bearer s3cret")
    assert body == {"query": ["Q: 0", "Q: 1", "Q: 2"], "prompts": ["Q: "] * 3, "labels": ["a0", "a1", "a2"]}


def test_the_token_comes_from_the_environment_or_not_at_all(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    reward = remote(server)
    reward.score(batch(1))
    monkeypatch.setenv("REWARDSMITH_TOKEN", "from-env")
    reward.score(batch(1))
    assert [headers.get("Authorization") for _, _, headers in server.requests] == [None, "Bearer from-env"]


def test_retries_until_it_answers(server: Server) -> None:
    def flaky(body: dict, number: int):
        if number == 2:
            return None
        return {1: (503, b""), 3: (429, b"", ("Retry-After", "0"))}.get(number) or by_digits(body, number)

    server.answer = flaky
    assert remote(server, retries=3).score(batch(2)).to_list() == [0.0, 1.0]
    assert len(server.requests) == 4


@pytest.mark.parametrize(
    ("said", "kind", "reason", "tries"),
    [
        ((503, {"error": {"kind": "x", "reason": "loading\nweights"}}), "http", "status 503: loading weights", 3),
        ((504, {"error": {"reason": "no score within 1 s"}}), "timeout", "no score within 1 s", 3),
        (None, "connection", "", 3),
        ((422, {"error": {"reason": "not text"}}), "http", "status 422: not text", 1),
        ((302, b"", ("Location", "/elsewhere")), "http", "status 302", 1),
        ((200, b"<html>"), "unparsed", "not JSON", 1),
        ((200, [1.0]), "unparsed", "TypeError", 1),
        ((200, {"scores": [1.0]}), "unparsed", "rewards", 1),
        ((200, {"rewards": [1.0, 2.0]}), "unparsed", "2 values for 1 samples", 1),
        ((200, {"rewards": ["high"]}), "unparsed", "high", 1),
        ((200, {"rewards": [None]}), "missing", "no score", 1),
    ],
)
def test_what_cannot_be_had_is_a_typed_failure(server: Server, said: Any, kind: str, reason: str, tries: int) -> None:
    server.answer = lambda body, number: said
    scores = remote(server, retries=2).score(batch(1))
    assert scores.to_list() == [None]
    assert scores.failures[0].kind == kind
    assert reason in scores.failures[0].reason
    assert len(server.requests) == tries


def test_a_slow_server_is_a_timeout(server: Server) -> None:
    event = threading.Event()
    server.answer = lambda body, number: (event.wait(10), (200, {"rewards": [1.0]}))[1]
    scores = remote(server, timeout=0.1, retries=1).score(batch(1))
    event.set()
    assert scores.failures[0].kind == "timeout"
    assert len(server.requests) == 2


def test_no_server_is_a_connection_failure() -> None:
    scores = RemoteReward("http://127.0.0.1:9/get_reward", retries=1, backoff=0.001).score(batch(2))
    assert {f.kind for f in scores.failures.values()} == {"connection"}
    assert len(scores.failures) == 2


@pytest.mark.parametrize("status", [401, 403, 404, 405])
def test_a_request_that_can_never_succeed_raises(server: Server, status: int) -> None:
    server.answer = lambda body, number: (status, {"error": {"reason": "no"}})
    with pytest.raises(RuntimeError, match=f"status {status}: no"):
        remote(server).score(batch(2))


def test_one_bad_sample_costs_itself_alone(server: Server) -> None:
    server.answer = lambda body, n: (500, b"") if "Q: 5" in body["query"] else by_digits(body, n)
    scores = remote(server, batch_size=8, retries=1).score(batch(8))
    assert scores.to_list() == [0.0, 1.0, 2.0, 3.0, 4.0, None, 6.0, 7.0]
    assert scores.failures[5].kind == "http"


def test_classify_reads_the_raw_logit(server: Server) -> None:
    def classify(body: dict, number: int):
        data = [
            {"index": i, "label": "LABEL_0", "probs": [len(t) - 5.5], "num_classes": 1}
            for i, t in enumerate(body["input"])
        ]
        return 200, {"data": data[::-1]}  # the order is that of `index`

    server.answer = classify
    reward = remote(server, "/classify", model="my-rm")
    assert reward.form == "classify"
    assert reward(["ab", "ab"], ["c", "cdef"]) == [-2.5, 0.5]
    _, body, _ = server.requests[0]
    assert body == {"model": "my-rm", "input": ["abc", "abcdef"], "use_activation": False}
    server.answer = lambda body, n: (200, {"data": [{"index": i, "probs": [1.0]} for i in range(len(body["input"]))]})
    with pytest.raises(RuntimeError, match="softmax"):
        reward(["ab", "ab"], ["c", "cdef"])
    server.answer = lambda body, n: (200, {"data": [{"index": 0, "probs": [0.2, 0.8]}]})
    assert "one label" in reward.score({"prompt": ["a"], "completion": ["b"]}).failures[0].reason


def test_messages_need_a_template_or_the_full_form(server: Server) -> None:
    class Template:
        bos_token = "<s>"

        def apply_chat_template(self, messages, tokenize, add_generation_prompt):
            text = "".join(f"[{m['role']}]{m['content']}" for m in messages)
            return "<s>" + text + ("[assistant]" if add_generation_prompt else "")

    rows = {"prompt": [[{"role": "user", "content": "hi"}]], "completion": [[{"role": "assistant", "content": "yo"}]]}
    with pytest.raises(ValueError, match="give tokenizer="):
        remote(server).score(rows)
    assert remote(server, tokenizer=Template()).score(rows).to_list() == [1.0]
    assert server.requests[-1][1]["query"] == ["<s>[user]hi[assistant]yo"]
    assert server.requests[-1][1]["prompts"] == ["<s>[user]hi[assistant]"]
    server.answer = lambda body, n: (200, {"data": [{"index": 0, "probs": [2.0]}]})
    assert remote(server, "/classify", tokenizer=Template()).score(rows).to_list() == [2.0]
    assert server.requests[-1][1]["input"] == ["[user]hi[assistant]yo"]  # vLLM adds the first token itself
    server.answer = lambda body, n: (
        200,
        {"values": [3.0], "failures": {}, "steps": [[1.0, None]], "step_ends": [[2, 4]]},
    )
    scores = remote(server, "/score").score(rows)
    assert server.requests[-1][1] == rows
    assert scores.to_list() == [3.0]
    np.testing.assert_array_equal(scores.steps[0], [1.0, np.nan])
    assert scores.step_ends[0].dtype == np.int64


def test_pickling_threads_and_bad_arguments(server: Server) -> None:
    server.answer = by_digits
    copy = pickle.loads(pickle.dumps(remote(server, batch_size=2)))
    assert copy(["Q: "] * 5, ["0", "1", "2", "3", "4"]) == [0.0, 1.0, 2.0, 3.0, 4.0]
    assert copy.score({"prompt": [], "completion": []}).to_list() == []
    with pytest.raises(ValueError, match="cannot be sent as JSON"):
        remote(server, "/score").score({"prompt": ["p"], "completion": ["c"], "x": [object()]})
    for url in ("127.0.0.1:80", "ftp://host/x", "http://"):
        with pytest.raises(ValueError, match="not an http"):
            RemoteReward(url)
    with pytest.raises(ValueError, match="form must be"):
        RemoteReward("http://host/x", form="grpc")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at least 1"):
        RemoteReward("http://host/x", batch_size=0)
