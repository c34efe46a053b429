"""Any server that speaks OpenAI's chat completions: vLLM, SGLang, llama.cpp's server, hosted models.

Requests run beside each other in one event loop of a thread of its own, so the model can be used from plain code, from
threads and from notebooks alike. Servers fail: errors that may pass are tried again with exponential back-off and full
jitter, and what still fails becomes an `Answer` with its error.
"""

from __future__ import annotations

import asyncio
import email.utils
import json
import math
import os
import random
import threading
import time
import weakref
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from typing import Any

import httpx

from rewardsmith.chat.protocol import Answer, ChatModel, TokenLogprob, check_sampling
from rewardsmith.data.records import Message, Text, as_messages

PASSING = {408, 409, 425, 429}  # and all from 500 on
LONGEST_WAIT = 60.0  # seconds, also where a server asks for more


class EndpointModel(ChatModel):
    """A model behind an OpenAI-compatible address.

    Args:
        model: its name there.
        base_url: address up to and with `/v1`.
        api_key: name of the environment variable that holds the key; it need not be set for a server of one's own. The
            key is read when a request is made and kept nowhere.
        concurrency: requests under way at once.
        requests_per_minute, tokens_per_minute: rates not to exceed; tokens are estimated before a request and corrected
            after it. None for no limit.
        timeout: seconds for one attempt, from sending to the last byte.
        retries: further attempts at what may pass: 408, 409, 425, 429, 5xx, lost connections, timeouts, answers that
            are no JSON or hold no choice. Other refusals are not tried again.
        backoff: seconds; attempt k waits up to backoff * 2^k, at random. A server's Retry-After is obeyed, up to 60 s.
        price_per_million: of tokens in and out, for `usage.cost`.
        extra_body: further fields of each request (`{"chat_template_kwargs": ...}`, `{"reasoning_effort": ...}`).

    Attributes:
        usage: counts since it was made.

    Raises:
        ValueError: where an argument is out of range.
    """

    def __init__(
        self,
        model: str,
        base_url: str,
        *,
        api_key: str = "OPENAI_API_KEY",
        concurrency: int = 16,
        requests_per_minute: float | None = None,
        tokens_per_minute: float | None = None,
        timeout: float = 120.0,
        retries: int = 6,
        backoff: float = 0.5,
        price_per_million: tuple[float, float] | None = None,
        extra_body: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if concurrency < 1 or retries < 0 or timeout <= 0 or backoff < 0:
            raise ValueError(
                f"concurrency >= 1, retries >= 0, timeout > 0 and backoff >= 0 are needed, got {concurrency}, "
                f"{retries}, {timeout} and {backoff}"
            )
        address = httpx.URL(base_url)
        if address.scheme not in ("http", "https") or address.userinfo or address.query or address.fragment:
            raise ValueError("base_url must be an http(s) address with no name, password, query or fragment in it")
        self.name, self.base_url = model, base_url.rstrip("/")
        self.api_key, self.concurrency = api_key, concurrency
        self.timeout, self.retries, self.backoff = timeout, retries, backoff
        self.prices = price_per_million or (0.0, 0.0)
        self.extra_body = dict(extra_body or {})
        self._requests, self._tokens = _Rate(requests_per_minute), _Rate(tokens_per_minute)
        self._one_by_one = False  # the server gives one answer a request, whatever n is
        self._refused: set[str] = set()  # fields that the server has no use for
        self._worker: _Worker | None = None
        self._lock = threading.Lock()

    def fingerprint(self) -> dict[str, Any]:
        return {"model": self.name, "base_url": self.base_url, "extra_body": self.extra_body}

    def generate(
        self,
        prompts: Sequence[Text],
        n: int = 1,
        *,
        max_new_tokens: int = 256,
        temperature: float = 1.0,
        top_p: float = 1.0,
        stop: Sequence[str] = (),
        seed: int = 0,
        logprobs: int = 0,
    ) -> Iterator[list[Answer]]:
        check_sampling(n, max_new_tokens, temperature, top_p)
        body: dict[str, Any] = {
            **{"model": self.name, "max_tokens": max_new_tokens, "temperature": temperature, "top_p": top_p},
            **({"stop": list(stop)} if stop else {}),
            **({"logprobs": True, "top_logprobs": logprobs} if logprobs else {}),
            **self.extra_body,
        }
        return self._in_order(list(prompts), n, body, seed)

    def _in_order(self, prompts: list[Text], n: int, body: dict[str, Any], seed: int) -> Iterator[list[Answer]]:
        """Answers in the order of the prompts, with no more of them waiting to be read than keep the server busy."""
        worker = self._running()
        under_way: deque[Future[list[Answer]]] = deque()
        rows = iter(prompts)
        try:
            while True:
                while len(under_way) < 4 * self.concurrency and (prompt := next(rows, None)) is not None:
                    messages: list[Message] = [dict(message) for message in as_messages(prompt, "user")]
                    under_way.append(worker.start(self._answers(worker, messages, n, body, seed)))
                if not under_way:
                    return
                start = time.perf_counter()
                answers = under_way[0].result()
                self.usage.seconds += time.perf_counter() - start
                under_way.popleft()
                yield answers
        finally:
            for future in under_way:
                future.cancel()

    async def _answers(
        self, worker: _Worker, messages: list[Message], n: int, body: dict[str, Any], seed: int
    ) -> list[Answer]:
        """n answers of one prompt. A server that gives fewer at a time is asked again, with further seeds."""
        answers: list[Answer] = []
        single = False
        while len(answers) < n:
            wanted = 1 if single or self._one_by_one else n - len(answers)
            request = {**body, "messages": messages, "n": wanted, "seed": seed + len(answers)}
            if wanted == 1:
                del request["n"]  # some servers refuse the field
            for name in self._refused & _optional(request):
                value = request.pop(name)
                if name == "max_tokens":
                    request["max_completion_tokens"] = value
            try:
                got = await self._ask(worker, request, wanted)
            except _Refused as refused:
                if self._adapt(refused, request):
                    continue
                if wanted > 1 and refused.status in (400, 422):  # the n of it, or the prompt itself
                    single = True
                    continue
                return self._failed(answers, n, str(refused))
            except _GivenUp as given_up:
                return self._failed(answers, n, str(given_up))
            self._one_by_one |= single or len(got) < wanted
            self.usage.answers += len(got)
            answers += got
        return answers

    def _adapt(self, refused: _Refused, request: dict[str, Any]) -> bool:
        """Whether a server that refuses a field by name can do without: its other name, its default, or the seed."""
        if refused.status not in (400, 422):
            return False
        sign = {"max_tokens": "max_completion_tokens"}  # where the other name is asked for
        named = {name for name in _optional(request) if sign.get(name, name) in str(refused)}
        self._refused |= named
        return bool(named)

    def _failed(self, answers: list[Answer], n: int, error: str) -> list[Answer]:
        lost = n - len(answers)
        self.usage.failed += lost
        return answers + [Answer("", "error", error=error)] * lost

    async def _ask(self, worker: _Worker, body: dict[str, Any], wanted: int) -> list[Answer]:
        """At least one answer to a request, after as many attempts as it takes and is allowed."""
        longest = body.get("max_tokens", body.get("max_completion_tokens", 0))
        estimate = sum(len(str(message)) for message in body["messages"]) / 4 + wanted * longest
        problem = ""
        try:
            content = json.dumps(body).encode()  # ASCII: half a surrogate pair in a text is no reason to fail
        except (TypeError, ValueError) as error:
            raise _GivenUp(f"the messages are no JSON: {error}") from error
        async with worker.limit(self.concurrency):
            self.usage.requests += 1
            for attempt in range(self.retries + 1):
                self.usage.retries += attempt > 0
                await self._requests.take(1)
                await self._tokens.take(estimate)
                wait = random.uniform(0, min(self.backoff * 2**attempt, LONGEST_WAIT))
                headers = {"Content-Type": "application/json", **self._authorization()}
                try:
                    async with asyncio.timeout(self.timeout):
                        response = await worker.client.post(
                            f"{self.base_url}/chat/completions", content=content, headers=headers, timeout=None
                        )
                    if response.status_code in PASSING or response.status_code >= 500:
                        wait += _retry_after(response)  # and not all at the same moment
                        problem = f"the server answered {response.status_code}: {self._excerpt(response)}"
                    elif response.status_code != 200:
                        raise _Refused(response.status_code, self._excerpt(response))
                    else:
                        answers, used = _parse(response.json(), wanted)
                        self._count(used)
                        self._tokens.give_back(estimate - sum(used))
                        return answers
                except TimeoutError:
                    problem = f"no answer within {self.timeout:g} s"
                except httpx.HTTPError as error:
                    problem = f"the connection failed: {type(error).__name__}: {error}"
                except (json.JSONDecodeError, UnicodeDecodeError):
                    problem = "the answer was no JSON"
                except _NoChoice as nothing:
                    problem = str(nothing)
                if attempt < self.retries:
                    await asyncio.sleep(wait)
        raise _GivenUp(f"{problem} ({self.retries + 1} attempts)")

    def _key(self) -> str:
        """From the environment, each time.

        Raises:
            _GivenUp: where it can be no key, without quoting it.
        """
        key = os.environ.get(self.api_key, "").strip()
        if not (key.isascii() and key.isprintable()):
            raise _GivenUp(f"the key in the environment variable {self.api_key} has characters that no key has")
        return key

    def _authorization(self) -> dict[str, str]:
        key = self._key()
        return {"Authorization": f"Bearer {key}"} if key else {}

    def _excerpt(self, response: httpx.Response) -> str:
        key = self._key()
        text = response.text.replace(key, "***") if key else response.text
        return " ".join(text.split())[:200]

    def _count(self, used: tuple[int, int]) -> None:
        self.usage.prompt_tokens += used[0]
        self.usage.completion_tokens += used[1]
        self.usage.cost += (used[0] * self.prices[0] + used[1] * self.prices[1]) / 1e6

    def _running(self) -> _Worker:
        with self._lock:
            if self._worker is None or self._worker.pid != os.getpid():  # the thread stays behind in a fork
                self._worker = _Worker()
                weakref.finalize(self, self._worker.stop)
            return self._worker


class _Worker:
    """An event loop in a thread, with the connections that belong to it."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.loop = asyncio.new_event_loop()
        self.client = httpx.AsyncClient(limits=httpx.Limits(max_connections=None, max_keepalive_connections=64))
        self._slots: asyncio.Semaphore | None = None
        self._thread = threading.Thread(target=self.loop.run_forever, name="rewardsmith-chat", daemon=True)
        self._thread.start()

    def start(self, coroutine: Any) -> Future[list[Answer]]:
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop)

    def limit(self, concurrency: int) -> asyncio.Semaphore:
        """Called in the loop alone."""
        if self._slots is None:
            self._slots = asyncio.Semaphore(concurrency)
        return self._slots

    def stop(self) -> None:
        if self.pid == os.getpid() and self.loop.is_running():
            closed = asyncio.run_coroutine_threadsafe(self.client.aclose(), self.loop)
            closed.add_done_callback(lambda _: self.loop.call_soon_threadsafe(self.loop.stop))


class _Rate:
    """So many units a minute, in the order in which they were asked for; up to a second's worth may come at once."""

    def __init__(self, per_minute: float | None) -> None:
        if per_minute is not None and per_minute <= 0:
            raise ValueError(f"a rate must be positive, got {per_minute}")
        self.seconds = 0.0 if per_minute is None else 60.0 / per_minute  # for one unit
        self._free = -math.inf  # when what was asked for so far has been paid

    async def take(self, units: float) -> None:
        if not self.seconds:
            return
        now = time.monotonic()
        due = max(self._free, now - 1.0)
        self._free = due + units * self.seconds
        if due > now:
            await asyncio.sleep(due - now)

    def give_back(self, units: float) -> None:
        self._free -= units * self.seconds


class _Refused(Exception):
    """The server says that the request is wrong."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(f"the server refused the request ({status}): {text}")
        self.status = status


class _GivenUp(Exception):
    """All attempts failed."""


class _NoChoice(Exception):
    """An answer without what it should hold."""


def _optional(request: dict[str, Any]) -> set[str]:
    """Fields of a request that a server can do without. A temperature that was asked for is none of them."""
    defaults = {name for name in ("temperature", "top_p") if request.get(name) == 1}
    return request.keys() & {"max_tokens", "seed", *defaults}


def _retry_after(response: httpx.Response) -> float:
    """Seconds that the server asks to wait, 0 where it does not say."""
    value = response.headers.get("retry-after", "")
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
        except ValueError:
            return 0.0
    return min(max(seconds, 0.0), LONGEST_WAIT)


def _parse(data: Any, wanted: int) -> tuple[list[Answer], tuple[int, int]]:
    """Answers and tokens in and out of a server's JSON.

    Raises:
        _NoChoice: where there is none, or one without a text that was not cut off either.
    """
    choices = data.get("choices") if isinstance(data, dict) else None
    if not isinstance(choices, list) or not choices:
        raise _NoChoice("the answer has no choices")
    answers = []
    for choice in choices[:wanted]:
        message = choice.get("message") if isinstance(choice, dict) else None
        content = message.get("content") if isinstance(message, dict) else None
        reason = (choice.get("finish_reason") if isinstance(choice, dict) else None) or "stop"
        if content is None and reason != "length":  # a reasoning model that was cut while it thought has no text
            raise _NoChoice("a choice has no text")
        if content is not None and not isinstance(content, str):
            raise _NoChoice("the text of a choice is no string")
        answers.append(Answer(content or "", str(reason), _logprobs(choice)))
    usage = data.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    counts = [usage.get(name) for name in ("prompt_tokens", "completion_tokens")]
    used = [count if isinstance(count, int) else 0 for count in counts]
    return answers, (used[0], used[1])


def _logprobs(choice: dict[str, Any]) -> tuple[TokenLogprob, ...] | None:
    """None where the server gives none, or gives them in no form that is known."""
    try:
        return tuple(
            TokenLogprob(
                str(token["token"]),
                float(token["logprob"]),
                tuple((str(top["token"]), float(top["logprob"])) for top in token.get("top_logprobs") or ()),
            )
            for token in choice["logprobs"]["content"]
        )
    except (KeyError, TypeError, ValueError):
        return None
