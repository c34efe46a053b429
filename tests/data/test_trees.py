"""Trees of responses: duplicates, common ancestors, stratified pairs, chains, beginnings, evaluation prompts."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rewardsmith.data import load_data, split_by_prompt
from rewardsmith.data.trees import (
    Node,
    Tree,
    incomplete_pairs,
    label_pairs,
    lca_depths,
    pairs_of_chain,
    pairs_of_tree,
    without_prompts,
)


def full(prompt: str = "q", depth: int = 3, branching: int = 2) -> Tree:
    """Every segment is a letter for the depth and a number for the branch."""
    nodes: list[Node] = []
    level = [-1]
    for at in range(depth):
        following = []
        for parent in level:
            for branch in range(branching):
                nodes.append(Node(parent, f"{'abcdef'[at]}{branch} ", ended=at == depth - 1))
                following.append(len(nodes) - 1)
        level = following
    return Tree(prompt, tuple(nodes))


def shared_segments(a: str, b: str) -> int:
    pairs = zip(a.split(), b.split())
    return len(list(itertools.takewhile(lambda pair: pair[0] == pair[1], pairs)))


def test_a_full_tree_has_its_leaves_and_depths() -> None:
    tree = full()
    assert len(tree.leaves) == 8 and tree.compact() == tree
    texts = [tree.text(leaf) for leaf in tree.leaves]
    assert texts[0] == "a0 b0 c0 " and texts[-1] == "a1 b1 c1 "
    depths, shared = lca_depths(tree)
    for i, j in itertools.combinations(range(8), 2):
        assert depths[i, j] == shared_segments(texts[i], texts[j]) and shared[i, j] == 3 * depths[i, j]


@pytest.mark.parametrize("n", [3, 7, 12, 28, 40])
def test_pairs_have_equal_counts_by_depth_and_true_depths(n: int) -> None:
    rows = pairs_of_tree(full(), n, seed=n)
    assert len(rows) == min(n, 28)
    assert len({frozenset(row["candidates"]) for row in rows}) == len(rows)
    for row in rows:
        a, b = row["candidates"]
        assert a != b and row["lca_depth"] == shared_segments(a, b) and row["shared_prefix"] == 3 * row["lca_depth"]
    counts = Counter(row["lca_depth"] for row in rows)
    sizes = {0: 16, 1: 8, 2: 4}  # pairs that there are
    open_ = [counts[depth] for depth in sizes if counts[depth] < sizes[depth]]
    assert not open_ or max(counts.values()) - min(open_) <= 1 or min(open_) >= max(open_) - 1
    if n == 12:
        assert counts == {0: 4, 1: 4, 2: 4}
    if n == 40:
        assert counts == sizes


def test_either_candidate_may_come_first() -> None:
    rows = pairs_of_tree(full(), 28, seed=1)
    order = [row["candidates"][0] < row["candidates"][1] for row in rows]
    assert 5 < sum(order) < 23


def test_identical_siblings_are_no_branching() -> None:
    nodes = (
        Node(-1, "same "), Node(-1, "same "), Node(0, "x", ended=True), Node(0, "y", ended=True),
        Node(1, "y", ended=True), Node(1, "z", ended=True), Node(-1, "other", ended=True),
    )  # fmt: skip
    tree = Tree("q", nodes).compact()
    assert sorted(tree.text(leaf) for leaf in tree.leaves) == ["other", "same x", "same y", "same z"]
    assert all(len(tree.children(node)) != 1 for node in range(len(tree.nodes)))
    # Without the other response, nothing branches at the prompt; with two equal responses nothing is left to compare.
    assert pairs_of_tree(Tree("q", (Node(-1, "a", ended=True), Node(-1, "a", ended=True))), 3) == []


def test_segments_in_line_become_one() -> None:
    nodes = (Node(-1, "a", (1,)), Node(0, "b", (2,)), Node(1, "c", (3,), True), Node(1, "d", (4,), True))
    tree = Tree("q", (*nodes, Node(-1, "e", (5,), True))).compact()
    assert [node.text for node in tree.nodes] == ["ab", "c", "d", "e"]
    assert tree.nodes[0].ids == (1, 2) and tree.nodes[1].parent == 0 and tree.nodes[3].parent == -1


def test_equal_responses_of_different_segments_are_kept_once() -> None:
    nodes = (Node(-1, "a"), Node(0, "bc", ended=True), Node(-1, "ab"), Node(2, "c", ended=True), Node(2, "d"))
    tree = Tree("q", nodes).compact()
    assert sorted(tree.text(leaf) for leaf in tree.leaves) == ["abc", "abd"]


@st.composite
def trees(draw) -> Tree:
    count = draw(st.integers(1, 20))
    return Tree(
        "q",
        tuple(Node(draw(st.integers(-1, number - 1)), draw(st.sampled_from("abc"))) for number in range(count)),
    )


@settings(max_examples=200, deadline=None)
@given(trees())
def test_a_compact_tree_has_the_same_responses_each_once(tree: Tree) -> None:
    compact = tree.compact()
    texts = [compact.text(leaf) for leaf in compact.leaves]
    assert len(set(texts)) == len(texts) and set(texts) == {tree.text(leaf) for leaf in tree.leaves}
    assert all(len(compact.children(node)) != 1 for node in range(len(compact.nodes)))
    assert compact.compact() == compact
    assert Tree.from_row(compact.to_row()) == compact
    depths, shared = lca_depths(compact)
    for (i, a), (j, b) in itertools.combinations(enumerate(compact.leaves), 2):
        common = len(set(compact.path(a)) & set(compact.path(b)))
        assert depths[i, j] == depths[j, i] == common
        assert texts[i][: shared[i, j]] == texts[j][: shared[i, j]]


def test_a_node_must_follow_its_parent() -> None:
    with pytest.raises(ValueError, match="node 0 has parent 3"):
        Tree("q", (Node(3, "a"),))


def test_a_conversation_is_answered_by_messages() -> None:
    prompt = [{"role": "user", "content": "q"}]
    row = pairs_of_tree(Tree(prompt, full().nodes), 1)[0]
    assert [side[0]["role"] for side in row["candidates"]] == ["assistant", "assistant"]


def test_a_chain_uses_every_response_once_and_compares_no_two_equal() -> None:
    rows = pairs_of_chain("q", ["a", "b", "c", "c", "d", "e", "e"])
    assert [row["candidates"] for row in rows] == [["a", "b"], ["c", "d"], ["c", "e"]]
    assert {row["lca_depth"] for row in rows} == {0}


def test_a_response_without_text_is_not_compared() -> None:
    tree = Tree("q", tuple(Node(-1, text, ended=True) for text in ("a", "", "b", " \n")))
    assert [sorted(row["candidates"]) for row in pairs_of_tree(tree, 9)] == [["a", "b"]]
    assert [row["candidates"] for row in pairs_of_chain("q", ["", "a", " ", "b"])] == [["a", "b"]]


def test_ties_and_failures_are_counted() -> None:
    rows = [{"prompt": "q", "candidates": ["a", "b"], "leaves": [0, 1], "lca_depth": 2} for _ in range(4)]
    labeled = label_pairs(rows, [1.5, -0.5, 0.0, np.nan])
    assert (labeled.ties, labeled.failed) == (1, 1)
    assert [(row["chosen"], row["rejected"], row["margin"]) for row in labeled.rows] == [
        ("a", "b", 1.5),
        ("b", "a", 0.5),
    ]
    assert "leaves" not in labeled.rows[0] and labeled.rows[0]["lca_depth"] == 2
    with pytest.raises(ValueError, match="4 pairs"):
        label_pairs(rows, [1.0])


def test_beginnings_are_labeled_by_what_they_lead_to() -> None:
    tree = full()
    rows = pairs_of_tree(tree, 28)
    # Leaves behind a0 win against those behind a1, with probability sigmoid(2); a0 b1 beats a0 b0; the rest is even.
    logits = []
    for row in rows:
        a, b = (text.split() for text in row["candidates"])
        sign = (a[0] == "a0") - (b[0] == "a0") or (a[0] == "a0" and (a[1] == "b1") - (b[1] == "b1")) or 0
        logits.append(2.0 * sign)
    found = {(row["chosen"], row["rejected"]): row for row in incomplete_pairs(tree, rows, logits)}
    assert set(found) == {("a0 ", "a1 "), ("a0 b1 ", "a0 b0 ")}
    assert found["a0 ", "a1 "]["target_prob"] == pytest.approx(1 / (1 + np.exp(-2)))
    assert found["a0 b1 ", "a0 b0 "]["lca_depth"] == 1 and found["a0 b1 ", "a0 b0 "]["shared_prefix"] == 3
    assert incomplete_pairs(tree, rows, [np.nan] * 28) == []


def test_chain_and_tree_have_equally_many_comparisons_and_leak_no_evaluation_leaf() -> None:
    trees = [full(f"question {i}") for i in range(10)]
    trees = [Tree(t.prompt, tuple(Node(n.parent, f"{i}{n.text}") for n in t.nodes)) for i, t in enumerate(trees)]
    tree_rows = [row for t in trees for row in pairs_of_tree(t, 4)]
    chain_rows = [row for t in trees for row in pairs_of_chain(t.prompt, [t.text(leaf) for leaf in t.leaves])]
    assert len(tree_rows) == len(chain_rows) == 40
    records, _ = load_data(label_pairs(tree_rows, [1.0] * 40).rows)
    held = split_by_prompt(records, test_size=0.3)["test"]
    leaves = {t.text(leaf) for t in trees if t.prompt in set(held["prompt"]) for leaf in t.leaves}
    assert len(leaves) == 24
    for rows in (tree_rows, chain_rows):
        kept = without_prompts(rows, held)
        assert len(kept) == 28 and not leaves & {text for row in kept for text in row["candidates"]}


def test_case_and_white_space_do_not_hide_an_evaluation_prompt() -> None:
    rows = [{"prompt": "What is  Tea?"}, {"prompt": [{"role": "user", "content": "And coffee?"}]}, {"prompt": "new"}]
    assert without_prompts(rows, [{"prompt": "what is tea?\n"}, {"prompt": "And coffee?"}]) == [{"prompt": "new"}]
