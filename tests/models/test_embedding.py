"""Frozen embeddings: features by hand, invariances, windows, the cache, training a head, saving."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from test_trainer import accuracy, rows
from tiny import tiny_bert

from rewardsmith.models import RewardModel, ScalarHead, load_model, train
from rewardsmith.models.embedding import LENGTH_WEIGHT, EmbeddingBackbone
from rewardsmith.models.reward_model import build_backbone

pytest.importorskip("sentence_transformers")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny sentence-embedding model on disk."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Pooling, Transformer

    made, base = tmp_path_factory.mktemp("st"), tmp_path_factory.mktemp("base")
    backbone = tiny_bert()
    backbone.model.base_model.save_pretrained(base)
    backbone.tokenizer.save_pretrained(base)
    transformer = Transformer(str(base), max_seq_length=32)
    SentenceTransformer(modules=[transformer, Pooling(32)], device="cpu").save(str(made), create_model_card=False)
    return str(made)


@pytest.fixture(autouse=True)
def cache_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("REWARDSMITH_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def model(folder):
    backbone = EmbeddingBackbone(folder)
    torch.manual_seed(0)
    return RewardModel(backbone, ScalarHead(backbone.hidden_size))


def test_features_are_what_the_module_says(folder):
    backbone = EmbeddingBackbone(folder)
    row = backbone.encode(["a prompt"], ["the answer, in words"]).items[0]
    p, c = backbone.embed(["a prompt", "the answer, in words"])
    assert np.linalg.norm(p) == pytest.approx(1, abs=1e-5)
    np.testing.assert_allclose(row[:32], c, atol=1e-6)
    np.testing.assert_allclose(row[32:64], math.sqrt(32) * p * c, atol=1e-6)
    assert row[64] == pytest.approx(p @ c, abs=1e-6)
    assert row[65] == pytest.approx(LENGTH_WEIGHT * math.log(5), abs=1e-6)
    assert row[66] == 1 and len(row) == backbone.hidden_size


def test_scores_do_not_depend_on_order_or_batch(model):
    prompts = ["one", "two two", "one", ""]
    completions = ["short", "a somewhat longer reply, this one", "third", "four"]
    whole = model.score({"prompt": prompts, "completion": completions}).values
    model.backbone.cache = None  # so that nothing is remembered
    back = model.score({"prompt": prompts[::-1], "completion": completions[::-1]}).values[::-1]
    alone = [model.score({"prompt": [p], "completion": [c]}).values[0] for p, c in zip(prompts, completions)]
    np.testing.assert_allclose(whole, back, atol=1e-5)
    np.testing.assert_allclose(whole, alone, atol=1e-5)


def test_an_empty_completion_is_a_failure(model):
    scores = model.score({"prompt": ["p", "p"], "completion": [" ", "fine"]})
    assert scores.failures[0].kind == "empty" and scores.ok.tolist() == [False, True]


def test_a_long_text_is_read_to_its_end_in_windows(folder):
    backbone = EmbeddingBackbone(folder, cache=False)
    start = "one two three four five six seven eight nine ten " * 8
    parts, counts = backbone._windows(start)
    assert len(parts) > 2 and "".join(parts).replace(" ", "") == start.replace(" ", "")
    assert max(counts) <= 30
    a, b = backbone.embed([start + "yes", start + "never in my life"])
    assert np.abs(a - b).max() > 1e-4


def test_the_encoder_runs_once_per_text(folder, monkeypatch):
    backbone = EmbeddingBackbone(folder)
    seen = []
    compute = backbone._compute
    monkeypatch.setattr(backbone, "_compute", lambda texts: seen.extend(texts) or compute(texts))
    first = backbone.encode(["p", "p"], ["a", "b"]).items
    again = EmbeddingBackbone(folder)
    monkeypatch.setattr(again, "_compute", lambda texts: seen.extend(texts) or compute(texts))
    second = again.encode(["p", "p"], ["a", "b"]).items
    assert sorted(seen) == ["a", "b", "p"]
    np.testing.assert_array_equal(first, second)


def test_a_head_is_trained_saved_and_loaded(folder, tmp_path):
    result = train(rows(96), folder, output_dir=tmp_path / "m", eval_data=rows(40, seed=1))
    assert isinstance(result.model.backbone, EmbeddingBackbone)
    assert result.history[-1]["eval_accuracy"] >= 0.8
    again = load_model(tmp_path / "m")
    assert accuracy(again, rows(40, seed=1)) == pytest.approx(result.history[-1]["eval_accuracy"], abs=0.03)
    batch = [{"prompt": row["prompt"], "completion": row["chosen"]} for row in rows(10)]
    np.testing.assert_allclose(again.score(batch).values, result.model.score(batch).values, atol=1e-5)
    assert not [f for f in (tmp_path / "m").rglob("*") if f.suffix in (".bin", ".pt", ".pkl")]
    train(rows(20), folder, output_dir=tmp_path / "m")  # over the old one


def test_training_leaves_the_encoder_alone(folder):
    backbone = EmbeddingBackbone(folder)
    before = [p.clone() for p in backbone.encoder.parameters()]
    train(rows(20), backbone)
    assert all(torch.equal(a, b) for a, b in zip(before, backbone.encoder.parameters()))


def test_an_embedding_model_is_known_by_its_folder(folder, tmp_path):
    assert isinstance(build_backbone(folder), EmbeddingBackbone)
    with pytest.raises(ValueError, match="no model at"):
        build_backbone("sentence-transformers/not-there")
