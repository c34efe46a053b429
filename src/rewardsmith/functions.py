"""Rewards from plain Python functions, by object or by import path (`module:name`, `file.py:name`)."""

from __future__ import annotations

import asyncio
import concurrent.futures
import importlib
import importlib.util
import inspect
import numbers
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rewardsmith.data.records import Batch, RecordError, as_columns
from rewardsmith.reward import Failure, OnFailure, Reward, Scores


def import_object(path: str) -> Any:
    """The object at `package.module:name` or `some/file.py:name`.

    Raises:
        ValueError: where the path has no `:name`, or nothing is there.
    """
    module_name, _, attribute = path.rpartition(":")
    if not module_name or not attribute:
        raise ValueError(f"{path!r} is not an import path: write 'module:name' or 'file.py:name'")
    if module_name.endswith(".py"):
        file = Path(module_name)
        if not file.is_file():
            raise ValueError(f"no file {module_name!r}")
        # A real module name, so that worker processes can unpickle what the file defines.
        spec = importlib.util.spec_from_file_location(file.stem, file)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        ours = sys.modules.setdefault(file.stem, module) is module
        try:
            spec.loader.exec_module(module)
        except Exception as error:
            if ours:
                del sys.modules[file.stem]
            raise ValueError(f"cannot load {module_name!r}: {_one_line(error)}") from error
    else:
        sys.path.insert(0, "")  # as `python -m` does: modules of the current folder count
        try:
            module = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            raise ValueError(f"cannot import {module_name!r}: {error}") from error
        finally:
            sys.path.remove("")
    if not hasattr(module, attribute):
        raise ValueError(f"{module_name!r} has no {attribute!r}")
    return getattr(module, attribute)


def from_function(
    function: Callable[..., Any] | str, *, name: str | None = None, on_failure: OnFailure = "drop"
) -> Reward:
    """A `Reward` from a function, or from the import path of one.

    Two shapes are understood, by parameter names; each gets the further columns that it names (with `**kwargs`, all):

    - batched, as in TRL: `f(prompts, completions, **columns) -> list`;
    - one sample: `f(prompt, completion, **columns)` or `f(completion)`.

    Either may be `async def` (samples then run concurrently). A result is a number, a bool, None (no score), or a
    mapping with `score` and further entries: numbers become `parts`, everything goes to `details`. An exception costs
    its own sample only.

    Raises:
        TypeError: where the function names neither `completion` nor `completions`.
        ValueError: where an import path leads nowhere.
    """
    path = function if isinstance(function, str) else None
    target: Any = import_object(path) if path is not None else function
    if isinstance(target, Reward):
        return target
    if isinstance(target, type) and issubclass(target, Reward):
        return target()
    return FunctionReward(target, path=path, name=name, on_failure=on_failure)


class ColumnReward(Reward):
    """Scores that the data already has, in a column of numbers: another run's, an annotator's, a file's.

    A row without a number is NaN, with `missing`.

    Args:
        column: its name.
    """

    def __init__(self, column: str) -> None:
        self.column = column
        self.__name__ = column

    def score(self, batch: Batch) -> Scores:
        columns = as_columns(batch)
        if self.column not in columns:
            raise ValueError(f"no column {self.column!r} with scores; there are {sorted(columns)}")
        values = columns[self.column]
        for row, value in enumerate(values):
            if value is not None and (isinstance(value, bool) or not isinstance(value, numbers.Real)):
                raise RecordError(f"must be a number or null, not {value!r}", row=row, column=self.column)
        missing = Failure("missing", f"the column {self.column!r} has no score")
        return Scores(
            np.array([np.nan if value is None else float(value) for value in values]),
            failures={row: missing for row, value in enumerate(values) if value is None},
        )

    def fingerprint(self) -> dict[str, Any]:
        """What the scores depend on (JSON)."""
        return {"column": self.column}


