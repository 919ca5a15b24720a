"""Counts of a feature's values on the reference's cells: from tidy frames to arrays.

A cell is a bin or a category. Missing values and values that the reference does not know are cells of their own.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl

MISSING = "(missing)"
UNSEEN = "(unseen)"
OTHER = "(other)"
OWN = (MISSING, UNSEEN)


@dataclass(frozen=True)
class Cells:
    """The cells of one feature.

    Attributes:
        feature: its name.
        names: of the cells, K of them; the last is ``UNSEEN``.
        positions: where each cell lies on the feature's scale, NaN for a cell without a place there (missing and
            unseen values); None for categories.
        rows: the reference's counts, shape (K,).
        index: from a cell as counted to its place among ``names``, as merging has it.
    """

    feature: str
    names: tuple[str, ...]
    positions: np.ndarray | None
    rows: np.ndarray
    index: Mapping[str, int]

    def counted(self, counts: pl.DataFrame) -> np.ndarray:
        """Counts on these cells, shape (K,), of a frame with ``cell`` and ``rows``; an unknown cell is unseen."""
        rows = np.zeros(len(self.names))
        for cell, n in counts.select("cell", "rows").iter_rows():
            rows[self.index.get(cell, len(rows) - 1)] += n
        return rows

    def named(self, cells: pl.Series) -> pl.Series:
        """The merged cells' names for a column of cells as counted; an unknown one is unseen."""
        names = {cell: self.names[place] for cell, place in self.index.items()}
        return cells.replace_strict(names, default=UNSEEN, return_dtype=pl.String)


def apart(value: str, own: Collection[str]) -> str:
    """A category as a name that is none of our ``own``: in quotes where it would read as one. No two share a name."""
    return f"'{value}'" if value.strip("'") in own else value


def checked_counts(frame: pl.DataFrame, keys: tuple[str, ...], what: str) -> pl.DataFrame:
    """The frame, if each key is there once and counts are whole, not negative and not null.

    Raises:
        ValueError: names what is wrong and the row it was found in.
    """
    if lacking := [c for c in (*keys, "rows") if c not in frame.columns]:
        raise ValueError(
            f"{what}: no column {', '.join(lacking)}; it has {', '.join(frame.columns) or 'none'}"
        )
    if not frame.schema["rows"].is_integer():
        raise ValueError(f"{what}: 'rows' must be whole numbers, not {frame.schema['rows']}")
    named = pl.any_horizontal(pl.col(k).is_null() for k in keys)
    if not (bad := frame.filter(named | pl.col("rows").is_null() | (pl.col("rows") < 0))).is_empty():
        raise ValueError(
            f"{what}: {bad.height} rows without a name or with a negative or no count, the first {bad.row(0)}"
        )
    if not (twice := frame.filter(pl.struct(keys).is_duplicated())).is_empty():
        raise ValueError(f"{what}: counted twice: {twice.select(keys).row(0)}; add the counts up first")
    return frame


def reference_cells(reference: pl.DataFrame, most: int) -> tuple[Cells, ...]:
    """Cells of each feature, merged down to ``most`` (missing and unseen values not counted).

    Args:
        reference: ``feature`` (str), ``cell`` (str; a category set :func:`apart` from ``OWN``), ``rows`` (int), in
            the cells' order; ``position`` (f64): the place of an ordered cell on its feature's scale (its middle, or
            the mean of its rows), null for categories and missing values. The column may be left out.

    Returns:
        One per feature, in the order of the frame.

    Raises:
        ValueError: counts are negative, doubled or missing.
    """
    reference = checked_counts(reference, ("feature", "cell"), "the reference's counts")
    if "position" not in reference.columns:
        reference = reference.with_columns(position=pl.lit(None, pl.Float64))
    parts = reference.partition_by("feature", maintain_order=True)
    return tuple(_cells(part, most) for part in parts)


def _cells(part: pl.DataFrame, most: int) -> Cells:
    own = part.filter(pl.col("cell").is_in(OWN))
    values = part.filter(~pl.col("cell").is_in(OWN))
    ordered = bool(values["position"].is_not_null().any())
    if ordered:
        values = values.sort("position", nulls_last=True, maintain_order=True)
    rows = values["rows"].to_numpy().astype(float)
    group = _neighbours(rows, most) if ordered else _rarest_together(rows, most)
    size = int(group.max()) + 1 if len(group) else 0
    names = values["cell"].to_list()
    merged = [[names[i] for i in np.flatnonzero(group == g)] for g in range(size)]
    known = {str(c): n for c, n in own.select("cell", "rows").iter_rows()}
    # Both are always there: a reference without missing values does not rule them out.
    counts = np.append(np.bincount(group, rows, size)[:size], [known.get(c, 0) for c in OWN])
    index = {cell: int(g) for cell, g in zip(names, group, strict=True)}
    index |= {c: size + i for i, c in enumerate(OWN)}
    return Cells(
        feature=str(part["feature"][0]),
        names=(*(_name(m, ordered) for m in merged), *OWN),
        positions=_positions(values, group, rows, size) if ordered else None,
        rows=counts.astype(float),
        index=index,
    )


def _name(merged: list[str], ordered: bool) -> str:
    if len(merged) == 1:
        return merged[0] if ordered else apart(merged[0], (OTHER,))
    return f"{merged[0]} … {merged[-1]}" if ordered else OTHER


def _positions(values: pl.DataFrame, group: np.ndarray, rows: np.ndarray, size: int) -> np.ndarray:
    """Mean place of each merged cell, by its rows; NaN for missing and unseen values."""
    place = values["position"].to_numpy().astype(float)
    weight = np.where(np.isnan(place), 0.0, rows + 1e-9)  # a cell without rows keeps its place
    total = np.bincount(group, weight, size)
    sums = np.bincount(group, weight * np.nan_to_num(place), size)
    return np.append(sums / np.where(total > 0, total, np.nan), [np.nan, np.nan])


def _neighbours(rows: np.ndarray, most: int) -> np.ndarray:
    """Groups of neighbouring cells with about equal rows, at most ``most``."""
    if len(rows) <= most:
        return np.arange(len(rows))
    middle = np.cumsum(rows) - rows / 2
    share = middle / max(rows.sum(), 1.0)
    group = np.minimum((share * most).astype(np.int64), most - 1)
    return np.unique(group, return_inverse=True)[1]


def _rarest_together(rows: np.ndarray, most: int) -> np.ndarray:
    """Groups in which the commonest ``most`` − 1 categories stand alone and the rest are one."""
    if len(rows) <= most:
        return np.arange(len(rows))
    group = np.full(len(rows), most - 1)
    kept = np.sort(np.argsort(-rows, kind="stable")[: most - 1])
    group[kept] = np.arange(most - 1)
    return group
