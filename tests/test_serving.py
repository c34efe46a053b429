"""The server: forms, limits, the token, typed errors; and a real server asked by RemoteReward."""

from __future__ import annotations

import json
import socket
import threading
import time

import numpy as np
import pytest
import uvicorn
from fastapi.testclient import TestClient

from rewardsmith.adapters.openrlhf import RemoteReward
from rewardsmith.data.records import RecordError, as_text
from rewardsmith.functions import from_function
from rewardsmith.loading import load_reward
from rewardsmith.reward import Reward, RewardError, Scores
from rewardsmith.serving import create_app, serve


def length(prompt: str, completion: str) -> dict:
    if completion == "bad":
        raise ValueError("bad sample")
    return {"score": len(completion) / 10, "words": len(completion.split())}


def wait_on(event: threading.Event):
    def slow(completion: str) -> float:
        event.wait(20)
        return 1.0

    return from_function(slow)


class Columns(Reward):
    """Scores by the answer column; refuses rows as rooms do."""

    __name__ = "columns"

    def score(self, batch) -> Scores:
        if "answer" not in batch:
            raise KeyError("answer")
        for row, text in enumerate(batch["completion"]):
            if text == "refuse":
                raise RecordError("must not be that", row=row, column="completion")
        right = [float(as_text(c) == a) for c, a in zip(batch["completion"], batch["answer"])]
        return Scores(
            np.array(right),
            std=np.full(len(right), np.inf),
            steps=[np.array([1.0, np.nan])] * len(right),
            step_ends=[np.array([2, 4])] * len(right),
            details=[{"found": np.float32(1.5), "set": {1}}] * len(right),
        )


@pytest.fixture
def client():
    return TestClient(create_app(from_function(length)))


def test_get_reward_is_openrlhfs_form(client: TestClient) -> None:
    answer = client.post(
        "/get_reward", json={"query": ["Hi there", "Hi bad", "Hi no way"], "prompts": ["Hi "] * 3, "labels": [None] * 3}
    )
    assert answer.status_code == 200
    body = answer.json()
    assert body["rewards"] == [0.5, None, 0.6]
    assert body["scores"] == [0.5, None, 0.6]
    assert body["extra_logs"] == {"failed": [0.0, 1.0, 0.0]}  # `words` is unknown for one: no half-known column
    body = client.post("/get_reward", json={"query": ["Hi there"], "prompts": ["Hi "], "labels": ["x"]}).json()
    assert body["extra_logs"] == {"words": [1.0], "failed": [0.0]}
    # Without prompts the query is the completion; nothing asked, nothing answered.
    assert client.post("/get_reward", json={"query": ["x" * 30]}).json()["scores"] == [1.0]
    assert client.post("/get_reward", json={"query": [], "prompts": [], "labels": []}).json()["rewards"] == []
    chosen = TestClient(create_app(from_function(length), failed=-1.0))
    body = chosen.post("/get_reward", json={"query": ["bad", "lost"], "prompts": ["", "elsewhere"]}).json()
    assert body["rewards"] == [-1.0, -1.0]
    assert body["scores"] == [0.0, 0.0]
    assert body["extra_logs"] == {"failed": [1.0, 1.0]}


def test_score_gives_everything(client: TestClient) -> None:
    body = client.post("/score", json={"prompt": ["p", "p"], "completion": ["two words", "bad"]}).json()
    assert body["values"] == [0.9, None]
    assert body["parts"] == {"words": [2.0, None]}
    assert body["failures"]["1"]["kind"] == "error"
    assert body["failures"]["1"]["reason"] == "ValueError: bad sample"
    full = TestClient(create_app(Columns()))
    messages = [{"role": "assistant", "content": "4"}]
    body = full.post("/score", json={"prompt": ["p"], "completion": [messages], "answer": ["4"]}).json()
    assert body["values"] == [1.0]
    assert body["std"] == [None]
    assert (body["steps"], body["step_ends"]) == ([[1.0, None]], [[2, 4]])
    assert body["details"] == [{"found": 1.5, "set": "{1}"}]
    assert full.post("/score", json={"prompt": [], "completion": []}).json()["values"] == []


@pytest.mark.parametrize(
    ("path", "body", "where", "said"),
    [
        ("/score", {"prompt": ["p"]}, (None, "completion"), "required"),
        ("/score", {"prompt": ["p"], "completion": "text"}, (None, "completion"), "must be a list"),
        ("/score", {"prompt": ["p"], "completion": ["a", "b"]}, (None, "completion"), "has 2 values"),
        ("/score", {"prompt": ["p", "p"], "completion": ["a", 3]}, (1, "completion"), "not int"),
        ("/score", {"prompt": ["p"], "completion": [[{"content": "a"}]]}, (0, "completion"), "role"),
        ("/score", {"prompt": ["p"], "completion": [[{"role": "user", "content": 3}]]}, (0, "completion"), "content"),
        ("/score", {"prompt": ["p"], "completion": ["a"], "answer": "4"}, (None, "answer"), "must be a list"),
        ("/score", {"prompt": ["p"] * 9, "completion": ["a"] * 9}, (None, "prompt"), "at most 8"),
        (
            "/score",
            {"prompt": ["p", "p"], "completion": ["a", "refuse"], "answer": ["", ""]},
            (1, "completion"),
            "not be",
        ),
        ("/get_reward", {"prompts": ["p"]}, (None, "query"), "required"),
        ("/get_reward", {"query": ["a"], "prompts": [None]}, (0, "prompts"), "must be text"),
        ("/get_reward", {"query": ["a", "b"], "labels": [1]}, (None, "labels"), "has 1 values"),
        ("/get_reward", [1, 2], (None, None), "object of columns"),
    ],
)
def test_bad_input_names_row_and_column(path: str, body: object, where: tuple, said: str) -> None:
    answer = TestClient(create_app(Columns(), max_batch=8)).post(path, json=body)
    assert answer.status_code == 422
    error = answer.json()["error"]
    assert (error["row"], error["column"]) == where
    assert said in error["reason"]


