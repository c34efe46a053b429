"""Likely texts and drawn texts: beam search and sampling on any next-token policy (paper 33, Rafailov et al. 2024).

In the token-level process a policy trained on preferences is an optimal soft Q-function, so the summed log-probability
of a partial text is its reward so far plus the value of what may follow: a search for likely text is a search for high
reward. Everything that searches token by token is written against `NextToken`.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from transformers import PreTrainedModel

from rewardsmith.chat.local import LocalModel
from rewardsmith.chat.protocol import Answer, ChatModel, TokenLogprob, check_sampling
from rewardsmith.data.records import Text

State = TypeVar("State")


class NextToken(Protocol[State]):
    """A policy, one token at a time, for many texts at once.

    A state holds R texts. It is never changed: `step` may be called on it again, with other rows or tokens, so a tree
    of texts is a tree of states (or of rows of states), each prefix encoded once. Rows may repeat, which branches a
    text, and may be left out, which drops it.

    Attributes:
        end_ids: tokens that end a text.
    """

    end_ids: tuple[int, ...]

    def start(self, prompts: Sequence[Any]) -> tuple[torch.Tensor, State]:
        """Log-probabilities (B, V) of the first token behind each of B prompts, and the state of B empty texts."""
        ...

    def step(self, state: State, rows: torch.Tensor, tokens: torch.Tensor) -> tuple[torch.Tensor, State]:
        """Text i of the new state is text rows[i] of the old one and tokens[i]; both (R,). Log-probabilities (R, V)."""
        ...


@dataclass(frozen=True)
class CachedState:
    """Texts in a transformers model: their keys and values, and which positions are not padding, (R, L) bool."""

    cache: Any
    mask: torch.Tensor


class CausalPolicy:
    """A Hugging Face causal language model as a `NextToken`, with a key-value cache. Prompts are lists of token ids.

    Args:
        model: in evaluation mode.
        end_ids: tokens that end a text. Default: those of its generation config.
    """

    def __init__(self, model: PreTrainedModel, end_ids: Sequence[int] | None = None) -> None:
        self.model = model
        if end_ids is None:
            ends = model.generation_config.eos_token_id if model.generation_config is not None else None
            end_ids = ends if isinstance(ends, list) else [] if ends is None else [ends]
        self.end_ids = tuple(end_ids)

    @torch.inference_mode()
    def start(self, prompts: Sequence[Sequence[int]]) -> tuple[torch.Tensor, CachedState]:
        """One pass over the prompts, left-padded.

        Raises:
            ValueError: for a prompt without a token.
        """
        if empty := [row for row, prompt in enumerate(prompts) if not len(prompt)]:
            raise ValueError(f"prompt {empty[0]} has no token; a text without a prompt needs a BOS token to follow")
        lengths = torch.tensor([len(prompt) for prompt in prompts])
        width = int(lengths.max())
        ids = torch.zeros(len(prompts), width, dtype=torch.long)
        for row, prompt in enumerate(prompts):
            ids[row, width - len(prompt) :] = torch.as_tensor(prompt)
        mask = torch.arange(width) >= width - lengths[:, None]
        return self._forward(ids.to(self.model.device), mask.to(self.model.device), None)

    @torch.inference_mode()
    def step(self, state: CachedState, rows: torch.Tensor, tokens: torch.Tensor) -> tuple[torch.Tensor, CachedState]:
        """One pass over one token of each text."""
        cache = copy.copy(state.cache)
        cache.layers = [_own(layer) for layer in state.cache.layers]
        cache.reorder_cache(rows)
        mask = torch.cat([state.mask[rows], torch.ones_like(state.mask[rows, :1])], dim=1)
        return self._forward(tokens[:, None], mask, cache)

    def _forward(self, ids: torch.Tensor, mask: torch.Tensor, cache: Any) -> tuple[torch.Tensor, CachedState]:
        positions = (mask.cumsum(-1) - 1).clamp_min(0)[:, -ids.shape[1] :]
        out = self.model(
            ids,
            attention_mask=mask.long(),
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        return torch.log_softmax(out.logits[:, -1].float(), dim=-1), CachedState(out.past_key_values, mask)


def _own(layer: Any) -> Any:
    """A copy of a cache layer with the same tensors: picking rows replaces them, and the old layer keeps its own."""
    own = copy.copy(layer)
    for name, value in vars(layer).items():
        if isinstance(value, dict | list):
            setattr(own, name, value.copy())
    return own


@dataclass(frozen=True)
class TokenText:
    """A text that was found or drawn.

    Attributes:
        ids: its T tokens, the one that ended it among them.
        logps: (T,) their log-probabilities.
        score: what the search ranks by; of a drawn text the sum of `logps`.
        ended: by a token that ends a text, rather than by the longest length.
    """

    ids: tuple[int, ...]
    logps: np.ndarray
    score: float
    ended: bool


@torch.inference_mode()
def sample_texts(
    policy: NextToken, prompts: Sequence[Any], n: int, max_new_tokens: int, *, temperature: float = 1.0, seed: int = 0
) -> list[list[TokenText]]:
    """n texts drawn after each of P prompts, which are encoded once; texts that end make room for the others.

    Args:
        policy: what is drawn from, without top-k or top-p.
        prompts: as the policy takes them.
        n: texts for each prompt.
        max_new_tokens: longest text.
        temperature: of drawing, > 0; `logps` are those of the policy itself.
        seed: of what is drawn.

    Raises:
        ValueError: where an argument is out of range.
    """
    if n < 1 or max_new_tokens < 1 or temperature <= 0:
        raise ValueError(
            f"n and max_new_tokens must be at least 1 and the temperature above 0, got {n}, {max_new_tokens} and "
            f"{temperature}"
        )
    if not prompts:
        return []
    logps, state = policy.start(prompts)
    device = logps.device
    generator = torch.Generator(device).manual_seed(seed)
    ends = torch.tensor(policy.end_ids, dtype=torch.long, device=device)
    live = torch.arange(len(prompts) * n, device=device)  # texts that go on
    rows = live // n  # where the state has them
    logps = logps[rows]
    ids = torch.zeros(len(live), max_new_tokens, dtype=torch.long, device=device)
    along = logps.new_zeros(ids.shape)
    lengths, over = torch.zeros_like(live), torch.zeros_like(live, dtype=torch.bool)
    for place in range(max_new_tokens):
        token = torch.multinomial(torch.softmax(logps / temperature, dim=-1), 1, generator=generator)
        ids[live, place], along[live, place] = token[:, 0], logps.gather(1, token)[:, 0]
        lengths[live], over[live] = place + 1, torch.isin(token[:, 0], ends)
        going = ~over[live]
        if place + 1 == max_new_tokens or not going.any():
            break
        live, rows = live[going], rows[going]
        logps, state = policy.step(state, rows, token[going, 0])
        rows = torch.arange(len(live), device=device)
    along = along.cpu()
    texts = [
        TokenText(tuple(row[:length]), along[at, :length].numpy(), float(along[at, :length].sum()), ended)
        for at, (row, length, ended) in enumerate(zip(ids.tolist(), lengths.tolist(), over.tolist()))
    ]
    return [texts[at : at + n] for at in range(0, len(texts), n)]


@torch.inference_mode()
def beam_search(
    policy: NextToken,
    prompts: Sequence[Any],
    width: int,
    max_new_tokens: int,
    *,
    length_penalty: float = 0.0,
    early_stopping: bool = False,
) -> list[list[TokenText]]:
    """The most likely texts after each prompt, as far as `width` partial texts at a time can find them.

    The search of a prompt ends when no partial text can still get above the last of its `width` finished ones, where
    the length penalty is 0 or less (a bound by the present length, where it is more, as in transformers).

    Args:
        policy: what is searched.
        prompts: P prompts, as the policy takes them; their texts grow together, in one batch.
        width: partial texts kept for each prompt; 1 is greedy decoding.
        max_new_tokens: longest text.
        length_penalty: finished texts compete by their summed log-probability over length^length_penalty. 0 is the
            plain sum, under which likely text is text of high reward; more favors long texts.
        early_stopping: end a prompt's search as soon as `width` texts are finished.

    Returns:
        P lists of up to `width` finished texts, the best first.

    Raises:
        ValueError: where the width or the longest length is below 1.
    """
    if width < 1 or max_new_tokens < 1:
        raise ValueError(f"width and max_new_tokens must be at least 1, got {width} and {max_new_tokens}")
    finished: list[list[TokenText]] = [[] for _ in prompts]
    if not prompts:
        return finished
    logps, state = policy.start(prompts)
    device, vocab = logps.device, logps.shape[-1]
    ends = torch.tensor(policy.end_ids, dtype=torch.long, device=device)
    # Of so many candidates `width` go on, even where each partial text has all its ends among them.
    considered = max(2, 1 + len(ends)) * width
    active = list(range(len(prompts)))
    sums = logps.new_zeros(len(prompts), 1)  # (A, K) of A active prompts with K partial texts each
    ids = torch.empty(len(prompts), 1, 0, dtype=torch.long, device=device)
    along = logps.new_empty(len(prompts), 1, 0)
    for length in range(1, max_new_tokens + 1):
        count, beams = sums.shape
        token_logps = logps.view(count, beams * vocab)
        candidates = (sums[..., None] + logps.view(count, beams, vocab)).view(count, -1)
        top, index = candidates.topk(min(considered, candidates.shape[1]))
        parent, token = index // vocab, index % vocab
        ids = torch.cat([_pick(ids, parent), token[..., None]], dim=2)
        along = torch.cat([_pick(along, parent), token_logps.gather(1, index)[..., None]], dim=2)
        ended = torch.isin(token, ends)
        over = ended | (length == max_new_tokens)
        # Whatever comes behind the first `width` only fills the places of those that ended.
        for row, place in (over & top.isfinite())[:, :width].nonzero().tolist():
            finished[active[row]].append(
                TokenText(
                    tuple(ids[row, place].tolist()),
                    along[row, place].cpu().numpy(),
                    float(top[row, place]) / length**length_penalty,
                    bool(ended[row, place]),
                )
            )
        if length == max_new_tokens:
            break
        sums, kept = top.masked_fill(over, -torch.inf).topk(min(width, top.shape[1]))
        going = []
        for row, prompt in enumerate(active):
            finished[prompt] = sorted(finished[prompt], key=lambda beam: -beam.score)[:width]
            full = len(finished[prompt]) == width
            worst = finished[prompt][-1].score if full else -np.inf
            if not (full and early_stopping) and float(sums[row, 0]) / length**length_penalty > worst:
                going.append(row)
        if not going:
            break
        rows = torch.tensor(going, device=device)
        active = [active[row] for row in going]
        sums, kept = sums[rows], kept[rows]
        ids, along = _pick(ids[rows], kept), _pick(along[rows], kept)
        last = (rows[:, None] * beams + parent[rows].gather(1, kept)).flatten()
        logps, state = policy.step(state, last, ids[..., -1].flatten())
    return [sorted(found, key=lambda beam: -beam.score)[:width] for found in finished]


def _pick(values: torch.Tensor, beams: torch.Tensor) -> torch.Tensor:
    """(A, K', T) from (A, K, T): for each prompt the beams with the given indices (A, K')."""
    return values.gather(1, beams[..., None].expand(-1, -1, values.shape[2]))


class BeamModel(ChatModel):
    """A local model that answers with its likeliest texts: the n best of a beam search, all different, the best first.

    Goes wherever a `ChatModel` does: answers for a judge, candidates for best-of-n.

    Args:
        local: the model.
        width: partial texts kept for each prompt; at least n.
        length_penalty: see `beam_search`.
        batch_size: prompts at a time.
    """

    def __init__(self, local: LocalModel, width: int = 5, *, length_penalty: float = 0.0, batch_size: int = 8) -> None:
        super().__init__()
        self.local, self.width, self.length_penalty, self.batch_size = local, width, length_penalty, batch_size
        self.name = f"{local.name}, beam {width}"

    def generate(
        self,
        prompts: Sequence[Text],
        n: int = 1,
        *,
        max_new_tokens: int = 256,
        temperature: float = 1.0,
        top_p: float = 1.0,
        stop: Sequence[str] = (),
        seed: int = 0,
        logprobs: int = 0,
    ) -> Iterator[list[Answer]]:
        """The n best beams of each prompt. Nothing is drawn: temperature, top_p and seed change nothing.

        Raises:
            ValueError: where n is above the width, or for `stop`: a beam ends at an end-of-text token alone.
        """
        if not 1 <= n <= self.width:
            raise ValueError(f"n must be between 1 and the width of the beam, {self.width}, got {n}")
        if stop:
            raise ValueError("a beam ends at an end-of-text token alone; stop must be empty")
        check_sampling(n, max_new_tokens, 1.0, top_p)
        return self._answers(prompts, n, max_new_tokens, logprobs)

    def _answers(self, prompts: Sequence[Text], n: int, max_new_tokens: int, logprobs: int) -> Iterator[list[Answer]]:
        policy = CausalPolicy(self.local.model)
        for at in range(0, len(prompts), self.batch_size):
            began = time.perf_counter()
            encoded = [self.local.encode(prompt) for prompt in prompts[at : at + self.batch_size]]
            found = beam_search(policy, encoded, self.width, max_new_tokens, length_penalty=self.length_penalty)
            self.usage.seconds += time.perf_counter() - began
            for ids, beams in zip(encoded, found):
                self.usage.requests += 1
                self.usage.prompt_tokens += len(ids)
                self.usage.completion_tokens += sum(len(beam.ids) for beam in beams[:n])
                answers = [self._answer(beam, logprobs) for beam in beams[:n]]
                self.usage.answers += len(answers)
                missing = n - len(answers)
                self.usage.failed += missing
                short = f"there are only {len(answers)} texts of up to {max_new_tokens} tokens"
                yield answers + [Answer("", "error", error=short)] * missing

    def _answer(self, beam: TokenText, logprobs: int) -> Answer:
        tokenizer = self.local.tokenizer
        known = None
        if logprobs:
            tokens = tokenizer.batch_decode([[token] for token in beam.ids])
            known = tuple(TokenLogprob(token, float(logp)) for token, logp in zip(tokens, beam.logps))
        text = tokenizer.batch_decode([list(beam.ids)], skip_special_tokens=True)[0]
        return Answer(text, "stop" if beam.ended else "length", known)

    def fingerprint(self) -> dict[str, Any]:
        """The model's own, and the search."""
        search = {"width": self.width, "length_penalty": self.length_penalty}
        return {**self.local.fingerprint(), "beam": search}
