"""First lessons for a judge: rejective fine-tuning (Liu et al. 2025) and distillation from two teachers (Chen et al.
2025, "RM-R1"). Both give rows `prompt`, `completion` for supervised fine-tuning (TRL's SFTTrainer takes them).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rewardsmith.chat.protocol import Answer, ChatModel
from rewardsmith.data.records import Message
from rewardsmith.judges.prompting import Prompt, load_prompt
from rewardsmith.judges.training import is_correct


@dataclass
class Lessons:
    """Answers to learn from.

    Attributes:
        rows: `prompt` (messages), `completion` (messages with the judge's answer) and `ratings`, as columns.
        counts: what became of the tasks and of the answers.
    """

    rows: dict[str, list[Any]]
    counts: dict[str, int]


def keep_trajectories(correct: np.ndarray) -> np.ndarray:
    """(R, N) bool: which of N sampled answers to keep: the right ones, of tasks that were not right N times (too easy).

    With a probability p of being right and N = 3, 3 p - 3 p^3 answers of a task are kept on average.
    """
    return correct & ~correct.all(axis=1, keepdims=True)


def best_hint(ratings: Sequence[float]) -> str:
    """The sentence that tells a judge the answer."""
    if len(ratings) == 1:
        return f"Hint: the right score of the response is {ratings[0]:g}."
    return f"Hint: the best response is the one shown in place {int(np.argmax(ratings)) + 1}."


def reject_sampled(
    tasks: Mapping[str, Sequence[Any]],
    model: ChatModel,
    prompt: str | Path | Prompt,
    *,
    samples: int = 3,
    hint: Callable[[Sequence[float]], str] | None = best_hint,
    temperature: float = 1.0,
    max_new_tokens: int = 1024,
    seed: int = 0,
) -> Lessons:
    """Rejective fine-tuning: keep the judge's own right answers to tasks that are not too easy for it.

    Args:
        tasks: of `judging_tasks`.
        model: the judge.
        prompt: the one that the tasks were made with, for its parser.
        samples: answers to each task.
        hint: tasks that the judge got wrong every time are asked once more with this text after the question, and a
            right answer is kept; the kept task does not have the hint. None: not asked.
        temperature: of sampling.
        max_new_tokens: longest answer.
        seed: of sampling.

    Returns:
        lessons, with counts `too_easy`, `never_right`, `hinted`, `failed` (answers that did not come), `kept`.
    """
    asked = load_prompt(prompt)
    options: dict[str, Any] = {"max_new_tokens": max_new_tokens, "temperature": temperature, "seed": seed}
    came = list(model.generate(tasks["prompt"], samples, **options))
    correct = np.array([[_right(a, asked, r) for a in group] for group, r in zip(came, tasks["ratings"])], dtype=bool)
    correct = correct.reshape(len(came), samples)
    kept = [(int(row), came[row][i].text) for row, i in zip(*np.nonzero(keep_trajectories(correct)))]
    failed = sum(answer.error is not None for group in came for answer in group)
    never = np.flatnonzero(~correct.any(axis=1)).tolist()
    hinted = []
    if hint is not None and never:
        told = [_with(tasks["prompt"][row], hint(tasks["ratings"][row])) for row in never]
        for row, (answer,) in zip(never, model.generate(told, 1, **options)):
            failed += answer.error is not None
            if _right(answer, asked, tasks["ratings"][row]):
                hinted.append((row, answer.text))
    counts = {
        "tasks": len(came),
        "too_easy": int(correct.all(axis=1).sum()),
        "never_right": len(never),
        "hinted": len(hinted),
        "failed": failed,
        "kept": len(kept) + len(hinted),
    }
    return Lessons(_rows(tasks, sorted(kept + hinted)), counts)


def distilled(
    tasks: Mapping[str, Sequence[Any]],
    teacher: ChatModel,
    corrector: ChatModel,
    prompt: str | Path | Prompt,
    *,
    temperature: float = 0.0,
    max_new_tokens: int = 4096,
    seed: int = 0,
) -> Lessons:
    """Distillation from two teachers: where the first is wrong, the second sees its answer and the truth, and corrects.

    An answer of the second teacher that is still wrong is left out and counted; no lesson has a wrong verdict.

    Returns:
        lessons, with counts `right` (of the first teacher), `corrected`, `still_wrong`, `kept`.
    """
    asked = load_prompt(prompt)
    options: dict[str, Any] = {"max_new_tokens": max_new_tokens, "temperature": temperature, "seed": seed}
    kept: dict[int, str] = {}
    wrong: list[tuple[int, list[Message]]] = []
    for row, (answer,) in enumerate(teacher.generate(tasks["prompt"], 1, **options)):
        ratings = tasks["ratings"][row]
        if _right(answer, asked, ratings):
            kept[row] = answer.text
            continue
        said = f"This is a wrong answer to the task above:\n\n{answer.text}\n\n" if answer.text else ""
        told = f"{said}{best_hint(ratings)} Write a correct answer in full, in the form that the task asks for, "
        wrong.append((row, _with(tasks["prompt"][row], told + "without speaking of the wrong answer or of the hint.")))
    first = len(kept)
    corrections = corrector.generate([messages for _, messages in wrong], 1, **options) if wrong else ()
    for (row, _), (answer,) in zip(wrong, corrections):
        if _right(answer, asked, tasks["ratings"][row]):
            kept[row] = answer.text
    counts = {
        "tasks": len(tasks["prompt"]),
        "right": first,
        "corrected": len(kept) - first,
        "still_wrong": len(wrong) - (len(kept) - first),
        "kept": len(kept),
    }
    return Lessons(_rows(tasks, sorted(kept.items())), counts)


def _right(answer: Answer, prompt: Prompt, ratings: Sequence[float]) -> bool:
    return answer.error is None and is_correct(prompt.parse(answer.text, len(ratings)).scores, ratings)


def _with(messages: Sequence[Message], text: str) -> list[Message]:
    *before, last = messages
    return [*before, {**last, "content": f"{last['content']}\n\n{text}"}]


def _rows(tasks: Mapping[str, Sequence[Any]], kept: Sequence[tuple[int, str]]) -> dict[str, list[Any]]:
    return {
        "prompt": [tasks["prompt"][row] for row, _ in kept],
        "completion": [[{"role": "assistant", "content": text}] for _, text in kept],
        "ratings": [tasks["ratings"][row] for row, _ in kept],
    }
