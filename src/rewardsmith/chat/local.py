"""A local transformers model that answers prompts: n samples each, and what prompts share encoded once.

The n samples of a prompt share its encoding, and prompts of a batch that begin alike (a judge's long instruction) share
the encoding of that beginning. Both are copies of a key-value cache, so the tokens are those of separate prompts.
"""

from __future__ import annotations

import bisect
import hashlib
import time
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from rewardsmith.chat.protocol import Answer, ChatModel, TokenLogprob, check_sampling
from rewardsmith.data.records import Text, as_messages, is_conversational

SHORTEST_PREFIX = 8  # tokens; for fewer a pass of their own does not pay
SORTED = 8  # batches of prompts that are put in order of length together
INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # by bytes


class LocalModel(ChatModel):
    """A causal language model and its tokenizer.

    Args:
        model: the model, in evaluation mode on the device where it shall run.
        tokenizer: its tokenizer. Conversational prompts need its chat template; plain ones are continued as they are.
        name: id or path, for reports.
        batch_size: prompts at a time; n times as many rows are decoded together.
    """

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, name: str = "model", *, batch_size: int = 8
    ) -> None:
        super().__init__()
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        self.model, self.tokenizer, self.name, self.batch_size = model.eval(), tokenizer, name, batch_size
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token

    @classmethod
    def from_pretrained(
        cls,
        name: str,
        *,
        dtype: str | None = None,
        revision: str | None = None,
        trust_remote_code: bool = False,
        batch_size: int = 8,
    ) -> LocalModel:
        """Load by hub id or path, onto the GPU where there is one.

        Raises:
            ValueError: where there is no causal language model under that name.
        """
        options: dict[str, Any] = {"revision": revision or "main", "trust_remote_code": trust_remote_code}
        try:
            tokenizer = AutoTokenizer.from_pretrained(name, **options)
            model: Any = AutoModelForCausalLM.from_pretrained(name, dtype=dtype or "auto", **options)
        except (OSError, ValueError) as error:
            raise ValueError(f"no causal language model at {name!r}: {error}") from error
        return cls(model.to("cuda" if torch.cuda.is_available() else "cpu"), tokenizer, name, batch_size=batch_size)

    def fingerprint(self) -> dict[str, Any]:
        config = self.model.config
        return {
            "model": self.name,
            "revision": getattr(config, "_commit_hash", None),
            "weights": _digest(self.model),
            "dtype": str(self.model.dtype),
            "defaults": self.model.generation_config.to_diff_dict(),  # a repetition penalty, for instance
            "template": self.tokenizer.chat_template,
            "batch_size": self.batch_size,
        }

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
        """See `ChatModel`. A prompt's samples depend on the seed and on what else is in its batch.

        Log-probabilities are those before temperature and top_p. A prompt that its template refuses, or that leaves no
        room for `max_new_tokens` in the model's context, gets answers with an error.

        Raises:
            ValueError: also where there are messages and the tokenizer has no chat template.
        """
        check_sampling(n, max_new_tokens, temperature, top_p)
        if self.tokenizer.chat_template is None and any(is_conversational(prompt) for prompt in prompts):
            raise ValueError(f"the tokenizer of {self.name!r} has no chat template: give plain texts, or set one")
        options: dict[str, Any] = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
        if temperature > 0:
            options = {"do_sample": True, "temperature": temperature, "top_p": top_p, "top_k": 0}
        if stop:
            options |= {"stop_strings": list(stop), "tokenizer": self.tokenizer}
        options["max_new_tokens"] = max_new_tokens
        return self._in_order(list(prompts), n, options, list(stop), seed, logprobs)

    def _in_order(
        self, prompts: list[Text], n: int, options: dict[str, Any], stop: list[str], seed: int, logprobs: int
    ) -> Iterator[list[Answer]]:
        """Prompts of similar length go through the model together; answers come in the order of the prompts."""
        window = SORTED * self.batch_size
        devices = range(torch.cuda.device_count())
        for start in range(0, len(prompts), window):
            began = time.perf_counter()
            answers: list[list[Answer]] = []
            ids: dict[int, list[int]] = {}
            for row, prompt in enumerate(prompts[start : start + window]):
                try:
                    ids[row] = self._checked(self.encode(prompt), options["max_new_tokens"])
                    answers.append([])
                except Exception as error:  # a template raises what it likes, about this one prompt
                    answers.append([Answer("", "error", error=f"{type(error).__name__}: {error}")] * n)
                    self.usage.failed += n
            order = sorted(ids, key=lambda row: len(ids[row]))
            for at in range(0, len(order), self.batch_size):
                rows = order[at : at + self.batch_size]
                with torch.random.fork_rng(devices=devices):  # the caller's random numbers stay as they are
                    torch.manual_seed(seed + start + at)
                    groups = self._sample([ids[row] for row in rows], n, options, stop, logprobs)
                for row, group in zip(rows, groups):
                    answers[row] = group
            self.usage.requests += len(answers)
            self.usage.seconds += time.perf_counter() - began
            yield from answers

    def _checked(self, ids: list[int], max_new_tokens: int) -> list[int]:
        room = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        if not ids:
            raise ValueError("the prompt has no tokens")
        if room is not None and len(ids) + max_new_tokens > room:
            raise ValueError(
                f"the prompt has {len(ids)} tokens, which with max_new_tokens = {max_new_tokens} is more than the "
                f"{room} of the model's context"
            )
        return ids

    @torch.inference_mode()
    def _sample(
        self, ids: list[list[int]], n: int, options: dict[str, Any], stop: list[str], logprobs: int
    ) -> list[list[Answer]]:
        prefix = _common_prefix(ids)
        tails = [row[prefix:] for row in ids]
        batch = self.tokenizer.pad({"input_ids": tails}, padding_side="left", return_tensors="pt").to(self.model.device)
        shared = torch.tensor([ids[0][:prefix]], dtype=torch.long, device=self.model.device)
        # Where rows differ in length the padding stands between the beginning that they share and their own tokens.
        tokens = torch.cat([shared.expand(len(ids), -1), batch["input_ids"]], dim=1)
        mask = torch.cat([torch.ones_like(shared).expand(len(ids), -1), batch["attention_mask"]], dim=1)
        inputs: dict[str, Any] = {}
        if tokens.shape[1] > 1 and (n > 1 or prefix):
            inputs["past_key_values"] = self._encode(shared, tokens, mask, n)
        recorder = _Recorder(logprobs) if logprobs else None
        if recorder is not None:
            inputs["logits_processor"] = LogitsProcessorList([recorder])
        width = tokens.shape[1]
        tokens, mask = tokens.repeat_interleave(n, dim=0), mask.repeat_interleave(n, dim=0)
        out = self.model.generate(
            tokens,
            attention_mask=mask,
            pad_token_id=self.tokenizer.pad_token_id,
            **inputs,
            **options,
        )
        if recorder is not None:
            recorder.take(out[:, -1])
        answers = self._answers(out[:, width:], recorder, stop)
        self.usage.answers += len(answers)
        self.usage.prompt_tokens += sum(map(len, ids))
        return [answers[at : at + n] for at in range(0, len(answers), n)]

    def _encode(self, shared: torch.Tensor, tokens: torch.Tensor, mask: torch.Tensor, n: int) -> Any:
        """The cache of all but the last token, for n rows of each prompt: the shared beginning is computed once."""
        rows, prefix = len(tokens), shared.shape[1]
        cache = None
        if prefix:
            cache = self.model(shared, use_cache=True, logits_to_keep=1).past_key_values
            if rows > 1:
                cache.batch_repeat_interleave(rows)
        if tokens.shape[1] - 1 > prefix:
            positions = (mask.cumsum(-1) - 1).clamp_min(0)
            cache = self.model(
                tokens[:, prefix:-1],
                attention_mask=mask[:, :-1],
                position_ids=positions[:, prefix:-1],
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            ).past_key_values
        if n > 1:
            cache.batch_repeat_interleave(n)  # type: ignore[union-attr]
        return cache

    def _answers(self, ids: torch.Tensor, recorder: _Recorder | None, stop: list[str]) -> list[Answer]:
        ends: Any = self.model.generation_config.eos_token_id
        ends = set(ends if isinstance(ends, list) else [ends])
        answers = []
        for row, own in enumerate(ids.tolist()):
            length = next((at + 1 for at, token in enumerate(own) if token in ends), len(own))
            text = self._text(own[:length])
            found = [at for word in stop if (at := text.find(word)) >= 0]
            if found:  # what follows the stop text is padding, up to the longest row
                length = 1 + bisect.bisect_left(
                    range(1, length), True, key=lambda end: any(word in self._text(own[:end]) for word in stop)
                )
            reason = "stop" if found or own[length - 1] in ends else "length"
            self.usage.completion_tokens += length
            logged = None if recorder is None else self._logprobs(own[:length], row, recorder)
            answers.append(Answer(text[: min(found)] if found else text, reason, logged))
        return answers

    def _text(self, ids: list[int]) -> str:
        text: Any = self.tokenizer.decode(ids, skip_special_tokens=True)
        return text

    def _logprobs(self, own: list[int], row: int, recorder: _Recorder) -> tuple[TokenLogprob, ...]:
        name: Any = self.tokenizer.decode
        taken, likely, values = ([step[row].tolist() for step in steps] for steps in zip(*recorder.steps))
        return tuple(
            TokenLogprob(
                name([token]), taken[at], tuple((name([top]), value) for top, value in zip(likely[at], values[at]))
            )
            for at, token in enumerate(own)
        )

    def encode(self, prompt: Text) -> list[int]:
        """Token ids of a prompt as the model reads it: messages through the chat template, a plain text as it is."""
        if not is_conversational(prompt):
            ids = self.tokenizer(prompt)["input_ids"]
            return ids[:-1] if len(ids) > 1 and ids[-1] == self.tokenizer.eos_token_id else ids
        text = self.tokenizer.apply_chat_template(
            [dict(message) for message in as_messages(prompt, "user")], tokenize=False, add_generation_prompt=True
        )
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]


