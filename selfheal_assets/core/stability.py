"""Population and characteristic stability (PSI, CSI): cells of the reference, and what a PSI says.

A cell table is frozen with a model version and read by the mart ``fct_stability``, which counts each cohort in it.
The same figure for one use case's machine-read drift is ``core.distances``'s; here are the credit conventions:
deciles of the reference, the bands 0.1 and 0.25, and a cut-off for the sample size.
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import polars as pl

from selfheal_assets.core.distances import psi_cut_off
from selfheal_assets.core.metrics import UndefinedMetric
from selfheal_assets.core.policies import CreditPolicy
from selfheal_assets.core.spec import Feature, FeatureType

SCORE = "score"
MISSING, UNSEEN = 0, -1  # cells of no value, and of a category that the reference does not hold
CELL_SCHEMA = {
    "variable": pl.String,
    "cell": pl.Int32,
    "name": pl.String,
    "lower": pl.Float64,
    "category": pl.String,
    "rows": pl.Int64,
    "positives": pl.Int64,
}


def reference_cells(
    reference: pl.DataFrame, features: Sequence[Feature], policy: CreditPolicy
) -> pl.DataFrame:
    """The cells in which score and features are counted, with the reference's own counts.

    A number is cut at its quantiles in the reference into ``policy.bands`` cells of about equal size, fewer where
    values repeat. A cell holds its lower edge; the first reaches down to −∞, the last up to ∞. A category is a cell
    of its own; those rarer than ``policy.rare_share`` are one cell together.

    Args:
        reference: ``probability`` (f64), ``label`` (0/1) and the features.
        features: the model's.
        policy: number of bands, and what is rare.

    Returns:
        One row per variable (``score`` and each feature) and cell, or per category: ``variable``, ``cell`` (from 1;
        0 holds what is missing, −1 the categories that the reference lacks), ``name`` (for people), ``lower`` (lower
        edge of a number's cell), ``category``, ``rows`` and ``positives`` of the reference.
    """
    label = reference["label"]
    parts = [_number_cells(SCORE, reference["probability"], label, policy.bands)]
    for feature in features:
        values = reference[feature.name]
        if feature.type is FeatureType.category:
            parts.append(_category_cells(feature.name, values, label, policy.rare_share))
        else:
            parts.append(_number_cells(feature.name, values, label, policy.bands))
    return pl.concat(parts)


def _number_cells(variable: str, values: pl.Series, label: pl.Series, bands: int) -> pl.DataFrame:
    number = values.cast(pl.Float64).fill_nan(None)
    known, target = number.drop_nulls().to_numpy(), label.filter(number.is_not_null()).to_numpy()
    edges = np.array([])
    if len(known):
        tenths = np.quantile(known, np.arange(1, bands) / bands, method="inverted_cdf")
        edges = np.unique(tenths[tenths > known.min()])
    cell = np.searchsorted(edges, known, side="right")
    rows = np.bincount(cell, minlength=len(edges) + 1)
    positives = np.bincount(cell, weights=target, minlength=len(edges) + 1)
    missing = number.is_null()
    counted = [
        (variable, k + 1, name, lower, None, int(n), int(y))
        for k, (name, lower, n, y) in enumerate(
            zip(_names(edges), [-np.inf, *edges], rows, positives, strict=True)
        )
    ]
    nothing = (variable, MISSING, "missing", None, None, int(missing.sum()), int(label.filter(missing).sum()))
    return pl.DataFrame([*counted, nothing], schema=CELL_SCHEMA, orient="row")


def _names(edges: np.ndarray) -> list[str]:
    if not len(edges):
        return ["any value"]
    texts = [f"{edge:.4g}" if abs(edge) < 1000 else f"{edge:.0f}" for edge in edges]
    return [f"< {texts[0]}", *(f"{low}–{high}" for low, high in pairwise(texts)), f"≥ {texts[-1]}"]


def _category_cells(variable: str, values: pl.Series, label: pl.Series, rare_share: float) -> pl.DataFrame:
    rows = pl.DataFrame({"category": values.cast(pl.String), "label": label})
    counted = rows.group_by("category").agg(rows=pl.len(), positives=pl.col("label").sum())
    counted = counted.sort(["rows", "category"], descending=[True, False])
    found: list[tuple] = []
    missing, others = (0, 0), 0
    for category, n, y in counted.iter_rows():
        if category is None:
            missing = (n, y)
            continue
        rare = n < rare_share * len(rows)
        others = others or (len(found) + 1 if rare else 0)
        found.append(
            (variable, others or len(found) + 1, "rare ones" if rare else category, None, category, n, y)
        )
    found.append((variable, MISSING, "missing", None, None, *missing))
    found.append((variable, UNSEEN, "not in the reference", None, None, 0, 0))
    return pl.DataFrame(found, schema=CELL_SCHEMA, orient="row")


def stability_table(found: pl.DataFrame, policy: CreditPolicy) -> pl.DataFrame:
    """What each PSI says, in words.

    Args:
        found: rows of ``fct_stability``: ``variable`` (str), ``rows``, ``reference_rows``, ``cells`` (ints; those
            that hold a row of either side), ``psi`` (f64; null where there are no cells).
        policy: the bands, and the confidence of the cut-off.

    Returns:
        The same rows with ``cut_off`` (f64: chance alone exceeds it with probability 1 − confidence), ``band``
        (``within chance``, ``small``, ``moderate``, ``large``; null where unknown) and ``reason`` (why it is null).

    Sources: the bands are the industry's rule of thumb (Siddiqi, Credit Risk Scorecards, 2006); the cut-off is that
    of Yurdakul and Naranjo, Statistical properties of the population stability index, 2020.
    """
    cut_offs, bands, reasons = [], [], []
    for row in found.iter_rows(named=True):
        cut_off, band, reason = _judged(row, policy)
        cut_offs.append(cut_off)
        bands.append(band)
        reasons.append(reason)
    return found.with_columns(
        cut_off=pl.Series(cut_offs, dtype=pl.Float64),
        band=pl.Series(bands, dtype=pl.String),
        reason=pl.Series(reasons, dtype=pl.String),
    )


def _judged(row: dict, policy: CreditPolicy) -> tuple[float | None, str | None, str | None]:
    if row["psi"] is None:
        return None, None, "no cells: the version's reference was not frozen, or holds no row"
    try:
        cut_off = psi_cut_off(row["cells"], row["reference_rows"], row["rows"], policy.confidence)
    except UndefinedMetric:
        return None, None, f"all {row['rows']} values lie in one cell, as all of the reference do"
    moderate, large = policy.psi_bands
    if row["psi"] <= cut_off:
        return cut_off, "within chance", None
    band = "small" if row["psi"] < moderate else "moderate" if row["psi"] < large else "large"
    return cut_off, band, None
