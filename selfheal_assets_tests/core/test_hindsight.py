"""Hindsight's figures: what a shift of the level costs all rows together, and not the ranking within a chunk."""

from datetime import datetime

import numpy as np
import polars as pl
import pytest

from selfheal_assets.core.hindsight import by_chunk, summarize, with_calibration
from selfheal_assets.core.metrics import roc_auc

JANUARY, APRIL = datetime(2020, 1, 1), datetime(2020, 4, 1)


def scored() -> pl.DataFrame:
    """Two chunks ranked alike; in the second, with fewer positives, the answers are higher throughout."""
    label = [0, 0, 1, 1] * 5 + [0, 0, 0, 1] * 5
    rank = [0.01, 0.03, 0.02, 0.04] * 5 + [0.01, 0.03, 0.02, 0.04] * 5
    chunk = [JANUARY] * 20 + [APRIL] * 20
    level = np.where(np.arange(40) < 20, 0.0, 0.5)
    return pl.DataFrame(
        {"chunk": chunk, "event_time": chunk, "label": label, "probability": rank + level, "first": rank}
    )


def test_within_chunks_the_level_does_not_count():
    found = summarize(scored(), [], None)
    january, april = roc_auc(np.array([0, 0, 1, 1]), np.array([1, 3, 2, 4])), 1.0
    within = (10 * january + 5 * april) / 15  # weighted by positives
    assert (
        found["auc_within_healed"] == found["auc_within_never_retrained"] == pytest.approx(within, abs=1e-4)
    )
    assert found["auc_healed"] < found["auc_never_retrained"]


def test_a_chunk_of_one_class_is_left_out():
    rows = scored().with_columns(label=pl.when(pl.col("chunk") == APRIL).then(0).otherwise("label"))
    assert summarize(rows, [], None)["auc_within_healed"] == pytest.approx(0.75)


def test_each_chunks_auc_has_its_interval_and_one_of_one_class_has_none():
    rows = scored().with_columns(label=pl.when(pl.col("chunk") == APRIL).then(0).otherwise("label"))
    january, april = by_chunk(rows).iter_rows(named=True)
    assert january["realized_auc"] == pytest.approx(0.75)
    assert january["realized_lower"] < 0.75 < january["realized_upper"]
    narrow = by_chunk(rows, 0.5).row(0, named=True)
    assert (
        january["realized_lower"]
        < narrow["realized_lower"]
        < narrow["realized_upper"]
        < january["realized_upper"]
    )
    assert [april[k] for k in ("realized_auc", "realized_lower", "realized_upper")] == [None] * 3


def test_expected_over_observed_has_the_bounds_of_a_count():
    chunks = pl.DataFrame(
        {
            "expected_so_far": [None, 4.0, 4.0],
            "observed_so_far": [None, 0.0, 10.0],
            "expected": [50.0, 50.0, None],
            "observed": [100.0, 1.0, None],
        }
    )
    unknown, none_yet, known = with_calibration(chunks).iter_rows(named=True)
    assert unknown["partial_ratio"] is None and none_yet["partial_ratio"] is None
    # Garwood's bounds of 10: 4.795 to 18.39; of 100: 81.36 to 121.6.
    assert known["partial_ratio"] == pytest.approx(0.4)
    assert (known["partial_lower"], known["partial_upper"]) == pytest.approx((4 / 18.39, 4 / 4.795), rel=1e-3)
    assert (unknown["ratio_lower"], unknown["ratio_upper"]) == pytest.approx(
        (50 / 121.6, 50 / 81.36), rel=1e-3
    )
    assert known["realized_ratio"] is None
