"""Paper 01, Qiu et al. 2024: responses drawn as trees, compared leaf with leaf.

The world: 512 responses, the leaves of a binary tree of depth 9 that a generator walks down at random, three steps to
a segment. The reward of a response is the sum of independent normal numbers at its ancestors, whose variance goes as
2^(a h) at height h: rough rewards (a = -1) are decided by the last steps, smooth ones (a = 1) by the first. What
comparisons leave unknown in this world can be computed exactly, and is: the mean variance of the difference of two
rewards.

Three budgets, for they do not agree. With equal numbers of responses, trees leave less unknown than chains, because a
tree of 8 leaves has 28 comparisons and 8 responses of a chain have 4. With equal numbers of comparisons chains win: a
response that shares its beginning with another says less that is new. What the shared beginnings themselves bring
shows with equal numbers of tokens drawn and of comparisons, against independent responses: trees have more responses
for the same tokens, which counts where rewards are rough, and tell those apart that begin alike. The same is seen in a
reward trained on noisy labels, whose uncertainty is that of its Laplace posterior.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from rewardsmith.alignment.trees import grow_trees
from rewardsmith.chat.protocol import Answer, ChatModel
from rewardsmith.data.trees import pairs_of_chain, pairs_of_tree
from rewardsmith.evaluation.topology import posterior_variance
from rewardsmith.models import RewardModel
from rewardsmith.models.arrays import ArrayBackbone
from rewardsmith.models.posterior import laplace
from rewardsmith.papers.claim import Outcome

if TYPE_CHECKING:
    from matplotlib.figure import Figure

OF_CHAIN, OF_INDEPENDENT, NEAR, SHARPER = 0.03, 0.025, 0.025, 0.005
ROUGHNESS = {"rough": -1.0, "medium": 0.0, "smooth": 1.0}  # a
CLAIM = (
    f"With equally many responses trees leave at least {OF_CHAIN:.0%} less variance than chains, for rough and medium "
    f"rewards; with equally many tokens and comparisons at least {OF_INDEPENDENT:.1%} less than independent responses "
    f"for rough rewards, {NEAR:.1%} less between responses that begin alike for rough and medium ones, and a trained "
    f"reward is {SHARPER:.1%} surer; with equally many comparisons, chains leave less than trees, whatever the rewards."
)
DEPTH, SEGMENT = 9, 3  # steps, and steps to a segment
LEAVES = 2**DEPTH
TREES, GROUPS = 12, 7  # 12 trees of 2 + 4 + 8 segments, or 7 groups of 8 responses of 3: 168 segments
COMPARISONS = 16  # of a tree, with equal tokens
EQUAL = (20, 8)  # trees and comparisons of each in the control
BEST_OF = 16
TRAINED = ("std of a trained reward", "held-out accuracy", f"gold of its best of {BEST_OF}")
DRAWS = 8  # of all data; numbers are means over them
RESPONSES, TOKENS, LABELS = "responses", "tokens and comparisons", "comparisons"  # budgets
PROMPT = "Walk."
SPREAD = 2.0  # of rewards, in units of the annotators' noise


class Walker(ChatModel):
    """Writes binary digits, each 0 or 1 with equal probability, up to nine of them."""

    name = "walker"

    def __init__(self, rng: np.random.Generator) -> None:
        super().__init__()
        self.rng = rng

    def generate(
        self, prompts: Sequence[Any], n: int = 1, *, max_new_tokens: int = 256, **sampling: Any
    ) -> Iterator[list[Answer]]:
        for prompt in prompts:
            written = 0 if isinstance(prompt, str) else len(prompt[-1]["content"])
            size = min(max_new_tokens, DEPTH - written)
            drawn = self.rng.integers(2, size=(n, size))
            reason = "stop" if written + size == DEPTH else "length"
            yield [Answer("".join(map(str, row)), reason) for row in drawn.tolist()]

    def fingerprint(self) -> dict[str, Any]:
        return {"model": self.name}


def features(a: float) -> np.ndarray:
    """(512, 1022): what a response has of each node, so that weights from N(0, 1) give the rewards of the world."""
    variance = 2.0 ** (a * np.arange(DEPTH - 1, -1, -1))
    columns = []
    for depth, share in enumerate(variance / variance.sum(), 1):
        ancestor = np.arange(LEAVES) >> (DEPTH - depth)
        columns.append(np.sqrt(share) * (ancestor[:, None] == np.arange(2**depth)[None]))
    return np.concatenate(columns, axis=1)


def chain(walker: Walker, count: int) -> np.ndarray:
    """(count, 2) numbers of leaves: pairs of independent responses."""
    rows: list[dict[str, Any]] = []
    while len(rows) < count:
        texts = [group[0].text for group in walker.generate([PROMPT] * (2 * count))]
        rows += pairs_of_chain(PROMPT, texts)
    return numbers(rows[:count])


def in_groups(walker: Walker, groups: int, each: int, seed: int, shared: bool) -> np.ndarray:
    """(at most groups * each, 2): comparisons within trees of 8 leaves, or within 8 independent responses."""
    shape = {"depth": 3, "branching": 2, "segment_tokens": SEGMENT} if shared else {"depth": 1, "branching": 8}
    trees = grow_trees(walker, [PROMPT] * groups, max_new_tokens=DEPTH, **shape)  # type: ignore[arg-type]
    return numbers([row for at, tree in enumerate(trees) for row in pairs_of_tree(tree, each, seed=seed + at)])


def numbers(rows: list[dict[str, Any]]) -> np.ndarray:
    """(R, 2) numbers of the leaves that are compared."""
    return np.array([[int(text, 2) for text in row["candidates"]] for row in rows])


def unknown(K: np.ndarray, pairs: np.ndarray) -> tuple[float, float]:
    """Mean variance of the difference of two rewards: of all, and of those that share two segments of three."""
    variance = posterior_variance(K, pairs, 1.0)
    segment = np.arange(LEAVES) >> SEGMENT
    near = segment[:, None] == segment[None]
    np.fill_diagonal(near, False)
    return float(variance.sum() / (LEAVES * (LEAVES - 1))), float(variance[near].mean())


def trained(
    rng: np.random.Generator, vectors: np.ndarray, sets: dict[str, np.ndarray]
) -> dict[str, tuple[float, float, float]]:
    """Mean standard deviation, held-out accuracy, and gold of its best of 16, of a reward trained on noisy labels of
    each set of comparisons, in units of the rewards' spread; the reward to be learned is drawn."""
    found = {}
    gold = SPREAD * vectors @ rng.normal(size=vectors.shape[1])
    test = rng.integers(LEAVES, size=(1000, 2))
    test = test[test[:, 0] != test[:, 1]]
    candidates = test[: BEST_OF * (len(test) // BEST_OF), 0].reshape(-1, BEST_OF)
    for name, pairs in sets.items():
        gap = gold[pairs[:, 0]] - gold[pairs[:, 1]]
        won = rng.random(len(pairs)) < 1 / (1 + np.exp(-gap))
        chosen, rejected = np.where(won[:, None], pairs, pairs[:, ::-1]).T
        rows = {"chosen": list(vectors[chosen]), "rejected": list(vectors[rejected])}
        start = RewardModel(ArrayBackbone(vectors.shape[1]))
        model = laplace(start, rows, prior=SPREAD, refit=True)  # trains it: the most likely weights
        ask = ([""] * len(test), list(vectors[test[:, 0]]), list(vectors[test[:, 1]]))
        right = model.preference(*ask) * (gold[test[:, 0]] - gold[test[:, 1]]) > 0
        std = model.preference_std(*ask)
        assert std is not None
        scores = model.score({"completion": list(vectors[candidates.ravel()])}).values.reshape(candidates.shape)
        best = gold[candidates[np.arange(len(candidates)), scores.argmax(1)]]
        found[name] = (float(std.mean()) / SPREAD, float(right.mean()), float(best.mean()) / SPREAD)
    return found


def comparisons(walker: Walker, seed: int, ablate: bool) -> dict[str, dict[str, np.ndarray]]:
    """Sets of comparisons, by budget and name; ablated, the leaves of a tree are drawn independently."""
    shared = not ablate
    trees = TREES if shared else GROUPS  # that the tokens are enough for
    total = TREES * COMPARISONS
    return {
        RESPONSES: {
            "chain": chain(walker, 4 * TREES),
            "trees": in_groups(walker, TREES, 28, seed, shared),
            "independent groups": in_groups(walker, TREES, 28, seed, False),
        },
        TOKENS: {
            "independent groups": in_groups(walker, GROUPS, -(-total // GROUPS), seed, False)[:total],
            "trees": in_groups(walker, trees, -(-total // trees), seed, shared)[:total],
        },
        LABELS: {
            "chain": chain(walker, EQUAL[0] * EQUAL[1]),
            "trees": in_groups(walker, *EQUAL, seed, shared),
        },
    }


def run(seed: int, ablate: bool, scale: str) -> Outcome:
    rng = np.random.default_rng(seed)
    walker = Walker(rng)
    vectors = {roughness: features(a) for roughness, a in ROUGHNESS.items()}
    covariances = {roughness: own @ own.T for roughness, own in vectors.items()}
    found: dict[tuple[str, str, str], list[tuple[float, ...]]] = {}
    learned: dict[str, list[tuple[float, float, float]]] = {}
    for draw in range(DRAWS if scale == "small" else 8 * DRAWS):
        sets = comparisons(walker, 1000 * seed + 100 * draw, ablate)
        for roughness, K in covariances.items():
            for budget, named in sets.items():
                for name, pairs in named.items():
                    found.setdefault((roughness, budget, name), []).append((len(pairs), *unknown(K, pairs)))
        for name, values in trained(rng, vectors["rough"], sets[TOKENS]).items():
            learned.setdefault(name, []).append(values)
    means = {key: np.mean(values, axis=0) for key, values in found.items()}
    rows: list[dict[str, Any]] = []
    for (roughness, budget, name), (count, everywhere, near) in means.items():
        row = {
            "rewards": roughness,
            "equal": budget,
            "data": "ablated (independent)" if ablate and name == "trees" else name,
            "comparisons": float(count),
            "variance": float(everywhere),
            "variance, begin alike": float(near),
        }
        if budget == TOKENS and roughness == "rough":
            row.update(zip(TRAINED, np.mean(learned[name], axis=0).tolist()))
        rows.append(row)

    def less(roughness: str, budget: str, other: str, at: int = 1) -> float:
        return 1 - float(means[roughness, budget, "trees"][at] / means[roughness, budget, other][at])

    independent = "independent groups"
    surer = 1 - float(np.mean(learned["trees"], axis=0)[0] / np.mean(learned[independent], axis=0)[0])
    checks = {
        **{
            f"equal responses, {kind}: {OF_CHAIN:.0%} less than chains": less(kind, RESPONSES, "chain") >= OF_CHAIN
            for kind in ("rough", "medium")
        },
        f"equal tokens, rough: {OF_INDEPENDENT:.1%} less than independent responses": less("rough", TOKENS, independent)
        >= OF_INDEPENDENT,
        **{
            f"equal tokens, {kind}, begin alike: {NEAR:.1%} less": less(kind, TOKENS, independent, 2) >= NEAR
            for kind in ("rough", "medium")
        },
        f"equal tokens, rough: a trained reward {SHARPER:.1%} surer": surer >= SHARPER,
        **{f"equal comparisons, {kind}: chains leave less": less(kind, LABELS, "chain") < 0 for kind in ROUGHNESS},
    }
    return Outcome(rows, checks, lambda: _figure(rows))


def _figure(rows: list[dict[str, Any]]) -> Figure:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(9, 3.2), layout="constrained", sharey=True)
    colors = {"chain": "#BBBBBB", "independent groups": "#EE6677"}
    for axis, budget in zip(axes, (RESPONSES, TOKENS, LABELS)):
        chosen = [row for row in rows if row["equal"] == budget]
        names = list(dict.fromkeys(row["data"] for row in chosen))
        for at, name in enumerate(names):
            values = [row["variance"] for row in chosen if row["data"] == name]
            places = np.arange(len(values)) + 0.8 * (at - (len(names) - 1) / 2) / len(names)
            axis.bar(places, values, 0.8 / len(names), label=name, color=colors.get(name, "#4477AA"))
        axis.set(title=f"equal {budget}", xticks=range(len(ROUGHNESS)), xticklabels=list(ROUGHNESS))
        axis.legend(frameon=False, fontsize=7)
    axes[0].set(ylabel="variance left between two rewards")
    return figure
