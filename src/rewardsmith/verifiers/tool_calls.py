"""Rewards for tool calls by rule (paper 14, Qian et al. 2025, ToolRL, section 3): format plus graded correctness.

Predicted calls are matched with gold calls; names, parameter names and values each earn a part of the points.
Correctness is C = (M - m) S / S_max + m, where S is what was earned and S_max = 1 + sum_g (1 + |parameters of g|).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from rewardsmith.data.records import Batch, RecordError, Text, as_columns
from rewardsmith.reward import Reward, Scores
from rewardsmith.verifiers.reading import (
    ToolCall,
    as_call,
    assistant_text,
    read_json,
    read_tool_calls,
    reasoning_text,
    shown,
    tagged,
    without_thinking,
)

Format = Literal["toolrl", "any"]
Granularity = Literal["default", "strict", "intermediate", "coarse"]
Scale = Literal["default", "equal", "two-stage", "smooth"]
Length = Literal["none", "fixed", "dynamic"]
_FORMATS = ("toolrl", "any")
_GRANULARITIES = ("default", "strict", "intermediate", "coarse")
_SCALES = ("default", "equal", "two-stage", "smooth")
_LENGTHS = ("none", "fixed", "dynamic")


@dataclass(frozen=True)
class GoldTurn:
    """What the assistant should do.

    Attributes:
        calls: that it should make.
        response: whether it should say something to the user.
    """

    calls: list[ToolCall]
    response: bool


@dataclass(frozen=True)
class Matching:
    """Predicted calls beside gold calls.

    Attributes:
        points: S, what the prediction earned.
        best: S_max, what the gold calls would earn.
        pairs: for each gold call, the index of the predicted call matched with it, or None.
        earned: points of each gold call.
        used: indices of the predicted calls that were matched.
    """

    points: float
    best: float
    pairs: list[int | None]
    earned: list[float]
    used: set[int]


class Ranges(NamedTuple):
    """Lowest and highest value of the two parts."""

    format: tuple[float, float]
    correctness: tuple[float, float]


class ToolCallReward(Reward):
    """ToolRL's reward: format in {0, 1} plus correctness in [-3, 3] of the calls in a completion.

    Gold comes from a column: a list of calls (`{"name", "parameters"}` or `"arguments"`; OpenAI's form and the JSON
    text of a list are read as well), the text of a gold turn with its `<tool_call>` and `<response>` blocks, or the
    messages of one. Beside a list, a column `expects_response` (bool) says whether the turn also speaks to the user;
    without it, a turn speaks where it makes no call.

    Correctness is 0 where the gold has no call. It is the lowest value where the calls cannot be read; otherwise
    `match_calls` grades them. `details` say what was wrong: `format` (the rule that was broken), `problem` (why calls
    could not be read), `calls` (per gold call: which predicted call it was matched with, its points, parameters that
    are missing, extra or wrong) and `unmatched` (predicted calls that matched none).

    Args:
        format: `toolrl` wants the paper's form: `<think>` block, newline, `<tool_call>` block with one JSON object per
            line, and/or newline and `<response>` block. Tags that a thought mentions are not counted. `any` takes what
            `read_tool_calls` reads; the format is right where all calls can be read, there are calls just where the
            gold has some, a response is there where one is due, and no `<think>` block is left open. Thinking is
            optional, and words beside calls are allowed.
        granularity: what earns points: `default`; `strict`, where lists of names and of parameters count only where
            identical, in order; `intermediate`, one point per exactly equal call; `coarse`, all calls or nothing.
        scale: `default`; `equal`, correctness in [-1, 1]; `two-stage` and `smooth` change with `step`: see `ranges_at`.
        length: adds min(1, words of the thought / 512), rounded to 0.01; `dynamic`: over 384 + 256 step / 105.
        gold_column: default `tool_calls` where there is such a column, otherwise `answer`.
        drop_null_parameters: leave out gold parameters that are null. A `datasets.Dataset` gives each call of a column
            of structs the parameters of all others, as nulls; better keep gold there as JSON text.

    Raises:
        ValueError: for an unknown option; when scoring, for a missing column, and for a row whose gold cannot be read,
            naming row and column.
    """

    def __init__(
        self,
        *,
        format: Format = "toolrl",
        granularity: Granularity = "default",
        scale: Scale = "default",
        length: Length = "none",
        gold_column: str | None = None,
        drop_null_parameters: bool = False,
    ) -> None:
        for name, value, known in (
            ("format", format, _FORMATS),
            ("granularity", granularity, _GRANULARITIES),
            ("scale", scale, _SCALES),
            ("length", length, _LENGTHS),
        ):
            if value not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}; not {value!r}")
        self.format, self.granularity, self.scale, self.length = format, granularity, scale, length
        self.gold_column, self.drop_null_parameters = gold_column, drop_null_parameters
        self.__name__ = "tool_calls"

    def score(self, batch: Batch) -> Scores:
        columns = as_columns(batch)
        completions = columns["completion"]
        gold = self._gold(columns)
        ranges = ranges_at(self.scale, self.step)
        parts = {name: np.zeros(len(completions)) for name in ("format", "correctness")}
        details: list[dict[str, Any]] = []
        lines: dict[str, ToolCall] = {}
        for row, (completion, turn) in enumerate(zip(completions, gold)):
            good, fraction, detail = self._judge(completion, turn, lines)
            parts["format"][row] = ranges.format[good]
            if turn.calls:
                low, high = ranges.correctness
                parts["correctness"][row] = low + (high - low) * fraction
            details.append(detail)
        if self.length != "none":
            over = 512.0 if self.length == "fixed" else 384 + 256 * self.step / 105
            parts["length"] = np.array([thought_length(completion, over) for completion in completions], dtype=float)
        return Scores(np.sum(list(parts.values()), axis=0), parts=parts, details=details)

    def fingerprint(self) -> dict[str, Any]:
        """What the scores depend on (JSON)."""
        names = ("format", "granularity", "scale", "length", "gold_column", "drop_null_parameters", "step")
        return {name: getattr(self, name) for name in names}

    def _judge(
        self, completion: Text, gold: GoldTurn, lines: dict[str, ToolCall]
    ) -> tuple[bool, float, dict[str, Any]]:
        """Whether the format is right, the share of points in [0, 1], and the details."""
        text = assistant_text(completion)
        if self.format == "toolrl":
            broken = format_problem(text, bool(gold.calls), gold.response)
            calls, problem = read_toolrl_calls(text, known=lines) if gold.calls else ([], None)
            if problem is not None and not isinstance(completion, str) and read_tool_calls(completion).calls:
                problem += "; the messages have 'tool_calls', which format='any' reads"
        else:
            read = read_tool_calls(completion)
            calls, problem = read.calls, read.problem
            broken = problem or _any_problem(text, bool(calls), gold)
        detail: dict[str, Any] = {"format": broken, "problem": problem}
        if not gold.calls or problem is not None:
            return broken is None, 0.0, detail
        matching = match_calls(gold.calls, calls, self.granularity)
        detail["calls"] = [
            _explained(call, None if at is None else calls[at], at, points)
            for call, at, points in zip(gold.calls, matching.pairs, matching.earned)
        ]
        detail["unmatched"] = _few([call.name for at, call in enumerate(calls) if at not in matching.used])
        return broken is None, matching.points / matching.best, detail

    def _gold(self, columns: Mapping[str, list[Any]]) -> list[GoldTurn]:
        name = self.gold_column or ("tool_calls" if "tool_calls" in columns else "answer")
        if name not in columns:
            wanted = repr(self.gold_column) if self.gold_column else "'tool_calls' (lists of calls) or 'answer' (text)"
            raise ValueError(f"no column with the gold calls: there must be {wanted}; there are {sorted(columns)}")
        responses = columns.get("expects_response", [None] * len(columns[name]))
        # The completions of one prompt share its gold: each is read once. Lists are alive as long as the columns are.
        known: dict[Any, GoldTurn] = {}
        turns = []
        for row, (value, response) in enumerate(zip(columns[name], responses)):
            if response is not None and not isinstance(response, bool | np.bool_):
                raise RecordError(f"must be true or false, not {response!r}", row=row, column="expects_response")
            key = (value if isinstance(value, str) else id(value), response)
            if key not in known:
                try:
                    turn = read_gold(value, None if response is None else bool(response))
                except ValueError as error:
                    raise RecordError(str(error), row=row, column=name) from None
                known[key] = _without_nulls(turn) if self.drop_null_parameters else turn
            turns.append(known[key])
        return turns


def read_gold(value: Any, response: bool | None = None) -> GoldTurn:
    """A gold turn from a list of calls, the JSON text of one, the text of a turn with tagged blocks, or its messages.

    Args:
        value: of these.
        response: whether the turn speaks to the user; None: as the text or the messages do, and beside a mere list of
            calls where it is empty.

    Raises:
        ValueError: what cannot be read and what would be right.
    """
    if isinstance(value, str):
        text = value.strip()
        if text.startswith("["):
            return read_gold(read_json(text), response)
        said = without_thinking(text)
        if "<tool_call>" not in said and "<response>" not in said and "<think>" not in text:
            raise ValueError("the gold text has no <tool_call>, <response> or <think> block and is no list in JSON")
        calls, problem = read_toolrl_calls(said, ("parameters", "arguments")) if "<tool_call>" in said else ([], None)
        spoken = "<response>" in said
    elif isinstance(value, Sequence) and not isinstance(value, bytes):
        if value and all(isinstance(message, Mapping) and "role" in message for message in value):
            read = read_tool_calls(value)
            calls, problem, spoken = read.calls, read.problem, bool(_response(assistant_text(value)))
        else:
            calls, problem = [_gold_call(index, call) for index, call in enumerate(value)], None
            spoken = not calls
    else:
        hint = "; an empty list says that no call is right" if value is None else ""
        raise ValueError(f"must be a list of calls or the text of a gold turn, not {type(value).__name__}{hint}")
    if problem is not None:
        raise ValueError(f"the gold calls cannot be read: {problem}")
    return GoldTurn(calls, spoken if response is None else response)


def _gold_call(index: int, value: Any) -> ToolCall:
    keys = ("arguments", "parameters")
    if isinstance(value, Mapping) and any(key in value for key in keys):
        # Null arguments are none; a column of structs has both keys, one of them null.
        given = {key: value[key] for key in keys if value.get(key) is not None}
        value = {"name": value.get("name"), **(given or {"parameters": {}})}
    try:
        call = as_call(value)
        return ToolCall(call.name, read_json(json.dumps(call.arguments)))
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"call {index + 1}: {error}") from None


def read_toolrl_calls(
    text: str, keys: Sequence[str] = ("parameters",), known: dict[str, ToolCall] | None = None
) -> tuple[list[ToolCall], str | None]:
    """The calls of the first `<tool_call>` block outside thoughts, one JSON object per line.

    Args:
        text: the whole completion.
        keys: what parameters may be called.
        known: lines read before, and their calls; grows. Completions of one prompt share many lines.

    Returns:
        the calls, and why they cannot be read, or None; there are no calls where they cannot.
    """
    blocks = tagged(without_thinking(text), "tool_call")
    if not blocks:
        return [], "there is no <tool_call> block"
    known = {} if known is None else known
    calls = []
    for number, line in enumerate(blocks[0].split("\n"), 1):
        call = known.get(line)
        if call is None:
            try:
                call = known[line] = _call_of_line(line, keys)
            except ValueError as error:
                return [], f"line {number} of the <tool_call> block: {error}"
        calls.append(call)
    return calls, None


def _call_of_line(line: str, keys: Sequence[str]) -> ToolCall:
    value = read_json(line)
    if not isinstance(value, dict):
        raise ValueError(f"a call must be an object, not {type(value).__name__}")
    key = next((key for key in keys if key in value), keys[0])
    name, arguments = value.get("name"), value.get(key)
    if not isinstance(name, str):
        raise ValueError("the call has no 'name', or one that is no string")
    if not isinstance(arguments, dict):
        raise ValueError(f"the call of {shown(name)} has no object {key!r}")
    return ToolCall(name, arguments)


def format_problem(text: str, calls: bool, response: bool) -> str | None:
    """Which rule of ToolRL's format a completion breaks, or None.

    Args:
        text: the whole completion; blank space around it does not count.
        calls: whether the gold turn makes calls.
        response: whether it speaks to the user.
    """
    text = text.strip()
    if not text.startswith("<think>"):
        return "it does not begin with <think>"
    _, closing, rest = text.partition("</think>")
    if not closing:
        return "<think> is not closed"
    for tag, due in (("tool_call", calls), ("response", response)):
        if due and (rest.count(f"<{tag}>") != 1 or rest.count(f"</{tag}>") != 1):
            return f"there must be one <{tag}> block"
    if not calls and not response:
        return "there is text after </think>" if rest else None
    if calls:
        opening, closing = "\n<tool_call>\n", "\n</tool_call>"
        if not rest.startswith(opening):
            return "<tool_call> on a line of its own must follow </think> on the next line"
        end = rest.find(closing, len(opening))
        if end < 0:
            return "</tool_call> must be on a line of its own, after the calls"
        rest = rest[end + len(closing) :]
        if not response:
            return "there is text after </tool_call>" if rest else None
    if not rest.startswith("\n<response>"):
        return f"<response> must follow {'</tool_call>' if calls else '</think>'} on the next line"
    return None if rest.endswith("</response>") else "there is text after </response>"


def _any_problem(text: str, calls: bool, gold: GoldTurn) -> str | None:
    if "<think>" in text.rpartition("</think>")[2]:
        return "<think> is not closed"
    if calls != bool(gold.calls):
        return "there is a call where none is due" if calls else "there is no call where one is due"
    if gold.response and not _response(text):
        return "there is no response where one is due"
    return None


def _response(text: str) -> str:
    """What is said to the user: thoughts, calls and tags aside."""
    said = without_thinking(text).partition("<|python_tag|>")[0].partition("[TOOL_CALLS]")[0]
    before, *blocks = said.split("<tool_call>")
    said = before + "".join(block.partition("</tool_call>")[2] for block in blocks)
    said = said.replace("<response>", "").replace("</response>", "")
    return "" if read_tool_calls(said).format == "json" else said.strip()


def multiset_jaccard(a: Sequence[str], b: Sequence[str]) -> float:
    """Sum of the smaller counts over |a| + |b| less that sum; 1 where both are empty."""
    if a == b:
        return 1.0
    shared = sum((Counter(a) & Counter(b)).values())
    return shared / (len(a) + len(b) - shared)


def match_calls(gold: list[ToolCall], predicted: list[ToolCall], granularity: Granularity = "default") -> Matching:
    """Match predicted with gold calls and give points (paper 14, section 3.2).

    Names earn the Jaccard index of their multisets. Each gold call in turn takes the unused predicted call of its name
    with the most points, the first of equal ones: the Jaccard index of the parameters' names, and a point for each
    parameter with an equal value. Values are equal as in Python: 1 and 1.0 are, "1" and 1 are not. For the other
    granularities see `ToolCallReward`.
    """
    names, other = [call.name for call in gold], [call.name for call in predicted]
    exact = granularity in ("intermediate", "coarse")
    strict = granularity == "strict"
    most = len(gold) if exact else sum(1 + len(call.arguments) for call in gold)
    pairs: list[int | None] = []
    earned: list[float] = []
    used: set[int] = set()
    for call in gold:
        best, at = 0.0, None
        for index, candidate in enumerate(predicted):
            if candidate.name != call.name or index in used:
                continue
            if exact:
                points = float(candidate.arguments == call.arguments)
            else:
                points = _parameter_points(call.arguments, candidate.arguments, strict)
            if points > best:
                best, at = points, index
                if best >= (1 if exact else 1 + len(call.arguments)):
                    break
        if at is not None:
            used.add(at)
        pairs.append(at)
        earned.append(best)
    if granularity == "coarse":
        return Matching(float(len(used) == len(gold) == len(predicted)), 1.0, pairs, earned, used)
    if gold == predicted:  # also where the parameters of equal calls come in another order
        return Matching(1.0 + most, 1.0 + most, pairs, earned, used)
    by_name = float(names == other) if strict else multiset_jaccard(names, other)
    return Matching(by_name + sum(earned), 1.0 + most, pairs, earned, used)


def _parameter_points(gold: dict[str, Any], predicted: dict[str, Any], strict: bool) -> float:
    shared = gold.keys() & predicted.keys()
    if strict:
        by_name = float(list(gold) == list(predicted))
    else:
        union = len(gold) + len(predicted) - len(shared)
        by_name = len(shared) / union if union else 1.0
    return by_name + sum(predicted[key] == gold[key] for key in shared)


def _explained(gold: ToolCall, predicted: ToolCall | None, at: int | None, points: float) -> dict[str, Any]:
    """What a person wants to know of one gold call."""
    if predicted is None:
        return {"name": gold.name, "matched": None, "points": 0.0}
    found: dict[str, Any] = {"name": gold.name, "matched": at, "points": points}
    if predicted.arguments != gold.arguments:
        found["missing"] = [key for key in gold.arguments if key not in predicted.arguments]
        found["extra"] = _few([key for key in predicted.arguments if key not in gold.arguments])
        found["wrong"] = {
            key: f"{shown(predicted.arguments[key])}, not {shown(value)}"
            for key, value in gold.arguments.items()
            if key in predicted.arguments and predicted.arguments[key] != value
        }
    return found


def _few(names: list[str], limit: int = 20) -> list[str]:
    """A model's own names, shown; a flood of them is counted."""
    more = [f"and {len(names) - limit} more"] if len(names) > limit else []
    return [shown(name).strip('"') for name in names[:limit]] + more


