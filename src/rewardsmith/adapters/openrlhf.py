"""OpenRLHF: a reward as the `reward_func` of a local file; `RemoteReward` is a reward behind an endpoint.

`--reward.remote_url FILE.py` loads a file that defines `reward_func = as_reward_func(reward)`;
`--reward.remote_url http://host:port/get_reward` asks a server, such as `rewardsmith serve`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from rewardsmith.adapters.remote import RemoteReward
from rewardsmith.data.records import Text
from rewardsmith.deadline import join_scores
from rewardsmith.reward import Failure, Reward, Scores

__all__ = ["RemoteReward", "as_reward_func", "logged_scores", "score_queries", "split_query"]

Parse = Callable[[str, str], tuple[Text, Text]]


def split_query(query: str, prompt: str, end_tokens: Sequence[str] = ()) -> tuple[str, str]:
    """Prompt and completion of a query, which is the prompt and the response as one text with special tokens kept.

    Args:
        query: the whole text.
        prompt: the prompt; what stands before it in the query (a beginning-of-text token) is left out.
        end_tokens: endings to take off the completion, such as `("<|im_end|>", "</s>")`, with blank space after them.

    Raises:
        ValueError: where the query does not hold the prompt (the trainer had cut it to its length limit).
    """
    start = query.find(prompt)
    if start < 0:
        raise ValueError("the query does not hold its prompt: cut to the trainer's length limit?")
    completion = query[start + len(prompt) :]
    shortened = True
    while shortened:
        shortened = False
        for token in end_tokens:
            if completion.rstrip().endswith(token):
                completion = completion.rstrip().removesuffix(token)
                shortened = True
    return prompt, completion


def as_reward_func(
    reward: Reward, *, parse: Parse = split_query, answer_column: str = "answer", failed: float | None = None
) -> Callable[..., dict[str, Any]]:
    """`reward_func(queries, prompts, labels, **kwargs) -> {"rewards", "scores", "extra_logs": {name: values}}`.

    All values are (B,) float32 tensors. `scores` are the rewards clipped to [0, 1], which OpenRLHF's dynamic filtering
    reads; `extra_logs` holds the components that have a value for every sample, and `failed`.

    Args:
        reward: any reward.
        parse: (query, prompt) -> (prompt, completion) as the reward shall read them, for instance
            `functools.partial(split_query, end_tokens=("<|im_end|>",))`, or a function that returns messages.
        answer_column: name under which the reward reads the labels.
        failed: number to give OpenRLHF for a sample that could not be scored. It cannot skip one, so without a number
            the failure is raised.

    Raises (when called):
        RewardError: for a failed sample, where `failed` is None.
    """

    def reward_func(
        queries: Sequence[str], prompts: Sequence[str], labels: Sequence[Any], **kwargs: Any
    ) -> dict[str, Any]:
        import torch

        columns = {k: v for k, v in kwargs.items() if isinstance(v, list | tuple) and len(v) == len(queries)}
        scores = score_queries(reward, queries, prompts, labels, parse=parse, answer_column=answer_column, **columns)
        if failed is None:
            scores.resolve("raise")
        answer = logged_scores(scores, failed)
        return {
            "rewards": torch.tensor(answer["rewards"], dtype=torch.float32),
            "scores": torch.tensor(answer["scores"], dtype=torch.float32),
            "extra_logs": {k: torch.tensor(v, dtype=torch.float32) for k, v in answer["extra_logs"].items()},
        }

    return reward_func


def score_queries(
    reward: Reward,
    queries: Sequence[str],
    prompts: Sequence[str] | None,
    labels: Sequence[Any] | None,
    *,
    parse: Parse = split_query,
    answer_column: str = "answer",
    **columns: Sequence[Any],
) -> Scores:
    """Score B queries in OpenRLHF's form. Without prompts, the whole query is the completion.

    A query that cannot be parsed is a failure of kind `unparsed`; the others are scored.
    """
    texts: list[tuple[Text, Text]] = []
    kept: list[int] = []
    failures: dict[int, Failure] = {}
    for row, query in enumerate(queries):
        try:
            texts.append(("", query) if prompts is None else parse(query, prompts[row]))
            kept.append(row)
        except ValueError as error:
            failures[row] = Failure("unparsed", str(error))
    batch = {name: [column[row] for row in kept] for name, column in columns.items()}
    if labels is not None:
        batch[answer_column] = [labels[row] for row in kept]
    batch |= {"prompt": [prompt for prompt, _ in texts], "completion": [completion for _, completion in texts]}
    scores = reward.resolved(batch)
    if not failures:
        return scores
    unparsed = Scores(np.full(len(failures), np.nan), failures=dict(enumerate(failures.values())))
    order = np.argsort([*kept, *failures])
    return join_scores([scores, unparsed]).take(order)


def logged_scores(scores: Scores, failed: float | None) -> dict[str, Any]:
    """Scores in OpenRLHF's form, as lists: `rewards` and `scores` are None for a failure where `failed` is None."""
    values = [failed if np.isnan(v) else v for v in scores.values.tolist()]
    logs = {name: part.tolist() for name, part in scores.parts.items() if np.isfinite(part).all()}
    return {
        "rewards": values,
        "scores": [None if v is None else min(max(v, 0.0), 1.0) for v in values],
        "extra_logs": {**logs, "failed": (~scores.ok).astype(float).tolist()},
    }
