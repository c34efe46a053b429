"""Tokens and n-grams of texts as integers: what BLEU, chrF and ROUGE-L count.

Tokenization works word by word and remembers every word, because its rules never look past white space. N-grams are
numbered order by order within the references (an n-gram is an (n-1)-gram that is known and one more token), so that
what a prediction shares with them is counted by `searchsorted` and `bincount` for a whole group of predictions.
"""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np

Tokenization = Literal["13a", "intl", "char", "none", "words"]
TOKENIZATIONS = ("13a", "intl", "char", "none", "words")
# A model's garbage must not fill the memory: past so many different tokens or words everything is forgotten.
MOST_TOKENS = 1 << 20
MOST_CELLS = 1 << 21  # of a table predictions x n-grams

# mteval-v13a: white space around ASCII punctuation but . , - and the apostrophe; . and , apart but between digits; a
# dash apart after a digit.
_SYMBOLS = re.compile(r"([!-&(-+/:-@\[-`{-~])")
_POINT_AFTER = re.compile(r"([^0-9])([.,])")
_POINT_BEFORE = re.compile(r"([.,])([^0-9])")
_CLOSING = frozenset(".,;:!?)")
_DASH = re.compile(r"([0-9])(-)")
_ENTITIES = (("&quot;", '"'), ("&amp;", "&"), ("&lt;", "<"), ("&gt;", ">"))
_ALPHANUMERIC = re.compile(r"[a-z0-9]+")


class _Memory(dict):
    """word -> tuple of token ids, made at the first look."""

    def __init__(self, tokens: dict[str, int], split: Callable[[str], Sequence[str]]) -> None:
        self.tokens, self.split = tokens, split

    def __missing__(self, word: str) -> tuple[int, ...]:
        tokens = self.tokens
        ids = tuple([tokens.setdefault(token, len(tokens)) for token in self.split(word)])
        self[word] = ids
        return ids


class Tokenizer:
    """Texts to token ids; equal tokens have equal ids until `forget`.

    Args:
        method: `13a` (mteval-v13a, what BLEU is usually given in), `intl` (mteval-v14: all Unicode punctuation and
            symbols), `char` (characters but white space), `none` (at white space), `words` (runs of a-z and 0-9 in
            lower case, as the usual ROUGE does).
        lowercase: tokenize the text in lower case.
    """

    def __init__(self, method: Tokenization = "13a", lowercase: bool = False) -> None:
        if method not in TOKENIZATIONS:
            raise ValueError(f"tokenize must be one of {TOKENIZATIONS}, not {method!r}")
        self.method, self.lowercase = method, lowercase or method == "words"
        self.forget()

    def forget(self) -> None:
        """Empty the memory; ids given before mean nothing any more."""
        self.tokens: dict[str, int] = {}
        splits: dict[str, Callable[[str], Sequence[str]]] = {
            "13a": split_13a, "intl": _split_intl_inside, "words": _ALPHANUMERIC.findall, "none": lambda word: [word],
        }  # fmt: skip
        self._memory = None if self.method == "char" else _Memory(self.tokens, splits[self.method])
        self._scratch = np.zeros(0, dtype=np.int64)

    @property
    def full(self) -> bool:
        """Whether it is time to `forget`."""
        return max(len(self.tokens), 0 if self._memory is None else len(self._memory)) > MOST_TOKENS

    def ids(self, text: str) -> np.ndarray:
        """(T,) int64 ids of the tokens of a text."""
        text = text.rstrip()
        if self.lowercase:
            text = text.lower()
        if self._memory is None:
            return np.frombuffer("".join(text.split()).encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.int64)
        memory = self._memory
        if self.method == "13a":
            if "<skipped>" in text:
                text = text.replace("<skipped>", "")
            text = text.replace("-\n", "")
            if "&" in text:
                for entity, character in _ENTITIES:
                    text = text.replace(entity, character)
        if self.method == "intl":
            return self._intl(text)
        # All in C: this line takes most of the time of BLEU.
        return np.fromiter(itertools.chain.from_iterable(map(memory.__getitem__, text.split())), np.int64)

    def _intl(self, text: str) -> np.ndarray:
        """The first and the last word lack a neighbor, and punctuation there may stay where it stands."""
        words = text.split()
        if not words:
            return np.zeros(0, dtype=np.int64)
        tokens = self.tokens
        before, after = ("" if not text[0].isspace() else " "), ""
        if len(words) == 1:
            ends = [tokens.setdefault(t, len(tokens)) for t in split_intl(before + words[0] + after)]
            return np.array(ends, dtype=np.int64)
        first = [tokens.setdefault(t, len(tokens)) for t in split_intl(before + words[0] + " ")]
        last = [tokens.setdefault(t, len(tokens)) for t in split_intl(" " + words[-1] + after)]
        assert self._memory is not None
        middle = [token for word in words[1:-1] for token in self._memory[word]]
        return np.array([*first, *middle, *last], dtype=np.int64)

    def scratch(self) -> np.ndarray:
        """An array of zeros with a place for every id; who writes to it puts the zeros back."""
        size = 0x110000 if self._memory is None else len(self.tokens)
        if len(self._scratch) < size:
            self._scratch = np.zeros(max(size, 2 * len(self._scratch)), dtype=np.int64)
        return self._scratch


