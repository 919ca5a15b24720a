"""Drift figures of chunks against the frozen reference, from statistics alone: every figure, no verdict.

Which figure alarms is ``core.drift_alarms``'s to say; here a figure is computed, or is a row that says why not.
"""

from collections.abc import Callable, Iterator
from typing import Any, Final

import numpy as np
import polars as pl

from selfheal_assets.core import distances
from selfheal_assets.core.chunk_statistics import ALL, ChunkStatistics
from selfheal_assets.core.column_drift import ColumnDrift, Counted, by_column
from selfheal_assets.core.evidence_policy import DriftFigures
from selfheal_assets.core.metrics import UndefinedMetric
from selfheal_assets.core.profile import FeatureProfile, Profile

DRIFT_SCHEMA: Final = {
    "chunk": pl.String,
    "feature": pl.String,
    "kind": pl.String,
    "segment": pl.String,
    "method": pl.String,
    "value": pl.Float64,
    "rows": pl.Int64,
    "reference_rows": pl.Int64,
    "cells": pl.Int64,
    "reason": pl.String,
}
NUMBER_METHODS: Final = ("jensen_shannon", "hellinger", "kolmogorov_smirnov", "wasserstein", "psi")
CATEGORY_METHODS: Final = ("jensen_shannon", "hellinger", "l_infinity", "chi2", "chi2_p_value", "psi")
_NOTHING: Final = Counted(0, 0, 0, 0.0, 0.0, np.empty(0), np.empty(0))


def drift_figures(profile: Profile, statistics: ChunkStatistics) -> pl.DataFrame:
    """Every drift figure of every chunk, column and segment.

    Returns:
        One row per ``chunk``, ``feature``, ``segment`` and ``method``, with its ``kind`` (feature, score or
        prediction); ``value``, null where ``reason`` says why; ``rows`` and ``reference_rows``, how many values were
        compared on each side; ``cells``, how many cells PSI was taken over (null for other methods). Methods:
        those of ``NUMBER_METHODS`` or ``CATEGORY_METHODS``; the shares (0..1) ``missing_share`` of all rows, and of
        those with a value ``outside_range_share`` (numbers) or ``unseen_share`` (categories); ``cardinality``, the
        number of different values.
    """
    reference = by_column(profile.reference)
    columns: dict[str, list[Any]] = {name: [] for name in DRIFT_SCHEMA}
    for chunk in statistics.chunks:
        found = by_column(statistics.of(chunk))
        for column in profile.columns:
            for segment in profile.segment_labels:
                was = reference.get((column.name, segment), _NOTHING)
                now = found.get((column.name, segment), _NOTHING)
                if segment != ALL and not was.rows and not now.rows:
                    continue  # the pool of a segment that pools nothing, for instance
                for method, value, cells, reason in _figures(column, was, now):
                    row = (chunk, column.name, column.kind, segment, method, value)
                    row = (*row, now.finite, was.finite, cells, reason)
                    for name, cell in zip(columns, row, strict=True):
                        columns[name].append(cell)
    return pl.DataFrame(columns, schema=DRIFT_SCHEMA)


Figure = tuple[str, float | None, int | None, str | None]


def _figures(column: FeatureProfile, reference: Counted, chunk: Counted) -> Iterator[Figure]:
    """``method``, ``value``, ``cells``, ``reason`` of one column in one segment of one chunk."""
    drift = ColumnDrift(column, reference, chunk)
    hindrance = _hindrance(column, reference, chunk)
    for method in NUMBER_METHODS if column.numeric else CATEGORY_METHODS:
        cells = len(drift.psi_cells[0]) if method == "psi" and not hindrance else None
        yield _figure(method, getattr(drift, method), hindrance, cells)
    empty = None if chunk.rows else "the chunk has no rows here"
    blank = None if chunk.rows > chunk.missing else empty or "all values are missing in the chunk"
    yield _figure("missing_share", lambda: chunk.missing / chunk.rows, empty)
    if column.numeric:
        unknown = blank or (None if column.grid else column.reason)
        yield _figure("outside_range_share", lambda: drift.outside / (chunk.rows - chunk.missing), unknown)
    else:
        unseen = blank or (None if column.categories else column.reason)
        yield _figure("unseen_share", lambda: drift.coarse[2] / chunk.finite, unseen)
    uncounted = None if column.by_value or not column.numeric else "numbers are counted by cell, not by value"
    yield _figure("cardinality", lambda: float(np.sum(chunk.counts > 0)), empty or uncounted)


