"""Records of opinion summaries (Nath et al. 2024, arXiv 2402.15473): human choices, and scores of seven properties."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from rewardsmith.data.records import RecordError, Row

OPINION = (
    "aspect-coverage", "opinion-faithfulness", "opinion-coverage", "conciseness", "relevance", "hallucination",
    "language-correctness",
)  # fmt: skip


def opinion_pairs(rows: Iterable[Mapping[str, Any]]) -> tuple[list[Row], list[Row]]:
    """Pairs of summaries as preferences, and their scores by property.

    The prompt is the numbered reviews, `id` the product and `user` the annotator.

    Returns:
        rows of `prompt`, `chosen`, `rejected`, `id`, `user`; and rows of `prompt`, `completion` and one column per
        property of `OPINION`, in [0, 5] or None, for `models.features.FeatureBackbone.measure`.

    Raises:
        RecordError: for a row without reviews, two summaries, or a choice of 1 or 2.
    """
    pairs: list[Row] = []
    scored: list[Row] = []
    for number, row in enumerate(rows):
        try:
            reviews, choice = row["reviews"], row["preference-data"]
            one, two = (row["summary-pairs"][f"summary-{which}"] for which in ("one", "two"))
            texts = [summary["summary-text"] for summary in (one, two)]
        except (KeyError, TypeError) as error:
            raise RecordError(f"has no {error}, as opinion summaries have", row=number) from None
        if choice not in (1, 2):
            raise RecordError(f"must be 1 or 2, not {choice!r}", row=number, column="preference-data")
        prompt = "\n".join(f"{at}. {review}" for at, review in enumerate(reviews, 1))
        for text, summary in zip(texts, (one, two)):
            found = summary.get("summary-score") or {}
            scored.append({"prompt": prompt, "completion": text, **{name: found.get(name) for name in OPINION}})
        pair = {"prompt": prompt, "chosen": texts[choice - 1], "rejected": texts[2 - choice]}
        pairs.append({**pair, "id": row.get("unique-id"), "user": row.get("source")})
    return pairs, scored


def mixed_in(records: Sequence[Row], others: Sequence[Row], share: float = 0.25, *, seed: int = 0) -> list[Row]:
    """All `records`, and so many of the `others`, drawn without replacement, that they are `share` of the whole.

    The paper mixes human choices with pairs that are ordered by how good a summary was asked for; those are made by
    `candidates_to_preferences` from `candidates` with `ranks`.

    Raises:
        ValueError: for a share outside [0, 1), or where there are too few others.
    """
    if not 0 <= share < 1:
        raise ValueError(f"share must lie in [0, 1), got {share}")
    wanted = round(share / (1 - share) * len(records))
    if wanted > len(others):
        raise ValueError(f"a share of {share} beside {len(records)} rows is {wanted}, and there are {len(others)}")
    drawn = np.random.default_rng(seed).choice(len(others), size=wanted, replace=False)
    return [*records, *(others[int(at)] for at in drawn)]
