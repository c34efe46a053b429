"""A local transformers model that answers prompts: n samples each, with every prompt encoded once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from rewardsmith.data.records import Text, as_messages, is_conversational


class LocalModel:
    """A causal language model and its tokenizer.

    Args:
        model: the model, in evaluation mode on the device where it shall run.
        tokenizer: its tokenizer. Conversational prompts need its chat template; plain ones are continued as they are.
        name: id or path, for reports.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, name: str = "model") -> None:
        self.model, self.tokenizer, self.name = model.eval(), tokenizer, name
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token

    @classmethod
    def from_pretrained(
        cls, name: str, *, dtype: str | None = None, revision: str | None = None, trust_remote_code: bool = False
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
        return cls(model.to("cuda" if torch.cuda.is_available() else "cpu"), tokenizer, name)

    def generate(
        self,
        prompts: Sequence[Text],
        n: int = 1,
        *,
        max_new_tokens: int = 256,
        temperature: float = 1.0,
        top_p: float = 1.0,
        batch_size: int = 8,
        seed: int = 0,
    ) -> Iterator[list[str]]:
        """n completions of each prompt, in order, as they are ready.

        A prompt's samples depend on the seed and its position in its batch, not on what was generated before.

        Args:
            prompts: plain texts or messages.
            temperature: 0 for greedy decoding (then n must be 1).
            batch_size: prompts at a time; n times as many rows are decoded together.

        Raises:
            ValueError: where n or the temperature is out of range.
        """
        if n < 1 or temperature < 0 or (temperature == 0 and n > 1):
            raise ValueError(f"n must be at least 1 and the temperature above 0 for n > 1, got {n} and {temperature}")
        sampling: dict[str, Any] = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
        if temperature > 0:
            sampling = {"do_sample": True, "temperature": temperature, "top_p": top_p, "top_k": 0}
        for start in range(0, len(prompts), batch_size):
            torch.manual_seed(seed + start)
            rows = self._sample(prompts[start : start + batch_size], n, max_new_tokens, sampling)
            for at in range(0, len(rows), n):
                yield rows[at : at + n]

    @torch.inference_mode()
    def _sample(self, prompts: Sequence[Text], n: int, max_new_tokens: int, sampling: dict[str, Any]) -> list[str]:
        device = self.model.device
        batch = self.tokenizer.pad(
            {"input_ids": [self._ids(prompt) for prompt in prompts]}, padding_side="left", return_tensors="pt"
        ).to(device)
        ids = batch["input_ids"].repeat_interleave(n, dim=0)
        mask = batch["attention_mask"].repeat_interleave(n, dim=0)
        inputs: dict[str, Any] = {}
        if n > 1 and ids.shape[1] > 1:
            # One pass over each prompt, then a copy of its cache per sample.
            positions = (batch["attention_mask"].cumsum(-1) - 1).clamp_min(0)
            cache = self.model(
                batch["input_ids"][:, :-1],
                attention_mask=batch["attention_mask"][:, :-1],
                position_ids=positions[:, :-1],
                use_cache=True,
                logits_to_keep=1,
            ).past_key_values
            cache.batch_repeat_interleave(n)
            inputs["past_key_values"] = cache
        out = self.model.generate(
            ids,
            attention_mask=mask,
            max_new_tokens=max_new_tokens,
            pad_token_id=self.tokenizer.pad_token_id,
            **inputs,
            **sampling,
        )
        return self.tokenizer.batch_decode(out[:, ids.shape[1] :], skip_special_tokens=True)

    def _ids(self, prompt: Text) -> list[int]:
        if not is_conversational(prompt):
            ids = self.tokenizer(prompt)["input_ids"]
            return ids[:-1] if len(ids) > 1 and ids[-1] == self.tokenizer.eos_token_id else ids
        text = self.tokenizer.apply_chat_template(
            [dict(message) for message in as_messages(prompt, "user")], tokenize=False, add_generation_prompt=True
        )
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]