def _hindrance(column: FeatureProfile, reference: Counted, chunk: Counted) -> str | None:
    """Why no distance of this column can be computed; ``None`` where they can be tried."""
    if column.reason:
        return column.reason
    if not chunk.rows:
        return "the chunk has no rows here"
    if not reference.finite:
        return "the reference has no value in this segment"
    if not chunk.finite:
        infinite = f", {chunk.infinite} of them infinite" if chunk.infinite else ""
        return f"all {chunk.rows} values are missing in the chunk{infinite}"
    return None


def _figure(
    method: str, compute: Callable[[], float], hindrance: str | None, cells: int | None = None
) -> Figure:
    if hindrance:
        return method, None, cells, hindrance
    try:
        return method, float(compute()), cells, None
    except UndefinedMetric as missing:
        return method, None, cells, str(missing)


def psi_readings(drift: pl.DataFrame, policy: DriftFigures) -> pl.DataFrame:
    """PSI as credit reads it, beside what chance alone would give.

    Args:
        drift: as returned by :func:`drift_figures`.
        policy: the bands, and the confidence of the cut-off.

    Returns:
        The rows of ``psi`` that have a value, with ``band`` (stable, watch or moved) and ``cut_off``: what unchanged
        data of this many rows stays below with the policy's confidence. A band reached below the cut-off says
        nothing.
    """
    psi = drift.filter((pl.col("method") == "psi") & pl.col("value").is_not_null())
    sizes = psi.select("cells", "reference_rows", "rows").iter_rows()
    cut_off = [distances.psi_cut_off(k, n, m, policy.psi_confidence) for k, n, m in sizes]
    watch, moved = policy.psi_bands
    value = pl.col("value")
    band = pl.when(value >= moved).then(pl.lit("moved")).when(value >= watch).then(pl.lit("watch"))
    return psi.with_columns(
        band.otherwise(pl.lit("stable")).alias("band"), pl.Series("cut_off", cut_off, dtype=pl.Float64)
    )


def segment_notes(profile: Profile) -> pl.DataFrame:
    """Which values of which segment are pooled, and why: ``segment`` (the pool's label), ``reason``."""
    rows = [(s.labels[-1], s.reason) for s in profile.segments if s.reason]
    return pl.DataFrame(rows, schema={"segment": pl.String, "reason": pl.String}, orient="row")


def coarse_counts(profile: Profile, statistics: ChunkStatistics) -> pl.DataFrame:
    """Both sides' rows by cell, for tests and plots: NannyML's coarse cells of numbers, or categories.

    Returns:
        ``chunk``, ``feature``, ``kind``, ``segment``, ``cell`` (Int64; the last one, ``elsewhere`` being true, holds
        what lies outside the reference's range or categories), ``elsewhere`` (bool), ``reference`` and ``rows``
        (f64). Columns and segments without a distance are left out: :func:`drift_figures` says why.
    """
    reference = by_column(profile.reference)
    parts = []
    for chunk in statistics.chunks:
        found = by_column(statistics.of(chunk))
        for column in profile.columns:
            for segment in profile.segment_labels:
                was, now = (side.get((column.name, segment), _NOTHING) for side in (reference, found))
                if _hindrance(column, was, now):
                    continue
                expected, rows, elsewhere = ColumnDrift(column, was, now).coarse
                parts.append(
                    pl.DataFrame(
                        {
                            "cell": np.arange(len(rows) + 1),
                            "elsewhere": np.arange(len(rows) + 1) == len(rows),
                            "reference": np.append(expected, 0.0),
                            "rows": np.append(rows, elsewhere),
                        }
                    ).select(
                        pl.lit(chunk).alias("chunk"),
                        pl.lit(column.name).alias("feature"),
                        pl.lit(column.kind).alias("kind"),
                        pl.lit(segment).alias("segment"),
                        pl.all(),
                    )
                )
    texts = dict.fromkeys(("chunk", "feature", "kind", "segment"), pl.String)
    numbers = {"cell": pl.Int64, "elsewhere": pl.Boolean, "reference": pl.Float64, "rows": pl.Float64}
    return pl.concat([pl.DataFrame(schema=texts | numbers), *parts])
