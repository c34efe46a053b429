"""How far a data set's comparisons reach: inference distances and posterior variances (paper 01, Qiu et al. 2024).

Responses are nodes. A comparison ties the rewards of two with the variance of a human's judgment; a model's inductive
bias ties those of similar responses (the paper's induced Bayesian network). Variances add along a path, so the shortest
path bounds what is unknown about the difference of two rewards. Where the links are Gaussian, it is known exactly.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.cluster.hierarchy import cut_tree, linkage
from scipy.sparse import coo_array
from scipy.sparse.csgraph import shortest_path
from scipy.spatial import cKDTree
from scipy.spatial.distance import squareform
from scipy.special import logsumexp

from rewardsmith.data.records import as_columns, text_key
from rewardsmith.evaluation.plain import to_plain


def annotation_variance(beta: float = 1.0) -> float:
    """Variance of r(a) - r(b) given one comparison: of a logistic distribution of scale 1 / beta, pi^2 / (3 beta^2)."""
    if beta <= 0:
        raise ValueError(f"beta must be positive, got {beta}")
    return math.pi**2 / (3 * beta**2)


@dataclass(frozen=True)
class InferenceGraph:
    """The induced Bayesian network of N responses.

    Attributes:
        size: N.
        edges: (E, 2) pairs of nodes, in either order; of several links between two nodes the best one counts.
        variances: (E,) >= 0, of the difference of their rewards.

    Raises:
        ValueError: for shapes or nodes that do not fit, or a variance that is negative or not finite.
    """

    size: int
    edges: np.ndarray
    variances: np.ndarray

    def __post_init__(self) -> None:
        edges = np.asarray(self.edges, dtype=np.int64).reshape(-1, 2)
        variances = np.asarray(self.variances, dtype=np.float64)
        if variances.shape != (len(edges),):
            raise ValueError(f"{len(edges)} edges need as many variances, got shape {variances.shape}")
        if len(edges) and not (edges.min() >= 0 and edges.max() < self.size):
            raise ValueError(f"edges must name nodes 0 to {self.size - 1}")
        if not (np.isfinite(variances).all() and (variances >= 0).all()):
            raise ValueError("variances must be finite and at least 0")
        object.__setattr__(self, "edges", edges)
        object.__setattr__(self, "variances", variances)


def inference_distance(graph: InferenceGraph) -> np.ndarray:
    """Sum of variances along the shortest path between all nodes (Dijkstra), (N, N); infinite without a path.

    Where the links are independent, this is an upper bound on the variance of the difference of two rewards; on a graph
    without cycles it is that variance.
    """
    low, high = graph.edges.min(1, initial=graph.size), graph.edges.max(1, initial=0)
    order = np.lexsort((graph.variances, high, low))
    low, high, variances = low[order], high[order], graph.variances[order]
    best = np.ones(len(order), dtype=bool)
    best[1:] = (low[1:] != low[:-1]) | (high[1:] != high[:-1])
    best &= low != high
    # A stored 0 would be no edge: the least positive number stands for it and vanishes in any sum.
    weights = np.maximum(variances[best], np.finfo(np.float64).tiny)
    matrix = coo_array((weights, (low[best], high[best])), shape=(graph.size, graph.size)).tocsr()
    return shortest_path(matrix, method="D", directed=False)


def mean_distance(distance: np.ndarray) -> float:
    """Mean over all pairs of different nodes, (N, N) to a number: the paper's reward uncertainty of a data set."""
    size = len(distance)
    if size < 2:
        raise ValueError("there must be at least 2 nodes")
    return float((distance.sum() - np.trace(distance)) / (size * (size - 1)))


