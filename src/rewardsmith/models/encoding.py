"""Text to token ids, once per row, equal to what a plain transformers or TRL user gets for the same text.

Plain rows are prompt + completion with the tokenizer's own special tokens and, where the tokenizer does not close a
text itself, its EOS (TRL's habit). Conversational rows go through the chat template, which brings all special tokens.
A row that is too long loses the start of its prompt, never any of its completion.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Sequence
from typing import NamedTuple

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from rewardsmith.data.records import Message, Text, as_messages, as_text, content_text, is_conversational, text_key
from rewardsmith.models.backbones import Encoded
from rewardsmith.models.layout import common_prefix
from rewardsmith.reward import Failure

EMPTY = Failure("empty", "the completion has no text of its own to score")


class TokenRow(NamedTuple):
    """One tokenized row.

    Attributes:
        ids: (T,) token ids of prompt and completion, special tokens included.
        completion_start: index of the first token that belongs to the completion (a token across the seam counts).
        cut: prompt tokens that were cut from the left to fit `max_length`.
    """

    ids: list[int]
    completion_start: int
    cut: int = 0


class TextEncoder:
    """Tokenizes rows of (prompt, completion).

    A tokenizer without a chat template gets `default_template`, so that it is saved with the model.

    Args:
        tokenizer: a transformers tokenizer.
        max_length: longest row in tokens.
        ignored_tail: id of a token that the model does not see at the end of a row. Hugging Face's decoder classifiers
            read the last token that is not padding, so where pad = eos they never read a final EOS; neither do we.

    Attributes:
        lead: ids that the tokenizer puts before a plain text (BOS, [CLS]).
        tail: ids that it puts after one ([SEP], EOS).
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, *, max_length: int, ignored_tail: int | None = None) -> None:
        self.tokenizer, self.max_length, self.ignored_tail = tokenizer, max_length, ignored_tail
        self.lead, self.tail = added_special_ids(tokenizer)
        self._lead_text = "".join(tokenizer.convert_ids_to_tokens(self.lead))
        # Where the tokenizer closes a text itself (BERT, T5), a further EOS would be a second one.
        self._close = "" if self.tail else (tokenizer.eos_token or "")
        if tokenizer.chat_template is None:
            tokenizer.chat_template = default_template(tokenizer)
        check_template(tokenizer)

    @property
    def template_hash(self) -> str:
        """First 16 hex digits of the SHA-256 of the chat template."""
        template = self.tokenizer.chat_template
        text = template if isinstance(template, str) else json.dumps(template, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def encode(self, prompts: Sequence[Text], completions: Sequence[Text]) -> Encoded:
        """Tokenize N rows into `TokenRow`s; a row that cannot be scored is None, with a `Failure` that says why.

        Failures: `too_long` (the completion alone exceeds `max_length`), `empty` (the completion has nothing but white
        space, or leaves no token of its own), `error` (the chat template refused the messages).

        Raises:
            ValueError: where prompts and completions differ in number.
        """
        if len(prompts) != len(completions):
            raise ValueError(f"{len(prompts)} prompts but {len(completions)} completions")
        texts: dict[int, str] = {}  # of rows that can be rendered
        seams = [0] * len(prompts)  # character at which the completion begins
        failures: dict[int, Failure] = {}
        chat = [is_conversational(p) or is_conversational(c) for p, c in zip(prompts, completions)]
        rendered_prompts: dict[str, str] = {}
        for row, (prompt, completion) in enumerate(zip(prompts, completions)):
            if _is_empty(completion):
                failures[row] = EMPTY
                continue
            if not chat[row]:
                texts[row], seams[row] = self._plain(as_text(prompt), as_text(completion))
                continue
            try:
                texts[row], seams[row] = self._conversation(prompt, completion, rendered_prompts)
            except (TemplateError, TypeError, ValueError, KeyError) as error:
                failures[row] = Failure("error", f"the chat template cannot take this row: {error}")

        items: list[TokenRow | None] = [None] * len(prompts)
        truncated = []
        for special in (False, True):  # a chat template brings its own special tokens
            rows = [i for i in texts if chat[i] is not special]
            for row, ids, start in self._tokenize([texts[i] for i in rows], [seams[i] for i in rows], rows, special):
                item = self._fit(ids, start)
                if isinstance(item, Failure):
                    failures[row] = item
                    continue
                items[row] = item
                if item.cut:
                    truncated.append(row)
        lengths = [0 if item is None else len(item.ids) for item in items]
        return Encoded(items, lengths, failures, sorted(truncated))

    def _plain(self, prompt: str, completion: str) -> tuple[str, int]:
        while self._lead_text and prompt.startswith(self._lead_text):
            prompt = prompt.removeprefix(self._lead_text)  # the tokenizer adds it: one BOS, not two
        if self._lead_text and not prompt:
            while completion.startswith(self._lead_text):
                completion = completion.removeprefix(self._lead_text)
        text = prompt + completion
        if self._close and not text.endswith(self._close):
            text += self._close
        return text, len(prompt)

    def _conversation(self, prompt: Text, completion: Text, rendered: dict[str, str]) -> tuple[str, int]:
        before = [_flat(message) for message in as_messages(prompt, "user")] if prompt else []
        after = [_flat(message) for message in as_messages(completion, "assistant")] if completion is not None else []
        full = _render(self.tokenizer, before + after, False)
        if not before:
            return full, 0
        key = text_key(prompt)
        if key not in rendered:
            asks = before[-1]["role"] != "assistant"
            rendered[key] = _render(self.tokenizer, before, asks)
        return full, common_prefix([rendered[key], full])

    def _tokenize(
        self, texts: list[str], seams: list[int], rows: list[int], special: bool
    ) -> list[tuple[int, list[int], int]]:
        """(row, ids, index of the first completion token) of each text."""
        if not texts:
            return []
        fast = self.tokenizer.is_fast
        batch = self.tokenizer(
            texts, add_special_tokens=special, return_offsets_mapping=fast, return_attention_mask=False, verbose=False
        )
        lead, tail = (len(self.lead), len(self.tail)) if special else (0, 0)
        out = []
        for i, (row, ids, seam) in enumerate(zip(rows, batch["input_ids"], seams)):
            end = len(ids) - tail
            if fast:
                offsets = batch["offset_mapping"][i]
                start = next((t for t in range(lead, end) if offsets[t][1] > seam), end)
            else:
                known = self.tokenizer(texts[i][:seam], add_special_tokens=special, verbose=False)["input_ids"]
                start = min(common_prefix([known, ids]), end)
            out.append((row, ids, start))
        return out

    def _fit(self, ids: list[int], start: int) -> TokenRow | Failure:
        """Cut the prompt from the left until the row fits."""
        end = len(ids)
        while end > 1 and ids[end - 1] == self.ignored_tail:
            end -= 1
        ids = ids[:end]
        if start >= end:
            return EMPTY
        keep = len(self.lead) if ids[: len(self.lead)] == self.lead else 0
        keep = min(keep, start)
        excess = max(end - self.max_length, 0)
        if excess > start - keep:
            own = end - start
            return Failure(
                "too_long",
                f"the completion has {own} tokens, with {keep} to keep before it; max_length is {self.max_length}",
            )
        return TokenRow(ids[:keep] + ids[keep + excess :], start - excess, excess)


def _is_empty(completion: Text | None) -> bool:
    """Whether there is nothing to score: no text but white space, and no message that says something else (a call)."""
    if completion is None or isinstance(completion, str):
        return not (completion or "").strip()
    said = (
        m.get("content") if isinstance(m.get("content"), list) else content_text(m.get("content")).strip()
        for m in completion
    )
    return not any(said) and all(
        not value for m in completion for key, value in m.items() if key not in ("role", "content", "name")
    )


def _render(tokenizer: PreTrainedTokenizerBase, messages: list[Message], add_generation_prompt: bool) -> str:
    return tokenizer.apply_chat_template(  # type: ignore[return-value]
        messages,  # type: ignore[arg-type]
        tokenize=False,
        add_generation_prompt=add_generation_prompt,
    )


def _flat(message: Message) -> Message:
    """A message with its text parts joined: templates of text models want a string."""
    content = message.get("content")
    if content is None or isinstance(content, str):
        return message
    other = sorted({part.get("type", "text") for part in content} - {"text"})
    if other:
        raise ValueError(f"content parts of type {', '.join(other)} need a backbone that reads them, not a text model")
    return {**message, "content": content_text(content)}


def added_special_ids(tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
    """The ids that a tokenizer puts before and after a text with `add_special_tokens=True`."""
    bare = tokenizer("a", add_special_tokens=False)["input_ids"]
    full = tokenizer("a", add_special_tokens=True)["input_ids"]
    for start in range(len(full) - len(bare) + 1):
        if full[start : start + len(bare)] == bare:
            return full[:start], full[start + len(bare) :]
    raise ValueError(f"the tokenizer changes a text when it adds special tokens: {bare} becomes {full}")


def default_template(tokenizer: PreTrainedTokenizerBase) -> str:
    r"""The chat template of a tokenizer that has none: `role:\ncontent`, messages parted by a blank line.

    It brings the special tokens that the tokenizer puts around a plain text, and EOS after a final assistant message.
    """
    lead, tail = added_special_ids(tokenizer)
    opening = json.dumps("".join(tokenizer.convert_ids_to_tokens(lead)))
    closing = json.dumps("".join(tokenizer.convert_ids_to_tokens(tail)) or tokenizer.eos_token or "")
    return (
        "{{ " + opening + " }}{% for message in messages %}{{ '\\n\\n' if not loop.first }}"
        "{{ message['role'] + ':\\n' + (message['content'] or '') }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '\\n\\n' if messages }}{{ 'assistant:\\n' }}"
        "{% else %}{{ " + closing + " }}{% endif %}"
    )


def check_template(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the tokens of a prompt, ready for an answer, are the first tokens of prompt and answer, with one BOS.

    Where they are not, what was generated in training differs from what is scored: warns, with the tokens shown.
    """
    prompt: list[Message] = [{"role": "user", "content": "Name a color."}]
    answer: list[Message] = [{"role": "assistant", "content": "Blue."}]

    def ids(messages: list[Message], ask: bool) -> list[int]:
        return tokenizer(_render(tokenizer, messages, ask), add_special_tokens=False)["input_ids"]

    try:
        before, full = ids(prompt, True), ids(prompt + answer, False)
    except TemplateError as error:
        warnings.warn(f"the chat template refuses a question and an answer: {error}", stacklevel=3)
        return False
    shown = tokenizer.convert_ids_to_tokens
    if full[: len(before)] != before:
        warnings.warn(
            "the chat template does not round-trip: the prompt with its generation prompt is not the start of the "
            f"conversation.\n  prompt:       {shown(before)}\n  conversation: {shown(full)}",
            stacklevel=3,
        )
        return False
    bos = tokenizer.bos_token_id
    if bos is not None and bos != tokenizer.eos_token_id and full[:2] == [bos, bos]:
        warnings.warn(f"the chat template gives two BOS tokens: {shown(full)}", stacklevel=3)
        return False
    return True
