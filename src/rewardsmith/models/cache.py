"""Embeddings on disk: a frozen backbone is paid for once, by however many heads, seeds and sweeps read it."""

from __future__ import annotations

import hashlib
import os
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np


def default_folder() -> Path:
    """`$REWARDSMITH_CACHE`, else `rewardsmith` under `$XDG_CACHE_HOME` or `~/.cache`."""
    if folder := os.environ.get("REWARDSMITH_CACHE"):
        return Path(folder)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rewardsmith"


class EmbeddingCache:
    """Vectors by text, in one SQLite file that several processes may use at a time.

    Args:
        scope: everything else that changes a vector: model fingerprint, template, dtype. Vectors of another scope are
            never returned.
        file: the database. Default: `embeddings.sqlite` in `default_folder()`.
    """

    def __init__(self, scope: str, file: str | Path | None = None) -> None:
        self.scope = scope
        self.file = Path(file) if file is not None else default_folder() / "embeddings.sqlite"
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with closing(self._connect()) as database, database:
            database.execute("CREATE TABLE IF NOT EXISTS vectors (key BLOB PRIMARY KEY, vector BLOB) WITHOUT ROWID")

    def _connect(self) -> sqlite3.Connection:
        # One connection per call: it survives forks and threads, and costs less than one embedding.
        database = sqlite3.connect(self.file, timeout=60)
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("PRAGMA synchronous=NORMAL")
        return database

    def _key(self, text: str) -> bytes:
        digest = hashlib.sha256(self.scope.encode() + b"\0")
        digest.update(text.encode("utf-8", "surrogatepass"))
        return digest.digest()

    def vectors(self, texts: Sequence[str], compute: Callable[[list[str]], np.ndarray]) -> np.ndarray:
        """Vectors (N, D) float32 of N texts; `compute` gets the distinct texts that are missing, once each.

        What `compute` returned is stored before this returns, in one transaction.
        """
        keys = [self._key(text) for text in texts]
        found: dict[bytes, np.ndarray] = {}
        with closing(self._connect()) as database:
            distinct = list(dict.fromkeys(keys))
            for start in range(0, len(distinct), 500):
                part = distinct[start : start + 500]
                marks = ",".join("?" * len(part))
                for key, blob in database.execute(f"SELECT key, vector FROM vectors WHERE key IN ({marks})", part):
                    found[key] = np.frombuffer(blob, dtype="<f4")
        missing = {key: text for key, text in zip(keys, texts) if key not in found}
        if missing:
            made = np.asarray(compute(list(missing.values())), dtype="<f4")
            if made.ndim != 2 or len(made) != len(missing):
                raise ValueError(f"{len(missing)} texts were embedded to an array of shape {made.shape}")
            found.update(zip(missing, made))
            with closing(self._connect()) as database, database:
                database.executemany(
                    "INSERT OR IGNORE INTO vectors VALUES (?, ?)",
                    ((key, vector.tobytes()) for key, vector in zip(missing, made)),
                )
        return np.stack([found[key] for key in keys]).astype(np.float32) if keys else np.empty((0, 0), np.float32)

    def __len__(self) -> int:
        with closing(self._connect()) as database:
            return int(database.execute("SELECT COUNT(*) FROM vectors").fetchone()[0])
