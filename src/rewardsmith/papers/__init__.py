"""The papers, each a claim that runs: `list_papers` and `reproduce`. `docs/rooms/papers.md` says how to add one."""

from rewardsmith.papers.claim import ClaimReport, Outcome, reproduce
from rewardsmith.papers.table import Paper, list_papers

__all__ = ["ClaimReport", "Outcome", "Paper", "list_papers", "reproduce"]
