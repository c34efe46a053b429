"""Drawing trees of responses (paper 01, Qiu et al. 2024, section on tree-structured data): B continuations of a segment
for every node, down to a depth D, and each branch on to its end.

With a local model a tree is drawn in one pass of decoding: a text that reaches the end of its segment becomes B texts
that go on from its keys and values, so no beginning is read twice. Any other chat model continues a partial answer.
"""

from __future__ import annotations

import copy
import functools
import re
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from transformers import PreTrainedTokenizerBase

from rewardsmith.alignment.search import CausalPolicy, NextToken
from rewardsmith.chat.cache import CachedModel
from rewardsmith.chat.endpoint import EndpointModel
from rewardsmith.chat.local import LocalModel
from rewardsmith.chat.protocol import Answer, ChatModel, check_sampling
from rewardsmith.data.records import Text, as_messages
from rewardsmith.data.trees import ROOT, Node, Tree

Boundary = Literal["tokens", "sentence"]
SENTENCE = re.compile(r"[.!?…](?=\s)|[。！？]|\n")  # what a sentence or line ends with


def grow_trees(
    model: ChatModel,
    prompts: Sequence[Text],
    *,
    depth: int = 3,
    branching: int = 2,
    boundary: Boundary = "tokens",
    segment_tokens: int | None = None,
    max_new_tokens: int = 256,
    temperature: float = 1.0,
    seed: int = 0,
) -> list[Tree]:
    """A tree of up to branching^depth responses for each prompt.

    An endpoint is sent the prompt and the answer so far, as an assistant's message to be continued, with vLLM's and
    SGLang's fields that ask for it (`continue_final_message`). A server that begins a new message all the same gives
    responses that start over in the middle: look at some.

    Args:
        model: what writes. A `LocalModel` reads every beginning once.
        prompts: plain texts or messages. Equal prompts get trees of their own.
        depth: D, segments of a response, and so branchings on the way to it; 1 draws independent responses.
        branching: B, continuations of each node.
        boundary: a segment ends after `segment_tokens` tokens, or (`sentence`) with the first sentence or line within
            them, if one ends there.
        segment_tokens: of each segment but the last, which goes on to the end. Default: equal parts of
            `max_new_tokens`.
        max_new_tokens: longest response.
        temperature: of drawing, > 0.
        seed: of what is drawn.

    Returns:
        one tree per prompt, as drawn: identical siblings are still there, `Tree.compact` joins them. Continuations that
        did not come are counted in `Tree.failed`.

    Raises:
        ValueError: where an argument is out of range.
    """
    if depth < 1 or branching < 1:
        raise ValueError(f"depth and branching must be at least 1, got {depth} and {branching}")
    if boundary not in ("tokens", "sentence"):
        raise ValueError(f"boundary must be 'tokens' or 'sentence', not {boundary!r}")
    check_sampling(max(branching, 2), max_new_tokens, temperature, 1.0)
    budget = max(1, max_new_tokens // depth) if segment_tokens is None else segment_tokens
    if budget < 1 or budget * (depth - 1) >= max_new_tokens:
        raise ValueError(
            f"{depth - 1} segments of {budget} tokens leave nothing of max_new_tokens = {max_new_tokens} for the last: "
            "give fewer segment_tokens, or more max_new_tokens"
        )
    if isinstance(model, CachedModel) and isinstance(model.model, LocalModel):
        model = model.model
    if isinstance(model, LocalModel):
        return _local(model, prompts, depth, branching, boundary, budget, max_new_tokens, temperature, seed)
    return _chat(model, prompts, depth, branching, boundary, budget, max_new_tokens, temperature, seed)


def _chat(
    model: ChatModel, prompts: Sequence[Text], depth: int, branching: int, boundary: str, budget: int, longest: int,
    temperature: float, seed: int,
) -> list[Tree]:  # fmt: skip
    nodes: list[list[Node]] = [[] for _ in prompts]
    failed = [0] * len(prompts)
    open_: list[tuple[int, int, str]] = [(tree, ROOT, "") for tree in range(len(prompts))]  # tree, node, answer so far
    for level in range(1, depth + 1):
        last = level == depth
        asked = [
            prompts[tree] if not text else [*as_messages(prompts[tree], "user"), {"role": "assistant", "content": text}]
            for tree, _, text in open_
        ]
        size = longest - budget * (depth - 1) if last else budget
        answers = (model if level == 1 else _continuing(model)).generate(
            asked, branching, max_new_tokens=size, temperature=temperature, seed=seed * depth + level - 1
        )
        following = []
        for (tree, parent, text), group in zip(open_, answers, strict=True):
            for answer in group:
                if answer.error is not None:
                    failed[tree] += 1
                    continue
                segment, ended = _segment(answer, boundary if not last else "tokens")
                nodes[tree].append(Node(parent, segment, ended=ended))
                if not ended and not last and segment:
                    following.append((tree, len(nodes[tree]) - 1, text + segment))
        open_ = following
    return [
        Tree(prompt, tuple(_without_dead_ends(own, depth)), count) for prompt, own, count in zip(prompts, nodes, failed)
    ]


def _continuing(model: ChatModel) -> ChatModel:
    """The same model, where it is an endpoint told to go on with the last message."""
    if isinstance(model, CachedModel):
        return CachedModel(_continuing(model.model), model.folder)
    if not isinstance(model, EndpointModel):
        return model
    other = copy.copy(model)  # its account and its connections are those of the first
    other.extra_body = {**model.extra_body, "continue_final_message": True, "add_generation_prompt": False}
    return other


def _segment(answer: Answer, boundary: str) -> tuple[str, bool]:
    """Text of a segment, and whether the response ends with it."""
    if boundary == "sentence" and (found := SENTENCE.search(answer.text)):
        cut = answer.text[: found.end()]
        if cut.strip() and len(cut) < len(answer.text):
            return cut, False
    return answer.text, answer.finish_reason != "length"


def _without_dead_ends(nodes: list[Node], depth: int) -> list[Node]:
    """The tree without inner nodes of which every continuation failed: they are no responses."""
    level: list[int] = []
    for node in nodes:
        level.append(1 if node.parent == ROOT else level[node.parent] + 1)
    alive = [node.ended or at == depth for node, at in zip(nodes, level)]
    for number in range(len(nodes) - 1, -1, -1):
        if alive[number] and nodes[number].parent != ROOT:
            alive[nodes[number].parent] = True
    place = {ROOT: ROOT, **{number: at for at, number in enumerate(n for n, ok in enumerate(alive) if ok)}}
    return [Node(place[node.parent], node.text, node.ids, node.ended) for node, ok in zip(nodes, alive) if ok]


def _local(
    model: LocalModel, prompts: Sequence[Text], depth: int, branching: int, boundary: str, budget: int, longest: int,
    temperature: float, seed: int,
) -> list[Tree]:  # fmt: skip
    began = time.perf_counter()
    config = model.model.config.get_text_config()
    mask = None
    if boundary == "sentence":
        mask = _sentence_tokens(model.tokenizer, config.vocab_size).to(model.model.device)
    room = getattr(config, "max_position_embeddings", None)
    encoded: dict[int, list[int]] = {}
    problems: list[str] = []
    for row, prompt in enumerate(prompts):
        try:
            ids = model.encode(prompt)
            if not ids:
                raise ValueError("the prompt has no tokens")
            if room is not None and len(ids) + longest > room:
                raise ValueError(f"{len(ids)} tokens and {longest} new ones are more than the model's {room}")
            encoded[row] = ids
        except Exception as error:  # a template raises what it likes, about this one prompt
            problems.append(f"prompt {row}: {error}")
    if problems:
        warnings.warn(f"{len(problems)} of {len(prompts)} prompts get no tree; {problems[0]}", stacklevel=3)
    found = [Tree(prompt, (), branching) for prompt in prompts]
    policy = CausalPolicy(model.model)
    rows = list(encoded)
    for start in range(0, len(rows), model.batch_size):
        batch = rows[start : start + model.batch_size]
        drawn = sample_trees(
            policy, [encoded[row] for row in batch], depth, branching, budget, longest, temperature=temperature,
            boundary=mask, seed=seed + start,
        )  # fmt: skip
        for row, tree in zip(batch, drawn):
            found[row] = Tree(prompts[row], _texts(model.tokenizer, tree))
        model.usage.prompt_tokens += sum(len(encoded[row]) for row in batch)
        model.usage.completion_tokens += sum(len(ids) for tree in drawn for ids in tree.ids)
        model.usage.answers += sum(len(tree.leaves) for tree in drawn)
    model.usage.requests += len(prompts)
    model.usage.failed += branching * len(problems)
    model.usage.seconds += time.perf_counter() - began
    return found


@functools.lru_cache(maxsize=4)
def _sentence_tokens(tokenizer: PreTrainedTokenizerBase, size: int) -> torch.Tensor:
    """(V,) bool: tokens with which a sentence or a line ends."""
    texts = tokenizer.batch_decode([[token] for token in range(min(size, len(tokenizer)))])
    mask = torch.zeros(size, dtype=torch.bool)
    mask[: len(texts)] = torch.tensor(["\n" in text or text.rstrip().endswith((*".!?…。！？",)) for text in texts])
    return mask


@dataclass
class TokenTree:
    """A tree of tokens: node i is the tokens `ids[i]` behind node `parents[i]`, -1 for the prompt.

    Attributes:
        parents: of N nodes, each a node before it.
        ids: tokens of each node, one that ends a text among them.
        ended: whether the node's last token ends the text.
    """

    parents: list[int]
    ids: list[list[int]]
    ended: list[bool]

    @property
    def leaves(self) -> list[int]:
        """Nodes that nothing follows."""
        inner = set(self.parents)
        return [node for node in range(len(self.parents)) if node not in inner]


@torch.inference_mode()
def sample_trees(
    policy: NextToken,
    prompts: Sequence[Any],
    depth: int,
    branching: int,
    segment_tokens: int,
    max_new_tokens: int,
    *,
    temperature: float = 1.0,
    boundary: torch.Tensor | None = None,
    seed: int = 0,
) -> list[TokenTree]:
    """One tree behind each of P prompts, all in one pass of decoding.

    Args:
        policy: what is drawn from.
        prompts: as the policy takes them.
        depth: segments of a text.
        branching: continuations of a segment.
        segment_tokens: longest segment, the last left out.
        max_new_tokens: longest text.
        temperature: of drawing, > 0.
        boundary: (V,) bool, tokens with which a segment ends sooner.
        seed: of what is drawn.
    """
    if not prompts:
        return []
    logps, state = policy.start(prompts)
    device = logps.device
    generator = torch.Generator(device).manual_seed(seed)
    stops = torch.tensor(policy.end_ids, dtype=torch.long, device=device)
    trees = [TokenTree([], [], []) for _ in prompts]

    def new(tree: int, parent: int) -> list[int]:
        own = trees[tree]
        first = len(own.parents)
        for _ in range(branching):
            own.parents.append(parent)
            own.ids.append([])
            own.ended.append(False)
        return list(range(first, first + branching))

    # Texts under way: tree, node, level of the node, tokens of its segment; and the row of the state of each.
    texts = [(tree, node, 1, 0) for tree in range(len(prompts)) for node in new(tree, ROOT)]
    rows = torch.arange(len(prompts), device=device).repeat_interleave(branching)
    for length in range(1, max_new_tokens + 1):
        probs = torch.softmax(logps[rows] / temperature, dim=-1)
        token = torch.multinomial(probs, 1, generator=generator)[:, 0]
        over = torch.isin(token, stops).tolist()
        cut = [False] * len(token) if boundary is None else boundary[token].tolist()
        going: list[tuple[int, int, int, int]] = []
        sources: list[int] = []
        for at, (taken, (tree, node, level, size)) in enumerate(zip(token.tolist(), texts)):
            trees[tree].ids[node].append(taken)
            trees[tree].ended[node] = over[at]
            if over[at] or length == max_new_tokens:
                continue
            if level < depth and (size + 1 >= segment_tokens or cut[at]):
                going += [(tree, child, level + 1, 0) for child in new(tree, node)]
                sources += [at] * branching
            else:
                going.append((tree, node, level, size + 1))
                sources.append(at)
        if not going:
            break
        # Branches share the state up to here: it is stepped once for each text, and read by all of its branches.
        parents = list(dict.fromkeys(sources))
        order = {at: row for row, at in enumerate(parents)}
        picked = torch.tensor(parents, device=device)
        logps, state = policy.step(state, rows[picked], token[picked])
        rows = torch.tensor([order[at] for at in sources], device=device)
        texts = going
    return trees


def _texts(tokenizer: PreTrainedTokenizerBase, tree: TokenTree) -> tuple[Node, ...]:
    """Nodes with the parts of the responses' texts that their tokens stand for.

    A response is decoded whole, as a character may be several tokens and white space may depend on what is around. A
    node ends where its own text and those of all responses that pass it part.
    """
    paths: list[list[int]] = []
    for parent, ids in zip(tree.parents, tree.ids):
        paths.append((paths[parent] if parent != ROOT else []) + ids)
    decoded = tokenizer.batch_decode(paths, skip_special_tokens=True)
    below: list[list[str]] = [[] for _ in paths]
    for leaf in tree.leaves:
        node = leaf
        while node != ROOT:
            below[node].append(decoded[leaf])
            node = tree.parents[node]
    nodes: list[Node] = []
    reach: list[int] = []
    for number, parent in enumerate(tree.parents):
        start = reach[parent] if parent != ROOT else 0
        own = decoded[number].rstrip("\ufffd") if tree.ids[number] and number not in tree.leaves else decoded[number]
        end = max(start, _common(own, *below[number]))
        reach.append(end)
        nodes.append(Node(parent, below[number][0][start:end], tuple(tree.ids[number]), tree.ended[number]))
    return tuple(nodes)


def _common(*texts: str) -> int:
    """How many characters all texts begin with."""
    low, high = min(texts), max(texts)
    return next((at for at, (a, b) in enumerate(zip(low, high)) if a != b), min(len(low), len(high)))
