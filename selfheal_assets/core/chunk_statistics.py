"""Sufficient statistics of monitoring chunks: small, and added up instead of computed again.

What drift and expected performance need of a chunk is how many rows fall into each cell of a frozen grid
(``core.profile``), and a few sums. Counts and sums of two chunks add up to those of both, so a day, a month or a
segment is answered from what is stored. Who counts is ``stores.pushdown``; what the counts say is ``core.drift``'s
and ``core.expected``'s to tell.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import polars as pl

ALL: Final = "all"
"""The segment that holds every row."""

_COUNTS: Final = pl.List(pl.Int64)
_SUMS: Final = pl.List(pl.Float64)

FEATURE_SCHEMA: Final = {
    "chunk": pl.String,
    "feature": pl.String,
    "segment": pl.String,
    "rows": pl.Int64,
    "missing": pl.Int64,
    "infinite": pl.Int64,
    "low": pl.Float64,
    "high": pl.Float64,
    "below_gap": pl.Float64,
    "above_gap": pl.Float64,
    "cells": pl.List(pl.Int32),
    "numbers": _SUMS,
    "texts": pl.List(pl.String),
    "counts": _COUNTS,
}
SCORE_SCHEMA: Final = {
    "chunk": pl.String,
    "segment": pl.String,
    "cells": pl.List(pl.Int32),
    "flagged": pl.List(pl.Boolean),
    "rows": _COUNTS,
    "score_sum": _SUMS,
    "score_square_sum": _SUMS,
    "log_score_sum": _SUMS,
    "log_complement_sum": _SUMS,
}
SCORE_SUMS: Final = tuple(name for name, kind in SCORE_SCHEMA.items() if kind in (_COUNTS, _SUMS))


@dataclass(frozen=True)
class ChunkStatistics:
    """Counts of one or many chunks, in the cells of one profile.

    Attributes:
        chunks: their names; a chunk without rows has its name here and no row below.
        features: one row per ``chunk``, ``feature`` and ``segment`` (``all``, or ``name=value``):
            ``rows``; of these ``missing`` (null or NaN) and ``infinite``; ``low`` and ``high``, the range of the
            finite values (null where there are none, or for categories); ``below_gap`` and ``above_gap``, how far
            the values outside the reference's range lie outside, summed up; ``counts``, the finite values' rows by
            cell, which is named by ``cells`` (numbers: a cell of the grid, −1 below it), by ``numbers`` (the value
            itself, where the reference is small) or by ``texts`` (categories); the other two are null.
        scores: one row per ``chunk`` and ``segment``: lists of equal length by cell of the score, ascending, and
            ``flagged`` (predicted positive): ``rows``, the sums of the raw score s and of s², ln(s) and ln(1 − s).
    """

    chunks: tuple[str, ...]
    features: pl.DataFrame
    scores: pl.DataFrame

    @classmethod
    def empty(cls, chunks: Sequence[str] = ()) -> "ChunkStatistics":
        """Chunks without a row."""
        return cls(tuple(chunks), pl.DataFrame(schema=FEATURE_SCHEMA), pl.DataFrame(schema=SCORE_SCHEMA))

    def of(self, chunk: str) -> "ChunkStatistics":
        """One chunk's."""
        kept = pl.col("chunk") == chunk
        return ChunkStatistics((chunk,), self.features.filter(kept), self.scores.filter(kept))

    def to_dict(self) -> dict[str, Any]:
        """As a mapping of plain lists, for JSON; the inverse of :meth:`from_dict`."""
        tables = {"features": self.features, "scores": self.scores}
        return {"chunks": list(self.chunks)} | {k: f.to_dict(as_series=False) for k, f in tables.items()}

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any]) -> "ChunkStatistics":
        """Rebuild what :meth:`to_dict` wrote."""
        features = pl.DataFrame(saved["features"], schema=FEATURE_SCHEMA)
        return cls(tuple(saved["chunks"]), features, pl.DataFrame(saved["scores"], schema=SCORE_SCHEMA))


def side_by_side(parts: Sequence[ChunkStatistics]) -> ChunkStatistics:
    """Different chunks' statistics in one value; nothing is added."""
    empty = ChunkStatistics.empty()
    return ChunkStatistics(
        tuple(c for p in parts for c in p.chunks),
        pl.concat([empty.features, *(p.features for p in parts)]),
        pl.concat([empty.scores, *(p.scores for p in parts)]),
    )


def merge(parts: Sequence[ChunkStatistics], name: str) -> ChunkStatistics:
    """All rows of ``parts`` as one chunk called ``name``: counts and sums added, ranges spanned.

    Equal to what one scan of all their rows counts; sums of doubles but for their rounding.
    """
    both = side_by_side(parts)
    return ChunkStatistics((name,), _merged_features(both.features, name), _merged_scores(both.scores, name))


def _merged_features(frame: pl.DataFrame, name: str) -> pl.DataFrame:
    by = ["feature", "segment"]
    sums = [pl.col("rows", "missing", "infinite", "below_gap", "above_gap").sum()]
    summary = frame.group_by(by, maintain_order=True).agg(*sums, pl.col("low").min(), pl.col("high").max())
    merged = [_added(frame, by, key, ["counts"]) for key in ("cells", "numbers", "texts")]
    counts = pl.concat(merged, how="diagonal")
    return (
        summary.join(counts, on=by, how="left", maintain_order="left")
        .with_columns(pl.lit(name).alias("chunk"))
        .select(pl.col(c).cast(kind) for c, kind in FEATURE_SCHEMA.items())
    )


def _merged_scores(frame: pl.DataFrame, name: str) -> pl.DataFrame:
    merged = _added(frame, ["segment"], "cells", list(SCORE_SUMS), ["flagged"])
    named = merged.with_columns(pl.lit(name).alias("chunk"))
    return named.select(pl.col(c).cast(kind) for c, kind in SCORE_SCHEMA.items())


def _added(
    frame: pl.DataFrame, by: list[str], key: str, sums: list[str], keys: Sequence[str] = ()
) -> pl.DataFrame:
    """Lists of ``sums`` added up by the entries of the list ``key`` (and ``keys``), in their order."""
    cells = [key, *keys]
    flat = (
        frame.filter(pl.col(key).is_not_null(), pl.col(key).list.len() > 0)
        .select(*by, *cells, *sums)
        .explode(*cells, *sums)
    )
    added = flat.group_by(*by, *cells).agg(pl.col(sums).sum()).sort(*by, *cells)
    return added.group_by(by, maintain_order=True).agg(*cells, *sums)


def cells_of(statistics: ChunkStatistics) -> pl.DataFrame:
    """The counts of features, one row per cell.

    Returns:
        ``chunk``, ``feature``, ``segment``, ``cell`` (Int32), ``number`` (f64), ``text`` (String) (one of the three
        is set, the others are null), ``rows`` (Int64).
    """
    names = {"cells": "cell", "numbers": "number", "texts": "text"}
    by = ["chunk", "feature", "segment"]
    parts = [
        statistics.features.filter(pl.col(many).is_not_null())
        .select(*by, pl.col(many).alias(one), pl.col("counts").alias("rows"))
        .explode(one, "rows")
        .filter(pl.col("rows").is_not_null())
        for many, one in names.items()
    ]
    schema = {"cell": pl.Int32, "number": pl.Float64, "text": pl.String, "rows": pl.Int64}
    empty = pl.DataFrame(schema={**dict.fromkeys(by, pl.String), **schema})
    return pl.concat([empty, *parts], how="diagonal")
