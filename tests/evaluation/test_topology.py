"""Inference distances, exact posteriors, structural functions: closed forms, simulation, and data as a graph."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rewardsmith.evaluation.topology import (
    InferenceGraph,
    annotation_variance,
    data_topology,
    gibbs,
    inference_distance,
    mean_distance,
    posterior_variance,
    structural_exponents,
    structural_function,
    total_variation,
)


def graph(size: int, edges: dict[tuple[int, int], float]) -> InferenceGraph:
    return InferenceGraph(size, np.array(list(edges)), np.array(list(edges.values())))


def test_variances_add_along_a_path_and_a_shorter_one_wins() -> None:
    path = {(0, 1): 1.0, (1, 2): 2.0, (2, 3): 3.0}
    assert inference_distance(graph(4, path))[0, 3] == 6
    assert inference_distance(graph(4, {**path, (3, 0): 4.0}))[0, 3] == 4


def test_the_best_of_several_links_counts_and_a_perfect_one_is_a_link() -> None:
    found = inference_distance(graph(4, {(0, 1): 5.0, (1, 0): 2.0, (1, 2): 0.0, (2, 2): 7.0}))
    assert found[0, 1] == 2 and found[0, 2] == pytest.approx(2) and found[1, 2] < 1e-300 and found[2, 2] == 0
    assert np.isinf(found[0, 3])
    assert mean_distance(inference_distance(graph(3, {(0, 1): 1.0, (1, 2): 1.0}))) == pytest.approx(4 / 3)


def test_a_graph_must_make_sense() -> None:
    with pytest.raises(ValueError, match="0 to 1"):
        graph(2, {(0, 2): 1.0})
    with pytest.raises(ValueError, match="at least 0"):
        graph(2, {(0, 1): -1.0})
    with pytest.raises(ValueError, match="as many variances"):
        InferenceGraph(2, np.array([[0, 1]]), np.array([1.0, 2.0]))


def test_posterior_of_two_items_in_closed_form() -> None:
    assert posterior_variance(np.eye(2), [[0, 1]], 1.0)[0, 1] == pytest.approx(2 - 4 / 3)
    K = np.array([[2.0, 0.5], [0.5, 1.0]])
    assert posterior_variance(K, np.empty((0, 2)), 1.0)[0, 1] == pytest.approx(2.0)
    with pytest.raises(ValueError, match="positive variance"):
        posterior_variance(K, [[0, 1]], 0.0)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000))
def test_more_comparisons_never_raise_a_variance(seed: int) -> None:
    rng = np.random.default_rng(seed)
    half = rng.normal(size=(7, 7))
    pairs = rng.integers(7, size=(6, 2))
    K, noise = half @ half.T, rng.uniform(0.1, 2, size=6)
    before = K.diagonal()[:, None] + K.diagonal()[None] - 2 * K
    for count in range(7):
        after = posterior_variance(K, pairs[:count], noise[:count])
        assert (after <= before + 1e-10).all()
        before = after


def tree_edges(kind: str, rng: np.random.Generator) -> dict[tuple[int, int], float]:
    """Links of a chain or a tree of 15 responses, each with a variance of its own."""
    parents = range(14) if kind == "chain" else [(node - 1) // 2 for node in range(1, 15)]
    return {(parent, node): float(rng.uniform(0.2, 2)) for node, parent in enumerate(parents, 1)}


@pytest.mark.parametrize("kind", ["chain", "tree"])
def test_without_cycles_the_distance_is_the_variance_that_links_leave(kind: str) -> None:
    rng = np.random.default_rng(0)
    links = tree_edges(kind, rng)
    distance = inference_distance(graph(15, links))
    # Simulation: rewards from logistic links, the variance of their differences.
    scale = {edge: math.sqrt(3 * variance) / math.pi for edge, variance in links.items()}
    rewards = np.zeros((40_000, 15))
    for (parent, node), s in scale.items():
        rewards[:, node] = rewards[:, parent] + rng.logistic(scale=s, size=len(rewards))
    simulated = np.array([[np.var(rewards[:, i] - rewards[:, j]) for j in range(15)] for i in range(15)])
    np.testing.assert_allclose(simulated, distance, rtol=0.06)
    # And the exact posterior of a world that says nothing beforehand.
    exact = posterior_variance(1e5 * np.eye(15), list(links), np.array(list(links.values())))
    np.testing.assert_allclose(exact, distance, rtol=1e-3, atol=1e-3)


def test_with_cycles_the_distance_is_an_upper_bound() -> None:
    rng = np.random.default_rng(1)
    edges = {(i, j): float(rng.uniform(0.2, 2)) for i, j in itertools.combinations(range(8), 2) if rng.random() < 0.6}
    distance = inference_distance(graph(8, edges))
    exact = posterior_variance(1e5 * np.eye(8), list(edges), np.array(list(edges.values())))
    assert (exact <= distance + 1e-2).all() and exact[0, 1:].mean() < 0.8 * distance[0, 1:].mean()


def ultrametric(depth: int, a: float) -> np.ndarray:
    """Distances between the leaves of a binary tree: twice the sum of 2^(a h) over the heights below their ancestor."""
    leaf = np.arange(2**depth)
    found = np.zeros((len(leaf), len(leaf)))
    for height in range(depth):
        found += 2 * 2.0 ** (a * height) * ((leaf >> height)[:, None] != (leaf >> height)[None])
    return found


@pytest.mark.parametrize("a", [-1.0, 0.0, 1.0])
def test_structural_function_of_a_tree_is_that_of_its_subtrees(a: float) -> None:
    distance = ultrametric(6, a)
    clusters = [2**k for k in range(7)]
    found = structural_function(distance, clusters)
    blocks = [distance[: 64 // m, : 64 // m].mean() for m in clusters]
    np.testing.assert_allclose(found, blocks)
    assert found[-1] == 0 and (np.diff(found) < 0).all()


def test_structural_exponents_are_found_again() -> None:
    M = [2, 4, 8, 16, 32]
    power, slow = np.array(M) ** -0.7, np.log(M) ** -1.5
    assert structural_exponents(M, power)["A"] == pytest.approx((0.7, 1.0))
    assert structural_exponents(M, slow)["B"] == pytest.approx((1.5, 1.0))
    assert structural_exponents(M, slow)["A"][1] < 0.99


def test_structural_function_refuses_what_is_not_tied_together() -> None:
    with pytest.raises(ValueError, match="finite"):
        structural_function(np.array([[0, np.inf], [np.inf, 0]]), [1])
    with pytest.raises(ValueError, match="between 1 and 2"):
        structural_function(np.zeros((2, 2)), [3])


def test_total_variation_of_gibbs_policies() -> None:
    p, q = gibbs(np.array([0.0, math.log(3)])), gibbs(np.array([0.0, 0.0]))
    np.testing.assert_allclose(p, [0.25, 0.75])
    assert total_variation(p, q) == pytest.approx(0.25) and total_variation(p, p) == 0
    np.testing.assert_allclose(gibbs(np.array([[0.0, 1e4]]), beta=2.0), [[0.0, 1.0]])


def test_the_policy_comes_closer_to_the_human_one_as_comparisons_are_added() -> None:
    """Consistency: as the posterior narrows, p_LM of its mean goes to p_H."""
    rng = np.random.default_rng(3)
    away = []
    for count in (20, 200, 2000):
        found = []
        for _ in range(20):
            rewards = rng.normal(size=12)
            pairs = rng.integers(12, size=(count, 2))
            A = np.eye(12)[pairs[:, 0]] - np.eye(12)[pairs[:, 1]]
            seen = A @ rewards + rng.normal(size=count)
            mean = np.linalg.solve(A.T @ A + np.eye(12), A.T @ seen)
            found.append(total_variation(gibbs(rewards), gibbs(mean)))
        away.append(np.mean(found))
    assert away[0] > 2 * away[1] > 4 * away[2]


def test_data_as_a_graph() -> None:
    records = [
        {"prompt": "p", "chosen": "a", "rejected": "b"},
        {"prompt": "p", "chosen": "b", "rejected": "c"},
        {"prompt": "q", "chosen": "a", "rejected": "z"},
    ]
    v = annotation_variance()
    assert v == pytest.approx(math.pi**2 / 3) and annotation_variance(2.0) == pytest.approx(v / 4)
    bare = data_topology(records)
    assert (bare.responses, bare.comparisons, bare.links, bare.components) == (5, 3, 0, 2)
    assert bare.connected == pytest.approx(8 / 20)  # of 20 ordered pairs: 6 among a, b, c and 2 of q
    assert bare.mean_distance == pytest.approx(v * (4 * 1 + 2 * 2 + 2 * 1) / 8) == bare.mean_within_prompt
    # Rows of vectors: chosen a b a', rejected b c z. The two prompts are tied by a and a', 1 apart.
    vectors = np.array([[0.0], [10], [1], [10], [20], [40]])
    tied = data_topology(records, vectors, neighbors=1, bias=0.5)
    assert tied.components == 1 and tied.connected == 1.0 and tied.links == 5
    assert tied.mean_distance > bare.mean_distance and tied.to_dict()["options"]["bias"] == 0.5
    with pytest.raises(ValueError, match="6 vectors"):
        data_topology(records, vectors[:3])


def test_the_two_orders_of_chains_and_trees() -> None:
    """Equal responses favor trees, equal comparisons chains, in the world of the claim (512 leaves, noise 1)."""
    from rewardsmith.papers import p01_topology as world

    rng = np.random.default_rng(5)
    walker = world.Walker(rng)
    for a, equal_responses in ((-1.0, (1.81, 1.68)), (0.0, (1.14, 1.03))):
        vectors = world.features(a)
        K = vectors @ vectors.T
        assert np.trace(K) == pytest.approx(512)

        def left(pairs: np.ndarray, K: np.ndarray = K) -> float:
            return world.unknown(K, pairs)[0]

        chain = np.mean([left(world.chain(walker, 48)) for _ in range(4)])
        tree = np.mean([left(world.in_groups(walker, 12, 28, seed, True)) for seed in range(4)])
        np.testing.assert_allclose((chain, tree), equal_responses, rtol=0.06)
        assert tree < chain
        assert left(world.chain(walker, 160)) < left(world.in_groups(walker, 20, 8, 0, True))
