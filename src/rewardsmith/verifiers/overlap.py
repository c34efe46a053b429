"""Overlap with reference answers as a reward: BLEU, ROUGE-L, their harmonic mean, chrF (paper 04, Chang et al. 2025).

BLEU = BP * exp(mean_n log p_n). The paper's form smooths every order, p_n = (matches + 1) / (n-grams + 1), and takes
the shortest reference for the brevity penalty; other forms, among them sacrebleu's, are options. All values are in
[0, 1]. Predictions of one set of references are counted together, and each set of references once.
"""

from __future__ import annotations

import concurrent.futures
import json
import multiprocessing
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from rewardsmith.data.records import Batch, RecordError, as_columns
from rewardsmith.reward import Failure, Reward, Scores
from rewardsmith.verifiers.ngrams import LcsReferences, ReferenceNgrams, Tokenization, Tokenizer, lcs_lengths
from rewardsmith.verifiers.reading import assistant_text
from rewardsmith.verifiers.reasoning import answer_text

Smoothing = Literal["add-one", "exp", "floor", "add-k", "none"]
Brevity = Literal["shortest", "closest", "none"]
SMOOTHINGS = ("add-one", "exp", "floor", "add-k", "none")
BREVITIES = ("shortest", "closest", "none")
_SMOOTHING_VALUES = {"floor": 0.1, "add-k": 1.0}
_EMPTY = Failure("empty", "a reference that decides the score has no tokens")


