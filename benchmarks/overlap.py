"""Sentence BLEU of GRPO groups: CPU-seconds of rewardsmith against sacrebleu, on the same texts and with equal numbers.

A batch is 8 completions against the same 5 references, answers of 150 to 300 words. Both libraries remember how texts
or words are tokenized, so three cases are timed: every text is new (`new`), the references were seen before and the
completions are new (`epoch`: the second pass over a training set), and texts that are tokenized already, joined by
blanks, so that counting alone is left (`tokenized`). One process, one thread; both alternate, medians over rounds.

    python benchmarks/overlap.py
    python benchmarks/overlap.py --completions 10000 --json overlap.json
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import sacrebleu

from rewardsmith.reward import Reward
from rewardsmith.verifiers.ngrams import split_13a
from rewardsmith.verifiers.overlap import BLEU, ChrF, RougeL

GROUP, REFERENCES = 8, 5
Sets = list[tuple[list[str], list[str]]]  # completions and references of each prompt


class Writer:
    """Texts with the word frequencies of English (Zipf), phrases that come back, and ordinary punctuation."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        letters = np.array(list("etaoinshrdlucmfwypvbgk"))
        self.words = ["".join(self.rng.choice(letters, n)) for n in self.rng.integers(2, 10, 20_000)]
        self.chances = 1 / (np.arange(20_000) + 3.0)
        self.chances /= self.chances.sum()

    def phrases(self, count: int) -> list[str]:
        """Sentences on one subject."""
        drawn = self.rng.choice(20_000, (count, 24), p=self.chances)
        return [self._sentence([self.words[i] for i in row[: self.rng.integers(8, 24)]]) for row in drawn]

    def _sentence(self, words: list[str]) -> str:
        if self.rng.random() < 0.5:
            words[len(words) // 2] += ","
        if self.rng.random() < 0.15:
            words[-2] = f"({words[-2]})"
        if self.rng.random() < 0.1:
            words[0] = "2.5-3"
        return " ".join(words).capitalize() + ("." if self.rng.random() < 0.9 else "?")

    def answer(self, phrases: list[str]) -> str:
        """150 to 300 words, half of the sentences from the subject's stock."""
        length, out = int(self.rng.integers(150, 300)), []
        own = self.phrases(14)
        while sum(map(len, (part.split() for part in out))) < length - 12:
            out.append(
                phrases[self.rng.integers(len(phrases))] if self.rng.random() < 0.5 else own.pop() if own else "So."
            )
        return "\n\n".join(" ".join(out[i : i + 4]) for i in range(0, len(out), 4))

    def sets(self, count: int) -> Sets:
        made = []
        for _ in range(count):
            stock = self.phrases(20)
            made.append(([self.answer(stock) for _ in range(GROUP)], [self.answer(stock) for _ in range(REFERENCES)]))
        return made


def rewarded(reward: Reward, sets: Sets) -> list[float]:
    out: list[float] = []
    for completions, references in sets:
        out += reward.score({"completion": completions, "references": [references] * len(completions)}).values.tolist()
    return out


def score_all(reward: Reward, batch: dict[str, list[Any]]) -> list[float]:
    return reward.score(batch).values.tolist()


def sacre(metric: Any, sets: Sets) -> list[float]:
    return [
        metric.sentence_score(text, references).score / 100 for completions, references in sets for text in completions
    ]


def seconds(work: Callable[..., list[float]], *args: Any) -> tuple[float, list[float]]:
    start = time.process_time()
    values = work(*args)
    return time.process_time() - start, values


def tokenized(sets: Sets) -> Sets:
    def joined(text: str) -> str:
        return " ".join(split_13a(text))

    return [([joined(t) for t in a], [joined(t) for t in b]) for a, b in sets]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=20, help="batches per round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--completions", type=int, default=10_000, help="of the large batch; 0 leaves it out")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", default=None, help="file for the numbers")
    args = parser.parse_args()
    writer = Writer(args.seed)
    settings: dict[str, Any] = {"smoothing": "exp", "brevity": "closest", "effective_order": True}
    rows: list[dict[str, Any]] = []

    def compare(case: str, ours: Reward, theirs: Any, ahead: bool, prepare: Callable[[Sets], Sets] = list) -> None:
        times: list[tuple[float, float]] = []
        worst = 0.0
        for _ in range(args.rounds):
            sets = prepare(writer.sets(args.prompts))
            if ahead:
                earlier = [([writer.answer(references)], references) for _, references in sets]
                rewarded(ours, earlier), sacre(theirs, earlier)
            a, mine = seconds(rewarded, ours, sets)
            b, other = seconds(sacre, theirs, sets)
            times.append((a, b))
            worst = max(worst, float(np.abs(np.array(mine) - other).max()))
        a, b = (1000 * statistics.median(column) / args.prompts for column in zip(*times))
        rows.append({"case": case, "rewardsmith ms": a, "sacrebleu ms": b, "ratio": b / a, "largest difference": worst})

    exp = {"effective_order": True, "smooth_method": "exp"}
    compare("BLEU, new", BLEU(**settings), sacrebleu.BLEU(**exp), False)
    compare("BLEU, epoch", BLEU(**settings), sacrebleu.BLEU(**exp), True)
    none = BLEU(tokenize="none", **settings)
    compare("BLEU, tokenized", none, sacrebleu.BLEU(tokenize="none", **exp), False, tokenized)
    compare("chrF", ChrF(), sacrebleu.CHRF(), False)

    print(f"{GROUP} completions against the same {REFERENCES} references, CPU ms per batch")
    for row in rows:
        print(f"{row['case']:18} rewardsmith {row['rewardsmith ms']:8.2f}   sacrebleu {row['sacrebleu ms']:8.2f}   "
              f"ratio {row['ratio']:5.1f}   largest difference {row['largest difference']:.0e}")  # fmt: skip

    large: list[dict[str, Any]] = []
    if args.completions:
        sets = writer.sets(args.completions // GROUP)
        batch = {
            "completion": [text for completions, _ in sets for text in completions],
            "references": [references for completions, references in sets for _ in completions],
        }
        print(
            f"{len(batch['completion'])} completions in one call, {len(sets)} prompts of {REFERENCES} references, CPU s"
        )
        for name, reward in (("BLEU", BLEU()), ("ROUGE-L", RougeL()), ("chrF", ChrF())):
            spent, _ = seconds(score_all, reward, batch)
            large.append({"rule": name, "completions": len(batch["completion"]), "seconds": spent})
            print(f"{name:18} {spent:8.2f}")
    if args.json:
        found = {"batches": rows, "large": large, "sacrebleu": sacrebleu.__version__, "numpy": np.__version__}
        with open(args.json, "w", encoding="utf-8") as file:
            json.dump(found, file, indent=2)


if __name__ == "__main__":
    main()
