"""`rewardsmith collect`: responses drawn as trees or chains, compared by a judge or a reward, as training pairs."""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from rewardsmith.cli.common import Json, Limit, OnBad, Seed, Split, emit_json, plain, progress_bar, table

if TYPE_CHECKING:
    from rewardsmith.chat import ChatModel
    from rewardsmith.reward import PreferenceModel

ROUNDS = 4  # of further drawing, where independent responses turned out equal


def collect(
    prompts: Annotated[str, typer.Argument(help="Rows with a `prompt`: a file, a hub id, `sample:prompts`.")],
    generate: Annotated[
        str,
        typer.Option("--generate", help="What answers: `http://host/v1#model`, or a local model by path or hub id."),
    ] = ...,  # type: ignore[assignment]
    out_path: Annotated[Path, typer.Option("--out", help="Training pairs as JSON lines.")] = ...,  # type: ignore[assignment]
    judge: Annotated[
        str | None, typer.Option("--judge", help="A language model that compares: as --generate, or `openai:model`.")
    ] = None,
    reward: Annotated[
        str | None, typer.Option("--reward", help="A reward that compares: whatever `rewardsmith score` takes.")
    ] = None,
    judge_prompt: Annotated[
        str, typer.Option("--judge-prompt", help="Of the judge: one that comes with the library, or a file.")
    ] = "pairwise",
    shape: Annotated[
        str, typer.Option("--shape", help="'tree': responses share beginnings. 'chain': two independent ones a pair.")
    ] = "tree",
    depth: Annotated[int, typer.Option("--depth", min=1, help="Tree: segments of a response.")] = 3,
    branching: Annotated[int, typer.Option("--branching", min=2, help="Tree: continuations of each segment.")] = 2,
    boundary: Annotated[
        str, typer.Option("--boundary", help="Tree: a segment ends after so many 'tokens', or with a 'sentence'.")
    ] = "tokens",
    segment_tokens: Annotated[
        int | None, typer.Option("--segment-tokens", min=1, help="Tree: of a segment. Default: equal parts.")
    ] = None,
    pairs: Annotated[int, typer.Option("--pairs", min=1, help="Comparisons for each prompt.")] = 4,
    incomplete: Annotated[
        bool, typer.Option("--incomplete", help="Tree: also pairs of beginnings, labeled by what they lead to.")
    ] = False,
    exclude: Annotated[
        str | None, typer.Option("--exclude", help="An evaluation set: its prompts are left out, and counted.")
    ] = None,
    max_new_tokens: Annotated[int, typer.Option("--max-new-tokens", min=1, help="Longest response.")] = 256,
    temperature: Annotated[float, typer.Option("--temperature", min=0.01)] = 1.0,
    cache: Annotated[
        Path | None, typer.Option("--cache", help="Folder of the judge's answers. Default: ~/.cache.")
    ] = None,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Prompts at a time.")] = 8,
    split: Split = None,
    limit: Limit = None,
    on_bad: OnBad = "raise",
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Draw responses to prompts, compare some of them, and write the preferences that come of it.

    Beside --out, `<name>.drawn.jsonl` keeps all responses and verdicts as they come: a second call goes on where a
    killed one stopped. The pairs themselves are written at the end, whole.
    """
    from rewardsmith.chat import CachedModel, load_chat
    from rewardsmith.data import ResumableWriter, iter_rows, write_rows
    from rewardsmith.data.records import text_key
    from rewardsmith.data.trees import Tree, incomplete_pairs, label_pairs, without_prompts
    from rewardsmith.judges import make_judge
    from rewardsmith.loading import load_records, load_reward

    if shape not in ("tree", "chain"):
        raise ValueError(f"--shape must be 'tree' or 'chain', not {shape!r}")
    if incomplete and shape == "chain":
        raise ValueError("--incomplete is for --shape tree: independent responses share no beginnings")
    if (judge is None) == (reward is None):
        raise ValueError("give one of --judge and --reward: what compares the responses")
    if out_path.suffix != ".jsonl":
        raise ValueError(f"--out must end in .jsonl, not {out_path.name!r}")
    records, _ = load_records(prompts, kind="prompt", split=split, limit=limit, on_bad=on_bad)
    rows = list({text_key(row["prompt"]): {"prompt": row["prompt"]} for row in records}.values())
    different = len(rows)
    if exclude is not None:
        rows = without_prompts(rows, load_records(exclude, on_bad=on_bad)[0])
        if not rows:
            raise ValueError(f"all {different} prompts are in {exclude!r}: there is nothing to collect")
    model = load_chat(generate)
    by: PreferenceModel
    if judge is not None:
        from rewardsmith.cli.judging import CACHE

        asked = CachedModel(load_chat(judge), (cache or CACHE).expanduser())
        by = make_judge(asked, judge_prompt, seed=seed)
    else:
        assert reward is not None
        by = load_reward(reward)

    options = {"max_new_tokens": max_new_tokens, "temperature": temperature}
    tree_options = {"depth": depth, "branching": branching, "boundary": boundary, "segment_tokens": segment_tokens}
    meta = {
        **{"prompts": prompts, "limit": limit, "exclude": exclude, "generate": generate, "judge": judge},
        **{"judge_prompt": judge_prompt, "reward": reward, "shape": shape, "pairs": pairs, "seed": seed},
        **(tree_options if shape == "tree" else {}),
        **{**options, "batch_size": batch_size},
    }
    drawn_path = out_path.with_name(f"{out_path.stem}.drawn.jsonl")
    drawn = ResumableWriter(drawn_path, meta=meta)
    resumed = drawn.done
    with progress_bar() as progress, drawn:
        task = progress.add_task("Collecting", total=len(rows), completed=resumed)
        # Batches begin where those of a call that was never stopped do, so that the same is drawn.
        first = resumed - resumed % batch_size if resumed < len(rows) else resumed
        for start in range(first, len(rows), batch_size):
            batch = [row["prompt"] for row in rows[start : start + batch_size]]
            if shape == "tree":
                lines = _trees(model, batch, pairs, seed + start, {**options, **tree_options})
            else:
                lines = _chains(model, batch, pairs, seed + start, options)
            _label(by, lines)
            for line in lines[max(0, drawn.done - start) :]:
                drawn.write(plain(line))
            progress.update(task, completed=min(start + batch_size, len(rows)))

    kept: list[dict[str, Any]] = []
    beginnings = 0
    counts: Counter[str] = Counter()
    by_depth: Counter[int] = Counter()
    for line in itertools.islice(iter_rows(drawn_path), len(rows)):
        logits = np.array([np.nan if pair["logit"] is None else pair["logit"] for pair in line["pairs"]])
        compared = [{k: v for k, v in pair.items() if k != "logit"} for pair in line["pairs"]]
        labeled = label_pairs(compared, logits)
        if incomplete:  # whose labels are soft: all rows of a file have the same columns
            more = incomplete_pairs(Tree.from_row(line), compared, logits)
            beginnings += len(more)
            whole = [{k: v for k, v in row.items() if k != "margin"} for row in labeled.rows]
            kept += [{**row, "target_prob": 1.0} for row in whole] + more
        else:
            kept += labeled.rows
        counts.update(
            comparisons=len(compared), ties=labeled.ties, without_a_verdict=labeled.failed,
            responses=line["responses"], different_responses=line["different"], empty=line["empty"],
            failed=line["failed"],
            missing=max(0, pairs - len(compared)),
        )  # fmt: skip
        by_depth.update(int(pair["lca_depth"]) for pair in compared)
    if kept:
        write_rows(kept, out_path)
    result: dict[str, Any] = {
        "shape": shape,
        "prompts": len(rows),
        "excluded": different - len(rows),
        "resumed_at": resumed,
        "pairs": len(kept) - beginnings,
        "pairs_of_beginnings": beginnings,
        **{name: counts[name] for name in ("comparisons", "missing", "ties", "without_a_verdict")},
        **{name: counts[name] for name in ("responses", "different_responses", "empty", "failed")},
        "comparisons_by_lca_depth": {str(at): by_depth[at] for at in sorted(by_depth)},
        "usage": model.usage.to_dict(),
        "out": str(out_path) if kept else None,
        "drawn": str(drawn_path),
    }
    if not kept:
        raise ValueError(
            f"no pair came of {counts['comparisons']} comparisons ({counts['ties']} ties, "
            f"{counts['without_a_verdict']} without a verdict): see {str(drawn_path)!r}"
        )
    if as_json:
        emit_json(result)
        return
    shown: list[tuple[str, Any]] = [
        ("prompts", f"{len(rows)}" + (f", {result['excluded']} left out" if exclude else "")),
        ("responses", f"{counts['responses']}, {counts['different_responses']} different"),
        ("responses without text, that did not come", f"{counts['empty']}, {counts['failed']}"),
        ("comparisons", f"{counts['comparisons']}, {counts['missing']} fewer than asked"),
        ("ties, without a verdict", f"{counts['ties']}, {counts['without_a_verdict']}"),
        ("pairs", f"{result['pairs']}" + (f", and {beginnings} of beginnings" if incomplete else "")),
        ("tokens drawn", result["usage"]["completion_tokens"]),
    ]
    if shape == "tree":
        shown.append(("comparisons by shared segments", ", ".join(f"{k}: {by_depth[k]}" for k in sorted(by_depth))))
    table(f"{shape}s of {generate}, in {out_path}", ["", ""], shown)


def _trees(
    model: ChatModel, prompts: list[Any], pairs: int, seed: int, options: dict[str, Any]
) -> list[dict[str, Any]]:
    """One line per prompt: the compact tree and the pairs to compare."""
    from rewardsmith.alignment.trees import grow_trees
    from rewardsmith.data.trees import pairs_of_tree

    lines = []
    for at, tree in enumerate(grow_trees(model, prompts, seed=seed, **options)):
        compact = tree.compact()
        lines.append(
            {
                **compact.to_row(),
                "pairs": pairs_of_tree(compact, pairs, seed=seed + at),
                "responses": len(tree.leaves),
                "different": len(compact.leaves),
                "empty": sum(not tree.text(leaf).strip() for leaf in tree.leaves),
            }
        )
    return lines


def _chains(
    model: ChatModel, prompts: list[Any], pairs: int, seed: int, options: dict[str, Any]
) -> list[dict[str, Any]]:
    """One line per prompt: independent responses, as a tree without branches, and the pairs to compare."""
    from rewardsmith.alignment.trees import grow_trees
    from rewardsmith.data.trees import Tree, pairs_of_chain

    drawn = [Tree(prompt, ()) for prompt in prompts]
    rows: list[list[dict[str, Any]]] = [[] for _ in prompts]
    for turn in range(ROUNDS):
        short = [at for at, found in enumerate(rows) if len(found) < pairs]
        if not short:
            break
        count = 2 * (pairs - min(len(rows[at]) for at in short))
        new = grow_trees(
            model,
            [prompts[at] for at in short],
            depth=1,
            branching=max(2, count),
            seed=seed + turn * 1_000_003,
            **options,
        )
        for at, tree in zip(short, new):
            drawn[at] = Tree(prompts[at], drawn[at].nodes + tree.nodes, drawn[at].failed + tree.failed)
            completions = [drawn[at].completion(leaf) for leaf in drawn[at].leaves]
            rows[at] = pairs_of_chain(prompts[at], completions)[:pairs]
    return [
        {
            **tree.to_row(),
            "pairs": found,
            "responses": len(tree.leaves),
            "different": len({tree.text(leaf) for leaf in tree.leaves}),
            "empty": sum(not tree.text(leaf).strip() for leaf in tree.leaves),
        }
        for tree, found in zip(drawn, rows)
    ]


def _label(by: PreferenceModel, lines: list[dict[str, Any]]) -> None:
    """Put the logit that the first of two candidates beats the second into each pair; None without a verdict."""
    compared = [pair for line in lines for pair in line["pairs"]]
    if not compared:
        return
    first, second = ([pair["candidates"][side] for pair in compared] for side in (0, 1))
    logits = by.preference([pair["prompt"] for pair in compared], first, second)
    for pair, logit in zip(compared, np.asarray(logits, dtype=float).tolist()):
        pair["logit"] = None if np.isnan(logit) else logit
