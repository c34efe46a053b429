"""A reward over HTTP: `/get_reward` in OpenRLHF's form, `/score` in full, `/health`. FastAPI and uvicorn.

Bodies, batches and times are limited; without a token the server stays on the loopback interface.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

try:
    from fastapi import FastAPI, Request
    from fastapi.responses import JSONResponse
except ImportError as error:
    raise ImportError("serving needs FastAPI and uvicorn: pip install 'rewardsmith[serve]'") from error

from rewardsmith.adapters.openrlhf import Parse, logged_scores, score_queries, split_query
from rewardsmith.adapters.remote import is_loopback
from rewardsmith.data.records import RecordError
from rewardsmith.reward import Reward, RewardError, Scores

_log = logging.getLogger(__name__)


class Refused(Exception):
    """A request that is answered with an error: status, kind and reason, and row and column of bad input."""

    def __init__(
        self, status: int, kind: str, reason: str, *, row: int | None = None, column: str | None = None
    ) -> None:
        super().__init__(reason)
        self.status = status
        self.error = {"kind": kind, "reason": reason, "row": row, "column": column}


def create_app(
    reward: Reward,
    *,
    token: str | None = None,
    max_body: int = 16 * 2**20,
    max_batch: int = 1024,
    timeout: float = 120.0,
    threads: int = 1,
    parse: Parse = split_query,
    answer_column: str = "answer",
    failed: float | None = None,
) -> FastAPI:
    """The server as an ASGI application.

    - `POST /get_reward` `{"query": [...], "prompts": [...], "labels": [...]}` (the last two may be absent) answers
      `{"rewards", "scores", "extra_logs"}`. A sample without a score is null, or `failed` where that is a number.
    - `POST /score` takes columns, `{"prompt": [...], "completion": [...], ...}`, text or messages, and answers
      `{"values", "std", "steps", "step_ends", "tokens", "parts", "details", "failures", "latency"}`.
    - `GET /health` answers `{"status": "ok", "reward": name}`, without a token.

    An error is `{"error": {"kind", "reason", "row", "column"}}`: 401 (no or wrong token), 408 (slow body), 413 (body
    too large), 422 (bad input), 500 (the reward raised), 504 (too slow).

    A request that runs into the time limit is answered, but its thread runs on: a reward that may hang for good needs
    `reward.with_deadline(seconds)`.

    Args:
        reward: what is served.
        token: bearer token that every request but `/health` must bring.
        max_body: bytes of a body, also of one that is sent in chunks.
        max_batch: samples of a request.
        timeout: seconds for a request, waiting included.
        threads: requests that are scored at a time; more than one only for a reward that is safe to call so
            (a `DeadlineReward` is).
        parse, answer_column: as for `adapters.openrlhf.as_reward_func`.
        failed: number for `/get_reward` in place of null.
    """
    if token == "":
        raise ValueError("an empty token protects nothing: give one, or None")
    app = FastAPI(title="rewardsmith", docs_url=None, redoc_url=None, openapi_url=None)
    pool = ThreadPoolExecutor(threads, thread_name_prefix="rewardsmith-serve")

    @app.exception_handler(Refused)
    async def refuse(request: Request, refused: Refused) -> JSONResponse:
        headers = {"WWW-Authenticate": "Bearer"} if refused.status == 401 else None
        return JSONResponse({"error": refused.error}, status_code=refused.status, headers=headers)

    async def read(request: Request) -> dict[str, Any]:
        _check_token(request.headers.get("authorization", ""), token)
        try:
            async with asyncio.timeout(timeout):
                return _parse_json(await _read_body(request, max_body))
        except TimeoutError:
            raise Refused(408, "timeout", f"the body did not arrive within {timeout:g} s") from None

    async def run(score: Any) -> Scores:
        future = pool.submit(score)
        try:
            return await asyncio.wait_for(asyncio.wrap_future(future), timeout)
        except TimeoutError:
            raise Refused(504, "timeout", f"no score within {timeout:g} s") from None
        except RecordError as error:
            raise Refused(422, "input", error.problem, row=error.row, column=error.column) from error
        except RewardError as error:
            raise Refused(500, "failure", str(error)) from error
        except Exception as error:
            _log.exception("the reward raised")
            raise Refused(500, "error", f"{type(error).__name__}: {' '.join(str(error).split())}"[:500]) from error

    @app.post("/get_reward")
    async def get_reward(request: Request) -> JSONResponse:
        body = await read(request)
        columns = _columns(body, {"query": True, "prompts": False, "labels": False}, max_batch)
        for name in ("query", "prompts"):
            _check_text(columns.get(name, []), name, messages=False)
        if not columns["query"]:  # OpenRLHF asks every one of its servers, also with nothing
            return JSONResponse(logged_scores(Scores(np.empty(0)), failed))
        scores = await run(
            lambda: score_queries(
                reward,
                columns["query"],
                columns.get("prompts"),
                columns.get("labels"),
                parse=parse,
                answer_column=answer_column,
            )
        )
        return JSONResponse(logged_scores(scores, failed))

    @app.post("/score")
    async def score(request: Request) -> JSONResponse:
        body = await read(request)
        columns = _columns(body, {"prompt": True, "completion": True}, max_batch, others=True)
        for name in ("prompt", "completion"):
            _check_text(columns[name], name, messages=True)
        if not columns["completion"]:
            return JSONResponse(scores_to_json(Scores(np.empty(0))))
        return JSONResponse(scores_to_json(await run(lambda: reward.resolved(columns))))

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok", "reward": reward.__name__}

    return app


def serve(
    reward: Reward, *, host: str = "127.0.0.1", port: int = 8000, token: str | None = None, **options: Any
) -> None:
    """Serve a reward until interrupted; `options` as for `create_app`.

    Raises:
        ValueError: for a host beyond this machine without a token.
    """
    import uvicorn

    if not token and not is_loopback(host):
        raise ValueError(
            f"host {host!r} can be reached from other machines: set a token (REWARDSMITH_TOKEN), or use 127.0.0.1"
        )
    app = create_app(reward, token=token or None, **options)
    uvicorn.run(app, host=host, port=port, log_level="info", access_log=False)


def scores_to_json(scores: Scores) -> dict[str, Any]:
    """Scores as JSON values: NaN becomes null, details that JSON does not know become text."""
    ragged = {name: getattr(scores, name) for name in ("steps", "step_ends", "tokens")}
    return {
        "values": _plain(scores.values),
        "std": _plain(scores.std),
        **{name: None if rows is None else [_plain(row) for row in rows] for name, rows in ragged.items()},
        "parts": {name: _plain(part) for name, part in scores.parts.items()},
        "details": _plain(scores.details),
        "failures": {
            str(row): {"kind": f.kind, "reason": f.reason, "latency": _plain(f.latency)}
            for row, f in scores.failures.items()
        },
        "latency": _plain(scores.latency),
    }


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, Sequence):
        return [_plain(v) for v in value]
    return str(value)


def _check_token(header: str, token: str | None) -> None:
    if token is None:
        return
    scheme, _, given = header.partition(" ")
    # Compared in constant time, so that the answer's time tells nothing about the token.
    if scheme.lower() != "bearer" or not hmac.compare_digest(given.strip().encode("latin-1"), token.encode()):
        raise Refused(401, "token", "this server asks for a bearer token: Authorization: Bearer ...")


async def _read_body(request: Request, limit: int) -> bytes:
    too_large = Refused(413, "too_large", f"the body is larger than {limit} bytes")
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > limit:
        raise too_large
    body = bytearray()
    async for chunk in request.stream():  # counted as it comes: a chunked body declares no length
        body += chunk
        if len(body) > limit:
            raise too_large
    return bytes(body)


def _parse_json(body: bytes) -> dict[str, Any]:
    try:
        value = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Refused(422, "input", f"the body is not JSON: {str(error)[:200]}") from None
    if not isinstance(value, dict):
        raise Refused(422, "input", f"the body must be an object of columns, not {type(value).__name__}")
    return value


def _columns(
    body: dict[str, Any], known: dict[str, bool], max_batch: int, *, others: bool = False
) -> dict[str, list[Any]]:
    """The columns of a request, checked: present, lists, of one length. `known` says which are required."""
    columns: dict[str, list[Any]] = {}
    for name, required in known.items():
        if body.get(name) is None:
            if required:
                raise Refused(422, "input", "a list is required here", column=name)
            continue
        columns[name] = body[name]
    if others:
        columns |= {name: column for name, column in body.items() if name not in known}
    rows = None
    for name, column in columns.items():
        if not isinstance(column, list):
            raise Refused(422, "input", f"must be a list, not {type(column).__name__}", column=name)
        rows = len(column) if rows is None else rows
        if len(column) != rows:
            raise Refused(422, "input", f"has {len(column)} values, {next(iter(columns))!r} has {rows}", column=name)
    if rows is not None and rows > max_batch:
        raise Refused(422, "input", f"{rows} samples, at most {max_batch} in one request", column=next(iter(columns)))
    return columns


def _check_text(column: list[Any], name: str, *, messages: bool) -> None:
    for row, text in enumerate(column):
        if isinstance(text, str):
            continue
        if not messages or not isinstance(text, list):
            wanted = "text or a list of messages" if messages else "text"
            raise Refused(422, "input", f"must be {wanted}, not {type(text).__name__}", row=row, column=name)
        for message in text:
            if not isinstance(message, dict) or not isinstance(message.get("role"), str) or "content" not in message:
                raise Refused(422, "input", 'a message is {"role": ..., "content": ...}', row=row, column=name)
            if not isinstance(message["content"], str | list | None):
                raise Refused(422, "input", "the content of a message is text or a list", row=row, column=name)