def bleu_from_counts(
    matches: np.ndarray,
    totals: np.ndarray,
    lengths: np.ndarray,
    reference_lengths: np.ndarray,
    *,
    smoothing: Smoothing = "add-one",
    smoothing_value: float | None = None,
    effective_order: bool = False,
    brevity: bool = True,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sentence BLEU from counts (Papineni et al. 2002; smoothing: Chen and Cherry 2014).

    Args:
        matches: (P, N) clipped matches of order 1 to N.
        totals: (P, N) n-grams of each prediction.
        lengths: (P,) tokens of each prediction.
        reference_lengths: (P,) tokens of the reference that the brevity penalty compares with.
        smoothing: `add-one`: 1 is added to matches and totals of every order, so that an order for which a prediction
            is too short has precision 1. `add-k`: k is added from order 2 on. `floor`: no matches count as a constant.
            `exp`: as 1/2, 1/4, ... at each further order without matches. `none`. All but `add-one` give 0 where there
            are no matches at all.
        smoothing_value: k of `add-k` (default 1), or the constant of `floor` (default 0.1).
        effective_order: average over the orders that a prediction is long enough for. `add-one` does not need it.
        brevity: whether to apply the penalty.

    Returns:
        BLEU (P,), precisions (P, N), and the brevity penalty (P,), 0 for an empty prediction.
    """
    correct, total = matches.astype(np.float64), totals.astype(np.float64)
    ratio = np.divide(lengths, reference_lengths, out=np.zeros(len(lengths)), where=reference_lengths > 0)
    with np.errstate(divide="ignore"):
        penalty = np.where(lengths >= reference_lengths, 1.0, np.exp(1 - 1 / ratio)) if brevity else 1.0
    penalty = np.where(lengths > 0, penalty, 0.0)
    if smoothing == "add-one":
        precisions = (correct + 1) / (total + 1)
        return penalty * np.exp(np.log(precisions).mean(axis=1)), precisions, penalty
    none = ~correct.any(axis=1)
    value = _SMOOTHING_VALUES.get(smoothing, 0.0) if smoothing_value is None else smoothing_value
    if smoothing == "add-k":
        correct[:, 1:] += value
        total[:, 1:] += value
    used = np.logical_and.accumulate(total > 0, axis=1)
    if smoothing == "floor":
        correct = np.where(correct == 0, value, correct)
    elif smoothing == "exp":
        missed = (correct == 0) & used
        correct = np.where(missed, 0.5 ** np.cumsum(missed, axis=1), correct)
    precisions = np.where(used, correct / np.maximum(total, 1e-300), 0.0)
    precisions[none] = 0.0
    count = used.sum(axis=1) if effective_order else np.full(len(correct), correct.shape[1])
    with np.errstate(divide="ignore"):
        logs = np.where(used | (not effective_order), np.log(precisions), 0.0)
    values = penalty * np.exp(logs.sum(axis=1) / np.maximum(count, 1))
    return np.where(none, 0.0, values), precisions, penalty


def bleu(predictions: Sequence[str], references: Sequence[Sequence[str]], **options: Any) -> np.ndarray:
    """Sentence BLEU (P,) of P predictions, each against its own references; NaN where the shortest one is empty.

    Args:
        predictions: P texts.
        references: P lists of at least one text.
        **options: those of `BLEU`.
    """
    return BLEU(**options).score({"completion": predictions, "references": references}).values


def rouge_l(
    predictions: Sequence[str], references: Sequence[Sequence[str]], *, tokenize: Tokenization = "words"
) -> np.ndarray:
    """ROUGE-L F1 (P,) of P predictions, the best over each one's references."""
    return RougeL(tokenize=tokenize).score({"completion": predictions, "references": references}).values


class ReferenceReward(Reward):
    """A reward by comparison with reference answers, which are a column of the batch: one list of texts per row.

    Subclasses implement `compare`. What is scored is the text of the assistant.

    Args:
        references_column: name of the column.
        reasoning: score what stands in the answer tags alone, see `answer_text`.
        n_jobs: processes to spread sets of references over. They start once and stay; worth it from thousands of rows.
    """

    def __init__(self, *, references_column: str = "references", reasoning: bool = False, n_jobs: int = 1) -> None:
        if n_jobs < 1:
            raise ValueError(f"n_jobs must be at least 1, got {n_jobs}")
        self.references_column, self.reasoning, self.n_jobs = references_column, reasoning, n_jobs
        self._pool: concurrent.futures.ProcessPoolExecutor | None = None

    @abstractmethod
    def compare(self, predictions: list[str], references: Sequence[str]) -> dict[str, np.ndarray]:
        """Compare P predictions with the same references.

        Returns:
            `score` (P,), NaN where the references cannot be scored against, and what explains it, each (P,).
        """

    def score(self, batch: Batch) -> Scores:
        columns = as_columns(batch)
        references = self._references(columns)
        texts = [self.scored_text(completion) for completion in columns["completion"]]
        groups: dict[tuple[str, ...], list[int]] = {}
        for row, key in enumerate(references):
            groups.setdefault(key, []).append(row)
        found = self._compare_all([([texts[row] for row in rows], key) for key, rows in groups.items()])
        table: dict[str, np.ndarray] = {}
        for rows, result in zip(groups.values(), found):
            for name, column in result.items():
                table.setdefault(name, np.full(len(texts), np.nan))[rows] = column
        values = table.pop("score", np.empty(0))
        names = list(table)
        cells = zip(*(column.tolist() for column in table.values())) if names else ([] for _ in texts)
        details: list[dict[str, Any]] = [
            {**dict(zip(names, row)), "references": len(key)} for row, key in zip(cells, references)
        ]
        failures = dict.fromkeys(np.flatnonzero(np.isnan(values)).tolist(), _EMPTY)
        return Scores(values, parts=table, details=details, failures=failures)

    def scored_text(self, completion: Any) -> str:
        """The part of a completion that is compared."""
        text = assistant_text(completion)
        return answer_text(text) if self.reasoning else text

    def fingerprint(self) -> dict[str, Any]:
        """What the scores depend on (JSON)."""
        hidden = ("n_jobs", "on_failure", "step")
        simple = (str, int, float, bool, type(None))
        shown = {k: v for k, v in vars(self).items() if k[0] != "_" and k not in hidden and isinstance(v, simple)}
        return {"class": type(self).__name__, **json.loads(json.dumps(shown))}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_pool": None}

    def _references(self, columns: dict[str, list[Any]]) -> list[tuple[str, ...]]:
        name = self.references_column
        if name not in columns:
            raise ValueError(f"no column {name!r} with reference answers; there are {sorted(columns)}")
        checked = []
        for row, texts in enumerate(columns[name]):
            if not isinstance(texts, list | tuple | np.ndarray):
                raise RecordError(f"must be a list of texts, not {type(texts).__name__}", row=row, column=name)
            if not len(texts):
                raise RecordError("has no reference; there must be at least one text", row=row, column=name)
            for index, text in enumerate(texts):
                if not isinstance(text, str):
                    kind = type(text).__name__
                    raise RecordError(f"reference {index} must be a text, not {kind}", row=row, column=name)
            checked.append(tuple(texts))
        return checked

    def _compare_all(self, groups: list[tuple[list[str], tuple[str, ...]]]) -> list[dict[str, np.ndarray]]:
        if self.n_jobs == 1 or len(groups) < 2 * self.n_jobs:
            return [self.compare(texts, key) for texts, key in groups]
        if self._pool is None:
            # Not forked: the caller may run threads.
            context = multiprocessing.get_context("spawn")
            self._pool = concurrent.futures.ProcessPoolExecutor(self.n_jobs, mp_context=context)
        step = -(-len(groups) // self.n_jobs)
        jobs = [self._pool.submit(_compare_part, self, groups[i : i + step]) for i in range(0, len(groups), step)]
        return [result for job in jobs for result in job.result()]


def _compare_part(
    reward: ReferenceReward, groups: list[tuple[list[str], tuple[str, ...]]]
) -> list[dict[str, np.ndarray]]:
    return [reward.compare(texts, key) for texts, key in groups]


class BLEU(ReferenceReward):
    """Sentence BLEU in [0, 1] against each row's references. The defaults are the paper's.

    sacrebleu's `sentence_bleu`: `BLEU(smoothing="exp", brevity="closest", effective_order=True)`.

    Parts and details: precisions, brevity penalty, lengths in tokens.

    Args:
        smoothing: see `bleu_from_counts`.
        smoothing_value: see there.
        brevity: the reference length of the penalty is that of the `shortest` reference or of the `closest` in length
            (the shorter of two); `none` leaves the penalty out.
        tokenize: see `Tokenizer`.
        lowercase: compare in lower case.
        max_order: longest n-grams.
        effective_order: see `bleu_from_counts`.
        **options: those of `ReferenceReward`.
    """

    __name__ = "bleu"

    def __init__(
        self,
        *,
        smoothing: Smoothing = "add-one",
        smoothing_value: float | None = None,
        brevity: Brevity = "shortest",
        tokenize: Tokenization = "13a",
        lowercase: bool = False,
        max_order: int = 4,
        effective_order: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        if smoothing not in SMOOTHINGS:
            raise ValueError(f"smoothing must be one of {SMOOTHINGS}, not {smoothing!r}")
        if brevity not in BREVITIES:
            raise ValueError(f"brevity must be one of {BREVITIES}, not {brevity!r}")
        if max_order < 1:
            raise ValueError(f"max_order must be at least 1, got {max_order}")
        self.smoothing, self.smoothing_value, self.brevity = smoothing, smoothing_value, brevity
        self.tokenize, self.lowercase = tokenize, lowercase
        self.max_order, self.effective_order = max_order, effective_order
        self._tokenizer = Tokenizer(tokenize, lowercase)

    def compare(self, predictions: list[str], references: Sequence[str]) -> dict[str, np.ndarray]:
        tokenizer = _refreshed(self._tokenizer)
        reference_ids = [tokenizer.ids(text) for text in references]
        ids = [tokenizer.ids(text) for text in predictions]
        scratch = tokenizer.scratch()
        table = ReferenceNgrams(reference_ids, self.max_order, scratch)
        lengths = np.array([len(row) for row in ids], dtype=np.int64)
        if self.brevity == "closest":
            ordered = np.sort(table.lengths)  # argmin takes the first of equals: the shorter one
            wanted = ordered[np.abs(lengths[:, None] - ordered).argmin(axis=1)]
        else:
            wanted = np.full(len(ids), table.lengths.min())
        values, precisions, penalty = bleu_from_counts(
            table.clipped(ids, scratch),
            np.maximum(lengths[:, None] - np.arange(self.max_order), 0),
            lengths,
            wanted,
            smoothing=self.smoothing,
            smoothing_value=self.smoothing_value,
            effective_order=self.effective_order,
            brevity=self.brevity != "none",
        )
        return {
            "score": np.where(table.lengths.min() > 0, values, np.nan),
            **{f"precision_{order}": precisions[:, order - 1] for order in range(1, self.max_order + 1)},
            "brevity_penalty": penalty,
            "length": lengths,
            "reference_length": wanted,
        }


class ChrF(ReferenceReward):
    """chrF in [0, 1] (Popovic 2015): F-beta of character n-grams without white space, the best over references.

    Parts and details: precision and recall, averaged over the orders that both texts have.

    Args:
        max_order: longest n-grams.
        beta: weight of recall.
        lowercase: compare in lower case.
        **options: those of `ReferenceReward`.
    """

    __name__ = "chrf"

    def __init__(self, *, max_order: int = 6, beta: float = 2.0, lowercase: bool = False, **options: Any) -> None:
        super().__init__(**options)
        if max_order < 1 or beta <= 0:
            raise ValueError(f"max_order must be at least 1 and beta positive, got {max_order} and {beta}")
        self.max_order, self.beta, self.lowercase = max_order, beta, lowercase
        self._tokenizer = Tokenizer("char", lowercase)

    def compare(self, predictions: list[str], references: Sequence[str]) -> dict[str, np.ndarray]:
        tokenizer = self._tokenizer
        ids = [tokenizer.ids(text) for text in predictions]
        scratch = tokenizer.scratch()
        table = ReferenceNgrams([tokenizer.ids(text) for text in references], self.max_order, scratch)
        orders = np.arange(self.max_order)
        predicted = np.maximum(np.array([len(row) for row in ids])[:, None, None] - orders, 0)  # (P, 1, N)
        wanted = np.maximum(table.lengths[None, :, None] - orders, 0)  # (1, R, N)
        matches = table.shared(ids, scratch)
        both = (predicted > 0) & (wanted > 0)
        count = np.maximum(both.sum(axis=2), 1)
        precision = np.where(both, matches / np.maximum(predicted, 1), 0.0).sum(axis=2) / count
        recall = np.where(both, matches / np.maximum(wanted, 1), 0.0).sum(axis=2) / count
        factor = self.beta**2
        below = factor * precision + recall
        values = np.divide((1 + factor) * precision * recall, below, out=np.zeros_like(below), where=below > 0)
        best = values.argmax(axis=1)
        rows = np.arange(len(ids))
        return {
            "score": np.where(table.lengths.max() > 0, values[rows, best], np.nan),
            "precision": precision[rows, best],
            "recall": recall[rows, best],
        }


class RougeL(ReferenceReward):
    """ROUGE-L F1 in [0, 1] (Lin 2004): longest common subsequence of tokens, the best over references.

    Parts and details: precision and recall against the best reference.

    Args:
        tokenize: see `Tokenizer`; `words` is the usual ROUGE, without a stemmer. Texts without Latin letters need
            another one.
        **options: those of `ReferenceReward`.
    """

    __name__ = "rouge_l"

    def __init__(self, *, tokenize: Tokenization = "words", **options: Any) -> None:
        super().__init__(**options)
        self.tokenize = tokenize
        self._tokenizer = Tokenizer(tokenize)

    def compare(self, predictions: list[str], references: Sequence[str]) -> dict[str, np.ndarray]:
        tokenizer = _refreshed(self._tokenizer)
        reference_ids = [tokenizer.ids(text) for text in references]
        wanted = np.array([len(row) for row in reference_ids])
        prepared = LcsReferences(reference_ids)
        ids = [tokenizer.ids(text) for text in predictions]
        common = np.array([lcs_lengths(row, prepared) for row in ids])  # (P, R)
        lengths = np.array([len(row) for row in ids])
        f1 = 2 * common / np.maximum(lengths[:, None] + wanted, 1)  # 2PR / (P + R)
        best = f1.argmax(axis=1)
        rows = np.arange(len(ids))
        shared = common[rows, best]
        return {
            "score": np.where(wanted.max() > 0, f1[rows, best], np.nan),
            "precision": shared / np.maximum(lengths, 1),
            "recall": shared / np.maximum(wanted[best], 1),
        }


class BleuRouge(ReferenceReward):
    """The harmonic mean of BLEU and ROUGE-L, 2 b r / (b + r), 0 where both are (paper 04). Parts: both.

    Args:
        bleu: default: the paper's BLEU.
        rouge: default: `RougeL()`.
        **options: those of `ReferenceReward`.
    """

    __name__ = "bleu_rouge"

    def __init__(self, bleu: BLEU | None = None, rouge: RougeL | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.bleu, self.rouge = bleu or BLEU(), rouge or RougeL()

    def compare(self, predictions: list[str], references: Sequence[str]) -> dict[str, np.ndarray]:
        overlap, rouge = (
            self.bleu.compare(predictions, references),
            self.rouge.compare(predictions, references)["score"],
        )
        score = overlap.pop("score")
        total = score + rouge
        mean = np.divide(2 * score * rouge, total, out=np.zeros_like(total), where=total != 0)
        return {"score": mean, "bleu": score, "rouge_l": rouge, **overlap}

    def fingerprint(self) -> dict[str, Any]:
        """What the scores depend on (JSON)."""
        return {**super().fingerprint(), "bleu": self.bleu.fingerprint(), "rouge": self.rouge.fingerprint()}


def _refreshed(tokenizer: Tokenizer) -> Tokenizer:
    if tokenizer.full:
        tokenizer.forget()
    return tokenizer
