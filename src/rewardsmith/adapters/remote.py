"""A reward behind an HTTP endpoint: `rewardsmith serve` and OpenRLHF (`/get_reward`, `/score`), vLLM (`/classify`)."""

from __future__ import annotations

import ipaddress
import json
import os
import random
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal
from urllib.parse import urlsplit

import httpx
import numpy as np

from rewardsmith.data.records import Batch, Text, as_columns, as_messages, is_conversational
from rewardsmith.deadline import join_scores
from rewardsmith.reward import Failure, Reward, Scores

Form = Literal["openrlhf", "score", "classify"]

_RETRIED = {408, 425, 429, 500, 502, 503, 504}
_DIVIDED = {400, 413, 422, 500, 504}  # one bad sample may be the cause: ask again with half of the samples


class RemoteReward(Reward):
    """Scores from an endpoint, in chunks, several at a time, with retries.

    Three forms, told apart by the end of the address where `form` is None:

    - `openrlhf`: POST `{"query", "prompts", "labels"}`, answer `{"rewards", "scores", "extra_logs"}`;
    - `score`: the full form of `rewardsmith serve` (`/score`): any columns and messages; parts, details, failures;
    - `classify`: vLLM's `/classify` of a model with one label, with `use_activation` off: the raw logit.

    In the forms `openrlhf` and `classify` a sample is one text: prompt + completion, or for messages the chat template
    of `tokenizer`. What could not be had after the last try is a failure per sample: `timeout`, `connection`, `http`,
    `unparsed` or `missing`. A chunk that the server rejects is divided, so that one bad sample costs itself alone.

    Picklable, and safe to call from several threads.

    Args:
        url: the whole address, such as `http://127.0.0.1:8000/get_reward`.
        form: see above.
        token: bearer token; default: the environment variable REWARDSMITH_TOKEN, where it is set.
        timeout: seconds for one request.
        batch_size: samples in one request.
        concurrency: requests at a time.
        retries: further tries after a timeout, a lost connection, or one of 408, 425, 429, 500, 502, 503, 504.
        backoff: seconds before the first further try, doubled each time, up to 30; a `Retry-After` goes before.
        model: name of the served model, for `classify`.
        tokenizer: a Hugging Face tokenizer with a chat template, for messages.
        answer_column: column that is sent as `labels` (where the batch has it).

    Raises (when scoring):
        RuntimeError: where no sample could ever be scored: status 401, 403, 404 or 405, or activated logits.
        ValueError: for messages where the form needs text and there is no tokenizer.
    """

    def __init__(
        self,
        url: str,
        form: Form | None = None,
        *,
        token: str | None = None,
        timeout: float = 60.0,
        batch_size: int = 32,
        concurrency: int = 8,
        retries: int = 4,
        backoff: float = 0.5,
        model: str | None = None,
        tokenizer: Any = None,
        answer_column: str = "answer",
        name: str = "remote",
    ) -> None:
        address = urlsplit(url)
        if address.scheme not in ("http", "https") or not address.hostname:
            raise ValueError(f"{url!r} is not an http(s) address")
        last = address.path.rstrip("/").rpartition("/")[2]
        self.form = form or {"classify": "classify", "score": "score"}.get(last, "openrlhf")
        if self.form not in ("openrlhf", "score", "classify"):
            raise ValueError(f"form must be 'openrlhf', 'score' or 'classify', not {form!r}")
        if batch_size < 1 or concurrency < 1 or retries < 0:
            raise ValueError("batch_size and concurrency must be at least 1, retries at least 0")
        self.url, self.token, self.timeout = url, token, float(timeout)
        self.batch_size, self.concurrency, self.retries, self.backoff = batch_size, concurrency, retries, backoff
        self.model, self.tokenizer, self.answer_column = model, tokenizer, answer_column
        self.__name__ = name
        self._connect()

    def _connect(self) -> None:
        # A proxy from the environment has no way to a server of this machine.
        self._client = httpx.Client(timeout=self.timeout, trust_env=not is_loopback(urlsplit(self.url).hostname or ""))

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k != "_client"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._connect()

    def score(self, batch: Batch) -> Scores:
        columns = as_columns(batch)
        rows = len(columns["completion"])
        columns.setdefault("prompt", [""] * rows)
        starts = range(0, rows, self.batch_size)
        chunks = [{k: v[i : i + self.batch_size] for k, v in columns.items()} for i in starts]
        if not chunks:
            return Scores(np.empty(0))
        with ThreadPoolExecutor(min(self.concurrency, len(chunks))) as threads:
            scores = join_scores(list(threads.map(self._score_chunk, chunks)))
        if self.form == "classify" and rows > 1 and (scores.values == 1.0).all():
            raise RuntimeError(
                f"{self.url} answers 1 for every text: a softmax over one label; serve without activation"
            )
        return scores

    def _score_chunk(self, columns: dict[str, list[Any]]) -> Scores:
        rows = len(columns["completion"])
        start = time.perf_counter()
        answer, status = self._post(self._payload(columns), divisible=rows > 1)
        if status in _DIVIDED and rows > 1:
            half = rows // 2
            left, right = ({k: v[part] for k, v in columns.items()} for part in (slice(half), slice(half, None)))
            return join_scores([self._score_chunk(left), self._score_chunk(right)])
        seconds = (time.perf_counter() - start) / rows
        latency = np.full(rows, seconds)
        if not isinstance(answer, Failure):
            try:
                scores = _READ[self.form](answer, rows)
                scores.latency = latency if scores.latency is None else scores.latency
                return scores
            except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
                answer = Failure(
                    "unparsed", f"not an answer in the form {self.form!r}: {type(error).__name__}: {error}"
                )
        failure = Failure(answer.kind, answer.reason, seconds)
        return Scores(np.full(rows, np.nan), failures=dict.fromkeys(range(rows), failure), latency=latency)

    def _payload(self, columns: dict[str, list[Any]]) -> dict[str, Any]:
        if self.form == "score":
            return columns
        texts = [self._text(p, c) for p, c in zip(columns["prompt"], columns["completion"])]
        if self.form == "classify":
            named = {} if self.model is None else {"model": self.model}
            return {**named, "input": texts, "use_activation": False}
        prompts = [self._text(p, None) for p in columns["prompt"]]
        payload = {"query": texts, "prompts": prompts}
        return payload | {"labels": columns.get(self.answer_column, [None] * len(texts))}

    def _text(self, prompt: Text | None, completion: Text | None) -> str:
        """Prompt (and completion) as the one text that the endpoint reads."""
        if not is_conversational(prompt) and not is_conversational(completion):
            return (prompt or "") + (completion or "")  # type: ignore[operator]
        if self.tokenizer is None:
            raise ValueError(
                f"the form {self.form!r} sends text, the data holds messages: give tokenizer= (for its chat template), "
                "or use /score of a rewardsmith server"
            )
        messages = [*as_messages(prompt or [], "user"), *as_messages(completion or [], "assistant")]
        text = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=completion is None)
        begin = getattr(self.tokenizer, "bos_token", None)
        # vLLM adds the beginning-of-text token itself.
        return text.removeprefix(begin) if begin and self.form == "classify" else text

    def _post(self, payload: dict[str, Any], divisible: bool) -> tuple[Any, int]:
        """The answer, or a failure after the last try, and the last status (0 where there was none)."""
        try:
            content = json.dumps(payload, ensure_ascii=False, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ValueError(f"a column cannot be sent as JSON: {error}") from error
        headers = {b"Content-Type": b"application/json"}
        token = self.token or os.environ.get("REWARDSMITH_TOKEN")
        if token:
            headers[b"Authorization"] = f"Bearer {token}".encode()
        for attempt in range(self.retries + 1):
            wait, status = self.backoff * 2**attempt * random.uniform(0.5, 1.0), 0
            try:
                response = self._client.post(self.url, content=content.encode(), headers=headers)
            except httpx.TimeoutException:
                failure = Failure("timeout", f"no answer within {self.timeout:g} s")
            except httpx.TransportError as error:
                failure = Failure("connection", f"{type(error).__name__}: {error}")
            else:
                status = response.status_code
                if status == 200:
                    try:
                        return response.json(), status
                    except ValueError:
                        return Failure("unparsed", f"not JSON: {response.text[:100]!r}"), status
                said = f"status {status}: {_reason(response)}"
                if status in (401, 403, 404, 405):
                    raise RuntimeError(f"{self.url} answers {said}")
                failure = Failure("timeout" if status in (408, 504) else "http", said)
                if status not in _RETRIED or (divisible and status in _DIVIDED):
                    return failure, status
                after = response.headers.get("Retry-After", "")
                wait = float(after) if after.isdigit() else wait
            if attempt < self.retries:
                time.sleep(min(wait, 30.0))
        return failure, status


def is_loopback(host: str) -> bool:
    """Whether a host name or address can only mean this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _reason(response: httpx.Response) -> str:
    try:
        said = response.json()
        said = said.get("error", said) if isinstance(said, Mapping) else said
        said = said.get("reason", said) if isinstance(said, Mapping) else said
    except ValueError:
        said = response.text
    return " ".join(str(said).split())[:300]


def _numbers(column: Sequence[Any], rows: int) -> np.ndarray:
    if isinstance(column, str) or len(column) != rows:
        raise ValueError(f"{len(column)} values for {rows} samples")
    return np.array([np.nan if v is None else float(v) for v in column], dtype=np.float64)


def _read_openrlhf(answer: Any, rows: int) -> Scores:
    values = _numbers(answer["rewards"], rows)
    parts = {name: _numbers(part, rows) for name, part in (answer.get("extra_logs") or {}).items() if name != "failed"}
    return Scores(values, parts=parts, failures=_missing(values))


def _read_classify(answer: Any, rows: int) -> Scores:
    data = sorted(answer["data"], key=lambda item: item["index"])
    for item in data:
        if len(item["probs"]) != 1:
            raise ValueError(f"a reward model has one label, this one has {len(item['probs'])}")
    values = _numbers([item["probs"][-1] for item in data], rows)
    return Scores(values, failures=_missing(values))


def _read_score(answer: Any, rows: int) -> Scores:
    def arrays(name: str) -> list[np.ndarray] | None:
        column = answer.get(name)
        return None if column is None else [_numbers(row, len(row)) for row in column]

    ends = arrays("step_ends")
    optional = {name: _numbers(answer[name], rows) for name in ("std", "latency") if answer.get(name) is not None}
    values = _numbers(answer["values"], rows)
    named = {
        int(row): Failure(f["kind"], f["reason"], np.nan if f.get("latency") is None else f["latency"])
        for row, f in (answer.get("failures") or {}).items()
    }
    return Scores(
        values,
        steps=arrays("steps"),
        step_ends=None if ends is None else [end.astype(np.int64) for end in ends],
        tokens=arrays("tokens"),
        parts={name: _numbers(part, rows) for name, part in (answer.get("parts") or {}).items()},
        details=answer.get("details"),
        failures={**_missing(values), **named},
        **optional,
    )


def _missing(values: np.ndarray) -> dict[int, Failure]:
    return {int(row): Failure("missing", "the endpoint gave no score") for row in np.flatnonzero(np.isnan(values))}


_READ = {"openrlhf": _read_openrlhf, "classify": _read_classify, "score": _read_score}