def split_13a(word: str) -> list[str]:
    """Tokens of a text without line breaks or entities by the rule mteval-v13a."""
    if word.isalnum():
        return [word]
    if word[-1:] in _CLOSING and word[:-1].isalnum():  # most of the others, without a regular expression
        return [word[:-1], word[-1]]
    text = _SYMBOLS.sub(r" \1 ", f" {word} ")
    text = _POINT_AFTER.sub(r"\1 \2 ", text)
    text = _POINT_BEFORE.sub(r" \1 \2", text)
    return _DASH.sub(r"\1 \2 ", text).split()


@functools.cache
def _international() -> tuple[tuple[re.Pattern[str], str], ...]:
    import regex  # knows the classes of Unicode

    rules = ((r"(\P{N})(\p{P})", r"\1 \2 "), (r"(\p{P})(\P{N})", r" \1 \2"), (r"(\p{S})", r" \1 "))
    return tuple((regex.compile(pattern), replacement) for pattern, replacement in rules)


def split_intl(text: str) -> list[str]:
    """Tokens of a text by the rule mteval-v14, international tokenization."""
    for pattern, replacement in _international():
        text = pattern.sub(replacement, text)
    return text.split()


def _split_intl_inside(word: str) -> list[str]:
    return split_intl(f" {word} ")


