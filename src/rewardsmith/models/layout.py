"""How rows that share a prompt are laid out for one forward pass, and which layout is cheapest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def common_prefix(sequences: Sequence[Any]) -> int:
    """Length of the longest common prefix of strings, or of lists of token ids."""
    low, high = min(sequences), max(sequences)  # what the extremes share, all share
    for index, (a, b) in enumerate(zip(low, high)):
        if a != b:
            return index
    return min(len(low), len(high))
