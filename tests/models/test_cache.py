"""The embedding cache: each text once, other scopes apart, bytes exact, several processes at a time."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from rewardsmith.models.cache import EmbeddingCache, default_folder


def embed(texts):
    return np.array([[len(text), text.count("a")] for text in texts], dtype=np.float32)


def test_each_distinct_text_is_computed_once_and_order_is_kept(tmp_path):
    cache = EmbeddingCache("m", tmp_path / "c.sqlite")
    asked = []

    def compute(texts):
        asked.extend(texts)
        return embed(texts)

    first = cache.vectors(["aa", "b", "aa"], compute)
    second = cache.vectors(["b", "ccc", "aa"], compute)
    assert asked == ["aa", "b", "ccc"]
    np.testing.assert_array_equal(first, embed(["aa", "b", "aa"]))
    np.testing.assert_array_equal(second, embed(["b", "ccc", "aa"]))
    assert len(cache) == 3


def test_vectors_outlive_the_object_to_the_last_bit(tmp_path):
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(3, 7)).astype(np.float32)
    EmbeddingCache("m", tmp_path / "c.sqlite").vectors(["x", "y", "z"], lambda texts: vectors)

    def never(texts):
        raise AssertionError(f"{texts} are in the cache")

    again = EmbeddingCache("m", tmp_path / "c.sqlite").vectors(["z", "x"], never)
    assert again.tobytes() == vectors[[2, 0]].tobytes()


def test_another_model_or_dtype_never_sees_these_vectors(tmp_path):
    EmbeddingCache("model a", tmp_path / "c.sqlite").vectors(["x"], lambda texts: np.ones((1, 2)))
    other = EmbeddingCache("model b", tmp_path / "c.sqlite").vectors(["x"], lambda texts: np.zeros((1, 2)))
    assert other.tolist() == [[0, 0]]


def test_a_failed_computation_stores_nothing(tmp_path):
    cache = EmbeddingCache("m", tmp_path / "c.sqlite")
    with pytest.raises(ValueError, match="2 texts"):
        cache.vectors(["x", "y"], lambda texts: np.ones((1, 2)))
    assert len(cache) == 0


def test_more_texts_than_one_query_takes(tmp_path):
    cache = EmbeddingCache("m", tmp_path / "c.sqlite")
    texts = [f"text {i}" for i in range(1201)]
    np.testing.assert_array_equal(cache.vectors(texts, embed), embed(texts))
    np.testing.assert_array_equal(cache.vectors(texts[::-1], embed), embed(texts[::-1]))


def test_processes_share_one_file(tmp_path):
    code = """
import sys
import numpy as np
from rewardsmith.models.cache import EmbeddingCache
cache = EmbeddingCache("m", sys.argv[1])
for start in range(0, 200, 5):
    texts = [str(i) for i in range(start, start + 20)]
    vectors = cache.vectors(texts, lambda ts: np.array([[float(t), 1.0] for t in ts]))
    assert [v[0] for v in vectors] == [float(t) for t in texts]
"""
    command = [sys.executable, "-c", code, str(tmp_path / "c.sqlite")]
    processes = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    for process in processes:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    assert len(EmbeddingCache("m", tmp_path / "c.sqlite")) == 215


def test_the_folder_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("REWARDSMITH_CACHE", str(tmp_path / "here"))
    assert default_folder() == tmp_path / "here"
    monkeypatch.delenv("REWARDSMITH_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_folder() == tmp_path / "rewardsmith"
