"""BERTScore as a reward: greedy matching of contextual token vectors (Zhang et al. 2020, equations 1 to 3).

Precision is the mean over the prediction's tokens of the best cosine with a token of the reference, recall the other
way round; the score is F1, the best over references. No idf weights and no baseline; special tokens are left out.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import transformers
from transformers import AutoModel, AutoTokenizer

from rewardsmith.verifiers.overlap import ReferenceReward

MOST_CACHED = 20_000  # reference texts whose vectors are kept


class BertScore(ReferenceReward):
    """BERTScore F1 in [-1, 1] by any Hugging Face encoder. An empty prediction is worth 0.

    Parts and details: precision and recall against the best reference, and whether the text was cut.

    Args:
        model: path or hub id, or a loaded encoder (then `tokenizer` too).
        tokenizer: default: the model's own.
        layer: whose hidden states are compared; 0 are the input embeddings. Default: the last.
        max_length: tokens read of a text. Default: what the model can take.
        batch_size: texts per pass.
        device: default: where the model is.
        **options: those of `ReferenceReward` but `n_jobs`.
    """

    __name__ = "bert_score"

    def __init__(
        self,
        model: str | transformers.PreTrainedModel = "distilbert-base-uncased",
        tokenizer: transformers.PreTrainedTokenizerBase | None = None,
        *,
        layer: int | None = None,
        max_length: int | None = None,
        batch_size: int = 32,
        device: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        if self.n_jobs != 1:
            raise ValueError("n_jobs is for rules without a model; batches do that here")
        self.name = model if isinstance(model, str) else model.name_or_path or type(model).__name__
        encoder: Any = model
        if isinstance(model, str):
            tokenizer = tokenizer or AutoTokenizer.from_pretrained(model)
            encoder = AutoModel.from_pretrained(model)
        if tokenizer is None:
            raise ValueError("a loaded model needs its tokenizer")
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token
        self._model, self._tokenizer = encoder.eval(), tokenizer
        if device is not None:
            self._model.to(device)
        self.layer = -1 if layer is None else layer
        limit = getattr(encoder.config, "max_position_embeddings", None) or tokenizer.model_max_length
        self.max_length = max_length or min(limit, tokenizer.model_max_length)
        self.batch_size = batch_size
        self._cache: OrderedDict[str, torch.Tensor] = OrderedDict()

    def _compare_all(self, groups: list[tuple[list[str], tuple[str, ...]]]) -> list[dict[str, np.ndarray]]:
        # One pass over all texts of the call, so that batches are full.
        wanted = dict.fromkeys(text for _, references in groups for text in references)
        predicted = dict.fromkeys(text for texts, _ in groups for text in texts)
        for text, vectors in self.embed([text for text in wanted if text not in self._cache]).items():
            self._cache[text] = vectors
        for text in wanted:
            self._cache.move_to_end(text)
        known = {text: self._cache[text] for text in wanted}
        known |= self.embed([text for text in predicted if text not in known])
        while len(self._cache) > MOST_CACHED:
            self._cache.popitem(last=False)
        return [self._scored([known[t] for t in texts], [known[t] for t in references]) for texts, references in groups]

    def compare(self, predictions: list[str], references: Sequence[str]) -> dict[str, np.ndarray]:
        return self._compare_all([(predictions, tuple(references))])[0]

    @torch.no_grad()
    def embed(self, texts: Sequence[str]) -> dict[str, torch.Tensor]:
        """Unit vectors (T, H) of the tokens of each text, special tokens left out."""
        # A lone surrogate is no text to a tokenizer.
        clean = {text: text.encode("utf-8", "replace").decode() for text in texts}
        order = sorted(clean, key=lambda text: len(text))
        found: dict[str, torch.Tensor] = {}
        for start in range(0, len(order), self.batch_size):
            part = order[start : start + self.batch_size]
            encoded = self._tokenizer(
                [clean[text] for text in part],
                padding=True,
                truncation=True,
                max_length=self.max_length,
                return_special_tokens_mask=True,
                return_tensors="pt",
            ).to(self._model.device)
            kept = (encoded.pop("special_tokens_mask") == 0) & (encoded["attention_mask"] == 1)
            if encoded["input_ids"].shape[1] == 0:  # nothing but empty texts
                found |= {text: torch.zeros(0, self._model.config.hidden_size) for text in part}
                continue
            states = self._model(**encoded, output_hidden_states=True).hidden_states[self.layer]
            unit = torch.nn.functional.normalize(states.float(), dim=-1)
            found |= {text: row[mask].cpu() for text, row, mask in zip(part, unit, kept)}
        return found

    def _scored(self, predictions: list[torch.Tensor], references: list[torch.Tensor]) -> dict[str, np.ndarray]:
        precision, recall = (np.zeros((len(predictions), len(references))) for _ in range(2))
        for i, a in enumerate(predictions):
            for j, b in enumerate(references):
                if len(a) and len(b):
                    similar = a @ b.T
                    precision[i, j], recall[i, j] = similar.amax(1).mean().item(), similar.amax(0).mean().item()
        total = precision + recall
        f1 = np.divide(2 * precision * recall, total, out=np.zeros_like(total), where=total > 0)
        rows, best = np.arange(len(predictions)), f1.argmax(axis=1)
        filled = any(len(b) for b in references)
        return {
            "score": f1[rows, best] if filled else np.full(len(predictions), np.nan),
            "precision": precision[rows, best],
            "recall": recall[rows, best],
            "tokens": np.array([len(a) for a in predictions], dtype=np.float64),
        }
