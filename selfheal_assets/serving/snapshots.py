"""What the service tells about monitoring: published snapshots, and its own counters since it started.

The warehouse is never opened here: while Dagster writes it, nobody else can.
"""

import threading
from collections import Counter
from datetime import datetime
from pathlib import Path
from typing import Any

import polars as pl
from polars import selectors as cs


def read_rows(published: Path, name: str, last: int) -> list[dict[str, Any]]:
    """The last rows of a snapshot, newest first; none where it has not been published yet."""
    path = published / f"{name}.parquet"
    if not path.is_file():
        return []
    # Polars opens a path twice, first for the footer: a snapshot replaced in between would be read as damaged.
    frame = pl.read_parquet(path.read_bytes()).tail(last).reverse()
    floats = frame.select(cs.float()).columns
    # JSON has no NaN and no infinity: unknown is null.
    finite = [pl.when(pl.col(c).is_finite()).then(pl.col(c)).alias(c) for c in floats]
    return frame.with_columns(finite).to_dicts()


class Counters:
    """What this process has done since it started. Safe to share between threads."""

    def __init__(self, started_at: datetime) -> None:
        self.started_at = started_at
        self._counts: Counter[str] = Counter()
        self._mutex = threading.Lock()

    def add(self, name: str, count: int = 1) -> None:
        """Count something."""
        with self._mutex:
            self._counts[name] += count

    def read(self) -> dict[str, int]:
        """All counts by name."""
        with self._mutex:
            return dict(self._counts)
