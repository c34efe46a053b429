"""Hugging Face transformers as backbones: any `AutoModelForSequenceClassification`, with the prompt encoded once.

Decoders (Llama, Qwen, Mistral, Gemma, GPT-2, GPT-NeoX, SmolLM, ...) are read at their last token; encoders (BERT,
RoBERTa, DistilBERT, DeBERTa, ModernBERT, ...) where their own classification head reads. What `save` writes is an
ordinary checkpoint, which transformers, TRL, OpenRLHF and vLLM load with no code of ours.
"""

from __future__ import annotations

import hashlib
import math
import threading
import warnings
from collections.abc import Hashable, Sequence
from typing import Any, Self

import torch
import transformers
from torch import nn
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from rewardsmith.data.records import Text
from rewardsmith.models.backbones import Backbone, Encoded
from rewardsmith.models.encoding import TextEncoder, TokenRow

_seen = threading.local()  # what the final linear layer read in this thread's forward pass


class TransformerBackbone(Backbone):
    """A sequence-classification model as a backbone: rows of text to what its final linear layer reads.

    `linear(backbone(items))` is the score that plain transformers gives, to 1e-5 in float32, whatever the batch, its
    order or its layout.

    Args:
        model: a Hugging Face sequence-classification model with one label.
        tokenizer: its tokenizer. One without a padding token gets its EOS for that, as in TRL.
        max_length: longest row in tokens. Default: the model's own limit.
        layout: how rows of one prompt are laid out: `auto` (by estimated cost), or one of `separate`, `block_mask`,
            `prefix_cache`, see `models.layout`. A model that cannot take one falls back to `separate`, and says so.
        name: what `fingerprint` calls it. Default: the path or id that the model was loaded from.

    Raises:
        ValueError: for a model with more than one label, or without a final linear layer.
    """

    def __init__(
        self,
        model: transformers.PreTrainedModel,
        tokenizer: transformers.PreTrainedTokenizerBase,
        max_length: int | None = None,
        layout: str = "auto",
        *,
        name: str | None = None,
    ) -> None:
        super().__init__()
        self.model, self.tokenizer = model, tokenizer
        self.name = name or model.config.name_or_path or type(model).__name__
        _set_padding(model, tokenizer)
        self._linear_path = _find_linear(model)
        self.linear.register_forward_pre_hook(_remember)
        self.hidden_size = self.linear.in_features
        self.reads_last_token = self._probe()
        self.max_length = max_length or _length_limit(model, tokenizer)
        self.encoder = TextEncoder(
            tokenizer,
            max_length=self.max_length,
            ignored_tail=model.config.get_text_config().pad_token_id if self.reads_last_token else None,
        )
        self.layout = layout

    @classmethod
    def from_pretrained(
        cls,
        name: str,
        *,
        max_length: int | None = None,
        dtype: str | torch.dtype | None = None,
        revision: str | None = None,
        trust_remote_code: bool = False,
        attn_implementation: str | None = None,
        layout: str = "auto",
    ) -> Self:
        """Load a reward model, or any language model or encoder to make one from, by path or hub id.

        A score head in the checkpoint is kept. A new one is drawn from N(0, 1/(H+1)), as in Learning to summarize
        (Stiennon et al., 2020), with a bias of 0 where it has one.

        Args:
            name: path or hub id.
            max_length: longest row in tokens. Default: the model's own limit.
            dtype: of the weights. Default: float32, in which scores do not depend on the batch.
            revision: branch, tag or commit.
            trust_remote_code: run model code from the repository.
            attn_implementation: `sdpa`, `eager`, `flash_attention_2`, ... The last can only encode rows one by one.

        Raises:
            ValueError: for a classifier with several labels.
        """
        options: dict[str, Any] = {"revision": revision, "trust_remote_code": trust_remote_code}
        config = AutoConfig.from_pretrained(name, **options)
        classifier = any(str(a).endswith("ForSequenceClassification") for a in config.architectures or [])
        if classifier and config.num_labels != 1:
            raise ValueError(f"{name} is a classifier with {config.num_labels} labels; a reward model has 1")
        if attn_implementation is not None:
            options["attn_implementation"] = attn_implementation
        model, loading = AutoModelForSequenceClassification.from_pretrained(
            name, num_labels=1, dtype=dtype or torch.float32, output_loading_info=True, **options
        )
        options.pop("attn_implementation", None)
        backbone = cls(model, AutoTokenizer.from_pretrained(name, **options), max_length, layout, name=name)
        if any(key.startswith(f"{backbone._linear_path}.") for key in loading["missing_keys"]):
            nn.init.normal_(backbone.linear.weight, std=1 / math.sqrt(backbone.hidden_size + 1))
            if backbone.linear.bias is not None:
                nn.init.zeros_(backbone.linear.bias)
        return backbone.eval()

    @property
    def linear(self) -> nn.Linear:
        """The model's own score head, (H,) to (1,)."""
        return self.model.get_submodule(self._linear_path)  # type: ignore[return-value]

    @property
    def trainable(self) -> bool:  # type: ignore[override]
        """Whether anything below the score head takes gradients."""
        return any(p.requires_grad for n, p in self.model.named_parameters() if not n.startswith(self._linear_path))

    def encode(self, prompts: Sequence[Text], completions: Sequence[Text]) -> Encoded:
        """Tokenize N rows into `TokenRow`s; see `TextEncoder.encode`."""
        return self.encoder.encode(prompts, completions)

    def forward(self, items: Sequence[TokenRow], groups: Sequence[Hashable] | None = None) -> torch.Tensor:
        """What the score head reads, (N, H): of decoders the last token after the final norm."""
        order = sorted(range(len(items)), key=lambda i: len(items[i].ids))
        hidden = [self._separate([items[i].ids for i in order[a : a + 16]]) for a in range(0, len(items), 16)]
        back = torch.empty(len(items), dtype=torch.long)
        back[order] = torch.arange(len(items))
        return torch.cat(hidden)[back.to(hidden[0].device)]

    def _separate(self, rows: Sequence[Sequence[int]]) -> torch.Tensor:
        """Right-padded rows, one per sequence."""
        ids, mask = self._pad(rows)
        if not self.reads_last_token:
            self.model(input_ids=ids, attention_mask=mask)
            return _seen.hidden
        states = self.model.base_model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
        return states[torch.arange(len(rows), device=ids.device), mask.sum(1) - 1]

    def _pad(self, rows: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Ids and mask, (B, T) each."""
        ids = torch.full((len(rows), max(map(len, rows))), self.tokenizer.pad_token_id)
        mask = torch.zeros_like(ids)
        for i, row in enumerate(rows):
            ids[i, : len(row)] = torch.tensor(row)
            mask[i, : len(row)] = 1
        return ids.to(self.model.device), mask.to(self.model.device)

    @torch.no_grad()
    def _probe(self) -> bool:
        """Whether the score head reads every token (decoders, which then pick the last) or one vector per row."""
        was_training = self.model.training
        self.model.eval()
        _seen.hidden = None
        ids = torch.tensor([[0, 1]], device=self.model.device)
        self.model(input_ids=ids, attention_mask=torch.ones_like(ids))
        self.model.train(was_training)
        if _seen.hidden is None or _seen.hidden.ndim not in (2, 3):
            raise ValueError(f"{type(self.model).__name__} does not score through its layer {self._linear_path!r}")
        return _seen.hidden.ndim == 3

    def add_lora(self, **options: Any) -> None:
        """Freeze the model but for low-rank adapters (Hu et al., 2021) on its linear layers and its score head.

        Args:
            options: `peft.LoraConfig`'s: r, lora_alpha, lora_dropout, target_modules, ...
        """
        import peft

        config = peft.LoraConfig(**{"task_type": "SEQ_CLS", "target_modules": "all-linear", **options})
        peft.inject_adapter_in_model(config, self.model)
        body = self.model.base_model_prefix + "."
        for name, parameter in self.model.named_parameters():
            if not name.startswith(body):  # the score head and what leads to it are trained in full
                parameter.requires_grad_()

    def merge_lora(self) -> None:
        """Add the adapters to the weights and remove them."""
        from peft.tuners.tuners_utils import BaseTunerLayer

        for name, module in list(self.model.named_modules()):
            if isinstance(module, BaseTunerLayer):
                module.merge(safe_merge=True)
                parent, _, child = name.rpartition(".")
                setattr(self.model.get_submodule(parent), child, module.get_base_layer())

    def gradient_checkpointing_enable(self) -> None:
        """Recompute activations in the backward pass instead of keeping them."""
        self.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})

    def fingerprint(self) -> dict[str, Any]:
        """What makes scores reproducible; see `Backbone.fingerprint`. `weights` is a hash of a sample of all weights."""
        config = self.model.config
        return {
            "kind": "transformer",
            "name": self.name,
            "revision": getattr(config, "_commit_hash", None),
            "architecture": type(self.model).__name__,
            "weights": weights_hash(self.model),
            "template": self.encoder.template_hash,
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "attention": config._attn_implementation,
            "max_length": self.max_length,
            "layout": self.layout,
            "transformers": transformers.__version__,
            "torch": str(torch.__version__),
        }

    def save(self, folder: str) -> None:
        """Write a sequence-classification checkpoint (safetensors), tokenizer and chat template.

        Adapters are merged first. `max_length` is kept as the tokenizer's `model_max_length`.
        """
        self.merge_lora()
        self.tokenizer.model_max_length = self.max_length
        self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)


def weights_hash(model: nn.Module) -> str:
    """First 16 hex digits of the SHA-256 of up to 1,024 evenly spaced values of every weight, with names and shapes."""
    digest = hashlib.sha256()
    for name, weight in sorted(model.state_dict().items()):
        flat = weight.detach().reshape(-1)
        sample = flat[:: max(flat.numel() // 1024, 1)].contiguous().cpu()
        digest.update(f"{name} {tuple(weight.shape)} {weight.dtype}".encode())
        digest.update(sample.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def _remember(_: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
    _seen.hidden = inputs[0]


def _find_linear(model: nn.Module) -> str:
    """Path of the last linear layer with one output."""
    paths = [
        name for name, module in model.named_modules() if isinstance(module, nn.Linear) and module.out_features == 1
    ]
    if not paths:
        raise ValueError(
            f"{type(model).__name__} has no linear layer with one output: load it as a sequence classifier with "
            "num_labels=1"
        )
    return paths[-1]


def _set_padding(model: transformers.PreTrainedModel, tokenizer: transformers.PreTrainedTokenizerBase) -> None:
    """Make model and tokenizer agree on one padding token: the model's, else the tokenizer's, else its EOS."""
    config = model.config.get_text_config()
    pad = config.pad_token_id
    if pad is not None and 0 <= pad < len(tokenizer):
        if tokenizer.pad_token_id != pad:
            if tokenizer.pad_token_id is not None:
                warnings.warn(
                    f"the tokenizer pads with {tokenizer.pad_token!r}, the model with "
                    f"{tokenizer.convert_ids_to_tokens(pad)!r}: the model's is used, by which it finds the last token",
                    stacklevel=4,
                )
            tokenizer.pad_token = tokenizer.convert_ids_to_tokens(pad)
        return
    if tokenizer.pad_token_id is None:
        if tokenizer.eos_token_id is None:
            raise ValueError("the tokenizer has neither a padding token nor an EOS: set tokenizer.pad_token")
        tokenizer.pad_token = tokenizer.eos_token
    config.pad_token_id = model.config.pad_token_id = tokenizer.pad_token_id


def _length_limit(model: transformers.PreTrainedModel, tokenizer: transformers.PreTrainedTokenizerBase) -> int:
    """The longest row that model and tokenizer allow."""
    limits = [tokenizer.model_max_length]
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if positions and positions > 0:
        table = next((m for n, m in model.named_modules() if n.endswith("position_embeddings")), None)
        offset = getattr(table, "padding_idx", None)  # RoBERTa's positions begin after the padding id
        limits.append(positions if offset is None else positions - offset - 1)
    return int(min(limits))
