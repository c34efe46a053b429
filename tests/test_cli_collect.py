"""`rewardsmith collect` with a local server, a local model, a judge and a reward."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
import typer
from chat_server import Server
from tiny_policy import tiny_policy
from typer.testing import CliRunner

from rewardsmith.cli.collecting import collect
from rewardsmith.data import load_data

PROMPTS = [{"prompt": f"question {i}"} for i in range(5)]


def write(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def call():
    app = typer.Typer()
    app.command()(collect)

    def run(*arguments: object) -> dict:
        result = CliRunner().invoke(app, [*map(str, arguments), "--json"])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    return run


@pytest.fixture(scope="module")
def reward(tmp_path_factory) -> str:
    """Prefers the response with more words; equal ones tie."""
    path = tmp_path_factory.mktemp("reward") / "words.py"
    path.write_text("def score(prompt, completion):\n    return float(len(completion.split()))\n", encoding="utf-8")
    return f"{path}:score"


@pytest.fixture(scope="module")
def policy(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("writer")
    model, tokenizer = tiny_policy(chat=False)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def words(body: dict, choice: int) -> str:
    """The generator: a beginning, then an end; further choices are longer. As a judge, it prefers more of x."""
    text = body["messages"][-1]["content"]
    if "answer A =" in text:
        first, second = text.index("answer A ="), text.index("answer B =")
        return f"<answer>[[{'A' if text[first:second].count('x') > text[second:].count('x') else 'B'}]]</answer>"
    return "x " * (1 + choice) + f"{body['seed']}"


def test_a_tree_from_a_local_model_by_a_reward(tmp_path, call, reward, policy) -> None:
    data, out = write(tmp_path / "prompts.jsonl", [*PROMPTS, PROMPTS[0]]), tmp_path / "pairs.jsonl"
    found = call(data, "--generate", policy, "--reward", reward, "--out", out, "--max-new-tokens", 12, "--pairs", 6,
                 "--temperature", 2)  # fmt: skip
    rows, check = load_data(out)
    assert check.kind == "preference" and len(rows) == found["pairs"]
    assert found["prompts"] == 5 and found["comparisons"] == found["pairs"] + found["ties"] == 30 - found["missing"]
    assert all(len(row["chosen"].split()) - len(row["rejected"].split()) == row["margin"] > 0 for row in rows)
    kept = {line["prompt"]: line for line in read(tmp_path / "pairs.drawn.jsonl")}
    assert len(kept) == 5 and sum(line["different"] for line in kept.values()) == found["different_responses"]
    by_depth = Counter(pair["lca_depth"] for line in kept.values() for pair in line["pairs"])
    assert found["comparisons_by_lca_depth"] == {str(k): v for k, v in sorted(by_depth.items())}
    assert found["usage"]["completion_tokens"] < 12 * found["responses"]


def test_chain_and_tree_make_equally_many_comparisons(tmp_path, call, reward, policy) -> None:
    data = write(tmp_path / "prompts.jsonl", PROMPTS)
    options = ("--generate", policy, "--reward", reward, "--max-new-tokens", 12, "--temperature", 2)
    found = {
        shape: call(data, *options, "--shape", shape, "--out", tmp_path / f"{shape}.jsonl")
        for shape in ("tree", "chain")
    }
    assert found["tree"]["comparisons"] == found["chain"]["comparisons"] == 20
    assert found["chain"]["comparisons_by_lca_depth"] == {"0": 20}
    assert len(found["tree"]["comparisons_by_lca_depth"]) > 1
    for line in read(tmp_path / "chain.drawn.jsonl"):
        assert all(node["parent"] == -1 for node in line["nodes"])


def test_a_judge_on_an_endpoint_and_a_run_that_goes_on(tmp_path, call) -> None:
    data, out = write(tmp_path / "prompts.jsonl", PROMPTS), tmp_path / "pairs.jsonl"
    with Server(answer=words) as server:
        models = ("--generate", f"{server.url}#w", "--judge", f"{server.url}#j")
        options = (data, *models, "--shape", "chain", "--out", out,
                   "--cache", tmp_path / "cache", "--pairs", 2, "--batch-size", 2)  # fmt: skip
        first = call(*options)
        whole, drawn = out.read_text(), (tmp_path / "pairs.drawn.jsonl").read_text()
        assert first["pairs"] == 10 and first["ties"] == 0
        assert all(row["chosen"].count("x") > row["rejected"].count("x") for row in read(out))
        # Killed in the third line, in the middle of a batch.
        (tmp_path / "pairs.drawn.jsonl").write_text("".join(drawn.splitlines(keepends=True)[:3]) + '{"prompt": "que')
        out.unlink()
        again = call(*options)
        assert again["resumed_at"] == 3 and out.read_text() == whole
        assert (tmp_path / "pairs.drawn.jsonl").read_text() == drawn
        asked = len(server.requests)
        assert call(*options)["resumed_at"] == 5 and len(server.requests) == asked
        with pytest.raises(ValueError, match="another pairs"):
            call(*options, "--pairs", 3)


def test_beginnings_come_with_soft_labels(tmp_path, call, reward, policy) -> None:
    data, out = write(tmp_path / "prompts.jsonl", PROMPTS), tmp_path / "pairs.jsonl"
    found = call(data, "--generate", policy, "--reward", reward, "--out", out, "--max-new-tokens", 12, "--pairs", 28,
                 "--temperature", 2, "--incomplete")  # fmt: skip
    rows, _ = load_data(out)
    soft = [row for row in rows if row["target_prob"] < 1]
    assert found["pairs_of_beginnings"] == len(soft) > 0 and found["pairs"] == len(rows) - len(soft)
    assert all(row["target_prob"] > 0.5 for row in soft)


def test_prompts_of_an_evaluation_set_are_left_out(tmp_path, call, reward, policy) -> None:
    data, out = write(tmp_path / "prompts.jsonl", PROMPTS), tmp_path / "pairs.jsonl"
    held = write(tmp_path / "held.jsonl", [{"prompt": "Question  3", "chosen": "a", "rejected": "b"}])
    options = (data, "--generate", policy, "--reward", reward, "--out", out, "--max-new-tokens", 12, "--temperature", 2)
    assert call(*options, "--exclude", held)["excluded"] == 1
    assert "question 3" not in {row["prompt"] for row in read(out)}
    everything = write(tmp_path / "all.jsonl", PROMPTS)
    with pytest.raises(ValueError, match="all 5 prompts"):
        call(*options, "--exclude", everything)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ((), "one of --judge and --reward"),
        (("--reward", "a:b", "--judge", "c"), "one of --judge and --reward"),
        (("--reward", "a:b", "--shape", "star"), "--shape"),
        (("--reward", "a:b", "--shape", "chain", "--incomplete"), "--incomplete"),
    ],
)
def test_options_that_do_not_go_together(tmp_path, call, options, match) -> None:
    data = write(tmp_path / "prompts.jsonl", PROMPTS)
    with pytest.raises(ValueError, match=match):
        call(data, "--generate", "nowhere", "--out", tmp_path / "pairs.jsonl", *options)


def test_no_pair_at_all_is_an_error(tmp_path, call, policy) -> None:
    data = write(tmp_path / "prompts.jsonl", PROMPTS)
    path = tmp_path / "same.py"
    path.write_text("def score(prompt, completion):\n    return 1.0\n", encoding="utf-8")
    with pytest.raises(ValueError, match="20 ties"):
        call(data, "--generate", policy, "--reward", f"{path}:score", "--out", tmp_path / "pairs.jsonl",
             "--max-new-tokens", 12, "--temperature", 2)  # fmt: skip
