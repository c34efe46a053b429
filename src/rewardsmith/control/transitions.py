"""Control rewards: functions of transitions.

A `TransitionReward` scores `Transitions`, arrays of N steps of one or more environments, and answers `Scores` as every
reward does. The wrappers (`wrappers`, `sb3`) put it into an environment, `relabel` into a replay buffer; on recorded
steps it is called as it is. Rewards add, multiply and take weights; each term is kept by name (`composer`).
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from rewardsmith.reward import Scores, Weight

if TYPE_CHECKING:
    from rewardsmith.control.composer import Composer

Arrays = np.ndarray | Mapping[str, np.ndarray]
"""An array (N, ...), or of a Dict space a mapping of them."""


@dataclass(frozen=True, eq=False)
class Transitions:
    """N steps (s, a, s') of one or more environments.

    The rows of one environment are in the order of time; those of several may be mixed.

    Attributes:
        observations: (N, ...) what the agent saw before it acted; a mapping of arrays for a Dict space.
        actions: (N, ...).
        next_observations: (N, ...) what followed: of the last step of an episode the true last observation, never the
            first one of the next episode.
        terminated: (N,) bool, the episode ended in a terminal state.
        truncated: (N,) bool, the episode was cut off, by a time limit for instance.
        infos: named arrays (N, ...): `task_reward` (the environment's own), `frame` (N, H, W, 3) uint8, and others.
        env: (N,) int, which environment. Default: all 0.
        start: (N,) bool, first step of an episode. Default: the first row of each environment and each row after an
            end.
    """

    observations: Arrays
    actions: Arrays
    next_observations: Arrays
    terminated: np.ndarray
    truncated: np.ndarray
    infos: Mapping[str, np.ndarray] = field(default_factory=dict)
    env: np.ndarray = None  # type: ignore[assignment]  # filled below
    start: np.ndarray = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        rows = len(self.terminated)
        put = object.__setattr__
        put(self, "terminated", np.asarray(self.terminated, dtype=bool))
        put(self, "truncated", np.asarray(self.truncated, dtype=bool))
        put(self, "env", np.zeros(rows, dtype=np.int64) if self.env is None else np.asarray(self.env))
        put(self, "infos", {name: np.asarray(column) for name, column in self.infos.items()})
        for name in ("observations", "actions", "next_observations"):
            put(self, name, _each(np.asarray, getattr(self, name)))
        for name in ("observations", "actions", "next_observations", "truncated", "env"):
            self._check(name, getattr(self, name), rows)
        for name, column in self.infos.items():
            self._check(f"infos[{name!r}]", column, rows)
        put(self, "start", self._starts() if self.start is None else np.asarray(self.start, dtype=bool))
        self._check("start", self.start, rows)

    @staticmethod
    def _check(name: str, column: Arrays, rows: int) -> None:
        named = column.items() if isinstance(column, Mapping) else [("", column)]
        for key, array in named:
            if array.ndim == 0 or len(array) != rows:
                where = f"{name}[{key!r}]" if key else name
                raise ValueError(f"{where} has shape {array.shape}, but terminated has {rows} rows")

    def _starts(self) -> np.ndarray:
        order = np.argsort(self.env, kind="stable")
        env, done = self.env[order], (self.terminated | self.truncated)[order]
        start = np.ones(len(order), dtype=bool)
        start[order[1:]] = (env[1:] != env[:-1]) | done[:-1]
        return start

    def __len__(self) -> int:
        return len(self.terminated)

    @classmethod
    def episode(
        cls,
        observations: np.ndarray,
        actions: np.ndarray,
        *,
        terminated: bool = True,
        infos: Mapping[str, np.ndarray] | None = None,
        env: int = 0,
    ) -> Self:
        """One whole episode.

        Args:
            observations: (T + 1, ...), one more than there are actions.
            actions: (T, ...).
            terminated: whether it ended in a terminal state; otherwise it was truncated.
            infos: named arrays (T, ...), of the steps.
            env: of which environment.

        Raises:
            ValueError: where there is not one more observation than there are actions, or no action.
        """
        observations, steps = np.asarray(observations), len(actions)
        if len(observations) != steps + 1 or not steps:
            raise ValueError(f"an episode has T >= 1 actions and T + 1 observations, not {steps}, {len(observations)}")
        last = np.arange(steps) == steps - 1
        return cls(
            observations[:-1],
            np.asarray(actions),
            observations[1:],
            terminated=last & terminated,
            truncated=last & (not terminated),
            infos=infos or {},
            env=np.full(steps, env),
        )

    @classmethod
    def concatenate(cls, parts: Sequence[Transitions]) -> Transitions:
        """The rows of all parts, in their order; every part must have the same `infos`.

        Raises:
            ValueError: where there are no parts, or one has other infos than the first.
        """
        if not parts:
            raise ValueError("there is nothing to concatenate")
        names = parts[0].infos.keys()
        for index, part in enumerate(parts):
            if part.infos.keys() != names:
                raise ValueError(f"part {index} has the infos {sorted(part.infos)}, part 0 has {sorted(names)}")
        columns = {f.name: [getattr(part, f.name) for part in parts] for f in fields(cls) if f.name != "infos"}
        return cls(
            **{name: _joined(column) for name, column in columns.items()},  # type: ignore[arg-type]
            infos={name: np.concatenate([part.infos[name] for part in parts]) for name in names},
        )

    def take(self, rows: Sequence[int] | np.ndarray) -> Transitions:
        """The rows at integer indices (or where a boolean mask (N,) is True), in that order."""
        rows = np.asarray(rows)
        if rows.dtype != bool:
            rows = rows.astype(np.int64)
        columns = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "infos"}
        return Transitions(
            **{name: _each(lambda array: array[rows], column) for name, column in columns.items()},  # type: ignore[arg-type]
            infos={name: column[rows] for name, column in self.infos.items()},
        )

    def column(self, name: str) -> Arrays:
        """A field or an info by its name.

        Raises:
            ValueError: where there is neither, with what there is.
        """
        if name in COLUMNS:
            return getattr(self, name)
        if name not in self.infos:
            raise ValueError(f"there is no info {name!r} (there are: {', '.join(sorted(self.infos)) or 'none'})")
        return self.infos[name]

    def episodes(self) -> np.ndarray:
        """(N,) int: the episode of each row, numbered from 0, environment by environment in the order of time."""
        order = np.argsort(self.env, kind="stable")
        env = self.env[order]
        new = self.start[order].copy()
        new[1:] |= env[1:] != env[:-1]
        new[:1] = True
        number = np.empty(len(order), dtype=np.int64)
        number[order] = np.cumsum(new) - 1
        return number


COLUMNS = tuple(f.name for f in fields(Transitions) if f.name != "infos")


def _each(function: Callable[[np.ndarray], np.ndarray], column: Arrays) -> Arrays:
    return {k: function(v) for k, v in column.items()} if isinstance(column, Mapping) else function(column)


def _joined(columns: Sequence[Arrays]) -> Arrays:
    first = columns[0]
    if isinstance(first, Mapping):
        return {key: np.concatenate([column[key] for column in columns]) for key in first}
    return np.concatenate(columns)  # type: ignore[arg-type]


class TransitionReward(ABC):
    """A reward of transitions: subclasses implement `score(transitions)`.

    Rewards add, subtract, multiply and take weights, which may be functions of the training step:
    `TaskReward() + 0.1 * PotentialShaping(phi, gamma)`.

    A reward that remembers within an episode forgets at each row with `start`, and keeps what it knows per
    environment (`Transitions.env`): one step at a time then gives what whole episodes give.

    Attributes:
        needs: the infos that it reads; `frame` makes a wrapper render.
        step: the training step, for weights that depend on it.
    """

    __name__: str = "transition_reward"
    needs: tuple[str, ...] = ()
    step: int = 0

    @abstractmethod
    def score(self, transitions: Transitions) -> Scores:
        """Score N steps; a row that cannot be scored is NaN with a `Failure`."""

    def __call__(self, transitions: Transitions) -> np.ndarray:
        """(N,) float64 rewards, NaN where a step could not be scored."""
        return self.score(transitions).values

    def reset(self, env: Iterable[int] | None = None) -> None:  # noqa: B027  # most rewards remember nothing
        """Forget what is remembered of the running episodes of these environments, or of all."""

    def set_step(self, step: int) -> None:
        """Tell scheduled weights which training step it is."""
        self.step = step

    def named(self, name: str) -> Self:
        """Set the name under which this reward is a term of a sum; returns the reward itself."""
        self.__name__ = name
        return self

    def __add__(self, other: TransitionReward | float) -> Composer:
        from rewardsmith.control.composer import Composer

        return Composer.plus(self, other)

    def __radd__(self, other: float) -> Composer:
        return self + other

    def __sub__(self, other: TransitionReward | float) -> Composer:
        return self + -other

    def __rsub__(self, other: float) -> Composer:
        return -self + other

    def __neg__(self) -> Composer:
        return self * -1.0

    def __mul__(self, other: TransitionReward | Weight) -> Composer:
        from rewardsmith.control.composer import Composer

        return Composer.times(self, other)

    __rmul__ = __mul__

    def __truediv__(self, other: float) -> Composer:
        return self * (1.0 / other)


class TaskReward(TransitionReward):
    """The environment's own reward, as a term: the wrappers give it as the info `task_reward`."""

    __name__ = "task"
    needs = ("task_reward",)

    def score(self, transitions: Transitions) -> Scores:
        return Scores(np.asarray(transitions.column("task_reward"), dtype=np.float64))


_OF_ONE = {"observation": "observations", "action": "actions", "next_observation": "next_observations"}


def from_transition_function(function: Callable[..., Any], *, name: str | None = None) -> TransitionReward:
    """A `TransitionReward` from a function; the names of its parameters say what it reads.

    - batched: any of `observations`, `actions`, `next_observations`, `terminated`, `truncated`, `env`, `start`, each
      with N rows, `transitions` (all of them), and infos by name (`task_reward`, `frame`, ...) -> (N,) numbers;
    - one step at a time: `observation`, `action`, `next_observation`, the others as above, and `memory`, a dict that
      lives for one episode of one environment -> a number.

    Either may return `(reward, parts)` with named numbers. A parameter with a default that is no column keeps it. An
    exception passes through: it is a bug of the function, not a bad sample. To be sent to worker processes, the
    function must be one that can be pickled (of a module, no lambda).

    Raises:
        TypeError: where the parameters mix both forms, or cannot be given by name.
    """
    return FunctionReward(function, name=name)


class FunctionReward(TransitionReward):
    """See `from_transition_function`."""

    def __init__(self, function: Callable[..., Any], *, name: str | None = None) -> None:
        parameters = inspect.signature(function).parameters.values()
        if unnamed := [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.VAR_POSITIONAL)]:
            raise TypeError(f"the parameters {unnamed} cannot be given by name")
        known = {*COLUMNS, *_OF_ONE, "memory", "transitions"}
        named = [p.name for p in parameters if p.kind != p.VAR_KEYWORD and (p.name in known or p.default is p.empty)]
        self.by_row = bool({*_OF_ONE, "memory"} & set(named))
        many = {*_OF_ONE.values(), "transitions"} & set(named)
        if self.by_row and many:
            raise TypeError(f"the parameters {named} mix one step (observation, memory) with many ({sorted(many)})")
        self.function = function
        self.parameters = tuple(named)
        self.needs = tuple(n for n in named if n not in known)
        self.memory: dict[int, dict[str, Any]] = {}
        self.__name__ = str(name or getattr(function, "__name__", type(function).__name__))

    def reset(self, env: Iterable[int] | None = None) -> None:
        for index in list(self.memory) if env is None else env:
            self.memory.pop(int(index), None)

    def score(self, transitions: Transitions) -> Scores:
        columns = {
            n: transitions if n == "transitions" else transitions.column(_OF_ONE.get(n, n))
            for n in self.parameters
            if n != "memory"
        }
        if not self.by_row:
            return self._read(self.function(**columns), len(transitions))
        rows = [self._row(transitions, columns, row) for row in range(len(transitions))]
        values = [row[0] if isinstance(row, tuple) else row for row in rows]
        parts: dict[str, np.ndarray] = {}
        for index, row in enumerate(rows):
            for key, value in (row[1] if isinstance(row, tuple) else {}).items():
                parts.setdefault(key, np.full(len(rows), np.nan))[index] = value
        return self._read((values, parts), len(transitions))

    def _row(self, transitions: Transitions, columns: Mapping[str, Any], row: int) -> Any:
        arguments = {n: _each(lambda array: array[row], column) for n, column in columns.items()}
        if "memory" in self.parameters:
            env = int(transitions.env[row])
            if transitions.start[row]:
                self.memory[env] = {}
            arguments["memory"] = self.memory.setdefault(env, {})
        return self.function(**arguments)

    def _read(self, result: Any, rows: int) -> Scores:
        values, parts = result if isinstance(result, tuple) else (result, {})
        values = np.asarray(values, dtype=np.float64)
        if values.shape != (rows,):
            raise ValueError(f"{self.__name__} returned rewards of shape {values.shape} for {rows} steps")
        return Scores(values, parts={key: np.asarray(part, dtype=np.float64) for key, part in parts.items()})
