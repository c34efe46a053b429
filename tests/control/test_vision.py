"""Rewards from frames: the paper's formula in closed form, encoders, batches, the cache, distances to labels."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import (
    BertConfig,
    BertModel,
    CLIPConfig,
    CLIPModel,
    PreTrainedTokenizerFast,
    SiglipConfig,
    SiglipModel,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from rewardsmith.control.transitions import Transitions
from rewardsmith.control.vision import (
    CachedEncoder,
    ClipEncoder,
    VisionReward,
    goal_baseline_reward,
    pearson_distance,
    prompt_embedding,
    rank_prompts,
    unit,
)
from rewardsmith.control.wrappers import RewardWrapper

WORDS = ["[PAD]", "[UNK]", "[EOS]", "a", "robot", "kneeling", "cart", "pole", "upright", "on"]


class Means:
    """A dual encoder by hand: a frame is the mean of its channels, sentences are looked up."""

    texts = {"red": (1.0, 0.0, 0.0), "green": (0.0, 1.0, 0.0), "grey": (1.0, 1.0, 1.0)}  # noqa: RUF012

    def __init__(self) -> None:
        self.batches: list[int] = []

    def encode_image(self, frames: np.ndarray) -> np.ndarray:
        self.batches.append(len(frames))
        return frames.astype(np.float64).mean(axis=(1, 2))

    def encode_text(self, texts) -> np.ndarray:
        return np.array([self.texts[text] for text in texts])


def frames(number: int, seed: int = 0, size: int = 5) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (number, size, size + 1, 3), dtype=np.uint8)


def dense(images: np.ndarray, goal: np.ndarray, baseline: np.ndarray, alpha: float) -> np.ndarray:
    """The paper's form with the projection on the line through goal and baseline, as a matrix."""
    d = goal - baseline
    projection = alpha * np.outer(d, d) / (d @ d) + (1 - alpha) * np.eye(len(d))
    return 1 - 0.5 * (((images - goal) @ projection) ** 2).sum(axis=1)


@given(st.integers(0, 10_000), st.floats(0, 1))
def test_the_short_form_is_the_projection(seed, alpha):
    rng = np.random.default_rng(seed)
    x, g, b = rng.normal(size=(7, 9)), rng.normal(size=9), rng.normal(size=9)
    np.testing.assert_allclose(goal_baseline_reward(x, g, b, alpha), dense(x, g, b, alpha), atol=1e-9)


def test_without_regularization_it_is_the_cosine():
    rng = np.random.default_rng(0)
    x, (g, b) = unit(rng.normal(size=(1000, 32))), unit(rng.normal(size=(2, 32)))
    np.testing.assert_allclose(goal_baseline_reward(x, g, b, 0.0), x @ g, atol=1e-6)


def test_closed_forms():
    rng = np.random.default_rng(1)
    g, b = unit(rng.normal(size=(2, 32)))
    d = (g - b) / np.linalg.norm(g - b)
    for alpha in (0.0, 0.3, 1.0):
        np.testing.assert_allclose(goal_baseline_reward(g[None], g, b, alpha), 1.0)
    np.testing.assert_allclose(goal_baseline_reward(b[None], g, b, 1.0), g @ b)
    # alpha = 1: nothing orthogonal to d counts, and what remains is P_1 applied twice or once
    x, noise = rng.normal(size=(50, 32)), rng.normal(size=(50, 32))
    sideways = noise - np.outer(noise @ d, d)
    plain = goal_baseline_reward(x, g, b, 1.0)
    np.testing.assert_allclose(goal_baseline_reward(x + 100 * sideways, g, b, 1.0), plain, atol=1e-6)
    once = g + np.outer((x - g) @ d, d)
    np.testing.assert_allclose(goal_baseline_reward(once, g, b, 1.0), plain, atol=1e-9)
    np.testing.assert_allclose(goal_baseline_reward(once, g, b, 0.0), plain, atol=1e-9)


