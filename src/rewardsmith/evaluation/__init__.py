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
    "data_topology": "topology",
    "evaluate_contexts": "contexts",
    "evaluate_pairs": "pairs",
    "evaluate_personal": "personal",
    "evaluate_uncertainty": "uncertainty",
    "order_statistics_curve": "selection",
    "select_pairs": "uncertainty",
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
    "data_topology",
    "evaluate_contexts",
    "evaluate_pairs",
    "evaluate_personal",
    "evaluate_uncertainty",
    "order_statistics_curve",
    "select_pairs",
]

if TYPE_CHECKING:
    from rewardsmith.evaluation.auditing import AuditReport, Finding, audit
    from rewardsmith.evaluation.contexts import evaluate_contexts
    from rewardsmith.evaluation.pairs import Comparison, PairEvaluation, compare, evaluate_pairs
    from rewardsmith.evaluation.personal import PersonalResult, evaluate_personal
    from rewardsmith.evaluation.recorded import audit_preferences
    from rewardsmith.evaluation.selection import BestOfN, best_of_n, order_statistics_curve
    from rewardsmith.evaluation.topology import data_topology
    from rewardsmith.evaluation.uncertainty import evaluate_uncertainty, select_pairs


def __getattr__(name: str):
    if name in _LAZY:
        return getattr(importlib.import_module(f"rewardsmith.evaluation.{_LAZY[name]}"), name)
    raise AttributeError(f"module 'rewardsmith.evaluation' has no attribute {name!r}")
