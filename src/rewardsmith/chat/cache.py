"""Answers kept on disk: what was asked once is not asked again, by this process or another."""

from __future__ import annotations

import hashlib
import json
import random
import sqlite3
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rewardsmith.chat.protocol import Answer, ChatModel, TokenLogprob, check_sampling
from rewardsmith.data.records import Text, as_messages, is_conversational

ATTEMPTS = 50  # to open a file that others open too
WINDOW = 1024  # prompts that are looked up together
STRIDE = 1_000_003  # between the seeds of an answer and of one that was asked for later


class CachedModel(ChatModel):
    """A chat model whose answers are kept.

    The key of an answer is a hash of everything that changes it: the model's fingerprint, the messages, every argument
    of `generate`, and the number of the sample. Only answers are kept, never failures. Where some of n answers are
    there, only the others are asked for, with a seed of their own. Equal prompts of one call share their answers.

    Answers are kept as they come, so a killed run loses none; many processes and threads of one machine
    may share a folder (SQLite's log does not work across a network file system).

    Args:
        model: what is asked for what is not there.
        folder: made where it is missing; holds `answers.sqlite`.
    """

    def __init__(self, model: ChatModel, folder: str | Path) -> None:
        self.model, self.name = model, model.name
        self.usage = model.usage  # one account
        self.folder = Path(folder)

    def fingerprint(self) -> dict[str, Any]:
        return self.model.fingerprint()

    def generate(
        self,
        prompts: Sequence[Text],
        n: int = 1,
        *,
        max_new_tokens: int = 256,
        temperature: float = 1.0,
        top_p: float = 1.0,
        stop: Sequence[str] = (),
        seed: int = 0,
        logprobs: int = 0,
    ) -> Iterator[list[Answer]]:
        check_sampling(n, max_new_tokens, temperature, top_p)
        sampling = {
            "max_new_tokens": max_new_tokens, "temperature": temperature, "top_p": top_p, "stop": list(stop),
            "logprobs": logprobs,
        }  # fmt: skip
        asked = {"model": self.model.fingerprint(), "seed": seed, **sampling}
        return self._answers(list(prompts), n, seed, sampling, json.dumps(asked, sort_keys=True, default=str))

    def _answers(
        self, prompts: list[Text], n: int, seed: int, sampling: dict[str, Any], asked: str
    ) -> Iterator[list[Answer]]:
        connection = self._open()
        try:
            for start in range(0, len(prompts), WINDOW):
                yield from self._window(connection, prompts[start : start + WINDOW], n, seed, sampling, asked)
        finally:
            connection.close()

    def _window(
        self,
        connection: sqlite3.Connection,
        prompts: list[Text],
        n: int,
        seed: int,
        sampling: dict[str, Any],
        asked: str,
    ) -> Iterator[list[Answer]]:
        texts = [_text(prompt) for prompt in prompts]
        known = {text: _load(connection, [_key(asked, text, i) for i in range(n)]) for text in dict.fromkeys(texts)}
        # Prompts that lack as many answers, from the same sample on, go to the model in one call.
        missing: dict[tuple[int, int], list[str]] = {}
        for text, answers in known.items():
            lacking = [i for i, answer in enumerate(answers) if answer is None]
            if lacking:
                missing.setdefault((len(lacking), lacking[0]), []).append(text)
        prompt_of = dict(zip(reversed(texts), reversed(prompts)))
        streams: dict[str, Iterator[list[Answer]]] = {}
        for (count, first), group in missing.items():
            questions = [prompt_of[text] for text in group]
            stream = self.model.generate(questions, count, seed=seed + STRIDE * first, **sampling)
            streams |= dict.fromkeys(group, stream)
        for text in texts:
            answers = known[text]
            came = iter(next(streams.pop(text)) if text in streams else ())
            for sample, answer in enumerate(answers):
                if answer is not None:
                    self.usage.cached += answer.error is None
                    continue
                answers[sample] = new = next(came)
                if new.error is None:
                    _store(connection, _key(asked, text, sample), new)
            yield [answer for answer in answers if answer is not None]

    def _open(self) -> sqlite3.Connection:
        self.folder.mkdir(parents=True, exist_ok=True)
        file = self.folder / "answers.sqlite"
        connection = sqlite3.connect(file, timeout=60, isolation_level=None, check_same_thread=False)
        for attempt in range(ATTEMPTS):
            try:
                connection.execute("PRAGMA journal_mode=WAL")
                connection.execute("PRAGMA synchronous=NORMAL")
                connection.execute(
                    "CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, answer TEXT) WITHOUT ROWID"
                )
                return connection
            except sqlite3.OperationalError as error:  # the change to WAL does not wait for others that make it too
                if "locked" not in str(error) or attempt == ATTEMPTS - 1:
                    connection.close()
                    raise
                time.sleep(random.uniform(0.0, 0.1))
            except sqlite3.DatabaseError as error:
                connection.close()
                raise ValueError(f"{str(file)!r} is no cache of answers ({error}): remove or rename it") from error
        raise AssertionError("the last attempt returns or raises")


def _text(prompt: Text) -> str:
    """A plain text and one message of it are different questions to a local model."""
    plain = prompt if not is_conversational(prompt) else as_messages(prompt, "user")
    return json.dumps(plain, sort_keys=True, ensure_ascii=False, default=str)


def _key(asked: str, text: str, sample: int) -> str:
    return hashlib.sha256(f"{asked}\0{text}\0{sample}".encode("utf-8", "surrogatepass")).hexdigest()


def _load(connection: sqlite3.Connection, keys: list[str]) -> list[Answer | None]:
    found: list[Answer | None] = []
    for key in keys:
        row = connection.execute("SELECT answer FROM answers WHERE key = ?", (key,)).fetchone()
        found.append(None if row is None else _read(row[0]))
    return found


def _read(text: str) -> Answer | None:
    """None for an entry that is damaged: it is asked for and written again."""
    try:
        plain = json.loads(text)
        logprobs = plain.pop("logprobs")
        tokens = None if logprobs is None else tuple(
            TokenLogprob(t["token"], t["logprob"], tuple((name, value) for name, value in t["top"])) for t in logprobs
        )  # fmt: skip
        return Answer(**plain, logprobs=tokens)
    except (ValueError, TypeError, KeyError, AttributeError):
        return None


def _store(connection: sqlite3.Connection, key: str, answer: Answer) -> None:
    connection.execute("INSERT OR REPLACE INTO answers VALUES (?, ?)", (key, json.dumps(asdict(answer))))
