"""Splits that leak no prompt, near-duplicates, and overlap between two sets."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from rewardsmith.data.records import as_columns, as_text, text_key

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

SHINGLE = 5  # characters
# 96 hashes; two texts meet in a band with probability 1 - (1 - J^4)^24: 0.99999 at J = 0.8, 0.04 at 0.2.
BANDS, ROWS = 24, 4
CROWD = 50  # a bucket of more texts is not compared each with each


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
    compared exactly, so every pair returned is one; at 0.8 and above, fewer than one in ten thousand is missed. Of more
    than 50 texts that look alike, each is compared with the first of them alone (the pairs would be too many).

    Returns:
        (i, j, similarity) with i < j, in order.
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold must lie in (0, 1], got {threshold}")
    plain = [_plain(text) for text in texts]
    candidates: set[tuple[int, int]] = set()
    for bucket in _buckets(plain):
        near = itertools.combinations(bucket, 2) if len(bucket) <= CROWD else ((bucket[0], j) for j in bucket[1:])
        candidates.update(near)
    shingles = {i: _shingles(plain[i]) for i in set(itertools.chain.from_iterable(candidates))}
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


def _windows(plain: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Hashes of the 5-character windows of all texts, one after the other, and where each text's begin.

    A text of fewer than five characters is filled up with zeros to one window.
    """
    joined = "".join(text if len(text) >= SHINGLE else text.ljust(SHINGLE, "\0") for text in plain)
    codes = np.frombuffer(joined.encode("utf-32-le", "surrogatepass"), dtype=np.uint32).astype(np.uint64)
    lengths = np.array([max(len(text), SHINGLE) for text in plain])
    hashes = np.zeros(len(codes) - SHINGLE + 1, dtype=np.uint64)
    for offset in range(SHINGLE):
        hashes = hashes * np.uint64(1_000_003) + codes[offset : offset + len(hashes)]
    ends = np.cumsum(lengths)
    inside = np.ones(len(codes), dtype=bool)
    for back in range(1, SHINGLE):
        inside[ends - back] = False  # these windows would reach into the next text
    counts = lengths - SHINGLE + 1
    return _spread(hashes[inside[: len(hashes)]]), np.cumsum(counts) - counts


def _shingles(plain: str) -> np.ndarray:
    """Sorted set of the hashes of a text's windows."""
    return np.unique(_windows([plain])[0])


def _spread(values: np.ndarray) -> np.ndarray:
    """A bijection of 64-bit integers that looks random (splitmix64, public domain)."""
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _signatures(plain: Sequence[str]) -> np.ndarray:
    """MinHash signatures, (texts, BANDS * ROWS): the least of every hash function over a text's windows."""
    odd = np.random.default_rng(0).integers(1, 2**62, size=BANDS * ROWS, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
    out = np.empty((len(plain), BANDS * ROWS), dtype=np.uint64)
    sizes = np.cumsum([len(text) + SHINGLE for text in plain]) // 500_000  # chunks that stay in the processor's cache
    for chunk in np.split(np.arange(len(plain)), np.flatnonzero(np.diff(sizes)) + 1):
        windows, starts = _windows([plain[i] for i in chunk])
        for column, multiplier in enumerate(odd):
            out[chunk, column] = np.minimum.reduceat(windows * multiplier, starts)
    return out


def _buckets(plain: Sequence[str]) -> list[list[int]]:
    """Groups of texts that agree in all hashes of some band."""
    if not plain:
        return []
    found = []
    for band in np.split(_signatures(plain), BANDS, axis=1):
        key = np.zeros(len(plain), dtype=np.uint64)
        for column in band.T:
            key = _spread(key ^ column)
        order = np.argsort(key, kind="stable")
        borders = np.flatnonzero(np.diff(key[order])) + 1
        starts, ends = np.r_[0, borders], np.r_[borders, len(order)]
        crowded = ends - starts > 1
        found += [order[a:b].tolist() for a, b in zip(starts[crowded], ends[crowded])]
    return found


def _jaccard(a: np.ndarray, b: np.ndarray) -> float:
    both = len(np.intersect1d(a, b, assume_unique=True))
    return both / (len(a) + len(b) - both)
