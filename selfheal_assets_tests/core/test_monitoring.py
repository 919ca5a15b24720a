"""Findings: PASS, FAIL and INSUFFICIENT_DATA at their limits, figures by hand, and never a NaN."""

import math

import numpy as np
import polars as pl
import pytest

from selfheal_assets.core.monitoring import (
    PROXY_SCHEMA,
    Finding,
    Status,
    estimate_finding,
    finding_frame,
    health,
    proxy_metrics,
    reference_shortage,
    unknown,
)
from selfheal_assets.core.policies import AlarmPolicy
from selfheal_assets.core.spec import Feature
from selfheal_assets_tests.core.generated import FEATURES, cases, sigmoid

POLICY = AlarmPolicy()
PASS, FAIL, INSUFFICIENT = Status.passed, Status.failed, Status.insufficient


def assert_no_nan(frame: pl.DataFrame) -> None:
    for name, dtype in frame.schema.items():
        if dtype.is_float():
            assert not frame[name].is_nan().any(), name


# Proxy metrics.

TWO = (Feature(name="x", type="number"), Feature(name="kind", type="category"))
SCORED = pl.DataFrame(
    {
        "probability": [0.5, 0.25],
        "prediction": [1, 0],
        "x": [None, 2.0],
        "kind": [None, None],
        "other": [None] * 2,
    }
)


def test_proxy_metrics_by_hand():
    frame = proxy_metrics(SCORED, TWO)
    assert dict(frame.select("metric", "value").iter_rows()) == pytest.approx(
        {
            "volume": 2,
            "mean_score": 0.375,
            "positive_rate": 0.5,
            "score_entropy": (1 + 0.25 * 2 + 0.75 * math.log2(4 / 3)) / 2,
            "missing_share": 3 / 4,
        }
    )
    assert dict(frame.select("metric", "unit").iter_rows()) == {
        "volume": "rows", "mean_score": "probability", "positive_rate": "share", "score_entropy": "bits",
        "missing_share": "share",
    }  # fmt: skip


@pytest.mark.parametrize("frame", [SCORED.clear(), pl.DataFrame()])
def test_no_predictions_have_a_volume_only(frame):
    found = proxy_metrics(frame, TWO)
    assert found.row(0) == ("volume", 0.0, "rows", None)
    assert found.height == 5
    assert set(found[1:]["reason"]) == {"no predictions in this chunk"}
    assert found["value"].null_count() == 4


def test_certain_scores_have_no_entropy():
    frame = proxy_metrics(SCORED.with_columns(probability=pl.Series([0.0, 1.0])), TWO)
    assert dict(frame.select("metric", "value").iter_rows())["score_entropy"] == pytest.approx(0, abs=1e-9)
    assert_no_nan(frame)


def test_a_nan_score_leaves_a_figure_empty():
    frame = proxy_metrics(SCORED.with_columns(probability=pl.Series([math.nan, 0.5])), TWO)
    assert frame.schema == PROXY_SCHEMA
    lost = "1 of 2 scores are no probabilities (missing, or not in 0..1)"
    assert frame["reason"].to_list() == [None, lost, None, lost, None]
    assert dict(frame.select("metric", "value").iter_rows()) == {
        "volume": 2, "mean_score": None, "positive_rate": 0.5, "score_entropy": None, "missing_share": 0.75,
    }  # fmt: skip


# Estimated performance.


def estimate(value: float | None, reason: str | None = None) -> pl.DataFrame:
    schema = {"metric": pl.String, "value": pl.Float64, "reason": pl.String}
    rows = [("f1", 0.1, reason), ("roc_auc", value, reason)]
    return pl.DataFrame(rows, schema=schema, orient="row")


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0.70, PASS), (0.6999, FAIL), (0.90, PASS), (None, INSUFFICIENT)],
)
def test_the_estimate_holds_down_to_the_policys_drop_below_the_reference(value, expected):
    found = estimate_finding(estimate(value), 0.75, POLICY)
    assert found.status is expected
    assert found.statistic == value
    assert found.limit == (None if value is None else pytest.approx(0.75 - 0.05))