def test_by_hand():
    # d = (1, -1). For x = (0.6, 0.8): x - g = (-0.4, 0.8), along d (-0.6, 0.6), half of each (-0.5, 0.7).
    x = np.array([[0.0, 1.0], [0.6, 0.8]])
    rewards = goal_baseline_reward(x, np.array([1.0, 0.0]), np.array([0.0, 1.0]), 0.5)
    np.testing.assert_allclose(rewards, [0.0, 0.63], atol=1e-12)


def test_bad_arguments_are_refused():
    x, g = np.ones((2, 3)), np.ones(3)
    with pytest.raises(ValueError, match=r"alpha must be in \[0, 1\], not 1.5"):
        goal_baseline_reward(x, g, g, 1.5)
    with pytest.raises(ValueError, match="same embedding"):
        goal_baseline_reward(x, g, g, 0.5)
    with pytest.raises(ValueError, match=r"\(2, 3\), \(4,\)"):
        goal_baseline_reward(x, np.ones(4), np.ones(4), 0.0)
    with pytest.raises(ValueError, match=r"alpha = 0\.5 needs a baseline"):
        VisionReward(Means(), "red", alpha=0.5)
    with pytest.raises(ValueError, match="same embedding"):
        VisionReward(Means(), "red", "red")
    with pytest.raises(ValueError, match=r"float64 of shape \(2, 5, 6, 3\)"):
        VisionReward(Means(), "red").score_frames(frames(2) / 255)


def test_distractors_are_removed():
    # the task along d, and nuisance of three times its spread in 30 other directions
    rng = np.random.default_rng(0)
    directions = np.linalg.qr(rng.normal(size=(32, 32)))[0]
    progress = rng.uniform(-1, 1, 2000)
    nuisance = 3 * progress.std() * rng.normal(size=(2000, 30))
    x = np.outer(progress, directions[0]) + nuisance @ directions[2:] + 5 * directions[1]
    g, b = unit(np.stack([5 * directions[1] + directions[0], 5 * directions[1] - directions[0]]))
    rho = {a: np.corrcoef(goal_baseline_reward(unit(x), g, b, a), progress)[0, 1] for a in (0.0, 1.0)}
    distance = {a: pearson_distance(goal_baseline_reward(unit(x), g, b, a), progress) for a in (0.0, 1.0)}
    assert rho[1.0] >= 0.95 and rho[0.0] <= 0.6
    assert distance[1.0] < distance[0.0]


def test_the_distance_of_rewards():
    rng = np.random.default_rng(0)
    r = rng.normal(size=10_000)
    assert pearson_distance(r, 2 * r + 3) == pytest.approx(0.0, abs=1e-7)
    assert pearson_distance(r, -r) == pytest.approx(1.0)
    assert pearson_distance(r, rng.normal(size=10_000)) == pytest.approx(np.sqrt(0.5), abs=0.02)
    assert pearson_distance(np.full(4, 0.3), np.array([0, 1, 0, 1])) == pytest.approx(np.sqrt(0.5))
    with pytest.raises(ValueError, match="all labels are equal"):
        pearson_distance(r, np.ones(10_000))
    with pytest.raises(ValueError, match=r"must both be \(N,\)"):
        pearson_distance(r, np.ones(3))
    with pytest.raises(ValueError, match="finite"):
        pearson_distance(np.array([np.nan, 1.0]), np.array([0.0, 1.0]))


def test_prompts_and_alpha_are_ranked_by_their_distance():
    images = frames(60)
    images[:30, ..., 0] //= 4
    labels = np.arange(60) >= 30  # the redder ones
    encoder = Means()
    ranked = rank_prompts(encoder, images, labels, [("red", "grey"), ("green", "grey"), ("red", None)], (0.0, 1.0))
    assert len(ranked) == 5
    assert [one.distance for one in ranked] == sorted(one.distance for one in ranked)
    assert ranked[0].goal == "red" and ranked[-1].goal == "green"
    assert encoder.batches == [60]
    best = VisionReward(encoder, ranked[0].goal, ranked[0].baseline, ranked[0].alpha)
    assert pearson_distance(best.score_frames(images), labels) == pytest.approx(ranked[0].distance)


