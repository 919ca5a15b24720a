"""Findings: PASS, FAIL and INSUFFICIENT_DATA at their limits, figures by hand, and never a NaN."""

import math

import numpy as np
import polars as pl
import pytest

from selfheal_assets.core.maturity import TimingCurve, cohort_evidence
from selfheal_assets.core.monitoring import (
    PROXY_SCHEMA,
    Finding,
    Status,
    calibration_finding,
    drift_finding,
    estimate_finding,
    finding_frame,
    health,
    proxy_metrics,
    realized_finding,
    reference_shortage,
    unknown,
)
from selfheal_assets.core.realized import realized_metrics
from selfheal_assets.core.spec import AlarmPolicy, Feature
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


# Drift.


def drift(*rows: tuple[str, float | None, float | None]) -> pl.DataFrame:
    schema = {"feature": pl.String, "value": pl.Float64, "threshold": pl.Float64}
    return pl.DataFrame(list(rows), schema=schema, orient="row")


@pytest.mark.parametrize(
    ("frame", "expected"),
    [
        (drift(("a", 0.15, 0.10), ("b", 0.01, 0.10)), PASS),
        (drift(("a", 0.1501, 0.10), ("b", 0.01, 0.10)), FAIL),
        (drift(("a", 0.20, 0.20)), PASS),
        (drift(("a", 0.2001, 0.20)), FAIL),
        (drift(("a", 0.16, None)), FAIL),
        (drift(("a", None, 0.10), ("b", 0.01, 0.10)), PASS),
        (drift(("a", None, 0.10)), INSUFFICIENT),
        (drift(), INSUFFICIENT),
    ],
)
def test_drift_is_beyond_the_policy_and_beyond_the_references_scatter(frame, expected):
    found = drift_finding(frame, POLICY)
    assert found.status is expected
    assert (found.statistic is None) == (expected is INSUFFICIENT)


def test_drift_of_enough_features():
    frame = drift(("a", 0.3, 0.1), ("b", 0.2, 0.1), ("c", 0.01, 0.1))
    assert drift_finding(frame, AlarmPolicy(min_drifted_features=3)).status is PASS
    found = drift_finding(frame, AlarmPolicy(min_drifted_features=2))
    assert found.status is FAIL
    assert found.reason == "2 of 3 measured features drifted (Jensen–Shannon distance): a 0.30, b 0.20"
    assert (found.statistic, found.limit) == (0.3, 0.15)
    blank = pl.concat([frame, drift(("d", None, 0.1))], how="vertical_relaxed")
    assert drift_finding(blank, POLICY).reason == f"{found.reason}; 1 more could not be measured"


# Estimated performance.


def estimate(value: float | None, lower: float | None = None, reason: str | None = None) -> pl.DataFrame:
    schema = {"metric": pl.String, "value": pl.Float64, "threshold_lower": pl.Float64, "reason": pl.String}
    rows = [("f1", 0.1, 0.9, reason), ("roc_auc", value, lower, reason)]
    return pl.DataFrame(rows, schema=schema, orient="row")


@pytest.mark.parametrize(
    ("value", "threshold", "expected"),
    [
        (0.70, 0.72, PASS),  # at the policy's limit: 0.75 - 0.05
        (0.6999, 0.72, FAIL),
        (0.65, 0.65, PASS),  # at NannyML's limit, which is the lower one
        (0.6499, 0.65, FAIL),
        (0.6999, None, FAIL),
        (0.90, 0.72, PASS),
        (None, 0.72, INSUFFICIENT),
    ],
)
def test_the_estimate_holds_down_to_the_lower_of_two_limits(value, threshold, expected):
    assert estimate_finding(estimate(value, threshold), 0.75, POLICY).status is expected


def test_no_estimate_is_unknown():
    assert estimate_finding(estimate(0.7).clear(), 0.75, POLICY).status is INSUFFICIENT