class ReferenceNgrams:
    """The n-grams of R references, numbered; counts what predictions share with them.

    Args:
        ids: R arrays (T_r,) of token ids.
        max_order: N, the longest n-grams.
        scratch: zeros with a place for every id, see `Tokenizer.scratch`.

    Attributes:
        lengths: (R,) tokens of each reference.
        counts: for each order n = 1..N, (R, K_n): how often each reference has each of the K_n n-grams.
        most: for each order, (K_n,): the most that any one reference has of each.
    """

    def __init__(self, ids: Sequence[np.ndarray], max_order: int, scratch: np.ndarray) -> None:
        self.max_order = max_order
        self.lengths = np.array([len(row) for row in ids], dtype=np.int64)
        tokens, rows, rest = _joined(ids)
        self._known = np.unique(tokens)
        self._base = len(self._known) + 1
        self._keys: list[np.ndarray] = []
        self.counts: list[np.ndarray] = []
        local = self._local(tokens, scratch)
        places, number = np.arange(len(tokens)), local
        for order in range(1, max_order + 1):
            if order > 1:
                kept = rest[places] >= order
                places, number = places[kept], number[kept]
                keys, number = np.unique(number * self._base + local[places + order - 1], return_inverse=True)
                self._keys.append(keys)
                size = len(keys)
            else:
                number, size = number - 1, len(self._known)
            self.counts.append(
                np.bincount(rows[places] * size + number, minlength=len(ids) * size).reshape(len(ids), size)
            )
        self.most = [table.max(axis=0, initial=0) for table in self.counts]

    def _local(self, tokens: np.ndarray, scratch: np.ndarray) -> np.ndarray:
        """Tokens as 1..V, 0 for those that no reference has."""
        scratch[self._known] = np.arange(1, self._base)
        local = scratch[tokens]
        scratch[self._known] = 0
        return local

    def count(self, ids: Sequence[np.ndarray], scratch: np.ndarray) -> list[np.ndarray]:
        """For each order, (P, K_n): how often each of P predictions has each n-gram of the references."""
        tokens, rows, rest = _joined(ids)
        local = self._local(tokens, scratch)
        places = np.flatnonzero(local)
        number = local[places] - 1
        tables = []
        for order in range(1, self.max_order + 1):
            size = self.counts[order - 1].shape[1]
            if order > 1:
                kept = rest[places] >= order
                places, number = places[kept], number[kept]
                last = local[places + order - 1]
                kept = last > 0  # else the key would be that of another n-gram's end
                places, key = places[kept], number[kept] * self._base + last[kept]
                keys = self._keys[order - 2]
                number = np.searchsorted(keys, key)
                if size:
                    kept = keys[np.minimum(number, size - 1)] == key
                    places, number = places[kept], number[kept]
                else:
                    places, number = places[:0], number[:0]
            tables.append(_table(rows[places], number, len(ids), size))
        return tables

    def clipped(self, ids: Sequence[np.ndarray], scratch: np.ndarray) -> np.ndarray:
        """(P, N): matched n-grams of P predictions, each counted as often as in the reference that has most of it."""
        out = np.zeros((len(ids), self.max_order), dtype=np.int64)
        for part in self.parts(len(ids)):
            tables = self.count(ids[part], scratch)
            for order, (table, most) in enumerate(zip(tables, self.most)):
                out[part, order] = np.minimum(table, most).sum(axis=1)
        return out

    def shared(self, ids: Sequence[np.ndarray], scratch: np.ndarray) -> np.ndarray:
        """(P, R, N): matched n-grams of P predictions with each of R references."""
        out = np.zeros((len(ids), len(self.lengths), self.max_order), dtype=np.int64)
        for part in self.parts(len(ids)):
            for order, (table, counts) in enumerate(zip(self.count(ids[part], scratch), self.counts)):
                for reference, row in enumerate(counts):
                    out[part, reference, order] = np.minimum(table, row).sum(axis=1)
        return out

    def parts(self, predictions: int) -> list[slice]:
        """Slices of predictions whose tables stay small."""
        step = max(1, MOST_CELLS // max(1, *(len(most) for most in self.most)))
        return [slice(start, start + step) for start in range(0, predictions, step)]


def _joined(ids: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Tokens of all rows one after another, the row of each, and how many tokens its row has from it on."""
    lengths = np.array([len(row) for row in ids], dtype=np.int64)
    tokens = np.concatenate(ids) if len(ids) else np.zeros(0, dtype=np.int64)
    ends = np.cumsum(lengths)
    return tokens, np.repeat(np.arange(len(ids)), lengths), np.repeat(ends, lengths) - np.arange(len(tokens))


def _table(rows: np.ndarray, columns: np.ndarray, height: int, width: int) -> np.ndarray:
    """(height, width): how often each pair of row and column is there."""
    return np.bincount(rows * width + columns, minlength=height * width).reshape(height, width)


def lcs_lengths(prediction: np.ndarray, references: LcsReferences) -> np.ndarray:
    """(R,) lengths of the longest common subsequence of a prediction with each of R references.

    Bit-parallel (Hyyro 2004): a field of bits per reference, all in one integer, with a guard bit between them that
    keeps a carry from running over.
    """
    fields = references.fields
    vector, masks = fields, references.masks
    for token in prediction.tolist():
        mask = masks.get(token)
        if mask is not None:
            matched = vector & mask
            vector = ((vector + matched) | (vector - matched)) & fields
    zeros = fields & ~vector
    return np.array([(zeros >> at & ((1 << length) - 1)).bit_count() for at, length in references.places])


class LcsReferences:
    """R references, arrays of token ids, made ready for `lcs_lengths`."""

    def __init__(self, ids: Sequence[np.ndarray]) -> None:
        self.masks: dict[int, int] = {}
        self.places: list[tuple[int, int]] = []
        self.fields, at = 0, 0
        for row in ids:
            for offset, token in enumerate(row.tolist()):
                self.masks[token] = self.masks.get(token, 0) | 1 << (at + offset)
            self.places.append((at, len(row)))
            self.fields |= ((1 << len(row)) - 1) << at
            at += len(row) + 1