@pytest.mark.parametrize("batch_size", [1, 7, 23, 100])
def test_the_last_batch_may_be_short(batch_size):
    encoder = Means()
    got = CachedEncoder(encoder, batch_size=batch_size).encode_image(frames(23))
    np.testing.assert_array_equal(got, Means().encode_image(frames(23)))
    assert sum(encoder.batches) == 23 and max(encoder.batches) <= batch_size


def test_each_distinct_frame_is_encoded_once():
    encoder = Means()
    cached = CachedEncoder(encoder, batch_size=4, capacity=10)
    images = frames(6)
    repeated = images[[0, 1, 0, 2, 1, 0]]
    np.testing.assert_array_equal(cached.encode_image(repeated), Means().encode_image(repeated))
    assert encoder.batches == [3]
    cached.encode_image(np.ascontiguousarray(images[:4]))
    assert encoder.batches == [3, 1]
    # same bytes, another shape: another frame
    cached.encode_image(images[:1].reshape(1, 6, 5, 3))
    assert encoder.batches == [3, 1, 1]


def test_the_cache_is_bounded_and_forgets_the_longest_unused():
    encoder = Means()
    cached = CachedEncoder(encoder, capacity=3)
    images = frames(8)
    np.testing.assert_array_equal(cached.encode_image(images), Means().encode_image(images))  # more than fit
    assert len(cached) == 3
    cached.encode_image(images[[5]])
    cached.encode_image(images[[0]])  # 6 goes: 5 was used after it
    assert encoder.batches == [8, 1]
    cached.encode_image(images[[5, 7]])
    assert encoder.batches == [8, 1]
    cached.encode_image(images[[6]])
    assert encoder.batches == [8, 1, 1]


def test_frames_with_channels_first_are_the_same_frames():
    reward = VisionReward(Means(), "red", "grey", 0.7)
    np.testing.assert_array_equal(reward.score_frames(frames(4)), reward.score_frames(frames(4).transpose(0, 3, 1, 2)))


def test_several_sentences_are_averaged_and_not_rescaled():
    np.testing.assert_allclose(prompt_embedding(Means(), ["red", "green"]), [0.5, 0.5, 0])
    with pytest.raises(ValueError, match="at least one sentence"):
        prompt_embedding(Means(), [])


def test_a_frame_without_an_embedding_is_a_failure_not_a_zero():
    images = frames(3)
    images[1] = 0  # the mean of black is the zero vector: it has no direction
    scores = VisionReward(Means(), "red").score(Transitions.episode(np.zeros(4), np.zeros(3), infos={"frame": images}))
    assert scores.failures.keys() == {1} and scores.failures[1].kind == "nonfinite"
    assert scores.ok.tolist() == [True, False, True]


def tokenizer(length: int) -> PreTrainedTokenizerFast:
    words = Tokenizer(WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    words.pre_tokenizer = Whitespace()
    words.post_processor = TemplateProcessing(single="$A [EOS]", special_tokens=[("[EOS]", 2)])
    return PreTrainedTokenizerFast(
        tokenizer_object=words, unk_token="[UNK]", pad_token="[PAD]", eos_token="[EOS]", model_max_length=length
    )


@pytest.fixture(scope="module", params=["clip", "siglip"])
def folder(request, tmp_path_factory) -> Path:
    """A tiny random model as its users have it: in a folder, with its processor and tokenizer."""
    torch.manual_seed(0)
    layer = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = layer | {"vocab_size": len(WORDS), "max_position_embeddings": 12, "eos_token_id": 2, "pad_token_id": 0}
    vision = layer | {"image_size": 16, "patch_size": 8}
    path = tmp_path_factory.mktemp(request.param)
    if request.param == "clip":
        model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8))
        processor = CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    else:
        model = SiglipModel(SiglipConfig(text_config=text | {"projection_size": 16}, vision_config=vision))
        processor = SiglipImageProcessorPil(size={"height": 16, "width": 16})
    for part in (model, processor, tokenizer(12)):
        part.save_pretrained(path)
    return path


