"""Rewards from pictures and a sentence: Rocamonde et al. 2024, "Vision-Language Models are Zero-Shot Reward Models".

A frozen dual encoder says how well a frame fits the sentence that describes the goal. A second, baseline sentence
describes the scene without it; what changes in a direction that leads from neither to the other is then left out
(goal-baseline regularization, Section 3.2). Any object with `encode_image` and `encode_text` will do; `ClipEncoder`
takes CLIP and SigLIP models of transformers.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, Self

import numpy as np

from rewardsmith.control.transitions import TransitionReward, Transitions
from rewardsmith.reward import Scores

if TYPE_CHECKING:
    import torch


class DualEncoder(Protocol):
    """What embeds frames and sentences into one space of D dimensions; the embeddings need no unit length."""

    def encode_image(self, frames: np.ndarray) -> np.ndarray:
        """(B, H, W, 3) uint8 -> (B, D)."""

    def encode_text(self, texts: Sequence[str]) -> np.ndarray:
        """n sentences -> (n, D)."""


def goal_baseline_reward(images: np.ndarray, goal: np.ndarray, baseline: np.ndarray, alpha: float) -> np.ndarray:
    """1 - ||(x - g) P||^2 / 2 with P = alpha d d^T / ||d||^2 + (1 - alpha) I and d = g - b (the paper's Definition 1).

    P keeps what lies along d and shrinks the rest by 1 - alpha, so no (D, D) matrix is needed. With unit vectors,
    alpha = 0 is the cosine of x and g; alpha = 1 counts the coordinate along d alone.

    Args:
        images: (B, D) embeddings x, of unit length for the paper's reward.
        goal: (D,) embedding g of the goal sentence.
        baseline: (D,) embedding b of the baseline sentence; not read where alpha is 0.
        alpha: in [0, 1].

    Returns:
        (B,) float64 rewards, at most 1.

    Raises:
        ValueError: for alpha outside [0, 1], other shapes, or alpha > 0 where goal and baseline are the same.
    """
    if not 0.0 <= alpha <= 1.0:
        raise ValueError(f"alpha must be in [0, 1], not {alpha}")
    x, g, b = (np.asarray(a, dtype=np.float64) for a in (images, goal, baseline))
    if x.ndim != 2 or g.shape != x.shape[1:] or b.shape != g.shape:
        raise ValueError(f"images must be (B, D), goal and baseline (D,); they are {x.shape}, {g.shape} and {b.shape}")
    apart = x - g
    squared = (apart**2).sum(axis=1)
    if alpha == 0.0:
        return 1.0 - 0.5 * squared
    direction = g - b
    length = np.linalg.norm(direction)
    if length == 0.0:
        raise ValueError("goal and baseline have the same embedding: there is no direction between them")
    along = (apart @ (direction / length)) ** 2
    return 1.0 - 0.5 * (along + (1.0 - alpha) ** 2 * (squared - along))


def pearson_distance(rewards: np.ndarray, labels: np.ndarray) -> float:
    """sqrt((1 - rho) / 2) with Pearson's rho: EPIC's distance (Gleave et al. 2021) for rewards of states alone.

    0 where the two agree up to a shift and a positive scale, 1 where they are opposed, 0.707 where they have nothing in
    common; a constant reward counts as that.

    Args:
        rewards: (N,).
        labels: (N,), 1 where a frame shows the goal and 0 elsewhere, or any gold reward.

    Raises:
        ValueError: where the shapes differ, a number is not finite, or all labels are equal.
    """
    rewards, labels = np.asarray(rewards, dtype=np.float64), np.asarray(labels, dtype=np.float64)
    if rewards.ndim != 1 or rewards.shape != labels.shape:
        raise ValueError(f"rewards and labels must both be (N,); they are {rewards.shape} and {labels.shape}")
    if not (np.isfinite(rewards).all() and np.isfinite(labels).all()):
        raise ValueError("rewards and labels must be finite; leave failed frames out")
    r, y = rewards - rewards.mean(), labels - labels.mean()
    # Rounding leaves a constant column with tiny residues.
    spread_r, spread_y = np.linalg.norm(r), np.linalg.norm(y)
    if spread_y <= 1e-12 * np.linalg.norm(labels):
        raise ValueError("all labels are equal: label frames with the goal and frames without it")
    rho = 0.0 if spread_r <= 1e-12 * np.linalg.norm(rewards) else float(r @ y / (spread_r * spread_y))
    return float(np.sqrt(max(0.0, (1.0 - rho) / 2.0)))


class CachedEncoder:
    """A dual encoder that embeds each distinct frame once, in batches.

    Args:
        encoder: of frames and sentences.
        batch_size: most frames of one call; the last batch is shorter.
        capacity: how many embeddings are kept; the longest unused go first.

    Raises:
        ValueError: for a batch size or a capacity below 1.
    """

    def __init__(self, encoder: DualEncoder, *, batch_size: int = 256, capacity: int = 20_000) -> None:
        if batch_size < 1 or capacity < 1:
            raise ValueError(f"batch_size and capacity must be at least 1, not {batch_size} and {capacity}")
        self.encoder, self.batch_size, self.capacity = encoder, batch_size, capacity
        self._known: OrderedDict[bytes, np.ndarray] = OrderedDict()

    def __len__(self) -> int:
        return len(self._known)

    def encode_text(self, texts: Sequence[str]) -> np.ndarray:
        return self.encoder.encode_text(texts)

    def encode_image(self, frames: np.ndarray) -> np.ndarray:
        frames = as_frames(frames)
        keys = [_content(frame) for frame in frames]
        found = {key: self._known[key] for key in keys if key in self._known}
        new = list({key: row for row, key in enumerate(keys) if key not in found}.values())
        for begin in range(0, len(new), self.batch_size):
            rows = new[begin : begin + self.batch_size]
            embeddings = np.asarray(self.encoder.encode_image(frames[rows]))
            if embeddings.ndim != 2 or len(embeddings) != len(rows):
                raise ValueError(f"the encoder gave embeddings of shape {embeddings.shape} for {len(rows)} frames")
            found.update((keys[row], embedding) for row, embedding in zip(rows, embeddings))
        for key in keys:
            self._known[key] = found[key]
            self._known.move_to_end(key)
        while len(self._known) > self.capacity:
            self._known.popitem(last=False)
        return np.stack([found[key] for key in keys])


def _content(frame: np.ndarray) -> bytes:
    return hashlib.blake2b(np.ascontiguousarray(frame).data, digest_size=16).digest() + repr(frame.shape).encode()


def as_frames(frames: Any) -> np.ndarray:
    """Frames as (B, H, W, 3) uint8; channels may come first.

    Raises:
        ValueError: for another shape or type.
    """
    frames = np.asarray(frames)
    if frames.ndim != 4 or frames.dtype != np.uint8 or 3 not in (frames.shape[1], frames.shape[3]) or not len(frames):
        raise ValueError(
            f"frames must be uint8 of shape (B, H, W, 3) or (B, 3, H, W), not {frames.dtype} of shape {frames.shape}"
        )
    return frames if frames.shape[3] == 3 else frames.transpose(0, 2, 3, 1)


def unit(vectors: np.ndarray) -> np.ndarray:
    """(B, D) rows of length 1, float64; a row of zeros becomes NaN."""
    vectors = np.asarray(vectors, dtype=np.float64)
    with np.errstate(invalid="ignore"):
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def prompt_embedding(encoder: DualEncoder, prompts: str | Sequence[str]) -> np.ndarray:
    """(D,) mean of the unit embeddings of one or more sentences; of several it is shorter than 1, as in the paper."""
    texts = [prompts] if isinstance(prompts, str) else list(prompts)
    if not texts:
        raise ValueError("there must be at least one sentence")
    return unit(encoder.encode_text(texts)).mean(axis=0)


class VisionReward(TransitionReward):
    """How well the frame after each step fits a sentence; wrappers render where a reward needs `frame`.

    Args:
        encoder: CLIP, SigLIP or any `DualEncoder`; it is put into a `CachedEncoder` unless it is one.
        goal: one or more sentences, such as "a humanoid robot kneeling".
        baseline: as many as you like of the scene without the goal, "a humanoid robot".
        alpha: strength of goal-baseline regularization in [0, 1]. Default: 0.5 with a baseline, 0 without.
            `rank_prompts` chooses it from a few labeled frames.

    Raises:
        ValueError: for alpha outside [0, 1], or above 0 without a baseline.
    """

    __name__ = "vision"
    needs = ("frame",)

    def __init__(
        self,
        encoder: DualEncoder,
        goal: str | Sequence[str],
        baseline: str | Sequence[str] | None = None,
        alpha: float | None = None,
    ) -> None:
        self.alpha = (0.0 if baseline is None else 0.5) if alpha is None else float(alpha)
        if baseline is None and self.alpha != 0.0:
            raise ValueError(f"alpha = {self.alpha} needs a baseline: a sentence for the scene without the goal")
        self.encoder = encoder if isinstance(encoder, CachedEncoder) else CachedEncoder(encoder)
        self.goal = prompt_embedding(self.encoder, goal)
        self.baseline = self.goal if baseline is None else prompt_embedding(self.encoder, baseline)
        goal_baseline_reward(self.goal[None], self.goal, self.baseline, self.alpha)  # refuses what cannot work

    def score_frames(self, frames: np.ndarray) -> np.ndarray:
        """(B, H, W, 3) uint8 -> (B,) rewards."""
        return goal_baseline_reward(unit(self.encoder.encode_image(frames)), self.goal, self.baseline, self.alpha)

    def score(self, transitions: Transitions) -> Scores:
        return Scores(self.score_frames(np.asarray(transitions.column("frame"))))


@dataclass(frozen=True)
class RankedPrompt:
    """A way to reward frames, and how far it is from the labels.

    Attributes:
        goal: the goal sentence or sentences, as `baseline`.
        baseline: of the scene without the goal, or None.
        alpha: strength of the regularization.
        distance: to the labels, see `pearson_distance`: 0 is best, 0.707 is chance.
    """

    goal: str | tuple[str, ...]
    baseline: str | tuple[str, ...] | None
    alpha: float
    distance: float


def rank_prompts(
    encoder: DualEncoder,
    frames: np.ndarray,
    labels: np.ndarray,
    prompts: Iterable[tuple[str | Sequence[str], str | Sequence[str] | None]],
    alphas: Sequence[float] = (0.0, 0.25, 0.5, 0.75, 1.0),
) -> list[RankedPrompt]:
    """Pairs of goal and baseline, and values of alpha, by their distance to a few labels: no policy is trained.

    Args:
        encoder: frames are embedded once for all prompts. Rank the encoders of several models by calling this for each.
        frames: (N, H, W, 3) uint8, some that show the goal and some that do not.
        labels: (N,), 1 where a frame shows the goal, else 0.
        prompts: pairs (goal, baseline); without a baseline alpha is 0.
        alphas: values to try.

    Returns:
        all of them, the nearest first.
    """
    images = unit(CachedEncoder(encoder, capacity=len(frames)).encode_image(frames))
    ranked = []
    for goal, baseline in prompts:
        g = prompt_embedding(encoder, goal)
        b = g if baseline is None else prompt_embedding(encoder, baseline)
        ranked += [
            RankedPrompt(_frozen(goal), _frozen(baseline), alpha, distance)
            for alpha in ((0.0,) if baseline is None else alphas)
            for distance in [pearson_distance(goal_baseline_reward(images, g, b, alpha), labels)]
        ]
    return sorted(ranked, key=lambda one: one.distance)


def _frozen(prompts: Any) -> Any:
    return prompts if prompts is None or isinstance(prompts, str) else tuple(prompts)


class ClipEncoder:
    """A CLIP or SigLIP model of transformers, for inference: no gradients, half precision on a GPU.

    Args:
        model: with `get_image_features` and `get_text_features`.
        image_processor: the model's own; frames are prepared by it and by nothing else.
        tokenizer: the model's own.
        device: where to run. Default: a GPU where there is one.

    Raises:
        TypeError: where the model is no dual encoder.
    """

    def __init__(self, model: Any, image_processor: Any, tokenizer: Any, *, device: str | None = None) -> None:
        import torch

        if not (hasattr(model, "get_image_features") and hasattr(model, "get_text_features")):
            raise TypeError(f"{type(model).__name__} does not embed both images and text; take a CLIP or SigLIP model")
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.model = model.eval().to(self.device)
        self.image_processor, self.tokenizer = image_processor, tokenizer

    @classmethod
    def from_pretrained(cls, name: str, *, device: str | None = None, revision: str | None = None) -> Self:
        """Load by id or folder: `openai/clip-vit-base-patch32`, `google/siglip-base-patch16-224`, ..."""
        from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

        return cls(
            AutoModel.from_pretrained(name, revision=revision),
            AutoImageProcessor.from_pretrained(name, revision=revision),
            AutoTokenizer.from_pretrained(name, revision=revision),
            device=device,
        )

    def encode_image(self, frames: np.ndarray) -> np.ndarray:
        pixels = self.image_processor(
            images=list(as_frames(frames)), input_data_format="channels_last", return_tensors="pt"
        )["pixel_values"]
        return self._embed(self.model.get_image_features, pixel_values=pixels)

    def encode_text(self, texts: Sequence[str]) -> np.ndarray:
        # SigLIP was trained on sentences padded to the full length, and reads the last position.
        longest = self.model.config.text_config.max_position_embeddings
        full = "siglip" in self.model.config.model_type
        padding = {"padding": "max_length", "max_length": longest} if full else {"padding": True}
        tokens = self.tokenizer(list(texts), **padding)
        for text, ids in zip(texts, tokens["input_ids"]):
            if len(ids) > longest:
                raise ValueError(f"{text!r} has {len(ids)} tokens; the model reads {longest}")
        tokens = self.tokenizer.pad(tokens, return_tensors="pt")
        keep = ("input_ids",) if full else ("input_ids", "attention_mask")
        return self._embed(self.model.get_text_features, **{name: tokens[name] for name in keep})

    def _embed(self, features: Any, **inputs: torch.Tensor) -> np.ndarray:
        import torch

        with torch.inference_mode(), torch.autocast(self.device.type, enabled=self.device.type == "cuda"):
            out = features(**{name: tensor.to(self.device) for name, tensor in inputs.items()})
        embeddings = out if isinstance(out, torch.Tensor) else out.pooler_output
        return embeddings.float().cpu().numpy()
