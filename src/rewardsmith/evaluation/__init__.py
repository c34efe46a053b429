"""Tests of rewards before compute is spent on them, as pure functions. The names load on first use."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

_LAZY = {
    "AuditReport": "auditing",
    "BestOfN": "selection",
    "Comparison": "pairs",
    "Finding": "auditing",
    "PairEvaluation": "pairs",
    "PersonalResult": "personal",
    "audit": "auditing",
    "audit_preferences": "recorded",
    "best_of_n": "selection",
    "compare": "pairs",
    "evaluate_pairs": "pairs",
    "evaluate_personal": "personal",
    "order_statistics_curve": "selection",
}
__all__ = [
    "AuditReport",
    "BestOfN",
    "Comparison",
    "Finding",
    "PairEvaluation",
    "PersonalResult",
    "audit",
    "audit_preferences",
    "best_of_n",
    "compare",
    "evaluate_pairs",
    "evaluate_personal",
    "order_statistics_curve",
]

if TYPE_CHECKING:
    from rewardsmith.evaluation.auditing import AuditReport, Finding, audit
    from rewardsmith.evaluation.pairs import Comparison, PairEvaluation, compare, evaluate_pairs
    from rewardsmith.evaluation.personal import PersonalResult, evaluate_personal
    from rewardsmith.evaluation.recorded import audit_preferences
    from rewardsmith.evaluation.selection import BestOfN, best_of_n, order_statistics_curve


def __getattr__(name: str):
    if name in _LAZY:
        return getattr(importlib.import_module(f"rewardsmith.evaluation.{_LAZY[name]}"), name)
    raise AttributeError(f"module 'rewardsmith.evaluation' has no attribute {name!r}")