def test_the_finding_says_what_the_estimate_leaves_out():
    lost = "7 of 600 scores are no numbers and are left out"
    assert estimate_finding(estimate(0.9, 0.7, lost), 0.75, POLICY).reason.endswith(f"limit 0.700; {lost}")
    none = estimate_finding(estimate(None, 0.7, "600" + lost[1:]), 0.75, POLICY)
    assert (none.status, none.reason) == (INSUFFICIENT, "no estimate: 600" + lost[1:])


# Calibration.


def cohorts(expected: float, observed: float, variance: float, share_known: float = 0.5) -> pl.DataFrame:
    """Two cohorts that add up to these numbers."""
    return pl.DataFrame(
        {
            "expected": [expected / 4, 3 * expected / 4],
            "observed": [observed / 2] * 2,
            "variance": [variance / 2] * 2,
            "share_known": [share_known] * 2,
        }
    )


@pytest.mark.parametrize(
    ("expected", "observed", "variance", "status"),
    [
        # The band, 0.8 to 1.25, where chance is no reason.
        (100, 125, 1, PASS),
        (100, 126, 1, FAIL),
        (100, 80, 1, PASS),
        (100, 79, 1, FAIL),
        # Chance: 3.29 standard deviations are the two-sided 0.1 %.
        (100, 132.9, 100, PASS),
        (100, 133.0, 100, FAIL),
        (100, 67.1, 100, PASS),
        (100, 67.0, 100, FAIL),
        # Enough of either.
        (19.9, 19.9, 10, INSUFFICIENT),
        (20, 0, 10, FAIL),
        (0.5, 20, 0.5, FAIL),
        (0, 0, 0, INSUFFICIENT),
    ],
)
def test_calibration_fails_beyond_the_band_and_beyond_chance(expected, observed, variance, status):
    found = calibration_finding(cohorts(expected, observed, variance), POLICY)
    assert found.status is status
    assert found.statistic is None or math.isfinite(found.statistic)
    assert "inf" not in found.reason
    assert "nan" not in found.reason


def test_the_finding_names_ratio_and_the_limit_it_is_nearer_to():
    low, high = (calibration_finding(cohorts(100, o, 1), POLICY) for o in (200, 50))
    assert (low.statistic, low.limit) == (0.5, 0.8)
    assert (high.statistic, high.limit) == (2.0, 1.25)
    assert "expected/observed 0.50 (outside 0.8–1.25), z = +100.0" in low.reason


def test_a_ratio_outside_the_band_that_passes_says_why():
    found = calibration_finding(cohorts(37, 27, 25), POLICY)
    assert found.status is PASS
    assert (
        "expected/observed 1.37 (outside 0.8–1.25, but not significantly: p = 0.046, limit 0.001)"
        in found.reason
    )
    inside = calibration_finding(cohorts(110, 100, 1), POLICY)
    assert inside.status is PASS
    assert "expected/observed 1.10 (within 0.8–1.25), z = -10.0" in inside.reason


def evidence(age: float, positive: np.ndarray, curve: TimingCurve) -> pl.DataFrame:
    size = len(positive)
    return cohort_evidence(
        pl.DataFrame(
            {
                "cohort": [0] * size,
                "age_days": np.full(size, age),
                "probability": np.full(size, 0.3),
                "positive_so_far": positive.astype(int),
            }
        ),
        curve,
    )


AT_THE_HORIZON = TimingCurve(np.full(50, 365.0), 365.0)
NOBODY_YET = TimingCurve(np.empty(0), 365.0)


@pytest.mark.parametrize("curve", [AT_THE_HORIZON, NOBODY_YET], ids=["known at the horizon", "no curve"])
def test_where_labels_come_at_the_horizon_young_cases_are_unknown_not_wrong(curve):
    """F is a step: nothing is expected before the horizon, with variance zero."""
    nothing, surprise = np.zeros(200), np.arange(200) < 40
    for positive in (nothing, surprise):
        found = calibration_finding(evidence(100, positive, curve), POLICY)
        assert found.status is INSUFFICIENT
        assert found.statistic is None
    assert "the timing curve expects none" in found.reason