def posterior_covariance(
    prior: np.ndarray, pairs: np.ndarray | Sequence[Sequence[int]], noise: float | np.ndarray
) -> np.ndarray:
    """Covariance of N rewards after M comparisons, P = K - K A' (A K A' + S)^-1 A K, in a Gaussian world.

    Args:
        prior: K, (N, N).
        pairs: (M, 2) which rewards were compared; row m of A is e_i - e_j.
        noise: variance of a comparison, > 0, or (M,) of each.

    Returns:
        P, (N, N).
    """
    K = np.asarray(prior, dtype=np.float64)
    index = np.asarray(pairs, dtype=np.int64).reshape(-1, 2)
    S = np.broadcast_to(np.asarray(noise, dtype=np.float64), (len(index),))
    if not (S > 0).all():
        raise ValueError("the noise of a comparison must have a positive variance")
    if not len(index):
        return K.copy()
    AK = K[index[:, 0]] - K[index[:, 1]]
    AKA = AK[:, index[:, 0]] - AK[:, index[:, 1]]
    factor = np.linalg.cholesky(AKA + np.diag(S))
    half = np.linalg.solve(factor, AK)
    return K - half.T @ half


def posterior_variance(
    prior: np.ndarray, pairs: np.ndarray | Sequence[Sequence[int]], noise: float | np.ndarray
) -> np.ndarray:
    """Var(r_i - r_j | comparisons) = P_ii + P_jj - 2 P_ij, (N, N); arguments as for `posterior_covariance`."""
    P = posterior_covariance(prior, pairs, noise)
    diagonal = np.diag(P)
    return diagonal[:, None] + diagonal[None] - 2 * P


def structural_function(distance: np.ndarray, clusters: Sequence[int]) -> np.ndarray:
    """F(M): mean inference distance within clusters, of partitions of N responses into M clusters.

    The mean is over a node drawn at random and another, or the same, drawn from its cluster. The partitions are those
    of average linkage, so each value is an upper bound of the smallest there is.

    Args:
        distance: (N, N), symmetric and finite.
        clusters: the numbers M, between 1 and N.

    Returns:
        one value for each M.

    Raises:
        ValueError: for a distance that is infinite (there are nodes without a path), or M out of range.
    """
    size = len(distance)
    if not np.isfinite(distance).all():
        raise ValueError("distances must be finite: there are responses that no path of links connects")
    if any(not 1 <= m <= size for m in clusters):
        raise ValueError(f"numbers of clusters must lie between 1 and {size}, got {list(clusters)}")
    links = linkage(squareform(distance, checks=False), method="average") if size > 1 else None
    out = []
    for m in clusters:
        if m == size:
            out.append(0.0)
            continue
        member = np.eye(m)[cut_tree(links, n_clusters=m)[:, 0]]
        within = np.einsum("ic,ij,jc->c", member, distance, member, optimize=True)
        out.append(float((within / member.sum(0)).sum() / size))
    return np.array(out)


def structural_exponents(clusters: Sequence[int], values: np.ndarray) -> dict[str, tuple[float, float]]:
    """alpha and R^2 of the paper's regimes: `A`, F = I M^-alpha, and `B`, F = I (log M)^-alpha, by least squares.

    Points with M < 2 or F = 0 are left out. Where neither fits, and F falls more slowly, the responses are of the most
    complex kind.
    """
    M, F = np.asarray(clusters, dtype=np.float64), np.asarray(values, dtype=np.float64)
    kept = (M >= 2) & (F > 0)
    if kept.sum() < 3:
        raise ValueError("at least 3 points with M >= 2 and F > 0 are needed")
    y = np.log(F[kept])
    out = {}
    for name, x in (("A", np.log(M[kept])), ("B", np.log(np.log(M[kept]) + 1e-300))):
        slope, cut = np.polyfit(x, y, 1)
        spread = ((y - y.mean()) ** 2).sum()
        out[name] = (float(-slope), float(1 - ((y - slope * x - cut) ** 2).sum() / spread) if spread else 1.0)
    return out


def gibbs(rewards: np.ndarray, beta: float = 1.0) -> np.ndarray:
    """p(y | x) proportional to exp(beta r(x, y)), along the last axis."""
    logits = beta * np.asarray(rewards, dtype=np.float64)
    return np.exp(logits - logsumexp(logits, axis=-1, keepdims=True))


