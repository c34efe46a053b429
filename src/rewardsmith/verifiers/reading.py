"""What a completion says, whatever format it came in: its text, its tagged blocks, its tool calls.

Completions are what a model wrote, so nothing here raises on them: what cannot be read is named in `problem`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

from rewardsmith.data.records import Text

# Deeper values are no arguments of any tool, and comparing them could exhaust Python's stack.
MAX_DEPTH = 100
# After one of these a model writes its calls as JSON (Llama 3.1 and later, Mistral).
_MARKERS = ("<|python_tag|>", "[TOOL_CALLS]")
_ENDS = ("<|eom_id|>", "<|eot_id|>", "<|im_end|>", "</s>")


@dataclass(frozen=True)
class ToolCall:
    """One call of a tool.

    Attributes:
        name: of the tool.
        arguments: by name; JSON values.
    """

    name: str
    arguments: dict[str, Any]


@dataclass(frozen=True)
class ToolCalls:
    """The calls in a completion.

    Attributes:
        calls: in the order of writing; those read before a problem came up are kept.
        problem: why the calls could not be read in full, in one line; None where they could, or where there are none.
        format: `openai` (messages with `tool_calls`), `tags` (`<tool_call>` blocks: Hermes, Qwen, ToolRL), `marker`
            (JSON after `<|python_tag|>` or `[TOOL_CALLS]`), `json` (the completion is nothing else), or `none`.
    """

    calls: list[ToolCall] = field(default_factory=list)
    problem: str | None = None
    format: str = "none"


def assistant_text(completion: Text | None) -> str:
    """The text that the assistant wrote: a plain completion itself, or the contents of the assistant's messages.

    Messages without a role count as the assistant's. Contents are joined by blank lines, parts that are no text (and
    contents that are None) are left out.
    """
    if isinstance(completion, str):
        return completion
    return "\n\n".join(text for message in _assistant(completion) if (text := _content(message.get("content"))))


def reasoning_text(completion: Text | None) -> str | None:
    """What the assistant thought: the first `<think>` block, or the messages' `reasoning_content`; None without any."""
    blocks = tagged(assistant_text(completion), "think")
    if blocks:
        return blocks[0]
    if isinstance(completion, str):
        return None
    thoughts = [message.get(key) for message in _assistant(completion) for key in ("reasoning_content", "thinking")]
    found = [thought for thought in thoughts if isinstance(thought, str)]
    return "\n\n".join(found) if found else None


def without_thinking(text: str) -> str:
    """`text` without its `<think>` blocks: what the assistant said, where a thought may have mentioned tags.

    Where the first block is closed but not opened (templates that open it in the prompt), all before its end goes. A
    block that is never closed stays.
    """
    if "</think>" not in text:
        return text
    first, *others, last = text.split("</think>")
    kept = [first.partition("<think>")[0] if "<think>" in first else ""]
    kept += [segment.partition("<think>")[0] for segment in others]
    return "".join(kept) + last


def tagged(text: str, tag: str) -> list[str]:
    """The contents of all `<tag>...</tag>` blocks, in order and trimmed. A block that is never closed is none."""
    opening, closing = f"<{tag}>", f"</{tag}>"
    blocks: list[str] = []
    start = text.find(opening)
    while start >= 0:
        start += len(opening)
        end = text.find(closing, start)
        if end < 0:
            break
        blocks.append(text[start:end].strip())
        start = text.find(opening, end + len(closing))
    return blocks


def read_json(text: str) -> Any:
    """Strict JSON: NaN and Infinity are none, of equal keys the last one counts, nested at most `MAX_DEPTH` deep.

    Raises:
        ValueError: in one line, why `text` is none.
    """
    text = text.strip()
    value, end = _decoded(text, 0)
    if end < len(text):
        raise ValueError(f"there is more after the JSON value: {shown(text[end:], 20)}")
    return value


def as_call(value: Any, keys: Sequence[str] = ("arguments", "parameters")) -> ToolCall:
    """A call from an object with `name` and one of `keys`; OpenAI's `{"type", "function": {...}}` is understood.

    Arguments may be an object or the JSON text of one; nothing (None or "") stands for no arguments in OpenAI's form.

    Raises:
        ValueError: in one line, what is wrong with it.
    """
    if not isinstance(value, Mapping):
        raise ValueError(f"a call must be an object, not {type(value).__name__}")
    function = value.get("function")
    if isinstance(function, Mapping):
        value = function
    name = value.get("name")
    if not isinstance(name, str):
        raise ValueError("the call has no 'name'" if name is None else "the call's 'name' is no string")
    for key in keys:
        if key in value:
            arguments = value[key]
            break
    else:
        raise ValueError(f"the call of {shown(name)} has no {' or '.join(map(repr, keys))}")
    if isinstance(arguments, str):
        try:
            arguments = read_json(arguments) if arguments.strip() else {}
        except ValueError as error:
            raise ValueError(f"the arguments of {shown(name)} are no JSON: {error}") from None
    elif arguments is None and isinstance(function, Mapping):
        arguments = {}
    if not isinstance(arguments, Mapping):
        raise ValueError(f"the arguments of {shown(name)} are no object but {type(arguments).__name__}")
    return ToolCall(name, dict(arguments))