def test_where_labels_come_at_the_horizon_mature_cases_are_judged():
    as_expected, harm = np.arange(200) < 60, np.arange(200) < 120
    assert calibration_finding(evidence(365, as_expected, AT_THE_HORIZON), POLICY).status is PASS
    assert calibration_finding(evidence(365, harm, AT_THE_HORIZON), POLICY).status is FAIL


def test_young_cohorts_do_not_hide_or_blur_the_mature_ones():
    mature = evidence(400, np.arange(200) < 120, AT_THE_HORIZON)
    young = evidence(30, np.zeros(5000), AT_THE_HORIZON)
    both = calibration_finding(pl.concat([mature, young]), POLICY)
    assert both == calibration_finding(mature, POLICY)


def test_certain_and_wrong_fails_with_finite_numbers():
    found = calibration_finding(cohorts(100, 50, 0, share_known=1.0), POLICY)
    assert found.status is FAIL
    assert found.statistic == 2.0
    assert calibration_finding(cohorts(100, 100, 0, share_known=1.0), POLICY).status is PASS


def test_chance_alone_fails_as_often_as_the_level_says():
    """With a band of no width only chance is judged: 5 % of right models, within the Monte Carlo error."""
    policy = AlarmPolicy(calibration_ratio=(1.0, 1.0), calibration_alpha=0.05)
    rng = np.random.default_rng(6)
    trials, failed = 2000, 0
    for _ in range(trials):
        p = rng.uniform(0, 0.4, 600)
        observed = float((rng.uniform(size=600) < p).sum())
        found = calibration_finding(cohorts(float(p.sum()), observed, float((p * (1 - p)).sum())), policy)
        failed += found.status is FAIL
    assert abs(failed / trials - 0.05) < 4 * math.sqrt(0.05 * 0.95 / trials)


def test_no_cohorts_are_unknown():
    assert calibration_finding(cohorts(1, 1, 1).clear(), POLICY).status is INSUFFICIENT


# Realized performance.


def outcome(rows: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    p = sigmoid(rng.normal(size=rows) - 1)
    return (rng.uniform(size=rows) < p).astype(np.int8), p, p >= 0.4


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


@pytest.mark.parametrize(("upper", "expected"), [(0.70, PASS), (0.6999, FAIL), (0.9, PASS)])
def test_realized_performance_fails_when_clearly_below(upper, expected):
    frame = pl.DataFrame(
        {
            "segment": ["all"],
            "metric": ["roc_auc"],
            "value": [0.6],
            "lower": [0.5],
            "upper": [upper],
            "rows": [900],
            "reason": [None],
        }
    )
    found = realized_finding(frame, 0.75, POLICY)
    assert found.status is expected
    assert (found.statistic, found.limit) == pytest.approx((0.6, 0.70))


def test_realized_performance_that_cannot_be_told_is_unknown_with_its_reason():
    few = realized_metrics(*outcome(50), POLICY)
    found = realized_finding(few, 0.75, POLICY)
    assert (found.status, found.reason) == (INSUFFICIENT, few["reason"][0])
    assert realized_finding(few.clear(), 0.75, POLICY).status is INSUFFICIENT


def test_realized_performance_notices_a_model_that_lost_its_ranking():
    label, p, flagged = outcome(2000)
    shuffled = np.random.default_rng(1).permutation(p)
    assert realized_finding(realized_metrics(label, p, flagged, POLICY), 0.72, POLICY).status is PASS
    assert realized_finding(realized_metrics(label, shuffled, flagged, POLICY), 0.72, POLICY).status is FAIL


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
    _, p, flagged = outcome(500)
    predictions = rows.with_columns(probability=pl.Series(p), prediction=pl.Series(flagged.astype(int)))
    frame = proxy_metrics(predictions, FEATURES)
    assert_no_nan(frame)
    assert frame["value"].null_count() == 0