def total_variation(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Half the sum of |p - q| along the last axis, in [0, 1]: 0 where a model's responses are as a human would have
    them (p_H and p_LM of the paper, both from `gibbs`)."""
    return 0.5 * np.abs(np.asarray(p) - np.asarray(q)).sum(-1)


@dataclass
class DataTopology:
    """What the comparisons of a data set tie together.

    Attributes:
        responses: different completions, N.
        comparisons: rows.
        links: edges of inductive bias.
        components: parts that nothing ties together.
        connected: share of the pairs of responses with a path between them.
        mean_distance: over these pairs; NaN without one. The reward uncertainty of the data set, in squared units of
            reward.
        mean_within_prompt: the same over pairs of responses to one prompt.
        options: how the links were made.
    """

    responses: int
    comparisons: int
    links: int
    components: int
    connected: float
    mean_distance: float
    mean_within_prompt: float
    options: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Everything, as JSON."""
        return to_plain(self)


def data_graph(
    records: Any, vectors: np.ndarray | None = None, *, beta: float = 1.0, neighbors: int = 8, bias: float = 1.0
) -> tuple[InferenceGraph, list[str]]:
    """The induced Bayesian network of preference records.

    Args:
        records: rows with `prompt`, `chosen`, `rejected`.
        vectors: (2 R, H) of all chosen completions and then all rejected ones, such as a model's hidden vectors: the
            rewards of two responses differ with a variance of `bias` times their squared distance, as those of a linear
            reward with weights from N(0, bias) do. None: no inductive bias.
        beta: of the Bradley-Terry model of the annotators, see `annotation_variance`.
        neighbors: links of inductive bias from each response.
        bias: see `vectors`.

    Returns:
        the graph, and the key of the prompt of each of its nodes.
    """
    columns = as_columns(records)
    for name in ("prompt", "chosen", "rejected"):
        if name not in columns:
            raise ValueError(f"no column {name!r}; there are {sorted(columns)}")
    prompts = [text_key(prompt) for prompt in columns["prompt"]]
    keys = list(zip(prompts * 2, map(text_key, [*columns["chosen"], *columns["rejected"]])))
    first = {key: row for row, key in reversed(list(enumerate(keys)))}
    number = {key: at for at, key in enumerate(first)}
    nodes = np.array([number[key] for key in keys], dtype=np.int64)
    edges = nodes.reshape(2, -1).T
    variances = np.full(len(edges), annotation_variance(beta))
    if vectors is not None:
        points = np.asarray(vectors, dtype=np.float64)
        if len(points) != len(keys):
            raise ValueError(f"{len(prompts)} rows need {len(keys)} vectors, got {len(points)}")
        points = points[list(first.values())]
        count = min(neighbors, len(points) - 1)
        distance, near = cKDTree(points).query(points, k=count + 1)
        source = np.repeat(np.arange(len(points)), count)
        edges = np.concatenate([edges, np.stack([source, near[:, 1:].ravel()], axis=1)])
        variances = np.concatenate([variances, bias * distance[:, 1:].ravel() ** 2])
    return InferenceGraph(len(first), edges, variances), [prompt for prompt, _ in first]


def data_topology(
    records: Any, vectors: np.ndarray | None = None, *, beta: float = 1.0, neighbors: int = 8, bias: float = 1.0
) -> DataTopology:
    """The reward uncertainty of a data set by inference distances; arguments as for `data_graph`.

    Takes N^2 numbers of memory for N responses: sample the rows of a large data set.
    """
    graph, prompts = data_graph(records, vectors, beta=beta, neighbors=neighbors, bias=bias)
    distance = inference_distance(graph)
    off = ~np.eye(graph.size, dtype=bool)
    known = np.isfinite(distance) & off
    _, prompt = np.unique(prompts, return_inverse=True)
    within = known & (prompt[:, None] == prompt[None])
    comparisons = len(as_columns(records)["chosen"])
    return DataTopology(
        responses=graph.size,
        comparisons=comparisons,
        links=len(graph.edges) - comparisons,
        components=len(np.unique(np.isfinite(distance).argmax(1))),
        connected=float(known.sum() / off.sum()),
        mean_distance=float(distance[known].mean()) if known.any() else math.nan,
        mean_within_prompt=float(distance[within].mean()) if within.any() else math.nan,
        options={"beta": beta, "neighbors": neighbors if vectors is not None else 0, "bias": bias},
    )
