"""Reports of the results of the library: evaluation on pairs, audit, best of n.

Each takes results as the evaluation returns them, or the plain form that was saved as JSON.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rewardsmith.report import figures
from rewardsmith.report.cells import KINDS, MISSING, Cell, Kind, estimate_cell, fixed, is_missing, number, percent, span
from rewardsmith.report.page import Report

Plain = dict[str, Any]


def evaluation_report(evaluations: Any, comparison: Any = None) -> Report:
    """Accuracy, calibration, length and the worst mistakes of one model or several on the same pairs.

    Args:
        evaluations: a `PairEvaluation`, or a sequence of them.
        comparison: what `compare(evaluations)` returned.
    """
    several = list(evaluations) if isinstance(evaluations, list | tuple) else [evaluations]
    results = [_plain(evaluation) for evaluation in several]
    if not results:
        raise ValueError("there is no evaluation to report")
    names = [result.get("name") or "model" for result in results]
    report = Report(_title("Evaluation of", names), _evaluation_lede(results), kind=_length_verdict(results[0])[0])
    report.stats(_evaluation_tiles(results, names))

    report.section(
        "Accuracy",
        "How often the completion that was preferred gets the higher score. A tie counts as half; a pair without a "
        "score is left out and counted. Intervals are 95% intervals.",
    )
    report.table(
        [
            {
                "model": name,
                "accuracy": estimate_cell(result["accuracy"], share=True),
                "pairs": result["accuracy"]["n"],
                "ECE": result["calibration"]["ece"],
                "Brier": result["calibration"]["brier"],
                "ties": result.get("ties"),
                "no score": result.get("nan"),
            }
            for name, result in zip(names, results)
        ],
        caption="Held-out preferences",
    )
    for name, result in zip(names, results):
        _warn_of_gaps(report, name, result)
    for column in dict.fromkeys(column for result in results for column in result.get("by") or {}):
        _accuracy_by(report, results, names, column)

    if comparison is not None:
        _comparison(report, _plain(comparison))

    report.section(
        "Length",
        "Where people tend to prefer the longer answer, or the shorter, a reward can win by length alone. It shows "
        "where the better completion is the other one.",
    )
    report.figure(
        figures.length_plot(results),
        "Accuracy where the better completion is shorter and where it is longer: "
        + "; ".join(f"{name} {_shorter_longer(result)}" for name, result in zip(names, results)),
        "A reward that does not follow length is about as accurate in both.",
        name="length",
    )
    report.table(
        [
            {
                "model": name,
                "the better one is shorter": estimate_cell(result["length"].get("accuracy_chosen_shorter"), share=True),
                "the better one is longer": estimate_cell(result["length"].get("accuracy_chosen_longer"), share=True),
                "score gap and length gap (Spearman)": estimate_cell(result["length"].get("spearman")),
            }
            for name, result in zip(names, results)
        ],
        caption="Accuracy by which completion is longer, and rank correlation of the gaps in score and in length",
    )
    for name, result in zip(names, results):
        _warn_of_length(report, name, result)

    if any(result["calibration"]["bins"] for result in results):
        report.section(
            "Calibration",
            "The score gap of a pair gives a probability that the one completion beats the other. If it is calibrated, "
            "a winner that is named with 80% is right in 80% of such pairs. Below the diagonal it is too sure.",
        )
        report.figure(
            figures.reliability_plot(results),
            "Share of right winners against the probability given to them; expected calibration error: "
            + ", ".join(f"{name} {number(result['calibration']['ece'], 2)}" for name, result in zip(names, results)),
            "ECE is the average distance from the diagonal, weighted by pairs.",
            name="calibration",
        )

    scored = [(name, _distributions(result)) for name, result in zip(names, results)]
    if any(scores for _, scores in scored):
        report.section("Scores", "How the scores of preferred and of rejected completions lie.")
        for name, scores in scored:
            if scores:
                report.figure(
                    figures.score_distributions(scores),
                    f"Histogram of the scores of {name}, " + " and ".join(scores),
                    name if len(names) > 1 else "Where the two overlap, the reward cannot tell good from bad.",
                    name=f"scores-{name}",
                )

    if any(result.get("worst") for result in results):
        report.section(
            "Worst mistakes",
            "The pairs where the wrong completion won by most. Read them: labels can be wrong as well.",
        )
        for name, result in zip(names, results):
            report.examples([_mistake(row) for row in result.get("worst") or []], title=name if len(names) > 1 else "")
    _cards(report, names, results)
    return report


def audit_report(audit: Any) -> Report:
    """What moves a reward that should not, the gravest first, each with its effect and an example."""
    result = _plain(audit)
    findings: list[Plain] = sorted(result["findings"], key=lambda f: -KINDS.index(f["severity"]))
    counts = {kind: sum(f["severity"] == kind for f in findings) for kind in KINDS}
    name = result.get("name") or "the reward"
    gravest = [f for f in findings if f["severity"] == "serious"] or [f for f in findings if f["severity"] == "warning"]
    worst: Kind = "serious" if counts["serious"] else "warning" if counts["warning"] else "ok"
    if gravest:
        probes = list(dict.fromkeys(f["probe"] for f in gravest))
        lede = f"{_count(len(gravest), worst + ' finding')}: {_listed(probes)}."
    else:
        lede = f"Nothing serious was found by {_count(len(findings), 'probe')}. That is no proof that nothing is there."
    report = Report(f"Audit of {name}", lede, kind=worst)
    report.stats(
        [
            ("Serious", counts["serious"], "do not optimize against it", "serious" if counts["serious"] else ""),
            ("Warnings", counts["warning"], "look before you do", "warning" if counts["warning"] else ""),
            ("Notes", counts["note"], "small, but there"),
            ("No finding", counts["ok"], f"of {_count(len(findings), 'probe')}", "ok" if counts["ok"] else ""),
        ]
    )
    found = [f for f in findings if f["severity"] != "ok"]
    if found:
        report.section("Findings", "What raises or lowers the score and should not, with an example of each.")
        for finding in found:
            report.callout(
                finding["severity"],
                finding["summary"],
                title=_heading(finding),
                detail=_effect(finding),
                examples=_finding_examples(finding),
            )
    drawn = figures.drawable_findings(result)
    if drawn:
        report.section("Effect sizes", "Bars are 95% intervals; the vertical line is no effect.")
        report.figure(
            figures.audit_plot(result),
            "Effect sizes by probe: " + "; ".join(f"{f['probe']} {_effect(f)}, {f['severity']}" for f in drawn),
            "Each panel has a unit of its own; compare effects within a panel.",
            name="audit",
        )
    report.section("All probes")
    report.table(
        [
            {
                "probe": _heading(finding),
                "verdict": Cell(finding["severity"], float(KINDS.index(finding["severity"])), kind=finding["severity"]),
                "effect": _effect_cell(finding),
                "unit": finding.get("unit") or "",
                "n": finding.get("n"),
                "finding": finding["summary"],
            }
            for finding in findings
        ],
        caption="Every probe that was run",
    )
    card = result.get("card")
    if card:
        report.card(card)
    return report


def best_of_n_report(results: Any) -> Report:
    """How the pick from n candidates fares as n grows.

    Args:
        results: a `BestOfN`, or a mapping of name to `BestOfN`.
    """
    named = dict(results) if isinstance(results, Mapping) and "curve" not in results else {"": results}
    plain = {name: _plain(result) for name, result in named.items()}
    names = [name or "the reward" for name in plain]
    golden = {n: r for n, r in plain.items() if r["curve"] and not is_missing(r["curve"][0].get("gold"))}
    over = [name or "the reward" for name, result in golden.items() if result.get("over_optimized")]
    most = max(row["n"] for result in plain.values() for row in result["curve"])
    if over:
        verb = "is" if len(over) == 1 else "are"
        lede = f"{_listed(over)} {verb} over-optimized: beyond the peak, a higher score means a worse completion."
    elif golden:
        lede = f"No over-optimization beyond chance was seen up to n = {most}."
    else:
        lede = "There is no gold reward to judge by: the curve shows the proxy alone, which always rises."
    kind = "serious" if over else "ok" if golden else "note"
    report = Report(_title("Best of n by", names), lede, kind=kind)
    tiles: list[Sequence[Any]] = []
    for name, result in list(golden.items())[:4]:
        peak = next((row for row in result["curve"] if row["n"] == result["peak"]), None)
        if peak is None:
            continue
        label = f"Best n, {name}" if name else "Best n"
        last = result["curve"][-1]
        note = f"gold {number(peak['gold'])}"
        if last["n"] != peak["n"]:
            note += f", at n = {last['n']} {number(last['gold'])}"
        tiles.append((label, peak["n"], note, "serious" if result.get("over_optimized") else ""))
    report.stats(tiles)

    report.section(
        "Gold and proxy against n",
        "The candidate with the highest proxy score is picked from n; gold says what it is worth. KL is how far that "
        "takes the policy: log n − (n − 1)/n. Where gold falls while the proxy rises, the reward is being exploited.",
    )
    peaks = "; ".join(f"{name or 'gold'} peaks at n = {result['peak']}" for name, result in golden.items())
    report.figure(
        figures.best_of_n_curve(plain if len(plain) > 1 else next(iter(plain.values()))),
        f"Best-of-n curves up to n = {most}. {peaks or 'The proxy rises with n'}.",
        "Averages over prompts, with 95% intervals; a ring marks the best n."
        if golden
        else "Averages over prompts, with 95% intervals.",
        name="best-of-n",
    )
    for name, result in plain.items():
        columns = {"n": "n", "kl": "KL (nats)", "proxy": "proxy"} | ({"gold": "gold"} if name in golden else {})
        report.table(
            [
                {"n": row["n"], "kl": row["kl"]}
                | {
                    key: estimate_cell(
                        {"value": row.get(key), "low": row.get(f"{key}_low"), "high": row.get(f"{key}_high")}
                    )
                    for key in ("proxy", "gold")
                }
                for row in result["curve"]
            ],
            columns,
            caption=f"Best of n by {name}" if name else "Best of n",
        )
        if result.get("unscored"):
            report.callout(
                "warning",
                "They could not be picked, and their prompts are left out where too few candidates remain.",
                title=f"{_count(result['unscored'], 'candidate')} without a score",
                detail=name,
            )
    picked = [(name, getattr(result, "picks", [])[:5]) for name, result in named.items()]
    if any(picks for _, picks in picked):
        report.section("Picks", "The first prompts, each with the candidate that scores highest.")
        for name, picks in picked:
            report.examples([_pick(pick) for pick in picks], title=name if len(picked) > 1 else "")
    _cards(report, names, list(plain.values()))
    return report


def _pick(pick: Plain) -> Plain:
    if pick.get("completion") is None:
        return {"prompt": pick["prompt"], "note": pick.get("failure") or "no pick"}
    values = [f"{key} {number(pick[key])}" for key in ("margin", "gold") if not is_missing(pick.get(key))]
    block = {"label": "pick", "text": pick["completion"], "score": pick.get("score")}
    return {"prompt": pick["prompt"], "blocks": [block], "note": ", ".join(values)}


# --- parts of the evaluation -----------------------------------------------------------------------------------------


def _evaluation_lede(results: list[Plain]) -> str:
    agreements = [
        f"{result.get('name') or 'The model'} agrees with {percent(result['accuracy']['value'])} of "
        f"{number(result['accuracy']['n'])} preferences"
        for result in results[:3]
    ]
    text = "; ".join(agreements) + "."
    kind, which = _length_verdict(results[0])
    if kind:
        who = results[0].get("name") if len(results) > 1 else "it"
        share = percent(results[0]["length"][f"accuracy_chosen_{which}"]["value"])
        text += f" Where the better completion is the {which} one, {who or 'it'} agrees with {share} only."
    return text


def _evaluation_tiles(results: list[Plain], names: list[str]) -> list[Sequence[Any]]:
    if len(results) > 1:
        return [
            (f"Accuracy, {name}", percent(accuracy["value"]), span(accuracy["low"], accuracy["high"], share=True))
            for name, accuracy in zip(names[:5], (result["accuracy"] for result in results))
        ]
    (result,) = results
    accuracy, calibration, missing = result["accuracy"], result["calibration"], result.get("nan") or 0
    note = ", ".join(filter(None, (span(accuracy["low"], accuracy["high"], share=True), f"{accuracy['n']:,} pairs")))
    tiles: list[Sequence[Any]] = [("Accuracy", percent(accuracy["value"]), note)]
    kind, worse = _length_verdict(result)
    for which in ("shorter", "longer"):
        there = estimate_cell(result["length"].get(f"accuracy_chosen_{which}"), share=True)
        if there.value is not None:
            tiles.append((f"Where the better one is {which}", there.text, there.detail, kind if which == worse else ""))
    tiles.append(("Calibration error", number(calibration["ece"], 2), "ECE; 0 is perfect"))
    tiles.append(("Ties, no score", f"{result.get('ties') or 0:,}, {missing:,}", "pairs", "warning" if missing else ""))
    return tiles


def _accuracy_by(report: Report, results: list[Plain], names: list[str], column: str) -> None:
    tables = [(result.get("by") or {}).get(column) or {} for result in results]
    groups = figures.groups_by_accuracy(tables)
    report.section(f"By {column}", level=3)
    report.figure(
        figures.accuracy_by(results, column),
        f"Accuracy by {column}, for {_count(len(groups), 'group')}; the numbers are in the table below",
        "Lowest first. The vertical line is chance; small groups have wide intervals.",
        name=f"accuracy-by-{column}",
    )
    headings = [column, "pairs", *(names if len(names) > 1 else ["accuracy"])]
    report.table(
        [
            [
                group,
                next((table[group]["n"] for table in tables if group in table), None),
                *(estimate_cell(table.get(group), share=True) for table in tables),
            ]
            for group in groups
        ],
        {str(index): heading for index, heading in enumerate(headings)},
        caption=f"Accuracy by {column}",
    )


def _comparison(report: Report, comparison: Plain) -> None:
    report.section(
        "Comparison",
        "Two models at a time, on the same preferences. The p-value says how easily so large a difference arises by "
        "chance; it is corrected for the number of comparisons (Holm).",
    )
    report.table(
        [
            {
                "models": f"{pair['a']} − {pair['b']}",
                "difference in accuracy": _points(pair["difference"]),
                "same verdict": Cell(percent(pair["agreement"]), pair["agreement"]),
                "p (Holm)": Cell(_p_value(pair.get("p_holm")), pair.get("p_holm")),
            }
            for pair in comparison["pairs"]
        ],
        caption="Paired comparison; differences in percentage points",
    )


def _points(difference: Plain) -> Cell:
    """A difference of shares in percentage points."""
    if is_missing(difference.get("value")):
        return Cell(MISSING)
    ends: list[Any] = [difference.get(key) for key in ("low", "high")]
    interval = "" if any(map(is_missing, ends)) else " to ".join(fixed(100 * end, 1) for end in ends)
    return Cell(fixed(100 * difference["value"], 1), difference["value"], interval)


def _length_verdict(result: Plain) -> tuple[Kind, str]:
    """How gravely the reward follows length, and where it is the less accurate: "shorter" or "longer".

    serious: below chance there; warning: less accurate there, with intervals that do not overlap; else ("", "").
    """
    shorter, longer = (result["length"].get(f"accuracy_chosen_{which}") for which in ("shorter", "longer"))
    if not shorter or not longer or any(is_missing(e.get(end)) for e in (shorter, longer) for end in ("low", "high")):
        return "", ""
    which, worse, better = (
        ("shorter", shorter, longer) if shorter["value"] < longer["value"] else ("longer", longer, shorter)
    )
    if worse["high"] < 0.5:
        return "serious", which
    return ("warning", which) if worse["high"] < better["low"] else ("", "")


def _warn_of_length(report: Report, name: str, result: Plain) -> None:
    kind, which = _length_verdict(result)
    if kind:
        what = "more often wrong than right" if kind == "serious" else "clearly less accurate"
        other = "longer" if which == "shorter" else "shorter"
        report.callout(
            kind,
            f"Where the better completion is the {which} one, {name} is {what}. Optimizing against it will make "
            f"completions {other}. Subtract a length term, or train on labels without that habit, and look again.",
            title=f"It prefers {'long' if other == 'longer' else 'short'} completions",
            detail=f"{name}: {_shorter_longer(result)}" if name else _shorter_longer(result),
        )


def _shorter_longer(result: Plain) -> str:
    shorter, longer = (result["length"].get(f"accuracy_chosen_{which}") for which in ("shorter", "longer"))
    return f"shorter {estimate_cell(shorter, share=True).text}, longer {estimate_cell(longer, share=True).text}"


def _warn_of_gaps(report: Report, name: str, result: Plain) -> None:
    missing, cut = result.get("nan") or 0, (result.get("card") or {}).get("truncated") or 0
    total = result["accuracy"]["n"] + missing
    if missing:
        reasons = "; ".join(f"{count:,} × {reason}" for reason, count in (result.get("failures") or {}).items())
        report.callout(
            "warning",
            "They are left out of every number here; they are not misses."
            + (f" Reasons, by completion: {reasons}." if reasons else ""),
            title=f"{_count(missing, 'pair')} without a score",
            detail=f"{name}, of {total:,} pairs",
        )
    if cut:
        report.callout(
            "warning",
            "What was cut off was not read. Raise the maximum length, if the model allows it.",
            title=f"{_count(cut, 'text')} longer than the model reads",
            detail=f"{name}, of {2 * total:,} texts",
        )


def _distributions(result: Plain) -> dict[str, Plain]:
    scores = result.get("scores") or {}
    return {label: dict(s) for label, s in scores.items() if isinstance(s, Mapping) and s.get("counts")}


def _mistake(row: Plain) -> Plain:
    margin = row.get("margin", row.get("logit"))
    note = row.get("note") or ("" if is_missing(margin) else f"margin {number(margin)}")
    return {**row, "note": note}


# --- parts of the audit ----------------------------------------------------------------------------------------------


def _heading(finding: Plain) -> str:
    probe = str(finding["probe"])
    return probe[:1].upper() + probe[1:]


def _effect(finding: Mapping[str, Any]) -> str:
    """The effect with its unit and interval; shares in percent."""
    if is_missing(finding.get("effect")):
        return ""
    unit = finding.get("unit") or ""
    if unit.startswith("share"):
        interval = span(finding.get("low"), finding.get("high"), share=True)
        text = f"{percent(finding['effect'])} {unit.removeprefix('share ')}"
    else:
        interval = span(finding.get("low"), finding.get("high"), digits=2)
        text = f"{number(finding['effect'], 2, sign=True)} {unit}".strip()
    return f"{text} ({interval})" if interval else text


def _effect_cell(finding: Plain) -> Cell:
    estimate = {"value": finding.get("effect"), "low": finding.get("low"), "high": finding.get("high")}
    return estimate_cell(estimate, share=(finding.get("unit") or "").startswith("share"))


def _finding_examples(finding: Plain) -> list[Plain]:
    """The texts of an example as blocks with their scores, its other numbers as a note."""
    example = finding.get("example")
    if not example:
        return []
    texts = {key: text for key, text in example.items() if key != "prompt" and isinstance(text, str | list)}
    blocks = [{"label": key, "text": text, "score": example.get(f"score_{key}")} for key, text in texts.items()]
    rest = {k: v for k, v in example.items() if k not in ("prompt", *texts) and k.removeprefix("score_") not in texts}
    note = ", ".join(f"{key} {number(value)}" for key, value in rest.items() if not is_missing(value))
    return [{"prompt": example.get("prompt"), "title": "Example", "blocks": blocks, "note": note}]


# --- shared ----------------------------------------------------------------------------------------------------------


def _plain(result: Any) -> Plain:
    return dict(result) if isinstance(result, Mapping) else result.to_dict()


def _cards(report: Report, names: Sequence[str], results: Sequence[Plain]) -> None:
    """What all results share once, what differs by name."""
    cards = [result.get("card") or {} for result in results]
    keys = list(dict.fromkeys(key for card in cards for key in card))
    shared = {key: cards[0].get(key) for key in keys if all(card.get(key) == cards[0].get(key) for card in cards)}
    own = {name: {key: value for key, value in card.items() if key not in shared} for name, card in zip(names, cards)}
    facts = shared | {name: rest for name, rest in own.items() if rest}
    if facts:
        report.card(facts)


def _title(what: str, names: Sequence[str]) -> str:
    return f"{what} {_listed(names)}" if len(names) <= 3 else f"{what} {len(names)} models"


def _listed(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + " and " + words[-1]


def _count(n: int, what: str) -> str:
    return f"{n:,} {what}" if n == 1 else f"{n:,} {what}s"


def _p_value(p: float | None) -> str:
    return number(p, 2) if is_missing(p) or p >= 0.001 else "< 0.001"  # type: ignore[operator]
