"""Hindsight's figures: what a shift of the level costs all rows together, and not the ranking within a chunk."""

from datetime import datetime

import numpy as np
import polars as pl
import pytest

from selfheal_assets.core.hindsight import summarize
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