class FunctionReward(Reward):
    """See `from_function`."""

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        path: str | None = None,
        name: str | None = None,
        on_failure: OnFailure = "drop",
    ) -> None:
        if not callable(function):
            raise TypeError(f"{path or function!r} is not a callable but a {type(function).__name__}")
        parameters = inspect.signature(function).parameters
        self._open = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
        self._named = {n for n, p in parameters.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
        if not self._named & {"completion", "completions"}:
            raise TypeError(
                f"{getattr(function, '__name__', function)!r} must take 'completions' (a batch, as in TRL) or "
                f"'completion' (one sample); it takes {sorted(self._named)}"
            )
        self.batched = "completions" in self._named
        # An object with `async def __call__` is no coroutine function to inspect.
        self.is_async = any(map(inspect.iscoroutinefunction, (function, getattr(function, "__call__", None))))  # noqa: B004
        self.function, self.path = function, path
        self.on_failure = on_failure
        self.__name__ = str(name or getattr(function, "__name__", type(function).__name__))

    def __getstate__(self) -> dict[str, Any]:
        # Pickle the path, not the function, where there is one: files loaded by path are no importable modules.
        state = dict(self.__dict__)
        if self.path is not None:
            del state["function"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if self.path is not None:
            self.function = import_object(self.path)

    def score(self, batch: Batch) -> Scores:
        columns = as_columns(batch)
        rows = len(columns["completion"])
        results: list[Any]
        if self.batched:
            results, latency = self._score_batched(columns, rows)
        else:
            results, latency = self._score_rows(columns, rows)
        return _collect(results, latency)

    def _arguments(self, columns: Mapping[str, Any], prompt: str, completion: str) -> dict[str, Any]:
        available = {prompt: columns.get("prompt"), completion: columns["completion"]}
        available |= {k: v for k, v in columns.items() if k not in ("prompt", "completion")}
        return {k: v for k, v in available.items() if self._open or k in self._named}

    def _score_batched(self, columns: dict[str, list], rows: int) -> tuple[list[Any], np.ndarray]:
        start = time.perf_counter()
        try:
            results = self.function(**self._arguments(columns, "prompts", "completions"))
            if self.is_async:
                results = _run(results)
            results = list(results)
        except Exception as error:
            if rows == 1:
                seconds = time.perf_counter() - start
                return [Failure("error", _one_line(error), seconds)], np.array([seconds])
            # One bad sample must not cost the batch: find it by scoring each row alone.
            alone = [self._score_batched({k: [v[i]] for k, v in columns.items()}, 1) for i in range(rows)]
            return [r[0] for r, _ in alone], np.concatenate([seconds for _, seconds in alone])
        if len(results) != rows:
            raise ValueError(f"{self.__name__} returned {len(results)} scores for {rows} completions")
        return results, np.full(rows, (time.perf_counter() - start) / max(rows, 1))

    def _score_rows(self, columns: dict[str, list], rows: int) -> tuple[list[Any], np.ndarray]:
        arguments = [
            self._arguments({k: v[i] for k, v in columns.items()}, "prompt", "completion") for i in range(rows)
        ]
        if self.is_async:
            timed = _run(_gather([self._timed_async(a) for a in arguments]))
        else:
            timed = [self._timed(a) for a in arguments]
        return [result for result, _ in timed], np.array([seconds for _, seconds in timed])

    def _timed(self, arguments: dict[str, Any]) -> tuple[Any, float]:
        start = time.perf_counter()
        try:
            result = self.function(**arguments)
        except Exception as error:
            result = Failure("error", _one_line(error), time.perf_counter() - start)
        return result, time.perf_counter() - start

    async def _timed_async(self, arguments: dict[str, Any]) -> tuple[Any, float]:
        start = time.perf_counter()
        try:
            result = await self.function(**arguments)
        except Exception as error:
            result = Failure("error", _one_line(error), time.perf_counter() - start)
        return result, time.perf_counter() - start


def _collect(results: Sequence[Any], latency: np.ndarray) -> Scores:
    """Numbers, Nones, mappings and failures of B samples as `Scores`."""
    values = np.full(len(results), np.nan)
    failures: dict[int, Failure] = {}
    parts: dict[str, np.ndarray] = {}
    details: list[dict[str, Any]] = [{} for _ in results]
    for row, result in enumerate(results):
        score = result
        if isinstance(result, Mapping):
            details[row] = dict(result)
            score = result.get("score")
            for key, value in result.items():
                if key != "score" and isinstance(value, numbers.Real | np.bool_):
                    parts.setdefault(key, np.full(len(results), np.nan))[row] = value
        if isinstance(score, Failure):
            failures[row] = score
        elif score is None:
            failures[row] = Failure("missing", "the function returned no score", float(latency[row]))
        else:
            try:
                values[row] = float(score)
            except (TypeError, ValueError):
                failures[row] = Failure(
                    "error", f"a score must be a number, got {type(score).__name__}", float(latency[row])
                )
    return Scores(values, parts=parts, failures=failures, latency=latency, details=details if any(details) else None)


def _one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:500]


async def _gather(tasks: Sequence[Any]) -> list[Any]:
    return list(await asyncio.gather(*tasks))


def _run(coroutine: Any) -> Any:
    """Run a coroutine to its end, also where this thread already runs an event loop."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(coroutine)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, coroutine).result()
