"""Splits that leak no prompt, near-duplicates, and overlap between two sets."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from rewardsmith.data.records import as_columns, as_text, text_key

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

SHINGLE = 5  # characters
BANDS, ROWS = (
    24,
    4,
)  # 96 hashes; two texts meet in a band with probability 1 - (1 - J^4)^24: 0.99994 at J = 0.8, 0.04 at 0.2


def split_by_prompt(dataset: Dataset, test_size: float = 0.1, seed: int = 0) -> DatasetDict:
    """Train and test parts, with no prompt in both.

    Args:
        dataset: with a column `prompt`.
        test_size: share of prompts that go to the test part, in (0, 1).
        seed: which prompts.

    Returns:
        `{"train": ..., "test": ...}`, rows in their order.

    Raises:
        ValueError: where there is no column `prompt`, or a part would be empty.
    """
    from datasets import DatasetDict

    if "prompt" not in dataset.column_names:
        raise ValueError(f"no column 'prompt' to split by; the columns are {dataset.column_names}")
    if not 0 < test_size < 1:
        raise ValueError(f"test_size must lie between 0 and 1, got {test_size}")
    keys = [text_key(prompt) for prompt in dataset["prompt"]]
    prompts = sorted(set(keys))
    held = round(len(prompts) * test_size)
    if not 0 < held < len(prompts):
        raise ValueError(f"{len(prompts)} different prompts cannot be split with test_size {test_size}")
    test = {prompts[i] for i in np.random.default_rng(seed).permutation(len(prompts))[:held]}
    rows: dict[bool, list[int]] = {True: [], False: []}
    for row, key in enumerate(keys):
        rows[key in test].append(row)
    return DatasetDict(train=dataset.select(rows[False]), test=dataset.select(rows[True]))


def near_duplicates(texts: Sequence[str], threshold: float = 0.8) -> list[tuple[int, int, float]]:
    """Pairs of texts whose sets of 5-character shingles have a Jaccard similarity of at least `threshold`.

    Case and runs of white space do not count. Candidates come from MinHash with banding (Broder 1997) and are then
    compared exactly, so every pair returned is one; at 0.8 and above, fewer than one in ten thousand is missed.

    Returns:
        (i, j, similarity) with i < j, in order.
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold must lie in (0, 1], got {threshold}")
    shingles = [_shingles(text) for text in texts]
    candidates: set[tuple[int, int]] = set()
    for bucket in _buckets(shingles):
        # A text that occurs very often would give quadratically many pairs: compare those with their first.
        pairs = itertools.combinations(bucket, 2) if len(bucket) <= 50 else ((bucket[0], j) for j in bucket[1:])
        candidates.update(pairs)
    found = []
    for i, j in sorted(candidates):
        similarity = _jaccard(shingles[i], shingles[j])
        if similarity >= threshold:
            found.append((i, j, similarity))
    return found


@dataclass
class Contamination:
    """Prompts of one set that are in another.

    Attributes:
        prompts: different prompts of the first set.
        exact: of them, those that are in the second set, but for case and white space.
        near: of them, those that are nearly in it.
        examples: up to ten of (prompt of the first, prompt of the second, similarity).
    """

    prompts: int
    exact: int
    near: int
    examples: list[tuple[str, str, float]] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Everything, as JSON."""
        return {"prompts": self.prompts, "exact": self.exact, "near": self.near, "examples": self.examples}


def contamination(first: Any, second: Any, threshold: float = 0.8) -> Contamination:
    """Which prompts of `first` (a test set) are, exactly or nearly, in `second` (a training set).

    Args:
        first: a data set or rows with a column `prompt`.
        second: the same.
        threshold: Jaccard similarity from which prompts are nearly the same, see `near_duplicates`.
    """
    mine, theirs = _prompts(first), _prompts(second)
    known = {_plain(text): text for text in theirs}
    exact = [text for text in mine if _plain(text) in known]
    others = [text for text in mine if _plain(text) not in known]
    best: dict[int, tuple[int, float]] = {}
    for i, j, similarity in near_duplicates([*others, *theirs], threshold):
        if i < len(others) <= j and similarity > best.get(i, (0, 0.0))[1]:
            best[i] = (j - len(others), similarity)
    examples = [(others[i], theirs[j], round(similarity, 3)) for i, (j, similarity) in best.items()]
    examples = [(text, known[_plain(text)], 1.0) for text in exact] + examples
    return Contamination(len(mine), len(exact), len(best), examples[:10])


def _prompts(data: Any) -> list[str]:
    columns = as_columns(data)
    if "prompt" not in columns:
        raise ValueError(f"no column 'prompt' to compare; the columns are {list(columns)}")
    return list(dict.fromkeys(as_text(prompt) for prompt in columns["prompt"]))


def _plain(text: str) -> str:
    return " ".join(text.lower().split())


def _shingles(text: str) -> np.ndarray:
    """Sorted hashes of the 5-character windows of a text (of the whole text where it is shorter)."""
    codes = np.frombuffer(_plain(text).encode("utf-32-le"), dtype=np.uint32).astype(np.uint64)
    if len(codes) < SHINGLE:
        codes = np.pad(codes, (0, SHINGLE - len(codes)))
    windows = np.lib.stride_tricks.sliding_window_view(codes, SHINGLE)
    weights = np.uint64(1_000_003) ** np.arange(SHINGLE, dtype=np.uint64)
    return np.unique(_spread((windows * weights).sum(axis=1, dtype=np.uint64)))


def _spread(values: np.ndarray) -> np.ndarray:
    """A bijection of 64-bit integers that looks random (splitmix64, public domain)."""
    with np.errstate(over="ignore"):
        values = values + np.uint64(0x9E3779B97F4A7C15)
        values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _buckets(shingles: Sequence[np.ndarray]) -> list[list[int]]:
    """Groups of texts that agree in all hashes of some band."""
    rng = np.random.default_rng(0)
    multiply = rng.integers(1, 2**63, size=BANDS * ROWS, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
    with np.errstate(over="ignore"):
        signatures = np.array([(multiply[:, None] * s[None, :]).min(axis=1) for s in shingles], dtype=np.uint64)
    found = []
    for band in signatures.reshape(len(shingles), BANDS, ROWS).transpose(1, 0, 2) if len(shingles) else ():
        buckets: dict[bytes, list[int]] = defaultdict(list)
        for i, key in enumerate(np.ascontiguousarray(band)):
            buckets[key.tobytes()].append(i)
        found += [bucket for bucket in buckets.values() if len(bucket) > 1]
    return found


def _jaccard(a: np.ndarray, b: np.ndarray) -> float:
    both = len(np.intersect1d(a, b, assume_unique=True))
    return both / (len(a) + len(b) - both)
