"""The audit of recorded preferences, a judge's or annotators', without a model: is what wins what ought to win?"""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any

import numpy as np

from rewardsmith.data.records import as_columns, as_text, text_key
from rewardsmith.evaluation.auditing import SEVERITIES, AuditReport, Finding
from rewardsmith.evaluation.intervals import Estimate, bootstrap_mean, cluster_index, wilson
from rewardsmith.evaluation.pairs import data_fingerprint
from rewardsmith.evaluation.plain import excerpt

CONSTANT = 5  # prompts that a text must answer before it counts as one answer to everything


def audit_preferences(data: Any, *, seed: int = 0) -> AuditReport:
    """Audit pairs as they were judged.

    Findings: answers that are given word for word to many prompts, and how often they win (a constant answer that wins
    has hacked the judge: Zheng et al. 2024, "Cheating Automatic LLM Benchmarks"); whether the longer, or the one shown
    first, wins; how often each generator wins.

    Args:
        data: rows with `prompt`, `chosen`, `rejected`; where known `generator_chosen`, `generator_rejected` and
            `chosen_position` (1 or 2: where the winner was shown).
        seed: of the bootstrap.

    Raises:
        ValueError: where a column is missing or there are no rows.
    """
    columns = as_columns(data)
    for name in ("prompt", "chosen", "rejected"):
        if name not in columns:
            raise ValueError(
                f"no column {name!r}: preferences have prompt, chosen, rejected; there are {list(columns)}"
            )
    if not columns["prompt"]:
        raise ValueError("there is nothing to audit: the data is empty")
    findings = [*_constant_answers(columns), _length(columns, seed)]
    if "generator_chosen" in columns and "generator_rejected" in columns:
        findings += _generators(columns)
    if (position := _position(columns)) is not None:
        findings.append(position)
    card = {"rows": len(columns["prompt"]), "seed": seed, "data": data_fingerprint(columns)}
    return AuditReport("recorded preferences", findings, card)


def _constant_answers(columns: dict[str, list[Any]]) -> list[Finding]:
    """One finding per text that answers at least `CONSTANT` different prompts, or one that says there is none."""
    prompts_of: dict[str, set[str]] = defaultdict(set)
    shown: dict[str, Any] = {}
    for side in ("chosen", "rejected"):
        for prompt, answer in zip(columns["prompt"], columns[side]):
            key = text_key(answer)
            prompts_of[key].add(text_key(prompt))
            shown.setdefault(key, answer)
    wins, losses = Counter(map(text_key, columns["chosen"])), Counter(map(text_key, columns["rejected"]))
    constant = [key for key, prompts in prompts_of.items() if len(prompts) >= CONSTANT]
    if not constant:
        none = Finding("constant answer", "degenerate", 0.0, 0.0, 0.0, "share won", "ok", "", n=len(columns["prompt"]))
        none.summary = f"No answer is given word for word to {CONSTANT} prompts or more."
        return [none]
    findings = []
    for key in sorted(constant, key=lambda key: -len(prompts_of[key])):
        n = wins[key] + losses[key]
        share = wilson(wins[key], n)
        severity = SEVERITIES[sum(share.low > limit for limit in (0.0, 0.02, 0.1))]
        generators = _generators_of(key, columns)
        by = f" (by {', '.join(generators)})" if generators else ""
        found = _made("constant answer", "degenerate", share, "share won", severity)
        found.summary = (
            f"One answer{by} is given to {len(prompts_of[key])} prompts, and wins {share.value:.0%} of {n} pairs."
        )
        found.example = {"original": excerpt(as_text(shown[key])), "wins": wins[key], "losses": losses[key]}
        findings.append(found)
    return findings


def _generators_of(key: str, columns: dict[str, list[Any]]) -> list[str]:
    names = set()
    for side in ("chosen", "rejected"):
        for answer, generator in zip(columns[side], columns.get(f"generator_{side}", ())):
            if generator is not None and text_key(answer) == key:
                names.add(str(generator))
    return sorted(names)


def _length(columns: dict[str, list[Any]], seed: int) -> Finding:
    words = [np.array([len(as_text(text).split()) for text in columns[side]]) for side in ("chosen", "rejected")]
    gap = words[0] - words[1]
    longer = np.where(gap > 0, 1.0, np.where(gap < 0, 0.0, np.nan))
    clusters = cluster_index([text_key(prompt) for prompt in columns["prompt"]], len(gap))
    share = bootstrap_mean(longer, clusters=clusters, seed=seed)
    away = 0.0 if not np.isfinite(share.low) or share.low <= 0.5 <= share.high else abs(share.value - 0.5)
    severity = SEVERITIES[sum(away > limit for limit in (0.05, 0.2, 0.4))]
    found = _made("longer wins", "length", share, "share won", severity)
    found.summary = f"The longer answer wins {share.value:.0%} of {share.n} pairs of different length."
    return found


def _generators(columns: dict[str, list[Any]]) -> list[Finding]:
    wins = Counter(str(name) for name in columns["generator_chosen"])
    losses = Counter(str(name) for name in columns["generator_rejected"])
    findings = []
    for name in sorted({*wins, *losses}, key=lambda name: -(wins[name] + losses[name])):
        share = wilson(wins[name], wins[name] + losses[name])
        findings.append(_made(f"generator {name}", "generators", share, "share won", "ok"))
        findings[-1].summary = f"{name} wins {share.value:.0%} of {share.n} pairs."
    return findings


def _position(columns: dict[str, list[Any]]) -> Finding | None:
    """Whether the first one shown wins, where every generator was shown in both places about equally often."""
    positions = columns.get("chosen_position")
    if positions is None or any(value not in (1, 2) for value in positions):
        return None
    first = Counter[tuple[str, bool]]()
    for side, other in (("chosen", 1), ("rejected", 2)):
        for generator, position in zip(columns.get(f"generator_{side}", ["?"] * len(positions)), positions):
            first[str(generator), position == other] += 1
    names = {key[0] for key in first}
    if len(names) > 1 and any(
        min(first[name, True], first[name, False]) < 0.2 * max(first[name, True], first[name, False]) for name in names
    ):
        return None
    share = wilson(sum(value == 1 for value in positions), len(positions))
    away = 0.0 if share.low <= 0.5 <= share.high else abs(share.value - 0.5)
    found = _made("first wins", "position", share, "share won", SEVERITIES[sum(away > x for x in (0.03, 0.1, 0.25))])
    found.summary = f"The answer that was shown first wins {share.value:.0%} of pairs."
    return found


def _made(probe: str, group: str, share: Estimate, unit: str, severity: str) -> Finding:
    return Finding(probe, group, share.value, share.low, share.high, unit, severity, "", n=share.n, share=share.value)
