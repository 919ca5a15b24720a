"""Estimates of segments: the values of the segment's own rows, with intervals, and none of too few rows."""

import duckdb
import numpy as np
import polars as pl
import pytest

from selfheal_assets.core.calibration import IsotonicMap
from selfheal_assets.core.evidence_policy import DriftFigures, Estimation
from selfheal_assets.core.expected import expected_metrics
from selfheal_assets.core.score_groups import groups_of_rows
from selfheal_assets.core.segment_estimates import segment_estimates
from selfheal_assets.core.spec import Feature, Segment
from selfheal_assets.core.tables import validated
from selfheal_assets.stores.pushdown import statistics_of
from selfheal_assets.stores.reference_profile import fit_profile

MAP = IsotonicMap((0.2, 0.4, 0.6), (0.1, 0.3, 0.7))


def cases(large: int, small: int) -> pl.DataFrame:
    score = np.random.default_rng(1).beta(2, 3, large + small)
    area = ["town"] * large + ["village"] * small
    return pl.DataFrame({"area": area, "probability": score, "prediction": (score > 0.5).astype(np.int8)})


@pytest.fixture
def estimates():
    """Estimates of a chunk of 400 rows in towns and one in a village."""
    features, segments = [Feature(name="area", type="category")], [Segment(name="area", feature="area")]
    with duckdb.connect() as connection:
        connection.register("reference", cases(3_000, 600).to_arrow())
        profile = fit_profile(connection, "reference", features, segments, MAP, DriftFigures())
        connection.register("rows_of_chunk", cases(400, 1).to_arrow())
        return segment_estimates(profile, statistics_of(connection, "rows_of_chunk", profile), Estimation())


def test_a_segment_has_its_own_rows_estimates_with_intervals(estimates):
    town = cases(400, 1).filter(area="town")
    score = town["probability"].to_numpy()
    own = expected_metrics(groups_of_rows(score, MAP(score), town["prediction"].to_numpy() == 1))
    found = estimates.filter(segment="area=town").join(own, on="metric")
    assert found["value"].to_numpy() == pytest.approx(
        own["value"].to_numpy().astype(float), abs=1e-5, nan_ok=True
    )
    known = found.filter(pl.col("value").is_not_null())
    assert known.height == own.height - 1, "all but the business value"
    assert (
        known.select((pl.col("lower") < pl.col("value")) & (pl.col("value") < pl.col("upper")))
        .to_series()
        .all()
    )


def test_a_segment_of_one_row_has_no_value_but_the_number_needed(estimates):
    village = estimates.filter(segment="area=village")
    assert village["value"].null_count() == village.height > 10
    assert set(village["status"]) == {"INSUFFICIENT_DATA"}
    assert set(village["reason"]) == {"1 scored rows in this segment; estimation.min_rows asks for 200"}
    validated("estimated_performance", estimates)