class _Recorder(LogitsProcessor):
    """Keeps the log-probabilities of the tokens that were taken and of the likeliest, not those of all words."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.steps: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []  # taken (R,), likely and values (R, k)
        self._last: torch.Tensor | None = None

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self.take(input_ids[:, -1])
        self._last = torch.log_softmax(scores.float(), dim=-1)
        return scores

    def take(self, chosen: torch.Tensor) -> None:
        """Say which token (R,) of each row followed; before the first there is nothing to keep."""
        if self._last is not None:
            values, likely = self._last.topk(min(self.count, self._last.shape[-1]), dim=-1)
            self.steps.append((self._last.gather(1, chosen[:, None])[:, 0].cpu(), likely.cpu(), values.cpu()))
            self._last = None


def _common_prefix(rows: list[list[int]]) -> int:
    """How many tokens all rows begin with, leaving each at least one of its own; 0 where too few for a pass."""
    if len(rows) < 2:
        return 0
    low, high = min(rows), max(rows)
    shortest = min(map(len, rows)) - 1
    same = next((at for at, (a, b) in enumerate(zip(low, high)) if a != b), shortest)
    same = min(same, shortest)
    return same if same >= SHORTEST_PREFIX else 0


def _digest(model: PreTrainedModel) -> str:
    """Of all weights, so that a model that was trained on is another one. Sums of bits are exact in any order."""
    digest = hashlib.sha256()
    for name, weight in model.named_parameters():
        bits = None
        if not weight.is_meta:  # kept elsewhere, by an offloading hook
            bits = int(weight.detach().contiguous().view(INTEGERS[weight.element_size()]).sum(dtype=torch.int64))
        digest.update(f"{name} {tuple(weight.shape)} {bits}\n".encode())
    return digest.hexdigest()
