"""Personal rewards: one model of many users, a state for each, inferred from a handful of choices.

Papers 08 (a variational latent), 18 (weights of a mixture of heads) and 21 (an ideal point) differ in what a state is
and how it is found; a `PersonalHead` says both. What they share is here: `for_user(history)` gives a `Reward`,
`ask(candidates)` the pair whose answer would tell most about the user (Houlsby et al. 2011, "Bayesian Active Learning
for Classification and Preference Learning").
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from rewardsmith.data.records import Batch, Text, as_columns
from rewardsmith.models.heads import Head
from rewardsmith.models.reward_model import PairwiseModel
from rewardsmith.reward import Failure, Reward, Scores

Who = str | int | Sequence[Mapping[str, Any]]


@dataclass
class Particles:
    """What is known of a user: M states with weights.

    Attributes:
        states: (M, Z).
        weights: (M,), of sum 1.
    """

    states: torch.Tensor
    weights: torch.Tensor

    @property
    def mean(self) -> torch.Tensor:
        """(Z,) the mean state, for maps of users."""
        return self.weights @ self.states


class PersonalHead(Head):
    """A head whose reward depends on a user's state. `preference` is what training reads, by user or by history."""

    @abstractmethod
    def posterior(self, history: torch.Tensor, *, prompt_hidden: torch.Tensor | None = None) -> Particles:
        """What N choices tell of a user; the population where N = 0.

        Args:
            history: (N, 2, H) hidden vectors, chosen before rejected.
            prompt_hidden: (N, H) vectors of the prompts, where the head reads prompts.
        """

    @abstractmethod
    def reward_for(
        self, hidden: torch.Tensor, states: torch.Tensor, *, prompt_hidden: torch.Tensor | None = None
    ) -> torch.Tensor:
        """(M, B) rewards of hidden vectors (B, H) for each of M states (M, Z)."""

    def known(self, user: str | int) -> Particles:
        """What training told of a user.

        Raises:
            ValueError: where it was told of nobody by that name.
        """
        raise ValueError(f"{type(self).__name__} knows no users by name: give {user!r}'s choices")

    def information_gain(
        self,
        a: torch.Tensor,
        b: torch.Tensor,
        history: torch.Tensor,
        *,
        prompt_hidden: torch.Tensor | None = None,
        history_prompt_hidden: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """(Q,) nats that the answer to each pair is expected to tell about the user, from hidden vectors (Q, H).

        The mutual information of answer and state: the entropy of the mean answer less the mean entropy.
        """
        who = self.posterior(history, prompt_hidden=history_prompt_hidden)
        logits = self.reward_for(a, who.states, prompt_hidden=prompt_hidden) - self.reward_for(
            b, who.states, prompt_hidden=prompt_hidden
        )
        p = torch.sigmoid(logits)
        return _entropy(who.weights @ p) - who.weights @ _entropy(p)


def _entropy(p: torch.Tensor) -> torch.Tensor:
    """Of a coin, in nats."""
    p = p.clamp(1e-12, 1 - 1e-7)
    return -(p * p.log() + (1 - p) * torch.log1p(-p))


@dataclass
class Choices:
    """N choices of users, read by a backbone.

    Attributes:
        vectors: (N, 2, H), chosen before rejected.
        prompt_hidden: (N, H), where the head reads prompts.
    """

    vectors: torch.Tensor
    prompt_hidden: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.vectors)

    def take(self, rows: Sequence[int]) -> Choices:
        """The choices at the given indices."""
        index = torch.as_tensor(list(rows), dtype=torch.long, device=self.vectors.device)
        return Choices(self.vectors[index], None if self.prompt_hidden is None else self.prompt_hidden[index])


