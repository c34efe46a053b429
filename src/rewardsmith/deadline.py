"""A reward in worker processes that are killed where a sample takes too long: no signals, from any thread.

A stuck scorer cannot be stopped from inside its process (a regular expression, a C loop), and an alarm signal works
in the main thread only. So each sample goes to a process of a pool, and a process that misses the deadline is killed
with everything that it started; a new one takes its place.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.util
import os
import pickle
import queue
import signal
import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from rewardsmith.data.records import Batch, Text, as_columns
from rewardsmith.reward import Failure, Reward, Scores

_GRACE = 5.0  # seconds after the deadline at which a worker that nobody killed ends itself


@dataclass(frozen=True)
class SlowSample:
    """A sample that took more than half of the deadline.

    Attributes:
        prompt, completion: the sample.
        seconds: how long it took, or ran before it was killed.
        timed_out: whether it was killed.
    """

    prompt: Text | None
    completion: Text
    seconds: float
    timed_out: bool


class DeadlineReward(Reward):
    """`reward`, scored one sample at a time in worker processes, each sample within `seconds`.

    A sample over the deadline costs itself alone: its process is killed (with the processes that it started), the
    sample becomes `Failure("timeout", ...)`, and a new process starts. A process that dies by itself (a segmentation
    fault, `os._exit`) becomes `Failure("error", ...)`. Starting a process does not count against a deadline.

    The deadline is per sample, so the reward sees batches of one: put it around the component that may hang, not around
    a sum whose parts compare samples or gain from large batches. `on_failure` is taken over from the reward and applied
    here, where the whole batch is known.

    The reward is pickled into processes that start afresh ("spawn"): functions must be importable (or loaded by path,
    see `from_function`), and a script that uses this needs `if __name__ == "__main__":`. Safe to call from several
    threads, which share the workers; picklable (the copy starts its own workers); works in a forked process. Workers
    start on the first score and end with `close()`, a `with` block, garbage collection or the interpreter's exit.

    Args:
        reward: any picklable reward.
        seconds: deadline of one sample, in seconds of wall-clock time.
        workers: number of processes; so many samples are scored at once.
        start_timeout: seconds that a process may take to start and load the reward.

    Attributes:
        slow: the last 100 samples that took more than half of `seconds`, oldest first.

    Raises:
        ValueError: where `seconds`, `workers` or `start_timeout` is not positive.
    """

    def __init__(self, reward: Reward, seconds: float, workers: int = 1, *, start_timeout: float = 300.0) -> None:
        if not isinstance(reward, Reward):
            raise TypeError(f"a deadline goes around a Reward, not a {type(reward).__name__}; use from_function first")
        for name, value in (("seconds", seconds), ("workers", workers), ("start_timeout", start_timeout)):
            if not 0 < value < float("inf"):
                raise ValueError(f"{name} must be positive and finite, got {value}")
        self.reward = reward
        self.seconds, self.workers, self.start_timeout = float(seconds), int(workers), float(start_timeout)
        self.on_failure = reward.on_failure
        self.step = reward.step
        self.__name__ = reward.__name__
        self._reset()

    def _reset(self) -> None:
        self._pool: _Pool | None = None
        self._lock = threading.Lock()
        self._slow: deque[SlowSample] = deque(maxlen=100)

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k not in ("_pool", "_end", "_lock", "_slow")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._reset()

    @property
    def slow(self) -> list[SlowSample]:
        return list(self._slow)

    def set_step(self, step: int) -> None:
        self.step = step
        self.reward.set_step(step)

    def score(self, batch: Batch) -> Scores:
        columns = as_columns(batch)
        rows = [{name: column[i] for name, column in columns.items()} for i in range(len(columns["completion"]))]
        if not rows:
            return Scores(np.empty(0))
        pool = self._running()
        # One thread per sample in flight: each waits for a worker, then for its answer.
        executor = ThreadPoolExecutor(min(self.workers, len(rows)), thread_name_prefix=f"{self.__name__}-deadline")
        try:
            futures = [executor.submit(pool.score, row, self.step, self.seconds, self._note) for row in rows]
            return join_scores([future.result() for future in futures])
        finally:
            executor.shutdown(cancel_futures=True)

    def _note(self, row: dict[str, Any], seconds: float, timed_out: bool) -> None:
        if timed_out or seconds > self.seconds / 2:
            self._slow.append(SlowSample(row.get("prompt"), row["completion"], seconds, timed_out))

    def _running(self) -> _Pool:
        with self._lock:
            if self._pool is None or self._pool.pid != os.getpid():  # after a fork, the workers belong to the parent
                self._pool = _Pool(self.reward, self.workers, self.start_timeout)
                # multiprocessing runs this before it waits for child processes at exit, and never in a fork.
                self._end = multiprocessing.util.Finalize(self, _Pool.close, args=(self._pool,), exitpriority=10)
            return self._pool

    def close(self) -> None:
        """End the workers; a later score starts new ones."""
        with self._lock:
            if self._pool is not None:
                self._end()
            self._pool = None

    def __enter__(self) -> DeadlineReward:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class _Pool:
    """The worker processes of one reward in one process, shared by its threads."""

    def __init__(self, reward: Reward, workers: int, start_timeout: float) -> None:
        try:
            payload = pickle.dumps(reward)
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise TypeError(
                f"{reward.__name__} cannot be sent to a worker process ({error}); define its functions at the top of a "
                f"module, or load them by path with from_function('file.py:name')"
            ) from error
        self.pid = os.getpid()
        self.closed = False
        self._lock = threading.Lock()
        self._workers = [_Worker(payload, start_timeout) for _ in range(workers)]
        self._idle: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
        for worker in self._workers:
            worker.start()
            self._idle.put(worker)

    def score(self, row: dict[str, Any], step: int, seconds: float, note: Any) -> Scores:
        """Score one sample on the next idle worker; a worker that had to be killed is replaced."""
        try:
            job = pickle.dumps((row, step, seconds))
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            return _failed(Failure("error", f"the sample cannot be sent to a worker process: {error}", 0.0))
        worker = self._idle.get()
        try:
            if self.closed:
                raise RuntimeError("the reward was closed while it scored")
            if not worker.loaded:
                try:
                    worker.load()
                except RuntimeError:
                    self._replace(worker)
                    raise
            start = time.perf_counter()
            answer = worker.ask(job, seconds)
            elapsed = time.perf_counter() - start
            if isinstance(answer, Scores):
                note(row, elapsed, False)
                return answer
            failure = Failure(answer.kind, answer.reason, elapsed)
            note(row, elapsed, failure.kind == "timeout")
            self._replace(worker)
            return _failed(failure)
        finally:
            self._idle.put(worker)

    def _replace(self, worker: _Worker) -> None:
        with self._lock:
            worker.kill()
            if not self.closed:
                worker.start()

    def close(self) -> None:
        with self._lock:
            self.closed = True
            for worker in self._workers:
                worker.kill()


class _Worker:
    """One worker process and the pipe to it; used by one thread at a time."""

    def __init__(self, payload: bytes, start_timeout: float) -> None:
        self.payload, self.start_timeout = payload, start_timeout
        self.loaded = self.running = False
        self._lock = threading.Lock()

    def start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_work, args=(theirs,), name="rewardsmith-deadline")
        self.process.start()
        theirs.close()  # so that the end of the process is the end of the pipe
        self.loaded, self.running = False, True

    def load(self) -> None:
        """Send the reward and wait until the process has it.

        Raises:
            RuntimeError: where the process cannot start or cannot load the reward.
        """
        try:
            self.connection.send_bytes(self.payload)
            if not self.connection.poll(self.start_timeout):
                raise RuntimeError(f"the worker process did not load the reward within {self.start_timeout:g} s")
            error = self.connection.recv()
        except (EOFError, OSError) as lost:
            raise RuntimeError(
                f"the worker process could not start ({self.kill()}); a script needs `if __name__ == '__main__':` "
                "around what it runs"
            ) from lost
        if error is not None:
            raise RuntimeError(f"the worker process could not load the reward: {error}")
        self.loaded = True

    def ask(self, job: bytes, seconds: float) -> Scores | Failure:
        try:
            self.connection.send_bytes(job)
            if not self.connection.poll(seconds):
                return Failure("timeout", f"took longer than {seconds:g} s")
            return self.connection.recv()
        except (EOFError, OSError):
            return Failure("error", f"the worker process died ({self.kill()})")

    def kill(self) -> str:
        """End the process, where it has not ended, and what it started; says how it ended. Safe to call again."""
        with self._lock:  # the pool may be closed by another thread
            if self.running:
                # Before the process is waited for: until then, its number cannot be another's.
                with suppress(ProcessLookupError, PermissionError, AttributeError):  # no killpg on Windows
                    os.killpg(self.process.pid, signal.SIGKILL)  # type: ignore[arg-type]
                self.process.kill()  # it may not have made its group yet
                self.process.join()
                self.running = False
        code = self.process.exitcode
        with suppress(ValueError, TypeError):
            return f"signal {signal.Signals(-code).name}"  # type: ignore[operator]
        return f"exit status {code}"


def _work(connection: Connection) -> None:
    """What a worker process does: load the reward, then score one sample after another until the pipe closes."""
    if hasattr(os, "setpgrp"):
        os.setpgrp()  # processes that the reward starts end with this one; Ctrl-C goes to the parent alone
    try:
        reward: Reward = pickle.loads(connection.recv_bytes())
    except EOFError:
        return
    except Exception as error:
        connection.send(f"{type(error).__name__}: {error}")
        return
    connection.send(None)
    while True:
        try:
            row, step, seconds = pickle.loads(connection.recv_bytes())
        except (EOFError, OSError):
            return
        answer = _score_one(reward, row, step, seconds)
        try:
            connection.send(answer)
        except (BrokenPipeError, ConnectionResetError):
            return
        except Exception as error:  # details that cannot be pickled
            connection.send(_failed(Failure("error", f"the scores cannot be sent back: {error}")))


def _score_one(reward: Reward, row: dict[str, Any], step: int, seconds: float) -> Scores:
    if hasattr(signal, "setitimer"):
        # The default action of SIGALRM ends this process even inside C code: no orphan where the parent was killed.
        signal.setitimer(signal.ITIMER_REAL, seconds + _GRACE)
    start = time.perf_counter()
    try:
        if step != reward.step:
            reward.set_step(step)
        scores = reward.score({name: [value] for name, value in row.items()})
        if len(scores) != 1:
            raise ValueError(f"{len(scores)} scores for one sample")
    except (Exception, SystemExit) as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"[:500]
        return _failed(Failure("error", reason, time.perf_counter() - start))
    finally:
        if hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_REAL, 0)
    if scores.latency is None:
        scores.latency = np.array([time.perf_counter() - start])
    return scores


def _failed(failure: Failure) -> Scores:
    return Scores(np.array([np.nan]), failures={0: failure}, latency=np.array([failure.latency]))


def join_scores(scores: Sequence[Scores]) -> Scores:
    """The scores of several batches as those of one, in order.

    A field that some batches lack is NaN (or an empty array or dict) in their rows, and None where all lack it.
    """
    starts = np.cumsum([0, *(len(s) for s in scores)])

    def numbers(pick: Any) -> np.ndarray | None:
        if all(pick(s) is None for s in scores):
            return None
        return np.concatenate([np.full(len(s), np.nan) if pick(s) is None else pick(s) for s in scores])

    def column(name: str, empty: Any) -> list[Any] | None:
        if all(getattr(s, name) is None for s in scores):
            return None
        return [row for s in scores for row in (getattr(s, name) or [empty() for _ in range(len(s))])]

    names = dict.fromkeys(name for s in scores for name in s.parts)
    parts = {name: numbers(lambda s, name=name: s.parts.get(name)) for name in names}
    return Scores(
        values=np.concatenate([s.values for s in scores]) if scores else np.empty(0),
        std=numbers(lambda s: s.std),
        steps=column("steps", lambda: np.empty(0)),
        step_ends=column("step_ends", lambda: np.empty(0, dtype=np.int64)),
        tokens=column("tokens", lambda: np.empty(0)),
        parts={name: part for name, part in parts.items() if part is not None},
        details=column("details", dict),
        failures={int(start) + row: f for start, s in zip(starts, scores) for row, f in s.failures.items()},
        latency=numbers(lambda s: s.latency),
    )
