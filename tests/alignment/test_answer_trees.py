"""Growing trees of responses: a scripted generator, an endpoint, and a local model whose tokens are checked."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tiny_lm import tiny_lm

sys.path.append(str(Path(__file__).parents[1]))

from chat_server import Server

from rewardsmith.alignment.search import CausalPolicy
from rewardsmith.alignment.trees import grow_trees, sample_trees
from rewardsmith.chat import Answer, CachedModel, ChatModel, EndpointModel, ScriptedModel
from rewardsmith.chat.local import LocalModel
from rewardsmith.data.trees import pairs_of_tree


class Counting(ChatModel):
    """Continues with the number of the sample, one word a token, three words in all."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []

    def generate(self, prompts, n=1, *, max_new_tokens=256, **sampling) -> Iterator[list[Answer]]:
        self.sizes.append(max_new_tokens)
        for prompt in prompts:
            words = 0 if isinstance(prompt, str) else len(prompt[-1]["content"].split())
            size = min(max_new_tokens, 3 - words)
            reason = "stop" if words + size == 3 else "length"
            yield [Answer(f"s{sample} " + "w " * (size - 1), reason) for sample in range(n)]

    def fingerprint(self) -> dict:
        return {}


def test_two_to_the_third_leaves_of_a_deterministic_generator() -> None:
    model = Counting()
    (tree,) = grow_trees(model, ["q"], depth=3, branching=2, max_new_tokens=3)
    texts = [tree.text(leaf) for leaf in tree.leaves]
    assert sorted(texts) == [f"s{i} s{j} s{k} " for i in (0, 1) for j in (0, 1) for k in (0, 1)]
    assert all(tree.nodes[leaf].ended for leaf in tree.leaves) and model.sizes == [1, 1, 1]
    for row in pairs_of_tree(tree, 28):
        a, b = (text.split() for text in row["candidates"])
        common = next(at for at in range(3) if a[at] != b[at])
        assert row["lca_depth"] == common


def test_the_last_segment_takes_what_is_left() -> None:
    model = Counting()
    (tree,) = grow_trees(model, ["q"], depth=2, branching=3, segment_tokens=1, max_new_tokens=3)
    assert model.sizes == [1, 2] and len(tree.leaves) == 9


def test_an_answer_that_ends_early_is_a_leaf_and_failures_are_counted() -> None:
    def script(messages, sample):
        so_far = messages[-1]["content"] if messages[-1]["role"] == "assistant" else ""
        if so_far == "":
            return Answer("short" if sample else "long ", "stop" if sample else "length")
        return Answer("", "error", error="lost") if sample else Answer("end", "stop")

    (tree,) = grow_trees(ScriptedModel(script), ["q"], depth=2, branching=2)
    assert sorted(tree.text(leaf) for leaf in tree.leaves) == ["long end", "short"] and tree.failed == 1

    def lost(messages, sample):
        return Answer("a", "length") if messages[-1]["role"] == "user" else Answer("", "error", error="lost")

    (tree,) = grow_trees(ScriptedModel(lost), ["q"], depth=2, branching=2)
    assert tree.leaves == [] and tree.failed == 4  # a beginning alone is no response


def test_a_segment_may_end_with_a_sentence() -> None:
    script = ScriptedModel(lambda messages, sample: Answer("One. Two! Three", "length"))
    (tree,) = grow_trees(script, ["q"], depth=3, branching=1, boundary="sentence", max_new_tokens=30)
    assert [node.text for node in tree.nodes] == ["One.", "One.", "One. Two! Three"]
    partial = script.asked[-1]
    assert [message["role"] for message in partial] == ["user", "assistant"] and partial[-1]["content"] == "One.One."