class PersonalModel(PairwiseModel):
    """A preference model of many users.

    `preference` and `evaluate` read what the head was trained with (a `user` column, a `history` column, or neither).
    """

    head: PersonalHead

    def for_user(self, who: Who) -> UserReward:
        """The reward of one user.

        Args:
            who: her choices so far, rows with `prompt`, `chosen`, `rejected` (an empty list: the population), or the
                name of a user that the model was trained on.

        Raises:
            ValueError: for an unknown name, or a choice that cannot be read.
        """
        return UserReward(self, self.particles(who))

    def particles(self, who: Who) -> Particles:
        """What is known of a user; see `for_user`."""
        return self.head.known(who) if isinstance(who, str | int) else self.posterior(self.read(who))

    @torch.inference_mode()
    def read(self, history: Sequence[Mapping[str, Any]]) -> Choices:
        """Choices as the head sees them, from one pass of the backbone.

        Raises:
            ValueError: for a choice that cannot be read.
        """
        vectors, places, failures = self.network.choices([history])
        if failures:
            raise ValueError(f"a choice in the history cannot be read: {failures[0].reason}")
        prompts = None
        if self.head.reads_prompt:
            prompts, failed = self.network.prompt_vectors([pair.get("prompt", "") for pair in history])
            if failed:
                row, failure = next(iter(failed.items()))
                raise ValueError(f"the prompt of choice {row} cannot be read: {failure.reason}")
        return Choices(vectors[places[0]].to(self.network.device), prompts)

    @torch.inference_mode()
    def posterior(self, history: Choices) -> Particles:
        """What choices tell of a user."""
        return self.head.posterior(history.vectors, prompt_hidden=history.prompt_hidden)

    @torch.inference_mode()
    def logits(self, choices: Choices, who: Particles) -> np.ndarray:
        """(N,) logit of what was chosen against what was rejected, for one user: the mean over what she may be like."""
        a, b = choices.vectors.unbind(1)
        rewards = self.head.reward_for(torch.cat([a, b]), who.states, prompt_hidden=_twice(choices.prompt_hidden))
        return (who.weights @ (rewards[:, : len(a)] - rewards[:, len(a) :])).double().cpu().numpy()

    @torch.inference_mode()
    def score_users(self, batch: Batch, users: Sequence[Who]) -> np.ndarray:
        """Scores (U, B) of the same completions for U users, from one pass of the backbone; NaN where one failed."""
        hidden, prompts, failures = self.encode(batch)
        out = np.stack([self.scores_of(hidden, prompts, self.particles(who))[0] for who in users])
        out[:, list(failures)] = np.nan
        return out

    @torch.inference_mode()
    def ask(self, candidates: Sequence[Mapping[str, Any]], history: Sequence[Mapping[str, Any]] = ()) -> int:
        """The index of the pair whose answer would tell most about a user.

        Args:
            candidates: rows with `prompt`, `chosen`, `rejected`; which is which does not matter.
            history: the user's choices so far.
        """
        if not candidates:
            raise ValueError("there is no candidate to ask about")
        pairs, known = self.read(candidates), self.read(history)
        a, b = pairs.vectors.unbind(1)
        gain = self.head.information_gain(
            a, b, known.vectors, prompt_hidden=pairs.prompt_hidden, history_prompt_hidden=known.prompt_hidden
        )
        return int(gain.argmax())

    def encode(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor | None, dict[int, Failure]]:
        """Hidden vectors (B, H) of completions and, where the head reads them, of prompts; rows that failed."""
        columns = as_columns(batch)
        completions = columns["completion"]
        texts = columns.get("prompt") or [""] * len(completions)
        hidden, failures, _ = self.network.hidden(texts, completions)
        prompts = None
        if self.head.reads_prompt:
            prompts, failed = self.network.prompt_vectors(texts)
            failures = {**failed, **failures}
        return hidden.to(self.network.device), prompts, failures

    def scores_of(
        self, hidden: torch.Tensor, prompts: torch.Tensor | None, who: Particles
    ) -> tuple[np.ndarray, np.ndarray]:
        """Mean reward and its spread over what a user may be like, (B,) each, from what `encode` gave."""
        rewards = self.head.reward_for(hidden, who.states, prompt_hidden=prompts).double().cpu()
        return _moments(rewards, who)


class UserReward(Reward):
    """The reward of one user, made by `PersonalModel.for_user`: the mean over what she may be like, and its spread.

    Attributes:
        model: of all users.
        who: what is known of this one.
    """

    def __init__(self, model: PersonalModel, who: Particles) -> None:
        self.model, self.who = model, who
        self.__name__ = "user_reward"

    @torch.inference_mode()
    def score(self, batch: Batch) -> Scores:
        hidden, prompts, failures = self.model.encode(batch)
        values, std = self.model.scores_of(hidden, prompts, self.who)
        return Scores(values, std=std, failures=failures)

    @torch.inference_mode()
    def preference_std(
        self, prompts: Sequence[Text], a: Sequence[Text], b: Sequence[Text], **columns: Any
    ) -> np.ndarray | None:
        """Spread of the difference over what the user may be like, (B,): a shift that both share does not count."""
        hidden, vectors, failures = self.model.encode({"prompt": [*prompts, *prompts], "completion": [*a, *b]})
        rewards = self.model.head.reward_for(hidden, self.who.states, prompt_hidden=vectors).double().cpu()
        _, std = _moments(rewards[:, : len(a)] - rewards[:, len(a) :], self.who)
        std[[row % len(a) for row in failures]] = np.nan
        return std


def _moments(values: torch.Tensor, who: Particles) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation (B,) of values (M, B) over a user's states."""
    weights = who.weights.double().cpu()
    mean = weights @ values
    return mean.numpy(), (weights @ (values - mean).square()).sqrt().numpy()


def _twice(tensor: torch.Tensor | None) -> torch.Tensor | None:
    return None if tensor is None else torch.cat([tensor, tensor])