def test_a_saved_model_embeds_as_transformers_does(folder):
    encoder = ClipEncoder.from_pretrained(str(folder), device="cpu")
    images = frames(5, size=20)
    pixels = encoder.image_processor(images=list(images), return_tensors="pt")["pixel_values"]
    texts = ["a robot kneeling", "a cart"]
    full = {"padding": "max_length", "max_length": 12} if "siglip" in str(folder) else {"padding": True}
    tokens = encoder.tokenizer(texts, return_tensors="pt", **full)
    attention = {} if "siglip" in str(folder) else {"attention_mask": tokens["attention_mask"]}
    with torch.inference_mode():
        out = encoder.model(input_ids=tokens["input_ids"], pixel_values=pixels, **attention)
    np.testing.assert_allclose(unit(encoder.encode_image(images)), out.image_embeds.numpy(), atol=1e-5)
    np.testing.assert_allclose(unit(encoder.encode_text(texts)), out.text_embeds.numpy(), atol=1e-5)


def test_a_reward_of_a_saved_model(folder):
    encoder = ClipEncoder.from_pretrained(str(folder), device="cpu")
    images = frames(9, size=20)
    together = VisionReward(encoder, "a robot kneeling", "a robot", 0.5).score_frames(images)
    small = VisionReward(CachedEncoder(encoder, batch_size=4), "a robot kneeling", "a robot", 0.5)
    np.testing.assert_allclose(small.score_frames(images), together, atol=1e-5)
    cosine = VisionReward(encoder, "a robot kneeling").score_frames(images)
    text, image = unit(encoder.encode_text(["a robot kneeling"])), unit(encoder.encode_image(images))
    np.testing.assert_allclose(cosine, image @ text[0], atol=1e-6)
    assert not any(p.grad is not None for p in encoder.model.parameters())


def test_a_sentence_that_is_too_long_is_refused_not_cut(folder):
    encoder = ClipEncoder.from_pretrained(str(folder), device="cpu")
    with pytest.raises(ValueError, match="has 21 tokens; the model reads 12"):
        encoder.encode_text(["a robot", "a robot " * 10])


def test_a_model_of_text_alone_is_refused():
    model = BertModel(BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8))
    with pytest.raises(TypeError, match="BertModel does not embed both"):
        ClipEncoder(model, None, None)


def test_cartpole_is_drawn_and_scored_without_a_display():
    code = (
        "import gymnasium as gym, numpy as np\n"
        "env = gym.make('CartPole-v1', render_mode='rgb_array'); env.reset(seed=0)\n"
        "frame = env.render(); assert frame.dtype == np.uint8 and frame.shape == (400, 600, 3) and frame.std() > 0\n"
    )
    hidden = {k: v for k, v in os.environ.items() if k not in ("DISPLAY", "WAYLAND_DISPLAY")}
    subprocess.run([sys.executable, "-c", code], env=hidden | {"SDL_VIDEODRIVER": "dummy"}, check=True)
    env = RewardWrapper(gym.make("CartPole-v1", render_mode="rgb_array"), VisionReward(Means(), "red", "grey", 1.0))
    env.reset(seed=0)
    _, reward, *_, info = env.step(0)
    assert reward == pytest.approx(float(VisionReward(Means(), "red", "grey", 1.0).score_frames(env.render()[None])[0]))
    assert info["task_reward"] == 1.0


def test_mujoco_frames_where_it_can_draw():
    code = (
        "import gymnasium as gym\n"
        "env = gym.make('Hopper-v5', render_mode='rgb_array'); env.reset(seed=0)\n"
        "assert env.render().shape == (480, 480, 3)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {"MUJOCO_GL": "egl"}, capture_output=True, text=True
    )
    if done.returncode and "AssertionError" not in done.stderr:
        pytest.skip(f"MuJoCo cannot draw here: {done.stderr.strip().splitlines()[-1][:120]}")
    assert done.returncode == 0
