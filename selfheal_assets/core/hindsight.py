"""Hindsight: how a replayed history went, once all its labels are known, beside a model that never learned again.

``scored`` in all functions: one row per case with ``chunk`` and ``event_time`` (Datetime), ``label`` (0/1),
``probability`` (as it was answered) and ``first`` (the first model's), both f64.
"""

from typing import Any

import numpy as np
import polars as pl

from selfheal_assets.core import metrics
from selfheal_assets.core.decision import Action
from selfheal_assets.core.intervals import poisson
from selfheal_assets.core.spec import Period


def _auc(label: np.ndarray, probability: np.ndarray) -> float | None:
    try:
        return metrics.roc_auc(label, probability)
    except metrics.UndefinedMetric:
        return None


def _auc_bounds(
    label: np.ndarray, probability: np.ndarray, confidence: float
) -> tuple[float, float, float] | tuple[None, None, None]:
    try:
        found = metrics.roc_auc_interval(label, probability, confidence)
    except metrics.UndefinedMetric:
        return None, None, None
    return found.value, found.lower, found.upper


_BY_CHUNK = (
    "realized_auc", "realized_lower", "realized_upper", "never_retrained_auc", "expected", "observed",
    "never_retrained_expected",
)  # fmt: skip


def by_chunk(scored: pl.DataFrame, confidence: float = 0.95) -> pl.DataFrame:
    """Both models chunk by chunk.

    Returns:
        ``chunk``, ``realized_auc`` with DeLong's ``realized_lower`` and ``realized_upper``, ``never_retrained_auc``
        (null where a chunk has one class only), ``expected``, ``observed``, ``never_retrained_expected`` (counts of
        positives).
    """
    rows = []
    for (chunk,), part in scored.group_by("chunk", maintain_order=True):
        label, answered, first = (part[c].to_numpy() for c in ("label", "probability", "first"))
        found = _auc_bounds(label, answered, confidence)
        rows.append((chunk, *found, _auc(label, first), answered.sum(), label.sum(), first.sum()))
    schema = {"chunk": pl.Datetime("us")} | dict.fromkeys(_BY_CHUNK, pl.Float64)
    return pl.DataFrame(rows, schema=schema, orient="row")


def with_calibration(chunks: pl.DataFrame, confidence: float = 0.95) -> pl.DataFrame:
    """Expected over observed positives: as known on each chunk's last day, and as it came out.

    Args:
        chunks: ``expected_so_far``, ``observed_so_far`` (of the cohorts that were watched that day), ``expected``,
            ``observed`` (of the chunk's own cases in the end): counts, null where not known.
        confidence: of the bounds, which are those of a Poisson count.

    Returns:
        The chunks with ``partial_ratio``, ``partial_lower``, ``partial_upper`` and ``realized_ratio``,
        ``ratio_lower``, ``ratio_upper``; null where nothing was observed, an upper bound also where none may be.
    """
    found = [
        [
            *_ratio(row["expected_so_far"], row["observed_so_far"], confidence),
            *_ratio(row["expected"], row["observed"], confidence),
        ]
        for row in chunks.iter_rows(named=True)
    ]
    names = (
        "partial_ratio",
        "partial_lower",
        "partial_upper",
        "realized_ratio",
        "ratio_lower",
        "ratio_upper",
    )
    return chunks.hstack(pl.DataFrame(found, schema=dict.fromkeys(names, pl.Float64), orient="row"))


def _ratio(expected: float | None, observed: float | None, confidence: float) -> tuple[float | None, ...]:
    """Expected over observed, and its bounds."""
    if expected is None or not observed:
        return None, None, None
    least, most = poisson(observed, confidence)
    return expected / observed, expected / most, expected / least if least else None


def _auc_within(rows: pl.DataFrame, column: str) -> float:
    """ROC AUC within chunks, averaged over their positives; chunks of one class are left out.

    Beside the AUC of all rows together, which a model loses as well where its level rises later than the rate of
    positives does.
    """
    parts = [(p["label"].to_numpy(), p[column].to_numpy()) for p in rows.partition_by("chunk")]
    told = [(auc, label.sum()) for label, p in parts if (auc := _auc(label, p)) is not None]
    return float(np.average([auc for auc, _ in told], weights=[n for _, n in told]))


def summarize(scored: pl.DataFrame, actions: list[str], compared: Period | None) -> dict[str, Any]:
    """Both models in figures, on the same rows of the compared period, or of all, if it was not reached.

    Args:
        scored: see the module.
        actions: of the decisions taken with a champion in place.
        compared: the use case's period of comparison.

    Raises:
        metrics.UndefinedMetric: the rows hold one class only.
    """
    rows, period = scored, "all chunks"
    time = pl.col("event_time").dt.date()
    if compared and not scored.filter(time >= compared.start).is_empty():
        rows = scored.filter((time >= compared.start) & (time < compared.end))
        period = f"{compared.start} to {compared.end}"
    label = rows["label"].to_numpy()
    summary: dict[str, Any] = {}
    for name, column in (("healed", "probability"), ("never_retrained", "first")):
        p = rows[column].to_numpy()
        summary[f"auc_{name}"] = round(metrics.roc_auc(label, p), 4)
        summary[f"auc_within_{name}"] = round(_auc_within(rows, column), 4)
        summary[f"expected_over_observed_{name}"] = round(metrics.expected_over_observed(label, p), 4)
    refused = actions.count(Action.reject.value) + actions.count(Action.inconclusive.value)
    return summary | {
        "promotions": actions.count(Action.promote.value),
        "refusals": refused,
        "period": period,
    }
