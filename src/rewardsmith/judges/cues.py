"""Spurious cues in preference data: words that tell chosen from rejected without being about quality.

Chen et al. 2025 ("RM-R1") left out a part of a preference set because its rejected texts carry a stray chat token.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from rewardsmith.data.records import Text, as_text

_TOKEN = re.compile(r"<\|?[^<>\s]{1,40}\|?>|\w+|[^\w\s]")


@dataclass(frozen=True)
class Cue:
    """A token that is commoner on one side.

    Attributes:
        token: as it stands in the texts.
        chosen, rejected: share of the texts of each side that have it.
        difference: chosen - rejected.
        accuracy: of the rule that says the side with the token is the commoner one, pairs on which both sides or
            neither has it counting half.
    """

    token: str
    chosen: float
    rejected: float
    difference: float
    accuracy: float

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


def spurious_token_report(
    chosen: Sequence[Text], rejected: Sequence[Text], *, threshold: float = 0.1, limit: int = 50
) -> list[Cue]:
    """Tokens with |P(token in chosen) - P(token in rejected)| above a threshold, the largest difference first.

    Tokens are words, single punctuation marks, and marks in angle brackets as chat templates have them. A large
    difference is not always spurious: a person must look at the list.

    Args:
        chosen: P texts.
        rejected: P texts.
        threshold: in (0, 1).
        limit: how many to list.

    Raises:
        ValueError: where the sides differ in number or are empty.
    """
    if len(chosen) != len(rejected) or not len(chosen):
        raise ValueError(f"as many chosen as rejected are needed, at least one: got {len(chosen)} and {len(rejected)}")
    sides = [[frozenset(_TOKEN.findall(as_text(text))) for text in texts] for texts in (chosen, rejected)]
    counts = [Counter(token for tokens in side for token in tokens) for side in sides]
    pairs = len(chosen)
    gaps = {token: (counts[0][token] - counts[1][token]) / pairs for token in counts[0] | counts[1]}
    large = sorted((token for token, gap in gaps.items() if abs(gap) > threshold), key=lambda t: (-abs(gaps[t]), t))
    found = []
    for token in large[:limit]:
        has = np.array([[token in tokens for tokens in side] for side in sides], dtype=np.float64)
        right = (1 + np.sign(gaps[token]) * (has[0] - has[1])) / 2
        shares = (counts[0][token] / pairs, counts[1][token] / pairs)
        found.append(Cue(token, *shares, gaps[token], float(right.mean())))
    return found
