"""From named feature values to the float32 matrix that the booster reads, and nothing else.

Numbers stay numbers; a category becomes its position in the vocabulary that was learned in training.
Missing values and categories never seen in training become NaN, which XGBoost treats as missing.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from selfheal_assets.core.spec import Feature, FeatureType

Vocabulary = dict[str, list[str]]


def polars_type(feature: Feature) -> pl.DataType:
    """The column type in which a feature travels through frames."""
    return {
        FeatureType.number: pl.Float64(),
        FeatureType.integer: pl.Int64(),
        FeatureType.category: pl.String(),
    }[feature.type]


def learn_vocabulary(frame: pl.DataFrame, features: Sequence[Feature]) -> Vocabulary:
    """Sorted distinct values of each category in ``frame``."""
    return {
        f.name: frame[f.name].drop_nulls().unique().sort().to_list()
        for f in features
        if f.type is FeatureType.category
    }


def encode(frame: pl.DataFrame, features: Sequence[Feature], vocabulary: Vocabulary) -> np.ndarray:
    """Encode a frame.

    Args:
        frame: one column per feature, any number of rows.
        features: in the order of the booster's columns.
        vocabulary: as returned by :func:`learn_vocabulary`.

    Returns:
        float32 array, shape (rows, features), C order.
    """
    columns = [
        pl.col(f.name)
        .cast(pl.String)
        .replace_strict(
            vocabulary[f.name], range(len(vocabulary[f.name])), default=None, return_dtype=pl.Float32
        )
        if f.type is FeatureType.category and vocabulary[f.name]
        else pl.repeat(None, pl.len(), dtype=pl.Float32).alias(f.name)
        if f.type is FeatureType.category
        else pl.col(f.name).cast(pl.Float32)
        for f in features
    ]
    matrix = frame.select(columns).fill_null(float("nan")).to_numpy()
    return np.ascontiguousarray(matrix, dtype=np.float32)


class _Codes(dict[str, float]):
    """Codes of a feature's categories; NaN, which is missing, for any other value."""

    def __missing__(self, value: str | None) -> float:
        return np.nan


class ColumnEncoder:
    """:func:`encode` for columns of plain Python values; equal to it, at the cost of a few microseconds a row.

    Args:
        features: in the order of the booster's columns.
        vocabulary: as returned by :func:`learn_vocabulary`.
    """

    def __init__(self, features: Sequence[Feature], vocabulary: Vocabulary) -> None:
        self._features = tuple(features)
        self._codes = {
            f.name: _Codes((value, float(code)) for code, value in enumerate(vocabulary[f.name]))
            for f in features
            if f.type is FeatureType.category
        }

    def __call__(self, columns: Mapping[str, Sequence[Any]]) -> np.ndarray:
        """float32 array, shape (rows, features), of columns by name: float, int, str, or ``None`` for missing."""
        rows = len(next(iter(columns.values())))
        matrix = np.empty((rows, len(self._features)), dtype=np.float32)
        for i, f in enumerate(self._features):
            matrix[:, i] = self._column(f, columns[f.name])
        return matrix

    def _column(self, feature: Feature, values: Sequence[Any]) -> np.ndarray:
        if feature.type is FeatureType.category:
            return np.fromiter(map(self._codes[feature.name].__getitem__, values), np.float32, len(values))
        if feature.type is FeatureType.number:
            return np.array(values, dtype=np.float64)  # None becomes NaN
        # By way of int64, not of float64, which would round large integers twice.
        if None not in values:
            return np.array(values, dtype=np.int64).astype(np.float32)
        whole = np.array([0 if v is None else v for v in values], dtype=np.int64).astype(np.float32)
        whole[[v is None for v in values]] = np.nan
        return whole

    def unseen(self, columns: Mapping[str, Sequence[Any]], rows: range) -> dict[int, list[str]]:
        """Of the rows with a category that the model has never seen, the names of those features."""
        found: dict[int, list[str]] = {}
        for name, codes in self._codes.items():
            column = columns[name]
            strange = {*column[rows.start : rows.stop]}.difference(codes, (None,))
            for row in (row for row in rows if column[row] in strange) if strange else ():
                found.setdefault(row, []).append(name)
        return found
