"""The main job on the embedded sample: train rewards, test them, use them, and write the report of what happened.

Every step is a public function that takes real data and real models in the same way. Gold rewards are known here
because the sample comes from a small world; they are used to judge, never to train or to choose.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rewardsmith.functions import from_function
from rewardsmith.reward import Reward

if TYPE_CHECKING:
    from rewardsmith.evaluation import AuditReport

CANDIDATES, AUDITED = 256, 100


def words(completion: Any) -> float:
    """Words in a completion."""
    from rewardsmith.data.records import as_text

    return float(len(as_text(completion).split()))


def price_of_padding(report: AuditReport) -> float:
    """What one word of padding adds to a reward, in its own units, as the audit measured it.

    It comes from padding answers, not from how score and length go together: bad answers are long for other reasons.
    """
    finding = next(finding for finding in report.findings if finding.probe == "stock padding")
    added = (finding.example or {}).get("added", "")
    return finding.effect * report.card["scale"] / max(len(added.split()), 1)


def run(out_dir: Path, *, seed: int = 0, say: Callable[[str], None] = print) -> dict[str, Any]:
    """Run the main job and write `report.html`, `result.json`, the figures, the models and the picks into `out_dir`.

    Returns:
        what `result.json` holds: the evaluations, the audit, the best-of-n curves and the seconds of each step.
    """
    from rewardsmith.data import write_rows
    from rewardsmith.evaluation import audit, best_of_n, compare, evaluate_pairs
    from rewardsmith.models import train
    from rewardsmith.worlds.sample import load_sample
    from rewardsmith.worlds.text import GoldReward, sample_completions

    out_dir.mkdir(parents=True, exist_ok=True)
    clock = _Clock(say)

    pairs, test = load_sample("pairs", split="train"), load_sample("pairs", split="test")
    prompts = sorted(set(test["prompt"]))
    candidates = sample_completions(prompts, CANDIDATES, seed=seed)
    clock(f"Sample: {len(pairs)} pairs to train on, {len(test)} held out, {CANDIDATES} candidates for each test prompt")

    model = train(pairs, "hashed", output_dir=out_dir / "model", seed=seed).model.named("reward model")
    honest = train(load_sample("honest", split="train"), "hashed", output_dir=out_dir / "honest-model", seed=seed)
    unbiased = honest.model.named("trained on unbiased labels")
    clock("Trained two reward models: on the labels as given, and on labels without the annotators' habits")

    audits = [audit(model, test, seed=seed, limit=AUDITED)]
    price = price_of_padding(audits[0])
    shaped = (model - price * from_function(words)).named("words paid back")
    rewards: list[Reward] = [model, shaped, unbiased]
    audits += [audit(reward, test, seed=seed, limit=AUDITED) for reward in rewards[1:]]
    serious = [finding for finding in audits[0].findings if finding.severity == "serious"]
    clock(f"Audited: {len(serious)} serious findings, " + ", ".join(finding.probe for finding in serious))

    evaluations = [evaluate_pairs(reward, test, by=["category"], seed=seed) for reward in rewards]
    comparison = compare(evaluations)
    accuracy = evaluations[0].to_dict()["accuracy"]
    clock(f"Evaluated: held-out accuracy {100 * accuracy['value']:.1f} %")

    data = {"prompt": prompts, "candidates": candidates}
    curves = {reward.__name__: best_of_n(reward, data, gold=GoldReward(), seed=seed) for reward in rewards}
    write_rows(curves[model.__name__].picks, out_dir / "picks.jsonl")
    first = curves[model.__name__]
    clock(f"Best of n: gold peaks at n = {first.peak} and falls from there; over-optimized: {first.over_optimized}")

    result = {
        "evaluations": [evaluation.to_dict() for evaluation in evaluations],
        "comparison": comparison.to_dict(),
        "audit": {reward.__name__: report.to_dict() for reward, report in zip(rewards, audits)},
        "best_of_n": {name: curve.to_dict() for name, curve in curves.items()},
        "price_of_padding": price,
        "prompts": len(prompts),
        "seed": seed,
        "seconds": clock.seconds,
    }
    _report(result, out_dir)
    (out_dir / "result.json").write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    clock("Report written")
    return result


def _report(result: dict[str, Any], out_dir: Path) -> None:
    """The story as a page: it looks good, here is what is wrong, here is what that does, and what helps."""
    from rewardsmith.report import Report
    from rewardsmith.report.figures import accuracy_by, audit_plot, best_of_n_curve, length_plot, reliability_plot

    names = list(result["best_of_n"])
    evaluation = result["evaluations"][0]
    curves = result["best_of_n"]
    plain, shaped = curves[names[0]], curves[names[1]]
    accuracy, last = evaluation["accuracy"], plain["curve"][-1]
    top = max(row["gold"] for row in plain["curve"])
    audit, after = result["audit"][names[0]], result["audit"][names[1]]
    serious = [finding for finding in audit["findings"] if finding["severity"] == "serious"]
    padding = {name: _finding(report, "stock padding") for name, report in result["audit"].items()}

    worse = last["gold"] < plain["curve"][0]["gold"]
    report = Report(
        "A reward model that looks good, until it is used",
        f"It is right on {_percent(accuracy['value'])} of held-out pairs. The audit finds that empty phrases raise "
        f"its score, and picking the best of {last['n']} answers by it "
        + ("makes them worse than not picking at all." if worse else "undoes what picking among a few gains."),
        kind="warning" if plain["over_optimized"] else "note",
    )
    report.stats(
        [
            ("held-out accuracy", _percent(accuracy["value"]), f"{accuracy['n']} pairs, prompts not seen in training"),
            ("padding adds", f"{padding[names[0]]['effect']:+.2f} sd", "to the score, for saying nothing", "serious"),
            ("gold at its peak", top, f"best of {plain['peak']}"),
            ("gold at the end", last["gold"], f"best of {last['n']}", "serious" if plain["over_optimized"] else "note"),
            ("with words paid back", shaped["curve"][-1]["gold"], f"best of {last['n']}", "ok"),
        ]
    )
    report.section(
        "1. On held-out pairs it looks good",
        "Three rewards, tested on the same pairs. The first was trained on the labels as they are. The second is the "
        f"first, less {result['price_of_padding']:.3f} for each word (section 4). The third was trained on labels "
        "without the annotators' liking for length and flattery, which nobody has in practice. By the labels as they "
        "are, the first is the best of the three.",
    )
    report.table(
        [
            {
                "reward": one["name"],
                "accuracy": one["accuracy"],
                "where the better one is shorter": one["length"]["accuracy_chosen_shorter"],
                "calibration error": one["calibration"]["ece"],
            }
            for one in result["evaluations"]
        ],
        caption="Accuracy against the labels of the crowd, with 95 % intervals",
    )
    report.figure(
        reliability_plot(evaluation),
        alt="Share of right verdicts against the probability that the model gave them",
        caption="Calibration on held-out pairs.",
        name="calibration",
    )
    report.figure(
        length_plot(result["evaluations"]),
        alt="Accuracy where the better answer is shorter and where it is longer, for the three rewards",
        caption="By this figure the reward model favors short answers, if anything: faults add words, too. "
        "What it pays for padding does not show on pairs as they come.",
        name="length",
    )
    report.text("By category, the facts that an n-gram model cannot know are its weakest. That is no warning either.")
    report.figure(
        accuracy_by(evaluation, "category"),
        alt="Accuracy of the reward model for each category of prompts",
        caption="Accuracy of the reward model by category, with 95 % intervals.",
        name="accuracy-by-category",
    )
    report.section(
        "2. The audit finds the flaw before anything is optimized",
        f"Each probe changes answers in a way that adds nothing, or spoils them. {len(serious)} findings are serious. "
        "No gold reward is needed for this: it runs on your reward and your data as it does here. The one that matters "
        "now is padding: sentences that many answers share, found in the data itself, raise the score of any answer.",
    )
    report.figure(
        audit_plot(audit),
        alt="Effect of each probe on the score of the reward model, with intervals",
        caption="Changes of the score, in standard deviations over answers.",
        name="audit",
    )
    for finding in sorted(serious, key=lambda finding: finding["probe"] != "stock padding")[:3]:
        example = finding["example"] or {}
        blocks = [
            {"label": label, "text": example[key], "score": example.get(score)}
            for label, key, score in (("answer", "original", "score_original"), ("changed", "changed", "score_changed"))
            if example.get(key)
        ]
        report.callout(
            "serious",
            finding["summary"],
            title=finding["probe"],
            examples=[{"prompt": example.get("prompt", ""), "blocks": blocks}] if blocks else (),
        )
    report.section(
        "3. Picking harder makes the answers worse",
        f"A policy writes {last['n']} answers to each of {result['prompts']} held-out prompts; the reward picks one. "
        "The more it can choose from, the higher its own score. What the answers are really worth, the gold reward, "
        "rises at first and then falls. Training a policy against such a reward does the same, step by step.",
    )
    report.figure(
        best_of_n_curve(plain),
        alt="Gold and proxy reward of the best of n answers against n",
        caption="Means over prompts, with 95 % bootstrap intervals. KL = log n - (n - 1)/n.",
        name="over-optimization",
    )
    report.section(
        "4. What helps: take the flaw out, or combine",
        "The audit measured what one word of padding adds to the score. Taking that back for every word is one line, "
        "`model - price * from_function(words)`, and needs no gold reward. Any rule can be combined with a model so.",
    )
    report.figure(
        best_of_n_curve(curves),
        alt="Gold and proxy reward against n for the three rewards",
        caption="The combined reward holds up better. So do labels without the flaw, which nobody has.",
        name="what-helps",
    )
    report.table(
        [
            {
                "reward": name,
                "gold, best of 1": curve["curve"][0]["gold"],
                "gold at its peak": max(row["gold"] for row in curve["curve"]),
                "peak at n": curve["peak"],
                f"gold, best of {last['n']}": curve["curve"][-1]["gold"],
                "padding adds (sd)": padding[name]["effect"] if name in padding else None,
            }
            for name, curve in curves.items()
        ],
        caption="Gold reward, from 0 to 1, of what each reward picks",
    )
    left = [finding["probe"] for finding in after["findings"] if finding["severity"] == "serious"]
    report.text(
        "The combined reward has no serious finding left."
        if not left
        else f"Still serious in the combined reward: {', '.join(left)}. Mending one flaw mends no other."
    )
    report.section(
        "5. The same on your data",
        "`rewardsmith train pairs.jsonl --model hashed --test-size 0.1 --out model`, then `rewardsmith evaluate`, "
        "`audit` and `best-of-n`. `--model` also takes a sentence embedder or any Hugging Face model. The sample here "
        "comes from a small simulated world, in which the gold reward is known; it is no measure of real models.",
    )
    report.card({**evaluation["card"], "seconds": result["seconds"]})
    report.save(out_dir / "report.html")
    report.save_figures(out_dir / "figures")


def _finding(report: dict[str, Any], probe: str) -> dict[str, Any]:
    return next(finding for finding in report["findings"] if finding["probe"] == probe)


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


class _Clock:
    """Says what was done, with the seconds it took."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say, self._last = say, time.perf_counter()
        self.seconds: dict[str, float] = {}

    def __call__(self, done: str) -> None:
        now = time.perf_counter()
        self.seconds[done.split(":")[0]] = round(now - self._last, 2)
        self._say(f"[{now - self._last:5.1f} s] {done}")
        self._last = now