def thought_length(completion: Text, over: float) -> float:
    """min(1, words of the thought / `over`), rounded to 0.01; 0 without a thought."""
    thought = reasoning_text(completion)
    return 0.0 if thought is None else min(1.0, round(len(thought.split()) / over, 2))


def ranges_at(scale: Scale, step: int) -> Ranges:
    """Ranges of format and correctness at a training step (paper 14, section 5 and its appendix).

    `two-stage`: correctness a third before step 30; format half from then on. `smooth`, over 150 steps: both begin at
    [-2, 2]; format ends at [-1, 1], its lower end at step 75, and correctness at [-3, 3].
    """
    if scale == "equal":
        return Ranges((0.0, 1.0), (-1.0, 1.0))
    if scale == "two-stage":
        return Ranges((0.0, 1.0), (-1.0, 1.0)) if step < 30 else Ranges((0.0, 0.5), (-3.0, 3.0))
    if scale == "smooth":
        share = step / 150
        high = min(3.0, 2.0 + share)
        return Ranges((min(-1.0, -2.0 + 2 * share), max(1.0, 2.0 - share)), (-high, high))
    return Ranges((0.0, 1.0), (-3.0, 3.0))


def _without_nulls(turn: GoldTurn) -> GoldTurn:
    calls = [
        ToolCall(call.name, {key: value for key, value in call.arguments.items() if value is not None})
        for call in turn.calls
    ]
    return GoldTurn(calls, turn.response)
