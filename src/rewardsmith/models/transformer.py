"""Hugging Face transformers as backbones: any `AutoModelForSequenceClassification`, with the prompt encoded once.

Decoders (Llama, Qwen, Mistral, Gemma, GPT-2, GPT-NeoX, SmolLM, ...) are read at their last token; encoders (BERT,
RoBERTa, DistilBERT, DeBERTa, ModernBERT, ...) where their own classification head reads. What `save` writes is an
ordinary checkpoint, which transformers, TRL, OpenRLHF and vLLM load with no code of ours.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import threading
import warnings
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any, Self

import torch
import transformers
from torch import nn
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer, DynamicCache

from rewardsmith.data.records import Text
from rewardsmith.models.backbones import Backbone, Encoded
from rewardsmith.models.encoding import TextEncoder, TokenRow
from rewardsmith.models.layout import LAYOUTS, Costs, Group, Layout, Pass, plan, shared_prefixes
from rewardsmith.models.packing import Packed, SharedPrefixes, Sizes, padded

# Config attributes that bound how far attention sees, by position in the sequence. Longer rows go `separate`.
WINDOWS = (
    "sliding_window",
    "attention_chunk_size",
    "window_size",
    "attention_window",
    "original_max_position_embeddings",
)

# What the layouts are tried on: two groups of rows, which share 9 and 4 tokens.
SELF_TEST_ROWS = (
    (5, 12, 19, 26, 33, 0, 7, 14, 21, 11),
    (5, 12, 19, 26, 33, 0, 7, 14, 21, 13, 5, 3, 2),
    (8, 15, 22, 29, 3, 2, 4),
    (8, 15, 22, 29, 5),
    (8, 15, 22, 29, 6, 7, 8, 9, 10, 11),
)


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
        batch_tokens: tokens in one batch, padding included. Default: 4,096 on a CPU, 16,384 on a GPU.
        name: what `fingerprint` calls it. Default: the path or id that the model was loaded from.

    Attributes:
        reads_last_token: True for decoders, False where the model itself pools a row into one vector.

    Raises:
        ValueError: for a model without a final linear layer of one label, or an unknown layout.
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
        if layout not in ("auto", *LAYOUTS):
            raise ValueError(f"layout must be 'auto' or one of {', '.join(LAYOUTS)}, not {layout!r}")
        self.model, self.tokenizer = model, tokenizer
        self.name = name or model.config.name_or_path or type(model).__name__
        self.layout, self.batch_tokens = layout, batch_tokens
        _set_padding(model, tokenizer)
        self._linear_path = _find_linear(model)
        self.linear.register_forward_pre_hook(_remember)
        self.hidden_size = self.linear.in_features
        with torch.no_grad(), _evaluating(model):
            probe = torch.tensor([[0, self._end]], device=model.device)
            self.reads_last_token = self._states(input_ids=probe, attention_mask=torch.ones_like(probe)).ndim == 3
        self.max_length = max_length or _length_limit(model, tokenizer)
        self.encoder = TextEncoder(
            tokenizer,
            max_length=self.max_length,
            ignored_tail=model.config.get_text_config().pad_token_id if self.reads_last_token else None,
        )
        self._sizes = Sizes.of(model)
        self._refusals: dict[str, str] | None = None

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
        batch_tokens: int | None = None,
    ) -> Self:
        """Load a reward model, or any language model or encoder to make one from, by path or hub id.

        A score head in the checkpoint is kept. A new one is drawn from N(0, 1/(H+1)), as in "Learning to summarize from
        human feedback" (Stiennon et al., 2020), with a bias of 0 where it has one.

        Args:
            name: path or hub id.
            max_length: longest row in tokens. Default: the model's own limit.
            dtype: of the weights, `bfloat16`, `auto` (as stored), ... Default: float32, in which scores do not depend
                on the batch.
            revision: branch, tag or commit.
            trust_remote_code: run model code from the repository.
            attn_implementation: `sdpa`, `eager`, `flash_attention_2`, ... Shared prompts need one of the first two.
            layout: as in the constructor.
            batch_tokens: as in the constructor.

        Raises:
            ValueError: for a classifier with several labels.
        """
        options: dict[str, Any] = {"revision": revision, "trust_remote_code": trust_remote_code}
        config = AutoConfig.from_pretrained(name, **options)
        classifier = any(str(a).endswith("ForSequenceClassification") for a in config.architectures or [])
        if classifier and config.num_labels != 1:
            raise ValueError(f"{name} is a classifier with {config.num_labels} labels; a reward model has 1")
        kernel = {} if attn_implementation is None else {"attn_implementation": attn_implementation}
        model, loading = AutoModelForSequenceClassification.from_pretrained(
            name, num_labels=1, dtype=dtype or torch.float32, output_loading_info=True, **options, **kernel
        )
        tokenizer = AutoTokenizer.from_pretrained(name, **options)
        backbone = cls(model, tokenizer, max_length, layout, batch_tokens=batch_tokens, name=name)
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
        head = f"{self._linear_path}."
        return any(p.requires_grad for name, p in self.model.named_parameters() if not name.startswith(head))

    def encode(self, prompts: Sequence[Text], completions: Sequence[Text]) -> Encoded:
        """Tokenize N rows into `TokenRow`s; see `TextEncoder.encode`."""
        return self.encoder.encode(prompts, completions)

    def forward(self, items: Sequence[TokenRow], groups: Sequence[Hashable] | None = None) -> torch.Tensor:
        """What the score head reads, (N, H): of decoders the last token, after the final norm.

        Equal rows are encoded once. Rows of one group share the longest common prefix of their token ids.
        """
        if not items:
            return torch.zeros(0, self.hidden_size, device=self.model.device, dtype=self.linear.weight.dtype)
        first: dict[tuple[int, ...], int] = {}
        of_item = [first.setdefault(tuple(item.ids), len(first)) for item in items]
        rows = list(first)
        layouts = self._layouts()
        keys: dict[int, Hashable] = {}
        if groups is not None and layouts != ("separate",):
            for item, index, key in zip(items, of_item, groups):
                if len(item.ids) <= self._window:  # rows that were cut differently share next to nothing
                    keys.setdefault(index, (key, item.cut))
        families = shared_prefixes(rows, [keys.get(index, index) for index in range(len(rows))])
        passes = plan([len(row) for row in rows], families, self._costs(), layouts, one_pass=_is_sharded(self.model))
        hidden = torch.cat([self._encode_pass(each, rows) for each in passes])
        place = {row: position for position, row in enumerate(row for each in passes for row in each.rows)}
        return hidden[torch.tensor([place[index] for index in of_item], device=hidden.device)]

    @property
    def _end(self) -> int:
        """A token to end a text with: encoder-decoders are read at their EOS."""
        end = self.model.config.get_text_config().eos_token_id
        end = end[0] if isinstance(end, list) else end
        return end if end is not None else self.tokenizer.sep_token_id or 1

    @property
    def _window(self) -> float:
        """The longest row in which every token sees all before it, as masks and caches of shared prompts take it."""
        config = self.model.config.get_text_config()
        return min(
            (w for w in (getattr(config, name, None) for name in WINDOWS) if isinstance(w, int)), default=math.inf
        )

    def _layouts(self) -> tuple[Layout, ...]:
        """The layouts that rows may take: what the caller asked for, where it is possible."""
        if not self.reads_last_token:
            return ("separate",)
        refused = self._check_layouts()
        possible = [layout for layout in LAYOUTS if layout not in refused]
        if self.model.training and any(getattr(m, "gradient_checkpointing", False) for m in self.model.modules()):
            possible = [layout for layout in possible if layout != "prefix_cache"]  # checkpointed layers take no cache
        if self.layout != "auto":
            possible = [layout for layout in possible if layout == self.layout] or ["separate"]
        return tuple(possible)

    def _costs(self) -> Costs:
        return self._sizes.costs(self.model.device.type, self.batch_tokens)

    def _encode_pass(self, batch: Pass, rows: Sequence[Sequence[int]]) -> torch.Tensor:
        """Hidden states of a pass's rows, (n, H), in the order of `batch.rows`."""
        if batch.layout == "separate":
            return self._separate([rows[row] for row in batch.rows])
        if batch.layout == "block_mask":
            return self._block_mask(batch.groups, rows)
        return self._prefix_cache(batch, rows)

    def _separate(self, rows: Sequence[Sequence[int]]) -> torch.Tensor:
        """Right-padded rows, one per sequence; in a model that padding disturbs, rows of one length at a time."""
        refused = self._check_layouts()
        if "padding" not in refused:
            return self._right_padded(rows, masked=not self.reads_last_token or "causal" in refused)
        by_length: dict[int, list[int]] = {}
        for index, row in enumerate(rows):
            by_length.setdefault(len(row), []).append(index)
        hidden = [self._right_padded([rows[i] for i in alike], masked=True) for alike in by_length.values()]
        order = torch.tensor([index for alike in by_length.values() for index in alike])
        return torch.cat(hidden)[order.argsort().to(hidden[0].device)]

    def _right_padded(self, rows: Sequence[Sequence[int]], masked: bool) -> torch.Tensor:
        """In a causal model no token sees the padding behind it: attention is quicker where that is not masked."""
        ids, mask = self._pad(rows)
        seen = mask if masked else torch.ones_like(mask)
        if not self.reads_last_token:
            return self._states(input_ids=ids, attention_mask=seen)
        states = self._states(input_ids=ids, attention_mask=seen, use_cache=False)
        return states[torch.arange(len(rows), device=ids.device), mask.sum(1) - 1]

    def _block_mask(self, groups: Sequence[Group], rows: Sequence[Sequence[int]]) -> torch.Tensor:
        """One sequence per group: its prefix, then each row's own tokens, which see the prefix and themselves."""
        packed = Packed()
        for group in groups:
            packed.add(
                rows[group.rows[0]][: group.prefix], group.prefix, [rows[row][group.prefix :] for row in group.rows]
            )
        ids, _ = self._pad(packed.ids)
        positions, sees, ends = packed.tensors(ids)
        states = self._states(
            input_ids=ids, attention_mask=self._additive(sees), position_ids=positions, use_cache=False
        )
        return states[ends]

    def _prefix_cache(self, batch: Pass, rows: Sequence[Sequence[int]]) -> torch.Tensor:
        """The prefixes of all groups, right-padded; then sequences of the rows' own tokens on their keys and values."""
        ids, mask = self._pad([rows[group.rows[0]][: group.prefix] for group in batch.groups])
        cache = DynamicCache()
        self._states(input_ids=ids, attention_mask=torch.ones_like(mask), past_key_values=cache, use_cache=True)
        known = mask.bool()
        hidden = []
        for part in batch.parts:
            packed = Packed()
            for index, own in part:
                prefix = batch.groups[index].prefix
                packed.add([], prefix, [rows[row][prefix:] for row in own])
            ids, _ = self._pad(packed.ids)
            positions, sees, ends = packed.tensors(ids)
            group = torch.tensor([index for index, _ in part], device=ids.device)
            prefix_seen = known[group][:, None, :].expand(-1, ids.shape[1], -1)
            states = self._states(
                input_ids=ids,
                attention_mask=self._additive(torch.cat([prefix_seen, sees], dim=2)),
                position_ids=positions,
                past_key_values=SharedPrefixes(cache, group),
                use_cache=True,
            )
            hidden.append(states[ends])
        return torch.cat(hidden)

    def _states(self, **inputs: Any) -> torch.Tensor:
        """What the score head reads in one forward pass of the whole model: (B, T, H), or (B, H) where it pools."""
        _reading.states = []
        try:
            self.model(**inputs)
            states = _reading.states
        finally:
            _reading.states = None
        if len(states) != 1 or states[0].ndim not in (2, 3):
            raise ValueError(f"{type(self.model).__name__} does not score through its layer {self._linear_path!r}")
        return states[0]

    def _pad(self, rows: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Right-padded ids and their mask, (B, T) each."""
        lengths = torch.tensor([len(row) for row in rows])
        ids = padded(rows, int(lengths.max()), self.tokenizer.pad_token_id)
        mask = (torch.arange(ids.shape[1]) < lengths[:, None]).long()
        return ids.to(self.model.device), mask.to(self.model.device)

    def _additive(self, sees: torch.Tensor) -> torch.Tensor:
        """(B, query, key) bool to the mask (B, 1, query, key) that is added to attention scores."""
        mask = torch.zeros(sees.shape, dtype=self.model.dtype, device=sees.device)
        return mask.masked_fill_(~sees, torch.finfo(mask.dtype).min)[:, None]

    def _check_layouts(self) -> dict[str, str]:
        """What this model cannot take, each with the reason: found once, by comparing with rows alone.

        Returns:
            Any of `block_mask`, `prefix_cache`, `causal` (padding left unmasked) and `padding` (padding at all).
        """
        if self._refusals is not None:
            return self._refusals
        special, end = set(self.tokenizer.all_special_ids), self._end
        plain = [i for i in range(len(self.tokenizer)) if i not in special][:40]
        rows = [[plain[i % len(plain)] for i in row] + [end] for row in SELF_TEST_ROWS]
        groups, parts = (Group((0, 1), 9), Group((2, 3, 4), 4)), (((0, (1,)), (1, (4,))), ((1, (2, 3)), (0, (0,))))
        trials: dict[str, Callable[[], torch.Tensor]] = {"padding": lambda: self._right_padded(rows, masked=True)}
        refusals: dict[str, str] = {}
        if self.reads_last_token:
            trials["causal"] = lambda: self._right_padded(rows, masked=False)
            attention = self.model.config._attn_implementation
            if attention in ("sdpa", "eager"):
                trials["block_mask"] = lambda: self._block_mask(groups, rows)
                trials["prefix_cache"] = lambda: self._prefix_cache(Pass("prefix_cache", groups, parts), rows)
            else:
                refusals = dict.fromkeys(("block_mask", "prefix_cache"), f"{attention} attention takes no such mask")
        elif self.layout in ("block_mask", "prefix_cache"):
            refusals[self.layout] = "the model reads a whole row at once, so no prompt can be encoded before it"
        order = {"prefix_cache": [1, 4, 2, 3, 0]}  # in which a trial's rows come out
        tolerance = 1e-4 if self.model.dtype in (torch.float32, torch.float64) else 5e-2
        with torch.no_grad(), _evaluating(self.model), torch.autocast(self.model.device.type, enabled=False):
            alone = torch.cat([self._right_padded([row], masked=True) for row in rows])
            for name, trial in trials.items():
                try:
                    wanted = alone[order.get(name, [0, 1, 2, 3, 4])]
                    error = ((trial() - wanted).abs().max() / wanted.abs().max()).item()
                    if not error <= tolerance:
                        refusals[name] = f"hidden states differ by {error:.1e} from rows encoded alone"
                except Exception as error:  # whatever a model raises, it means that it cannot take this
                    refusals[name] = f"{type(error).__name__}: {error}".splitlines()[0]
        self._refusals = refusals
        asked = {"padding", *(LAYOUTS if self.layout == "auto" else [self.layout])}
        missed = [f"{name}: {why}" for name, why in refusals.items() if name in asked]
        if missed:
            warnings.warn(
                f"{self.name} cannot encode rows in every way, others are used ({'; '.join(missed)})", stacklevel=3
            )
        return refusals

    def add_lora(self, **options: Any) -> None:
        """Freeze the model but for low-rank adapters (Hu et al., 2021) on its linear layers and its score head.

        Args:
            options: `peft.LoraConfig`'s: r, lora_alpha, lora_dropout, target_modules, ...
        """
        import peft

        config = peft.LoraConfig(**{"task_type": "SEQ_CLS", "target_modules": "all-linear", **options})
        peft.inject_adapter_in_model(config, self.model)
        body = f"{self.model.base_model_prefix}."
        for name, parameter in self.model.named_parameters():
            if not name.startswith(body):  # the score head and what leads to it are trained in full
                parameter.requires_grad_()

    def merge_lora(self) -> None:
        """Add the adapters to the weights and remove them; everything takes gradients again."""
        from peft.tuners.tuners_utils import BaseTunerLayer

        for name, module in list(self.model.named_modules()):
            if isinstance(module, BaseTunerLayer):
                module.merge(safe_merge=True)
                parent, _, child = name.rpartition(".")
                setattr(self.model.get_submodule(parent), child, module.get_base_layer())
        self.model.requires_grad_(True)

    def gradient_checkpointing_enable(self) -> None:
        """Recompute activations in the backward pass instead of keeping them. `prefix_cache` is then not used."""
        self.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})

    def fingerprint(self) -> dict[str, Any]:
        """What makes scores reproducible, as JSON.

        `revision` is the commit where the model came from the hub; `weights` a hash of a sample of every weight, as it
        is now; `layouts` those that rows of one prompt may take, and `fallbacks` why others may not.
        """
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
            "fallbacks": self._check_layouts(),
            "transformers": transformers.__version__,
            "torch": str(torch.__version__),
        }

    def save(self, folder: str) -> None:
        """Write a sequence-classification checkpoint (safetensors), the tokenizer and the chat template.

        Adapters are written merged. `max_length` is kept as the tokenizer's `model_max_length`.
        """
        self.tokenizer.model_max_length = self.max_length
        self.model.save_pretrained(folder, state_dict=_merged_state(self.model))
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


def _merged_state(model: nn.Module) -> dict[str, torch.Tensor]:
    """The state dict of a model, with low-rank adapters added to the weights that they adapt."""
    state = model.state_dict()
    for name, module in model.named_modules():
        if not hasattr(module, "get_delta_weight"):
            continue
        adapted = {key for key in state if key.startswith(f"{name}.")}
        values = {key: state.pop(key) for key in adapted}
        prefix = f"{name}.base_layer."
        state.update({f"{name}.{k.removeprefix(prefix)}": v for k, v in values.items() if k.startswith(prefix)})
        with torch.no_grad():
            for adapter in module.active_adapters:
                state[f"{name}.weight"] = state[f"{name}.weight"] + module.get_delta_weight(adapter)
    return state


_reading = threading.local()  # what the score head reads in this thread's forward pass


def _remember(_: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
    states = getattr(_reading, "states", None)
    if states is not None:
        states.append(inputs[0])


@contextlib.contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode for a while, then every module as it was."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def _is_sharded(model: nn.Module) -> bool:
    """Whether a forward pass makes collective calls (FSDP, DeepSpeed ZeRO-3), which all processes must make alike."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return False
    from torch.distributed.fsdp import FullyShardedDataParallel
    from torch.distributed.tensor import DTensor

    return any(isinstance(m, FullyShardedDataParallel) for m in model.modules()) or any(
        isinstance(p, DTensor) or hasattr(p, "ds_id") for p in model.parameters()
    )


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
                    stacklevel=3,
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
