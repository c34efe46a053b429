"""Preference strength: how strongly, and how unanimously, several briefly trained reward models prefer chosen.

Paper 05 (Wang et al. 2024, "Secrets of RLHF in Large Language Models Part II: Reward Modeling", section 2.2): M models
vote on every pair, s_m = r_m(chosen) - r_m(rejected); the mean is the strength of the preference, negative where the
label is probably wrong. `data.clean` turns strengths into flipped pairs, soft labels and margins.

A model that has seen a wrong label has begun to believe it. So each member trains on a random share of the rows, and
only members that have not seen a pair vote on it; with `share=1` all see all, as in the paper.
"""

from __future__ import annotations

import copy
import functools
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from rewardsmith.data.records import Row, as_columns
from rewardsmith.data.write import ResumableWriter
from rewardsmith.models.backbones import Backbone
from rewardsmith.models.ensemble import EnsembleHead
from rewardsmith.models.hashed import HashedBackbone
from rewardsmith.models.reward_model import build_backbone
from rewardsmith.models.running import data_hash
from rewardsmith.models.trainer import train


@dataclass
class Strengths:
    """What `preference_strength` returns.

    Attributes:
        votes: (M, N) by how much member m prefers chosen of row n, in its reward; NaN where it has no vote.
        one_run: whether all members were trained in one run.
        seconds: of training and voting.
    """

    votes: np.ndarray
    one_run: bool
    seconds: float

    @property
    def voters(self) -> np.ndarray:
        """(N,) members that voted on each row."""
        return np.isfinite(self.votes).sum(0)

    @property
    def mean(self) -> np.ndarray:
        """(N,) strengths; NaN where nobody voted."""
        return self._over_members(np.nanmean, 1)

    @property
    def std(self) -> np.ndarray:
        """(N,) standard deviation over members (of a sample); NaN for fewer than two votes."""
        return self._over_members(functools.partial(np.nanstd, ddof=1), 2)

    @property
    def error(self) -> np.ndarray:
        """(N,) standard error of the mean: std / sqrt(voters)."""
        return self.std / np.sqrt(np.maximum(self.voters, 1))

    def _over_members(self, reduce: Callable[..., Any], least: int) -> np.ndarray:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # rows without votes
            return np.where(self.voters >= least, reduce(self.votes, axis=0), np.nan)

    def attach(self, records: Any) -> list[Row]:
        """The rows, in their order, with `strength` and `strength_std`; None where too few voted.

        Raises:
            ValueError: where these are not the rows that were voted on.
        """
        columns = as_columns(records)
        if len(columns["chosen"]) != self.votes.shape[1]:
            raise ValueError(f"{self.votes.shape[1]} rows were voted on, but there are {len(columns['chosen'])}")
        columns |= {"strength": _numbers(self.mean), "strength_std": _numbers(self.std)}
        return [dict(zip(columns, row)) for row in zip(*columns.values())]

    def to_dict(self) -> dict[str, Any]:
        """Figures (JSON), without the votes themselves."""
        mean = self.mean[np.isfinite(self.mean)]
        return {
            "members": len(self.votes),
            "rows": self.votes.shape[1],
            "votes_per_row": float(self.voters.mean()),
            "unjudged": int((self.voters == 0).sum()),
            "negative": float((mean < 0).mean()) if len(mean) else None,
            "surely_negative": float((self.mean + 2 * self.error < 0).sum() / max(len(mean), 1)),
            "one_run": self.one_run,
            "seconds": self.seconds,
        }


def preference_strength(
    records: Any,
    model: str | Path | Backbone = "hashed",
    members: int = 10,
    *,
    share: float = 0.6,
    epochs: float = 1,
    seed: int = 0,
    votes_file: str | Path | None = None,
    on_member: Callable[[int, int], None] | None = None,
    **options: Any,
) -> Strengths:
    """Train `members` reward models on preferences and let them vote on the same preferences.

    On the hashed and on frozen backbones they train in one run, with one pass over the texts. Of transformers each
    member is a run of its own.

    Args:
        records: rows with `prompt`, `chosen`, `rejected`.
        model: as for `train`.
        members: M, at least 2.
        share: of the rows that each member trains on. Each row is seen by equally many members, and the others vote;
            with 1 all see it and all vote, each member a run of its own with its own order of the rows.
        epochs: of each member. A model that has memorized a wrong label cannot expose it: train briefly.
        seed: of everything random.
        votes_file: separate runs: a `.jsonl` file that gets each member's votes, from which a killed call goes on.
        on_member: called with the number of members trained and their total, after each run.
        options: of `train`: `learning_rate`, `batch_size`, `max_length`, `lora`, `model_options`, ...

    Raises:
        ValueError: for fewer than two members, a share that leaves no votes, or what `train` refuses.
    """
    if members < 2:
        raise ValueError(f"at least two members must vote, got {members}")
    if not 0 < share <= 1:
        raise ValueError(f"share must lie in (0, 1], got {share}")
    seen_by = round(share * members)
    if seen_by < 1 or (seen_by == members and share < 1):
        raise ValueError(f"{members} members, share {share}: each row is seen by {seen_by}, which leaves no voters")
    columns = as_columns(records)
    for name in ("chosen", "rejected"):
        if name not in columns:
            raise ValueError(f"no column {name!r}; there are {sorted(columns)}")
    # Soft labels and margins of an earlier cleaning say what is to be found out here.
    columns = {name: columns[name] for name in ("prompt", "chosen", "rejected", "weight") if name in columns}
    start = time.perf_counter()
    backbone = model if isinstance(model, Backbone) else None
    if seen_by < members and backbone is None:
        loading = {"max_length": options.get("max_length"), **(options.get("model_options") or {})}
        if str(model) == "hashed":
            backbone = HashedBackbone(members)
            nn.init.zeros_(backbone.table)  # no random start: it would cancel in differences, but for rounding
        else:
            backbone = build_backbone(model, **loading)
    one_run = seen_by < members and backbone is not None and (backbone.name == "hashed" or not backbone.trainable)
    seen = _who_sees_what(members, len(columns["chosen"]), seen_by, seed)
    if one_run:
        assert backbone is not None
        votes = _vote_together(columns, backbone, seen, {"epochs": epochs, "seed": seed, **options})
        if on_member is not None:
            on_member(members, members)
    else:
        source = model if backbone is None else backbone
        votes = _vote_apart(columns, source, seen, {"epochs": epochs, **options}, seed, votes_file, on_member)
    if seen_by < members:
        votes = np.where(seen, np.nan, votes)
    return Strengths(votes, one_run, time.perf_counter() - start)


