"""A local transformers model that answers prompts: n samples each, and what prompts share encoded once.

The n samples of a prompt share its encoding, and prompts of a batch that begin alike (a judge's long instruction) share
the encoding of that beginning. Both are copies of a key-value cache, so the tokens are those of separate prompts.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from rewardsmith.chat.protocol import Answer, ChatModel, TokenLogprob, check_sampling
from rewardsmith.data.records import Text, as_messages, is_conversational

SHORTEST_PREFIX = 8  # tokens; for fewer a pass of their own does not pay
SORTED = 8  # batches of prompts that are put in order of length together


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
            "modified": _modified(self.name),
            "parameters": sum(p.numel() for p in self.model.parameters()),
            "dtype": str(self.model.dtype),
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
        """See `ChatModel`. A prompt's samples depend on the seed and on what else is in its batch."""
        check_sampling(n, max_new_tokens, temperature, top_p)
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
        for start in range(0, len(prompts), window):
            began = time.perf_counter()
            ids = [self._ids(prompt) for prompt in prompts[start : start + window]]
            order = sorted(range(len(ids)), key=lambda row: len(ids[row]))
            answers: list[list[Answer]] = [[] for _ in ids]
            for at in range(0, len(order), self.batch_size):
                rows = order[at : at + self.batch_size]
                torch.manual_seed(seed + start + at)
                for row, group in zip(rows, self._sample([ids[row] for row in rows], n, options, stop, logprobs)):
                    answers[row] = group
            self.usage.seconds += time.perf_counter() - began
            yield from answers

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
        width = tokens.shape[1]
        tokens, mask = tokens.repeat_interleave(n, dim=0), mask.repeat_interleave(n, dim=0)
        out = self.model.generate(
            tokens,
            attention_mask=mask,
            pad_token_id=self.tokenizer.pad_token_id,
            return_dict_in_generate=True,
            output_logits=logprobs > 0,
            **inputs,
            **options,
        )
        answers = self._answers(out.sequences[:, width:], out.logits if logprobs else None, stop, logprobs)
        self.usage.requests += len(ids)
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

    def _answers(
        self, ids: torch.Tensor, logits: tuple[torch.Tensor, ...] | None, stop: list[str], logprobs: int
    ) -> list[Answer]:
        ends: Any = self.model.generation_config.eos_token_id
        ends = set(ends if isinstance(ends, list) else [ends])
        tables = None if logits is None else torch.stack([torch.log_softmax(x.float(), -1) for x in logits], dim=1)
        texts = self.tokenizer.batch_decode(ids, skip_special_tokens=True)
        answers = []
        for row, (text, own) in enumerate(zip(texts, ids.tolist())):
            length = next((at + 1 for at, token in enumerate(own) if token in ends), len(own))
            found = [at for word in stop if (at := text.find(word)) >= 0]
            # A row that ended before the others is padded after its stop text, too.
            reason = "stop" if found or (own and own[length - 1] in ends) else "length"
            self.usage.completion_tokens += length
            logged = None if tables is None else self._logprobs(own[:length], tables[row], logprobs)
            answers.append(Answer(text[: min(found)] if found else text, reason, logged))
        return answers

    def _logprobs(self, own: list[int], table: torch.Tensor, count: int) -> tuple[TokenLogprob, ...]:
        values, likely = table[: len(own)].topk(count, dim=-1)
        name: Any = self.tokenizer.decode
        return tuple(
            TokenLogprob(
                name([token]),
                float(table[at, token]),
                tuple((name([top]), value) for top, value in zip(*tops)),
            )
            for at, (token, tops) in enumerate(zip(own, zip(likely.tolist(), values.tolist())))
        )

    def _ids(self, prompt: Text) -> list[int]:
        if not is_conversational(prompt):
            ids = self.tokenizer(prompt)["input_ids"]
            return ids[:-1] if len(ids) > 1 and ids[-1] == self.tokenizer.eos_token_id else ids
        text = self.tokenizer.apply_chat_template(
            [dict(message) for message in as_messages(prompt, "user")], tokenize=False, add_generation_prompt=True
        )
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]


def _common_prefix(rows: list[list[int]]) -> int:
    """How many tokens all rows begin with, leaving each at least one of its own; 0 where too few for a pass."""
    if len(rows) < 2:
        return 0
    low, high = min(rows), max(rows)
    shortest = min(map(len, rows)) - 1
    same = next((at for at, (a, b) in enumerate(zip(low, high)) if a != b), shortest)
    same = min(same, shortest)
    return same if same >= SHORTEST_PREFIX else 0


def _modified(path: str) -> int | None:
    """When a local folder's weights were last written, so that a model trained anew is another one."""
    if not os.path.isdir(path):
        return None
    with os.scandir(path) as files:
        return max((file.stat().st_mtime_ns for file in files if file.is_file()), default=0)