@pytest.mark.parametrize("value", [0.5, 0.9])
def test_an_estimate_that_is_not_trusted_answers_nothing(value):
    doubted = estimate(value, "the estimators disagree").with_columns(trusted=pl.lit(False))
    found = estimate_finding(doubted, 0.75, POLICY)
    assert found.status is INSUFFICIENT
    assert "not to be trusted" in found.reason and found.reason.endswith("the estimators disagree")
    trusted = doubted.with_columns(trusted=pl.lit(True))
    assert estimate_finding(trusted, 0.75, POLICY).status is (FAIL if value < 0.7 else PASS)


def test_no_estimate_is_unknown():
    assert estimate_finding(estimate(0.7).clear(), 0.75, POLICY).status is INSUFFICIENT


def test_the_finding_says_what_the_estimate_leaves_out():
    lost = "7 of 600 scores are no numbers and are left out"
    assert estimate_finding(estimate(0.9, lost), 0.75, POLICY).reason.endswith(f"limit 0.700; {lost}")
    none = estimate_finding(estimate(None, "600" + lost[1:]), 0.75, POLICY)
    assert (none.status, none.reason) == (INSUFFICIENT, "no estimate: 600" + lost[1:])


# The reference.


@pytest.mark.parametrize(
    ("rows", "positives", "enough"),
    [
        (200, 20, True),
        (200, 180, True),
        (199, 20, False),
        (200, 19, False),
        (200, 181, False),
        (200, None, True),
    ],
)
def test_a_reference_is_large_enough_with_both_classes(rows, positives, enough):
    said = reference_shortage(POLICY, rows, positives)
    assert (said == "") is enough
    if not enough:
        assert said == (
            f"the champion's reference has {rows} rows with {positives} positives; policy.alarms asks for "
            "min_rows = 200 and min_positives = 20 of each class"
        )
    assert reference_shortage(POLICY, 199).endswith("has 199 rows; policy.alarms asks for min_rows = 200")


# Health.

HOLDS, BROKEN = Finding("calibration_holds", PASS, "fine"), Finding("b", FAIL, "bad", 0.1, 0.2)
STEADY = Finding("drift_within_limits", PASS, "fine")


@pytest.mark.parametrize(
    ("findings", "expected"),
    [
        ([HOLDS, STEADY], (PASS, "2 of 2 checks hold")),
        ([HOLDS, unknown("c", "few")], (PASS, "1 of 2 checks hold, the others have too little data")),
        ([HOLDS, BROKEN, unknown("c", "few")], (FAIL, "b: bad")),
        ([BROKEN, unknown("c", "few")], (FAIL, "b: bad")),
        ([unknown("c", "few"), unknown("d", "none")], (INSUFFICIENT, "c: few; d: none")),
        (
            [STEADY, unknown("c", "few")],
            (INSUFFICIENT, "drift_within_limits hold, which no outcome confirms yet; c: few"),
        ),
        ([], (INSUFFICIENT, "")),
    ],
)
def test_health_is_the_worst_that_is_known(findings, expected):
    assert health(findings) == expected


def test_findings_as_rows():
    frame = finding_frame([BROKEN, unknown("c", "few")])
    assert frame.rows() == [("b", "FAIL", 0.1, 0.2, "bad"), ("c", "INSUFFICIENT_DATA", None, None, "few")]
    assert finding_frame([]).schema == frame.schema
    assert finding_frame([]).is_empty()


def test_no_frame_of_an_ordinary_chunk_holds_a_nan():
    rows = cases(500, 1)
    p = sigmoid(np.random.default_rng(0).normal(size=500) - 1)
    predictions = rows.with_columns(probability=p, prediction=(p >= 0.4).astype(int))
    frame = proxy_metrics(predictions, FEATURES)
    assert_no_nan(frame)
    assert frame["value"].null_count() == 0
