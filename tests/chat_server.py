"""A local server that speaks chat completions and fails on demand, in the same way for the same request."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

FAULTS = ("error", "limit", "slow", "json", "empty", "null", "cut")


class Server:
    """`with Server(...) as server: EndpointModel("m", server.url)`.

    The answer to a prompt is `f"{last message}|{seed}|{number of the choice}"`, or what `answer(body, choice)` says.

    Args:
        faults: share of attempts that fail. Which ones follows from the request and how often it came, so a run can
            be repeated. The kinds take turns by the same hash: 500 and 429, an answer later than `slow` seconds, broken
            JSON, no choices, a choice without text, a connection that is cut in the middle.
        hopeless: prompts with this word in them always fail.
        choices: the most choices that an answer holds, whatever n asks; None for all.
        refuse_n: answer 400 to a request with n.
        refuse: answer 400 to prompts with this text in them.
        refuse_fields: answer 400 to requests with these fields, in these words.
        answer: in place of the echo.
    """

    def __init__(
        self, *, faults=0.0, slow=0.0, hopeless=None, choices=None, refuse_n=False, refuse=None, refuse_fields=None,
        answer=None, delay=0.0, status=None,
    ) -> None:  # fmt: skip
        self.refuse, self.refuse_fields = refuse, refuse_fields or {}
        self.faults, self.slow, self.hopeless, self.choices = faults, slow, hopeless, choices
        self.refuse_n, self.answer, self.delay, self.status = refuse_n, answer, delay, status
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.kinds: Counter[str] = Counter()
        self.at_once = self.most_at_once = 0
        self._came: Counter[str] = Counter()
        self._lock = threading.Lock()

    def __enter__(self) -> Server:
        owner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                owner.handle(self, json.loads(body))

            def log_message(self, *args: Any) -> None:
                pass

        class Quiet(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128

            def handle_error(self, *args: Any) -> None:  # a client that went away is no news
                pass

        self._server = Quiet(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def handle(self, handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
        with self._lock:
            self.requests.append(body)
            self.headers.append(dict(handler.headers))
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
            kind = self._kind(body)
            self.kinds[kind] += 1
        try:
            time.sleep(self.delay)
            self._respond(handler, body, kind)
        finally:
            with self._lock:
                self.at_once -= 1

    def _kind(self, body: dict[str, Any]) -> str:
        if self.status is not None:
            return "status"
        if self.refuse_n and "n" in body:
            return "refused"
        text = json.dumps(body, sort_keys=True)
        if (self.refuse is not None and self.refuse in text) or self.refuse_fields.keys() & body:
            return "refused"
        if self.hopeless is not None and self.hopeless in text:
            return "error"
        self._came[text] += 1
        digest = hashlib.sha256(f"{text}{self._came[text]}".encode()).digest()
        if int.from_bytes(digest[:4], "big") / 2**32 >= self.faults:
            return "ok"
        return FAULTS[digest[4] % len(FAULTS)]

    def _respond(self, handler: BaseHTTPRequestHandler, body: dict[str, Any], kind: str) -> None:
        if kind == "status":
            return self._send(handler, self.status, b'{"error": "no"}')
        if kind == "refused":
            words = next((words for name, words in self.refuse_fields.items() if name in body), "not supported")
            return self._send(handler, 400, json.dumps({"error": words}).encode())
        if kind == "error":
            return self._send(handler, 500, b"it broke")
        if kind == "limit":
            return self._send(handler, 429, b"too many", {"Retry-After": "0.01"})
        if kind == "slow":
            time.sleep(self.slow)
        data = json.dumps(self._answer(body, kind)).encode()
        if kind == "json":
            data = data[: len(data) // 2]
        if kind == "cut":
            handler.send_response(200)
            handler.send_header("Content-Length", str(len(data) + 100))
            handler.end_headers()
            handler.wfile.write(data)
            handler.wfile.flush()
            handler.connection.close()
            handler.close_connection = True
            return None
        return self._send(handler, 200, data)

    def _answer(self, body: dict[str, Any], kind: str) -> dict[str, Any]:
        count = min(body.get("n", 1), self.choices or body.get("n", 1))
        choices = []
        for number in range(0 if kind == "empty" else count):
            echo = f"{body['messages'][-1]['content']}|{body.get('seed')}|{number}"
            content: Any = self.answer(body, number) if self.answer else echo
            choice: dict[str, Any] = {
                "message": {"content": None if kind == "null" else content},
                "finish_reason": "stop",
            }
            if body.get("logprobs"):
                token = {"token": "A", "logprob": -0.5, "top_logprobs": [{"token": "A", "logprob": -0.5}]}
                choice["logprobs"] = {"content": [token]}
            choices.append(choice)
        return {"choices": choices, "usage": {"prompt_tokens": 10, "completion_tokens": 5 * len(choices)}}

    def _send(
        self, handler: BaseHTTPRequestHandler, status: int, data: bytes, headers: dict[str, str] | None = None
    ) -> None:
        handler.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(data)
