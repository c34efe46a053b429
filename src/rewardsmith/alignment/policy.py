"""A causal language model as preference optimization sees it: encoded rows to the states that predict completions.

Rows that share a prompt have it encoded once, in training too; see `models.shared_prompts`.
"""

from __future__ import annotations

import json
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import torch
import transformers
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer

from rewardsmith.alignment.logps import OutputLayer
from rewardsmith.data.records import Text
from rewardsmith.models.backbones import Encoded
from rewardsmith.models.encoding import EMPTY, TextEncoder, TokenRow
from rewardsmith.models.lora import merged_state
from rewardsmith.models.shared_prompts import SharedPrompts, evaluating
from rewardsmith.models.transformer import length_limit

CARD = "rewardsmith_policy.json"  # beside the weights: how the policy was trained


class Policy(SharedPrompts, nn.Module):
    """A causal language model, its tokenizer, and its passes over rows.

    Args:
        model: a Hugging Face causal language model.
        tokenizer: its tokenizer.
        max_length: longest row in tokens. Default: the model's own limit.
        layout: how rows of one prompt are laid out: `auto` (by estimated cost), or one of `separate`, `block_mask`,
            `prefix_cache`, see `models.layout`.
        batch_tokens: tokens in one batch, padding included. Default: 4,096 on a CPU, 16,384 on a GPU.
        name: for messages. Default: the path or id that the model was loaded from.

    Raises:
        ValueError: for a model that does not make its logits by a linear layer from its last hidden states.
    """

    def __init__(
        self,
        model: transformers.PreTrainedModel,
        tokenizer: transformers.PreTrainedTokenizerBase,
        max_length: int | None = None,
        layout: str = "auto",
        *,
        batch_tokens: int | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__()
        if model.config.is_encoder_decoder:
            raise ValueError(f"{type(model).__name__} is an encoder-decoder; a policy is a causal language model")
        self.share(model, tokenizer, layout, batch_tokens, name, counted=model.base_model)
        self.reads_last_token = True
        self.max_length = max_length or length_limit(model, tokenizer)
        self.encoder = TextEncoder(tokenizer, max_length=self.max_length)
        self._check_output()

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        *,
        max_length: int | None = None,
        dtype: str | torch.dtype | None = None,
        revision: str | None = None,
        trust_remote_code: bool = False,
        attn_implementation: str | None = None,
        layout: str = "auto",
        batch_tokens: int | None = None,
    ) -> Self:
        """Load a causal language model by path or hub id; the options are those of `TransformerBackbone`.

        Raises:
            ValueError: where no causal language model can be loaded under that name.
        """
        options: dict[str, Any] = {"revision": revision, "trust_remote_code": trust_remote_code}
        kernel = {} if attn_implementation is None else {"attn_implementation": attn_implementation}
        try:
            tokenizer = AutoTokenizer.from_pretrained(str(name), **options)
            model = AutoModelForCausalLM.from_pretrained(str(name), dtype=dtype or torch.float32, **options, **kernel)
        except (OSError, ValueError) as error:
            raise ValueError(
                f"no causal language model at {str(name)!r}: it is neither a folder with one, nor a hub id that can be "
                f"reached or is in the local cache ({' '.join(str(error).split())[:300]})"
            ) from error
        return cls(model.eval(), tokenizer, max_length, layout, batch_tokens=batch_tokens, name=str(name))

    @property
    def output(self) -> OutputLayer:
        """What makes logits from its states."""
        return OutputLayer.of(self.model)

    def states(self, **inputs: Any) -> torch.Tensor:
        """Last hidden states (B, T, H); the output layer is not run."""
        return self.model.base_model(**inputs).last_hidden_state

    def encode(self, prompts: Sequence[Text], completions: Sequence[Text]) -> Encoded:
        """Tokenize N rows into `TokenRow`s, see `TextEncoder.encode`; a text's first token is predicted by nothing."""
        encoded = self.encoder.encode(prompts, completions)
        for row, item in enumerate(encoded.items):
            if item is not None and len(item.ids) < 2:
                encoded.items[row], encoded.lengths[row], encoded.failures[row] = None, 0, EMPTY
        return encoded

    def hidden(self, items: Sequence[TokenRow], groups: Sequence[Hashable] | None = None) -> torch.Tensor:
        """The states that predict the tokens of `targets`, row after row: (M, H).

        Args:
            items: N encoded rows.
            groups: N keys, equal for rows that share a prompt. The result does not depend on them.
        """
        rows = [item.ids[:-1] for item in items]  # nothing is predicted from a last token
        spans = [(len(row) + 1 - len(target) - 1, len(row)) for row, target in zip(rows, map(_target, items))]
        keys = None if groups is None else [(key, item.cut) for key, item in zip(groups, items)]
        return self.read(rows, spans, keys)

    def targets(self, items: Sequence[TokenRow]) -> tuple[torch.Tensor, list[int]]:
        """The tokens of the completions, row after row: ids (M,), and how many each of N rows has."""
        parts = [_target(item) for item in items]
        ids = torch.tensor([token for part in parts for token in part], device=self.model.device)
        return ids, [len(part) for part in parts]

    def save(self, folder: str | Path, training: Mapping[str, Any] | None = None) -> None:
        """Write an ordinary checkpoint (safetensors; adapters merged), the tokenizer, and how it was trained (JSON)."""
        self.model.save_pretrained(folder, state_dict=merged_state(self.model))
        self.tokenizer.save_pretrained(folder)
        card = {"format": 1, "training": dict(training or {})}
        (Path(folder) / CARD).write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")

    def _check_output(self) -> None:
        """Whether `output` of `states` is what the model itself answers."""
        ids = torch.arange(5, device=self.model.device)[None] % len(self.output.weight)
        with torch.no_grad(), evaluating(self.model):
            wanted = self.model(input_ids=ids).logits[0].float()
            error = (self.output.logits(self.states(input_ids=ids)[0]) - wanted).abs().max() / wanted.abs().max()
        if not error.item() <= (1e-3 if self.model.dtype == torch.float32 else 5e-2):
            raise ValueError(
                f"{type(self.model).__name__} does not make its logits from its last hidden states in a way that is "
                f"known here: they differ by {error.item():.1e}"
            )


def _target(item: TokenRow) -> list[int]:
    return item.ids[max(item.completion_start, 1) :]
