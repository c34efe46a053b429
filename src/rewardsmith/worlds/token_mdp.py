"""An exact token-level process: all rewards, values and optimal policies are known (paper 33, Rafailov et al. 2024).

A state is a prompt and the tokens so far, an action is the next token, and after `horizon` tokens the text is complete.
All prefixes of up to `horizon` - 1 tokens are rows of one table, in the order of a heap: row 0 is the empty prefix, and
token a in row i leads to row i * vocab + 1 + a. A policy, a reward and a Q-function are then tables of one shape,
(P, N, V): P prompts, N prefixes, V tokens. Texts are numbered as their tokens are written in base V.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch


@dataclass(frozen=True)
class Solution:
    """The optimum of a token decision process.

    Attributes:
        q: (P, N, V) soft Q-values, the penalty for leaving the reference included.
        values: (P, N) soft values.
        logps: (P, N, V) log-probabilities of the optimal policy, (Q - V) / beta.
    """

    q: torch.Tensor
    values: torch.Tensor
    logps: torch.Tensor


@dataclass(frozen=True)
class TokenMDP:
    """Maximize E sum_t [r(s_t, a_t) + beta log pi_ref(a_t | s_t)] + beta H(pi): reward less beta KL(pi || pi_ref).

    Attributes:
        rewards: (P, N, V) r.
        ref_logps: (P, N, V) log-probabilities of the reference policy.
        beta: weight of the penalty, > 0.
        horizon: H tokens in each text.
    """

    rewards: torch.Tensor
    ref_logps: torch.Tensor
    beta: float
    horizon: int

    def __post_init__(self) -> None:
        rows = prefix_count(self.vocab, self.horizon)
        if self.rewards.shape != self.ref_logps.shape or self.rewards.shape[1] != rows:
            raise ValueError(
                f"rewards and ref_logps must both be (P, {rows}, {self.vocab}) for texts of {self.horizon} tokens, got "
                f"{tuple(self.rewards.shape)} and {tuple(self.ref_logps.shape)}"
            )
        if self.beta <= 0:
            raise ValueError(f"beta must be positive, got {self.beta}")

    @classmethod
    def random(cls, prompts: int, vocab: int, horizon: int, beta: float, seed: int) -> TokenMDP:
        """Rewards and logits of the reference drawn from N(0, 1), in float64."""
        generator = torch.Generator().manual_seed(seed)
        shape = (prompts, prefix_count(vocab, horizon), vocab)
        rewards, logits = torch.randn((2, *shape), generator=generator, dtype=torch.float64)
        return cls(rewards, torch.log_softmax(logits, dim=-1), beta, horizon)

    @property
    def vocab(self) -> int:
        """V."""
        return self.rewards.shape[-1]

    def solve(self) -> Solution:
        """Backward recursion: Q = r + beta log pi_ref + V(next), V = beta log sum exp(Q / beta), 0 at the end."""
        q = self.rewards + self.beta * self.ref_logps
        values = torch.empty_like(q[..., 0])
        following = torch.zeros(len(q), self.vocab**self.horizon, dtype=q.dtype)
        for depth in reversed(range(self.horizon)):
            level = slice(prefix_count(self.vocab, depth), prefix_count(self.vocab, depth + 1))
            q[:, level] += following.view(len(q), -1, self.vocab)
            following = self.beta * torch.logsumexp(q[:, level] / self.beta, dim=-1)
            values[:, level] = following
        return Solution(q, values, (q - values[..., None]) / self.beta)

    def shaped(self, potentials: torch.Tensor) -> TokenMDP:
        """The same process with rewards r + Phi(next) - Phi(state); Phi (P, N), and 0 at complete texts."""
        ends = torch.zeros(len(potentials), self.vocab**self.horizon, dtype=potentials.dtype)
        following = torch.cat([potentials[:, 1:], ends], dim=1).view(self.rewards.shape)
        return replace(self, rewards=self.rewards + following - potentials[..., None])

    def texts(self) -> torch.Tensor:
        """(V^H, H) tokens of all texts."""
        return text_tokens(torch.arange(self.vocab**self.horizon), self.vocab, self.horizon)

    def on_texts(self, table: torch.Tensor) -> torch.Tensor:
        """(P, V^H, H): the entries of a table (P, N, V) along all texts."""
        tokens = self.texts()
        places = prefix_rows(tokens, self.vocab) * self.vocab + tokens
        return table.flatten(1).index_select(1, places.flatten()).view(len(table), *tokens.shape)

    def objective(self, prompts: Sequence[int], texts: torch.Tensor) -> torch.Tensor:
        """(B,) sum_t r + beta log pi_ref of texts (B, H) to the prompts with the given numbers."""
        of_prompt = torch.as_tensor(prompts)[:, None]
        rows = prefix_rows(texts, self.vocab)
        return (self.rewards + self.beta * self.ref_logps)[of_prompt, rows, texts].sum(1)

    def sample_pairs(self, pairs: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Pairs of texts from the reference, labeled by Bradley-Terry on their rewards, for each prompt.

        Returns:
            the numbers (P, pairs) of the chosen texts, and of the rejected ones.
        """
        generator = torch.Generator().manual_seed(seed)
        likelihood = self.on_texts(self.ref_logps).sum(-1).exp()
        drawn = torch.multinomial(likelihood, 2 * pairs, replacement=True, generator=generator)
        first, second = drawn[:, :pairs], drawn[:, pairs:]
        returns = self.on_texts(self.rewards).sum(-1)
        wins = torch.sigmoid(returns.gather(1, first) - returns.gather(1, second))
        first_wins = torch.rand(wins.shape, generator=generator, dtype=wins.dtype) < wins
        return torch.where(first_wins, first, second), torch.where(first_wins, second, first)

    def visits(self, logps: torch.Tensor) -> torch.Tensor:
        """(P, N, V) how often a policy comes to each prefix and takes each token there, per text."""
        reached = torch.ones(len(logps), 1, dtype=logps.dtype)
        levels = []
        for depth in range(self.horizon):
            level = slice(prefix_count(self.vocab, depth), prefix_count(self.vocab, depth + 1))
            levels.append(reached[..., None] * logps[:, level].exp())
            reached = levels[-1].flatten(1)
        return torch.cat(levels, dim=1)

    def kl(self, logps: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        """(P,) KL divergence between the texts of two policies (P, N, V), in nats."""
        return (self.visits(logps) * (logps - other)).sum((1, 2))


class TabularPolicy:
    """A table of log-probabilities as what search reads (`alignment.search.NextToken`). A prompt is its number.

    Args:
        logps: (P, N, V).
        end_ids: tokens after which a text is complete, besides its longest length.
    """

    def __init__(self, logps: torch.Tensor, end_ids: Sequence[int] = ()) -> None:
        self.logps, self.end_ids = logps, tuple(end_ids)

    def start(self, prompts: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-probabilities (B, V) of the first token, and the state: (2, B) prompts and rows."""
        state = torch.stack([torch.as_tensor(list(prompts)), torch.zeros(len(prompts), dtype=torch.long)])
        return self.logps[state[0], state[1]], state

    def step(self, state: torch.Tensor, rows: torch.Tensor, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-probabilities (R, V) after the given rows of the state have each taken a token, and their state."""
        prompts, at = state[:, rows]
        state = torch.stack([prompts, at * self.logps.shape[-1] + 1 + tokens])
        return self.logps[state[0], state[1]], state


def prefix_count(vocab: int, horizon: int) -> int:
    """Prefixes of fewer than `horizon` tokens: 1 + V + ... + V^(H - 1)."""
    return sum(vocab**depth for depth in range(horizon))


def text_tokens(texts: torch.Tensor, vocab: int, horizon: int) -> torch.Tensor:
    """(..., H) tokens of texts with the given numbers (...)."""
    return texts[..., None] // vocab ** torch.arange(horizon - 1, -1, -1) % vocab


def prefix_rows(tokens: torch.Tensor, vocab: int) -> torch.Tensor:
    """(..., H) rows of the prefixes before each token of texts (..., H)."""
    rows = torch.zeros_like(tokens)
    for place in range(1, tokens.shape[-1]):
        rows[..., place] = rows[..., place - 1] * vocab + 1 + tokens[..., place - 1]
    return rows