class VotingHead(EnsembleHead):
    """An ensemble whose members start at zero and learn from given rows, so that each row has equally many voters.

    Args:
        hidden_size: H.
        seen: (K, P) bool, which member learns from which row; every row is seen by equally many.
        direct: the hidden vector is itself the K rewards, as with a hashed table of K columns.
    """

    def __init__(self, hidden_size: int, seen: np.ndarray, direct: bool = False) -> None:
        super().__init__(hidden_size, members=len(seen), share=float(seen.mean()), direct=direct)
        self.seen = torch.from_numpy(seen.T)
        if not direct:  # a random start would outweigh what one epoch teaches
            nn.init.zeros_(self.maps.last.weight)

    def masked(self, each: torch.Tensor, rows: torch.Tensor | None) -> torch.Tensor:
        if rows is None:
            return each.mean(1)
        return (each * self.seen[rows.cpu()].to(each)).mean(1) / self.share


def _who_sees_what(members: int, rows: int, seen_by: int, seed: int) -> np.ndarray:
    """(M, N) bool: each row is seen by exactly `seen_by` members, drawn at random."""
    order = np.random.default_rng(seed).random((members, rows)).argsort(0)
    return order < seen_by


def _vote_together(
    columns: dict[str, list[Any]], backbone: Backbone, seen: np.ndarray, options: dict[str, Any]
) -> np.ndarray:
    """Votes (M, N) of members that are trained in one run."""
    direct = backbone.name == "hashed" and backbone.hidden_size == len(seen)
    head = VotingHead(backbone.hidden_size, seen, direct)
    if direct:  # each column learns as a table of one column would
        options = {**head.recipe, **options}
    else:  # one pass must be enough
        options = {"learning_rate": 2e-2, "batch_size": 16, "weight_decay": 0.0, **options}
    network = train(columns, backbone, head=head, **options).model.network
    count = len(columns["chosen"])
    prompts = columns.get("prompt") or [""] * count
    hidden, failures, _ = network.hidden([*prompts, *prompts], [*columns["chosen"], *columns["rejected"]])
    with torch.inference_mode():
        rewards = head.rewards(hidden.to(network.device)).double().cpu().numpy()
    votes = (rewards[:count] - rewards[count:]).T
    votes[:, [row % count for row in failures]] = np.nan
    return votes


def _vote_apart(
    columns: dict[str, list[Any]],
    model: str | Path | Backbone,
    seen: np.ndarray,
    options: dict[str, Any],
    seed: int,
    votes_file: str | Path | None,
    on_member: Callable[[int, int], None] | None,
) -> np.ndarray:
    """Votes (M, N) of members that are trained one after the other."""
    members, count = seen.shape
    prompts = columns.get("prompt") or [""] * count
    votes: list[np.ndarray] = []
    writer = None
    if votes_file is not None:
        name = model.name if isinstance(model, Backbone) else str(model)
        meta = {"model": name, "data": data_hash(columns), "members": members, "seed": seed, "options": options}
        writer = ResumableWriter(votes_file, {**meta, "seen": int(seen[:, 0].sum())})
        votes = _read_votes(Path(votes_file), writer.done)
    for member in range(len(votes), members):
        rows = np.flatnonzero(seen[member])
        mine = {name: [column[row] for row in rows] for name, column in columns.items()}
        fresh = copy.deepcopy(model) if isinstance(model, Backbone) and model.trainable else model
        trained = train(mine, fresh, seed=seed + member, **options).model
        votes.append(trained.preference(prompts, columns["chosen"], columns["rejected"]))
        if writer is not None:
            writer.write({"member": member, "votes": _numbers(votes[-1])})
        if on_member is not None:
            on_member(member + 1, members)
    if writer is not None:
        writer.close()
    return np.stack(votes)


def _read_votes(path: Path, done: int) -> list[np.ndarray]:
    import json

    if not done:
        return []
    lines = path.read_text(encoding="utf-8").splitlines()
    return [np.array([np.nan if vote is None else vote for vote in json.loads(line)["votes"]]) for line in lines]


def _numbers(values: np.ndarray) -> list[float | None]:
    return [float(value) if np.isfinite(value) else None for value in values]
