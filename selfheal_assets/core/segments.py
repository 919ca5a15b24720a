"""Slices of cases by the use case's segments, the smallest pooled, so that each slice can say something."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import polars as pl

from selfheal_assets.core.evaluation import segment_of
from selfheal_assets.core.spec import Segment

ALL, POOLED = "all", "other"


@dataclass(frozen=True)
class Slice:
    """Cases of one segment value, ``area=rural``; ``mask`` is bool, one per case; ``note`` says what was pooled."""

    name: str
    mask: np.ndarray
    note: str | None = None


def slices(
    cases: pl.DataFrame, label: np.ndarray, segments: tuple[Segment, ...], min_rows: int, min_positives: int
) -> Iterator[Slice]:
    """All cases, then each value of each segment; the values too small to judge are one slice, ``area=other``.

    Args:
        cases: the segments' features, one row per case.
        label: 0/1, of the same length.
        segments: in the order of the result.
        min_rows: fewer cases than this are too few, and so are
        min_positives: fewer positives than this.
    """
    yield Slice(ALL, np.ones(len(label), dtype=bool))
    for segment in segments:
        value = segment_of(cases, segment)
        sizes = (
            pl.DataFrame({"value": value, "label": label})
            .group_by("value")
            .agg(rows=pl.len(), positives=pl.col("label").cast(pl.Int64).sum())
            .sort("value")
        )
        enough = (pl.col("rows") >= min_rows) & (pl.col("positives") >= min_positives)
        large, small = sizes.filter(enough)["value"].to_list(), sizes.filter(~enough)
        for name in large:
            yield Slice(f"{segment.name}={name}", (value == name).to_numpy())
        if small.height:
            pooled = POOLED if POOLED not in large else f"{POOLED} (pooled)"
            held = ", ".join(f"{v} ({n} rows, {p} positives)" for v, n, p in small.iter_rows())
            note = f"pooled, as each has fewer than {min_rows} rows or {min_positives} positives: {held}"
            mask = value.is_in(small["value"].to_list()).to_numpy()
            yield Slice(f"{segment.name}={pooled}", mask, note)