def read_tool_calls(completion: Text | None) -> ToolCalls:
    """The tool calls of a completion in any of the field's formats; what is in a `<think>` block is no call.

    Understood are messages with OpenAI's `tool_calls` (of all assistant messages, in order); `<tool_call>` blocks with
    one call, a list, or one call per line; JSON after `<|python_tag|>` or `[TOOL_CALLS]`, several separated by `;` or
    newlines; and a completion that, thinking aside, is nothing but a JSON call or list of calls.
    """
    if not isinstance(completion, str):
        raw = [message["tool_calls"] for message in _assistant(completion) if message.get("tool_calls")]
        if raw:
            return _from_messages(raw)
    text = without_thinking(assistant_text(completion))
    if "<tool_call>" in text:
        blocks = tagged(text, "tool_call")
        missing = None if text.count("<tool_call>") == len(blocks) else "a <tool_call> block is not closed"
        return _from_blocks(blocks, "tags", missing)
    for marker in _MARKERS:
        if marker in text:
            block = text.split(marker, 1)[1]
            for end in _ENDS:
                block = block.split(end, 1)[0]
            return _from_blocks([block.replace(marker, "\n").strip()], "marker", None)
    rest = text.strip()
    # Prose may begin with a bracket, and an answer may be JSON: only what has a call's keys is meant as one.
    if rest[:1] in ("{", "[") and '"name"' in rest and ('"arguments"' in rest or '"parameters"' in rest):
        return _from_blocks([rest], "json", None)
    return ToolCalls()


def shown(value: Any, limit: int = 80) -> str:
    """A value for a message: JSON where it is such, cut to `limit` characters, safe to write as UTF-8."""
    try:
        text = json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):
        text = f"<{type(value).__name__}>"
    text = text if len(text) <= limit else text[: limit - 1] + "…"
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")


_DECODER = json.JSONDecoder(parse_constant=_refuse)


def _deeper(value: Any, limit: int) -> bool:
    level = [value]
    for _ in range(limit + 1):
        level = [inner for inner in level if isinstance(inner, dict | list)]
        if not level:
            return False
        level = [inner for outer in level for inner in (outer.values() if isinstance(outer, dict) else outer)]
    return True


def _assistant(completion: Any) -> list[Mapping[str, Any]]:
    if isinstance(completion, Mapping):
        completion = [completion]
    if not isinstance(completion, Sequence):
        return []
    return [m for m in completion if isinstance(m, Mapping) and m.get("role", "assistant") == "assistant"]


def _content(content: Any) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, Sequence):
        return ""
    texts = [part.get("text") for part in content if isinstance(part, Mapping) and part.get("type", "text") == "text"]
    return "".join(text for text in texts if isinstance(text, str))


def _from_messages(raw: list[Any]) -> ToolCalls:
    calls: list[ToolCall] = []
    for listed in raw:
        if isinstance(listed, str) or not isinstance(listed, Sequence):
            return ToolCalls(calls, f"'tool_calls' is no list but {type(listed).__name__}", "openai")
        for value in listed:
            try:
                call = as_call(value)
                # Through JSON and back: what no JSON can hold is no argument, and values compare as JSON does.
                calls.append(ToolCall(call.name, read_json(json.dumps(call.arguments))))
            except (TypeError, ValueError, RecursionError) as error:
                return ToolCalls(calls, _problem(len(calls), error), "openai")
    return ToolCalls(calls, None, "openai")


def _from_blocks(blocks: list[str], format: str, problem: str | None) -> ToolCalls:
    calls: list[ToolCall] = []
    for block in blocks:
        try:
            for value in _values(block):
                calls.append(as_call(value))
        except ValueError as error:
            return ToolCalls(calls, _problem(len(calls), error), format)
    return ToolCalls(calls, problem, format)


def _values(block: str) -> Iterator[Any]:
    """The JSON values of a block, one after another; of a list, its members."""
    at = 0
    while at < len(block):
        if block[at] in " \t\r\n;":
            at += 1
            continue
        value, at = _decoded(block, at)
        yield from value if isinstance(value, list) else [value]
    if not block:
        raise ValueError("there is nothing in the block")


def _decoded(text: str, at: int) -> tuple[Any, int]:
    try:
        value, end = _DECODER.raw_decode(text, at)
    except RecursionError:
        raise ValueError(f"nested more than {MAX_DEPTH} deep") from None
    # Each level takes a bracket: few brackets need no walk.
    if text.count("[", at, end) + text.count("{", at, end) > MAX_DEPTH and _deeper(value, MAX_DEPTH):
        raise ValueError(f"nested more than {MAX_DEPTH} deep")
    return value, end


def _problem(index: int, error: BaseException) -> str:
    return f"call {index + 1}: {' '.join(str(error).split())}"[:300]
