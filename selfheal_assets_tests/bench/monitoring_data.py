"""Synthetic rows for ``bench-monitoring``: ten features of the usual shapes, a score, a prediction, a label."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import duckdb
import numpy as np
import polars as pl

from selfheal_assets.core.spec import Feature, FeatureType

NUMBERS: Final = ("income", "amount", "age_days", "utilisation", "queries", "balance", "ratio")
CATEGORIES: Final = ("state", "channel", "product")
LEVELS: Final = {"state": 50, "channel": 6, "product": 12}
FEATURES: Final = tuple(
    [Feature(name=n, type=FeatureType.number) for n in NUMBERS]
    + [Feature(name=n, type=FeatureType.category) for n in CATEGORIES]
)
WINDOWS: Final = 40
THRESHOLD: Final = 0.3
_BATCH: Final = 1_000_000
_MISSING: Final = 0.01


def reference_rows(rows: int) -> int:
    """A fifth of the rows, two million at most: a frozen reference does not grow with what is monitored."""
    return min(rows // 5, 2_000_000)


def window_rows(rows: int) -> int:
    """Rows of each of the ``WINDOWS`` analysis windows."""
    return (rows - reference_rows(rows)) // WINDOWS


def batches(rows: int, seed: int) -> Iterator[pl.DataFrame]:
    """The rows in order: the reference as ``w`` −1, then windows 0 …, whose inputs drift slowly."""
    rng = np.random.default_rng(seed)
    reference, window = reference_rows(rows), window_rows(rows)
    for start in range(0, rows, _BATCH):
        size = min(_BATCH, rows - start)
        at = np.arange(start, start + size)
        w = np.where(at < reference, -1, np.minimum((at - reference) // window, WINDOWS - 1))
        yield _batch(rng, w.astype(np.int32))


def _batch(rng: np.random.Generator, w: np.ndarray) -> pl.DataFrame:
    size = len(w)
    shift = np.maximum(w, 0) / WINDOWS
    z = rng.standard_normal((3, size))
    numbers = {
        "income": np.exp(10 + 0.6 * z[0] + 0.1 * shift),
        "amount": np.round(np.exp(8 + 0.8 * z[1]), 2),
        "age_days": np.floor(6_000 + 14_000 * rng.random(size)),
        "utilisation": rng.beta(2, 5, size) + 0.02 * shift,
        "queries": rng.poisson(2 + shift).astype(np.float64),
        "balance": 1_000 * z[2] + 50 * shift,
        "ratio": rng.exponential(0.4, size),
    }
    missing = rng.random((2, size)) < _MISSING
    codes = {
        "state": rng.integers(0, 50, size),
        "channel": np.minimum(rng.geometric(0.4, size) - 1, 5),
        "product": (12 * rng.beta(1 + shift, 1.5)).astype(np.int64),
    }
    margin = -1.9 + 0.5 * z[1] - 0.4 * z[0] + 2 * numbers["utilisation"] + 0.2 * numbers["queries"]
    score = 1 / (1 + np.exp(-(margin + 0.3 * rng.standard_normal(size))))
    label = rng.random(size) < 1 / (1 + np.exp(-1.2 * margin))
    frame = pl.DataFrame({"w": w} | numbers)
    texts = [
        pl.Series(c, np.array([f"{c}_{i:02d}" for i in range(LEVELS[c])]), dtype=pl.String).gather(codes[c])
        for c in CATEGORIES
    ]
    nulls = [
        pl.when(pl.Series(m)).then(None).otherwise(pl.col(c)).alias(c)
        for c, m in zip(("income", "ratio"), missing, strict=True)
    ]
    return frame.with_columns(nulls).with_columns(
        *texts,
        pl.Series("probability", score),
        pl.Series("prediction", (score >= THRESHOLD).astype(np.int8)),
        pl.Series("label", label.astype(np.int8)),
    )


def write(rows: int, folder: Path, seed: int, parquet: bool = True) -> None:
    """Table ``rows`` in ``folder/rows.duckdb`` and the same rows in ``folder/rows.parquet``."""
    with duckdb.connect(str(folder / "rows.duckdb"), config={"memory_limit": "2GB"}) as connection:
        for n, batch in enumerate(batches(rows, seed)):
            connection.register("batch", batch.to_arrow())
            connection.execute("create table rows as from batch" if n == 0 else "insert into rows from batch")
            connection.unregister("batch")
        if parquet:
            connection.execute(f"copy rows to '{folder / 'rows.parquet'}' (format parquet)")
