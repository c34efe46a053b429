"""Completions per second of the tool-call reward on one thread, beside a plain per-sample implementation.

    python benchmarks/tool_calls.py [--rows 10000] [--data rlla_sft.json.xz]

The plain way is what reward functions in training repositories do: for each sample, read the gold text again, match the
format with regular expressions, and compare calls with `json` and `Counter`. Rows are gold turns in groups of 8, each
with a thought of about 200 words and one of several errors; with `--data`, ToolRL's own answers (a JSON list of objects
with `output`) in place of made-up ones. Both ways take turns, timed in CPU seconds; values must agree.
"""

from __future__ import annotations

import argparse
import json
import lzma
import os
import random
import re
import statistics
import time
from collections import Counter

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from rewardsmith.verifiers.reading import without_thinking
from rewardsmith.verifiers.tool_calls import ToolCallReward, read_gold

GROUP = 8
WORDS = ("we", "need", "the", "right", "tool", "for", "what", "was", "asked", "so", "check", "each", "value", "first")


def made_up(rng: random.Random, count: int) -> list[str]:
    """Gold turns of one to three calls, with two to four parameters each."""
    turns = []
    for _ in range(count):
        calls = []
        for _ in range(rng.randint(1, 3)):
            parameters = {
                f"parameter_{k}": rng.choice([k, f"value {k}", True, [k, 2]]) for k in range(rng.randint(2, 4))
            }
            calls.append({"name": f"tool_{rng.randrange(20)}", "parameters": parameters})
        thought = " ".join(rng.choices(WORDS, k=200))
        turns.append(f"<think>{thought}</think>\n<tool_call>\n" + "\n".join(map(json.dumps, calls)) + "\n</tool_call>")
    return turns


def with_error(rng: random.Random, text: str) -> str:
    """The turn as it is, or with a wrong value, a missing parameter, another call, broken JSON or a broken format."""
    head, opening, block = text.rpartition("<tool_call>\n")
    if not opening:
        return text if rng.random() < 0.7 else text + " and more"
    lines = block.removesuffix("\n</tool_call>").split("\n")
    at, kind = rng.randrange(len(lines)), rng.randrange(6)
    call = json.loads(lines[at])
    keys = list(call["parameters"])
    if kind == 1 and keys:
        call["parameters"][rng.choice(keys)] = "something else"
    elif kind == 2 and keys:
        del call["parameters"][rng.choice(keys)]
    lines[at] = json.dumps(call)
    if kind == 3:
        lines.append(json.dumps({"name": "unrelated", "parameters": {}}))
    elif kind == 4:
        lines[at] = lines[at][:-1]
    tail = "\nThat is all." if kind == 5 else ""
    return head + opening + "\n".join(lines) + "\n</tool_call>" + tail


def jaccard(a: list[str], b: list[str]) -> float:
    if a == b:
        return 1.0
    if not a or not b:
        return 0.0
    one, other = Counter(a), Counter(b)
    shared = sum(min(one[key], other[key]) for key in one)
    return shared / (len(a) + len(b) - shared)


def plain(completion: str, answer: str) -> float:
    """Format and correctness of one sample by the paper's formulas."""
    text = completion.strip()
    gold_said, said = without_thinking(answer), without_thinking(text)
    calls, response = "<tool_call>" in gold_said, "<response>" in gold_said
    pattern = r"^<think>.*?</think>"
    pattern += r"\n<tool_call>\n.*?\n</tool_call>" if calls else ""
    pattern += r"\n<response>.*?</response>" if response else ""
    good = bool(re.search(pattern + "$", text, re.DOTALL))
    good &= not calls or said.count("<tool_call>") == said.count("</tool_call>") == 1
    good &= not response or said.count("<response>") == said.count("</response>") == 1
    if not calls:
        return float(good)
    gold = [json.loads(line) for line in gold_said.split("<tool_call>")[1].split("</tool_call>")[0].strip().split("\n")]
    try:
        block = said.split("<tool_call>")[1].split("</tool_call>")[0].strip()
        predicted = [json.loads(line) for line in block.split("\n")]
        if gold == predicted:
            return float(good) + 3.0
        points = jaccard([call["name"] for call in gold], [call["name"] for call in predicted])
        most = 1.0
        used = set()
        for call in gold:
            wanted = call["parameters"]
            most += 1 + len(wanted)
            best, at = 0.0, -1
            for index, other in enumerate(predicted):
                if index in used or other["name"] != call["name"]:
                    continue
                given = other["parameters"]
                earned = jaccard(list(wanted), list(given))
                earned += sum(1 for key in wanted if key in given and given[key] == wanted[key])
                if earned > best:
                    best, at = earned, index
            if at >= 0:
                used.add(at)
                points += best
        return float(good) + 6.0 * points / most - 3.0
    except Exception:
        return float(good) - 3.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--data", help="a JSON list of objects with 'output', plain or .xz")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()

    rng = random.Random(0)
    if options.data:
        opened = lzma.open if options.data.endswith(".xz") else open
        with opened(options.data, "rt", encoding="utf-8") as file:
            turns = [row["output"] for row in json.load(file)]
    else:
        turns = made_up(rng, 1 + options.rows // GROUP)
    answers = [turns[row // GROUP % len(turns)] for row in range(options.rows)]
    completions = [with_error(rng, answer) for answer in answers]
    golds = [read_gold(answer) for answer in turns]
    lists = [[{"name": call.name, "parameters": call.arguments} for call in gold.calls] for gold in golds]
    columns = {
        "tool_calls": [lists[row // GROUP % len(turns)] for row in range(options.rows)],
        "expects_response": [golds[row // GROUP % len(turns)].response for row in range(options.rows)],
    }
    prompts = [""] * options.rows
    reward = ToolCallReward()
    ways = {
        "plain, per sample": lambda: [plain(text, answer) for text, answer in zip(completions, answers)],
        "rewardsmith, gold as text": lambda: reward(prompts, completions, answer=answers),
        "rewardsmith, gold as calls": lambda: reward(prompts, completions, **columns),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    values: dict[str, list] = {}
    for _ in range(options.repeats):
        for name, way in ways.items():
            start = time.process_time()
            values[name] = way()
            seconds[name].append(time.process_time() - start)
    first = np.array(values["plain, per sample"])
    for name, times in seconds.items():
        rate = options.rows / statistics.median(times)
        ratio = statistics.median(seconds["plain, per sample"]) / statistics.median(times)
        agree = float(np.mean(np.abs(np.array(values[name]) - first) < 1e-9))
        print(f"{name:28} {rate:10,.0f} completions/s   {ratio:5.2f} x   equal values {agree:.2%}")


if __name__ == "__main__":
    main()