@pytest.mark.parametrize("body", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b"nul"])
def test_a_body_that_is_not_json(client: TestClient, body: bytes) -> None:
    answer = client.post("/score", content=body)
    assert answer.status_code == 422
    assert "not JSON" in answer.json()["error"]["reason"]


def test_the_body_is_limited_also_in_chunks() -> None:
    client = TestClient(create_app(from_function(length), max_body=1000))
    body = json.dumps({"prompt": ["p"], "completion": ["x" * 2000]}).encode()
    assert client.post("/score", content=body).status_code == 413

    def chunks():  # a chunked body declares no length
        for i in range(0, len(body), 100):
            yield body[i : i + 100]

    answer = client.post("/score", content=chunks())
    assert answer.status_code == 413
    assert answer.json()["error"]["kind"] == "too_large"
    assert client.post("/score", json={"prompt": ["p"], "completion": ["x" * 500]}).status_code == 200


def test_a_slow_reward_is_answered_in_time() -> None:
    event = threading.Event()
    client = TestClient(create_app(wait_on(event), timeout=0.2))
    answer = client.post("/score", json={"prompt": ["p"], "completion": ["c"]})
    assert answer.status_code == 504
    assert answer.json()["error"] == {"kind": "timeout", "reason": "no score within 0.2 s", "row": None, "column": None}
    event.set()


def stuck(completion: str) -> float:
    while completion == "hang":
        time.sleep(0.1)
    return float(len(completion))


def test_a_deadline_keeps_a_server_alive() -> None:
    with from_function(stuck).with_deadline(0.3, workers=2) as reward:
        client = TestClient(create_app(reward, threads=2))
        for _ in range(2):
            body = client.post("/score", json={"prompt": ["p"] * 3, "completion": ["hang", "a", "hang"]}).json()
            assert body["values"] == [None, 1.0, None]
            assert {f["kind"] for f in body["failures"].values()} == {"timeout"}


def test_a_reward_that_raises_is_an_error_not_a_score() -> None:
    client = TestClient(create_app(Columns()))
    answer = client.post("/score", json={"prompt": ["p"], "completion": ["c"]})
    assert answer.status_code == 500
    assert answer.json()["error"]["reason"] == "KeyError: 'answer'"
    strict = TestClient(create_app(from_function(length, on_failure="raise")))
    answer = strict.post("/score", json={"prompt": ["p"], "completion": ["bad"]})
    assert answer.status_code == 500
    assert answer.json()["error"]["kind"] == "failure"


@pytest.mark.parametrize(
    ("header", "status"),
    [(None, 401), ("Bearer wrong", 401), ("Basic secret-é", 401), ("Bearer", 401), ("Bearer secret-é", 200)],
)
def test_the_token(header: str | None, status: int) -> None:
    client = TestClient(create_app(from_function(length), token="secret-é"))
    headers = {} if header is None else {"Authorization": header.encode()}
    answer = client.post("/score", json={"prompt": ["p"], "completion": ["c"]}, headers=headers)
    assert answer.status_code == status
    assert client.get("/health").json() == {"status": "ok", "reward": "length"}


def test_no_open_server_without_a_token() -> None:
    for host in ("0.0.0.0", "::", "192.168.1.5", "example.org"):
        with pytest.raises(ValueError, match="set a token"):
            serve(from_function(length), host=host, token="")
    with pytest.raises(ValueError, match="empty token"):
        create_app(from_function(length), token="")


def test_a_real_server_asked_by_remote_reward(monkeypatch: pytest.MonkeyPatch) -> None:
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    reward = from_function(length)
    server = uvicorn.Server(uvicorn.Config(create_app(reward, token="t0kén", max_batch=4), log_level="error"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
        base = f"http://127.0.0.1:{listening.getsockname()[1]}"
        batch = {"prompt": ["Say "] * 11, "completion": ["x" * n for n in range(10)] + ["bad"]}
        expected = reward.score(batch)
        with pytest.raises(RuntimeError, match="401"):
            RemoteReward(f"{base}/get_reward").score(batch)
        monkeypatch.setenv("REWARDSMITH_TOKEN", "t0kén")
        for path in ("get_reward", "score"):
            remote = load_reward(f"{base}/{path}", batch_size=3)
            assert isinstance(remote, RemoteReward)
            scores = remote.score(batch)
            np.testing.assert_array_equal(scores.values, expected.values)
            assert list(scores.failures) == [10]
            # Rejected chunks (five samples where four are allowed) are divided.
            divided = RemoteReward(f"{base}/{path}", batch_size=5, backoff=0.01).score(batch)
            np.testing.assert_array_equal(divided.values, expected.values)
        assert scores.failures[10].kind == "error"
        np.testing.assert_array_equal(scores.parts["words"], expected.parts["words"])
        assert remote.preference(["p"], ["long one"], ["no"]) == pytest.approx(0.6)
        with pytest.raises(RuntimeError, match="404"):
            RemoteReward(f"{base}/nowhere").score(batch)
        remote.on_failure = "raise"
        with pytest.raises(RewardError, match="row 10"):
            remote(batch["prompt"], batch["completion"])
    finally:
        server.should_exit = True
        thread.join()