def test_an_endpoint_is_asked_to_go_on_with_the_last_message() -> None:
    def answer(body, choice):
        return f"{choice}" if body["messages"][-1]["role"] == "user" else f"{choice}!"

    with Server(answer=answer) as server:
        model = EndpointModel("m", server.url)
        (tree,) = grow_trees(model, [[{"role": "user", "content": "q"}]], depth=1, branching=3)
        assert len(tree.leaves) == 3 and "continue_final_message" not in server.requests[0]
        model.extra_body = {"top_k": 5}
        grow_trees(model, ["q"], depth=2, branching=2)
        assert model.extra_body == {"top_k": 5} and all(body["top_k"] == 5 for body in server.requests[1:])
        for body in server.requests:
            assert ("continue_final_message" in body) == (body["messages"][-1]["role"] == "assistant")


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"depth": 0}, "depth"),
        ({"boundary": "word"}, "boundary"),
        ({"segment_tokens": 8, "max_new_tokens": 16}, "leave nothing"),
        ({"temperature": 0.0}, "temperature"),
    ],
)
def test_impossible_settings(options: dict, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        grow_trees(Counting(), ["q"], **options)


@pytest.fixture(scope="module")
def local() -> LocalModel:
    policy = tiny_lm()
    return LocalModel(policy.model, policy.tokenizer, "tiny", batch_size=2)


def test_a_local_model_shares_beginnings_and_its_texts_are_those_of_its_tokens(local: LocalModel) -> None:
    prompts = ["What is the capital of France?", "Write a short poem about rain.", "Name a color."]
    before = local.usage.completion_tokens
    trees = grow_trees(local, prompts, depth=3, branching=2, max_new_tokens=12)
    assert [tree.prompt for tree in trees] == prompts
    drawn = sum(len(node.ids) for tree in trees for node in tree.nodes)
    assert local.usage.completion_tokens - before == drawn
    for tree in trees:
        assert 2 < len(tree.leaves) <= 8
        for leaf in tree.leaves:
            ids = [token for node in tree.path(leaf) for token in tree.nodes[node].ids]
            assert tree.text(leaf) == local.tokenizer.decode(ids, skip_special_tokens=True)
            assert len(ids) == 12 or tree.nodes[leaf].ended
            lengths = [len(tree.nodes[node].ids) for node in tree.path(leaf)]
            assert all(size == 4 for size in lengths[:-1]) and len(lengths) <= 3
    independent = sum(len(tree.nodes[n].ids) for tree in trees for leaf in tree.leaves for n in tree.path(leaf))
    assert drawn < 0.75 * independent


def test_the_seed_decides_and_a_cache_around_a_local_model_does_no_harm(local: LocalModel, tmp_path) -> None:
    options = {"depth": 2, "branching": 2, "max_new_tokens": 8}
    chat = [[{"role": "user", "content": "Name a color."}]]
    local.tokenizer.chat_template = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}"
    first, other = (grow_trees(local, chat, seed=seed, **options) for seed in (1, 2))
    assert grow_trees(CachedModel(local, tmp_path), chat, seed=1, **options) == first != other


def test_a_prompt_that_is_too_long_gets_no_tree_and_is_told(local: LocalModel) -> None:
    with pytest.warns(UserWarning, match="1 of 2 prompts get no tree; prompt 0: .* more than the model's 512"):
        long, short = grow_trees(local, ["rain " * 600, "rain"], depth=1, branching=2, max_new_tokens=4)
    assert long.nodes == () and long.failed == 2 and len(short.leaves) == 2


def test_sentences_end_segments_of_a_local_model(local: LocalModel) -> None:
    (tree,) = grow_trees(
        local, ["Rain."], depth=2, branching=4, boundary="sentence", segment_tokens=20, max_new_tokens=30
    )
    inner = {node.parent for node in tree.nodes} - {-1}
    ends = local.tokenizer.batch_decode([[tree.nodes[node].ids[-1]] for node in inner])
    cut = [end for node, end in zip(inner, ends) if len(tree.nodes[node].ids) < 20]
    assert all("\n" in end or end.rstrip()[-1:] in ".!?" for end in cut)


def test_trees_draw_what_the_policy_says() -> None:
    """First tokens, and second ones behind the likeliest first one, have the frequencies of the policy."""
    policy = CausalPolicy(tiny_lm(std=0.5).model, end_ids=())
    trees = sample_trees(policy, [[5, 6]] * 400, 2, 2, 1, 2, seed=0)
    logps, state = policy.start([[5, 6]])
    first = torch.softmax(logps[0].double(), -1)
    top = int(first.argmax())
    roots = [tree.ids[node][0] for tree in trees for node, parent in enumerate(tree.parents) if parent == -1]
    assert len(roots) == 800 and roots.count(top) / 800 == pytest.approx(float(first[top]), abs=0.06)
    logps, _ = policy.step(state, torch.tensor([0]), torch.tensor([top]))
    second = torch.softmax(logps[0].double(), -1)
    likely = int(second.argmax())
    after = [
        tree.ids[node][0]
        for tree in trees
        for node, parent in enumerate(tree.parents)
        if parent != -1 and tree.ids[parent] == [top]
    ]
    assert len(after) == 2 * roots.count(top) > 20
    assert after.count(likely) / len(after) == pytest.approx(float(second[likely]), abs=0.15)
