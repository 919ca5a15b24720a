"""The snapshots that Dagster published, as the service and `selfheal status` read them.

The warehouse is never opened here: while Dagster writes it, nobody else can.
"""

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
