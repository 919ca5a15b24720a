"""Realized metrics: one row each, by hand, with intervals, reasons and the rows that are missing; segments pooled."""

import math
import time

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from selfheal_assets.core import metrics
from selfheal_assets.core.intervals import resample, score_groups
from selfheal_assets.core.policies import AlarmPolicy, Costs, RealizedFigures
from selfheal_assets.core.realized import (
    REALIZED_METRICS,
    REALIZED_SCHEMA,
    realized_by_segment,
    realized_metrics,
)
from selfheal_assets.core.spec import Segment

POLICY = AlarmPolicy()
COSTS = Costs(currency="USD", missed_positive=10, accepted_good=1)


def outcome(rows: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    p = 1 / (1 + np.exp(-rng.normal(size=rows) + 1))
    return (rng.uniform(size=rows) < p).astype(np.int8), p, p >= 0.4


def by_metric(frame: pl.DataFrame) -> dict[str, dict]:
    return {row["metric"]: row for row in frame.iter_rows(named=True)}


def assert_sound(frame: pl.DataFrame) -> None:
    """No NaN, a reason exactly where there is no value, and values within their intervals."""
    assert frame.schema == REALIZED_SCHEMA
    for name, dtype in frame.schema.items():
        if dtype.is_float():
            assert frame[name].is_nan().sum() == 0, name
            assert frame[name].is_infinite().sum() == 0, name
    assert (frame["value"].is_null() == frame["reason"].is_not_null()).all()
    assert (frame["status"].eq("PASS") == frame["value"].is_not_null()).all()
    assert frame["lower"].is_null().eq(frame["upper"].is_null()).all()
    known = frame.drop_nulls("lower")
    assert (known["lower"] <= known["value"]).all()
    assert (known["value"] <= known["upper"]).all()


def test_every_metric_by_hand():
    label = np.array([1, 0] * 100, dtype=np.int8)
    p = np.array([0.8, 0.2] * 100)
    p[0] = 0.1  # one positive below all negatives, and below the threshold
    frame = realized_metrics(label, p, p >= 0.5, POLICY, COSTS)
    assert_sound(frame)
    found = by_metric(frame)
    assert tuple(found) == REALIZED_METRICS
    loss = -(199 * math.log(0.8) + math.log(0.1)) / 200
    assert {m: r["value"] for m, r in found.items()} == pytest.approx(
        {
            "roc_auc": 0.99, "gini": 0.98, "average_precision": 0.99 + 0.01 * 100 / 200, "ks": 0.99,
            "f1": 198 / 199, "precision": 1, "recall": 0.99, "specificity": 1, "accuracy": 0.995,
            "brier": (199 * 0.04 + 0.81) / 200, "log_loss": loss,
            "expected_over_observed": (99 * 0.8 + 100 * 0.2 + 0.1) / 100,
            # Ten bins of equal count where ties allow: the low score with the negatives or alone.
            "expected_calibration_error": (abs(0.1 - 1) + 100 * 0.2 + 99 * 0.2) / 200,
            "true_positives": 99, "false_positives": 0, "false_negatives": 1, "true_negatives": 100,
            "business_value": (100 * 1 - 10) / 200,
        }
    )  # fmt: skip
    assert set(frame["rows"]) == {200}
    assert set(frame["positives"]) == {100}
    assert set(frame["segment"]) == {"all"}
    assert found["business_value"]["unit"] == "USD per case"
    assert {m: r["method"] for m, r in found.items() if r["lower"] is None} == dict.fromkeys(
        ("true_positives", "false_positives", "false_negatives", "true_negatives"), "count"
    )


def test_intervals_are_delongs_wilsons_and_the_bootstraps():
    label, p, flagged = outcome(2000)
    many = RealizedFigures(resamples=5000)
    found = by_metric(realized_metrics(label, p, flagged, POLICY, figures=many))
    delong = metrics.roc_auc_interval(label, p, 0.95)
    assert (found["roc_auc"]["lower"], found["roc_auc"]["upper"]) == (delong.lower, delong.upper)
    assert found["gini"]["upper"] == pytest.approx(2 * delong.upper - 1)
    assert found["gini"]["lower"] == pytest.approx(2 * delong.lower - 1)
    brier, error = found["brier"], np.std((p - label) ** 2) / math.sqrt(2000)
    for side, end in ((-1, "lower"), (1, "upper")):
        assert brier[end] == pytest.approx(brier["value"] + side * 1.96 * error, abs=0.2 * error)
    ratio, share = found["expected_over_observed"], label.mean()
    assert ratio["upper"] / ratio["value"] == pytest.approx(
        share / (share - 1.96 * math.sqrt(share * (1 - share) / 2000)), rel=0.005
    )
    assert ratio["lower"] / ratio["value"] == pytest.approx(
        share / (share + 1.96 * math.sqrt(share * (1 - share) / 2000)), rel=0.005
    )
    draws = resample(score_groups(label, p, 10), 5000, 0)
    for metric, shift in (("ks", draws.gap_shift), ("expected_calibration_error", draws.calibration_shift)):
        row, reach = found[metric], np.quantile(shift, 0.95)
        assert row["upper"] - row["value"] == pytest.approx(reach)
        assert row["lower"] == pytest.approx(max(0, row["value"] - reach))
    assert 0 < found["ks"]["lower"] < found["ks"]["value"]
    wider = by_metric(realized_metrics(label, p, flagged, POLICY, figures=RealizedFigures(confidence=0.99)))
    for metric, row in found.items():
        if row["lower"] is not None:
            assert wider[metric]["upper"] - wider[metric]["lower"] > row["upper"] - row["lower"], metric


def test_average_precisions_interval_covers_as_often_as_it_says():
    rng, trials, covered = np.random.default_rng(5), 300, 0
    y, s = (rng.uniform(size=400_000) < 0.2).astype(np.int8), rng.normal(size=400_000)
    truth = metrics.average_precision(y, s + y)
    only = RealizedFigures(confidence=0.9, resamples=300)
    for seed in range(trials):
        label = (rng.uniform(size=600) < 0.2).astype(np.int8)
        p = norm.cdf(rng.normal(size=600) + label)
        row = by_metric(realized_metrics(label, p, p > 0.8, POLICY, seed=seed, figures=only))[
            "average_precision"
        ]
        covered += row["lower"] <= truth <= row["upper"]
    assert 0.9 - 0.06 < covered / trials < 0.9 + 0.06


def test_rows_needed_are_those_of_the_wanted_precision():
    label, p, flagged = outcome(4000, seed=3)
    frame = realized_metrics(label, p, flagged, POLICY, figures=RealizedFigures(half_width=0.01))
    found = by_metric(frame)
    share = found["accuracy"]["value"]
    assert found["accuracy"]["rows_needed"] == pytest.approx(
        1.96**2 * share * (1 - share) / 0.01**2, rel=0.01
    )
    needed = found["roc_auc"]["rows_needed"]
    label, p, flagged = outcome(needed, seed=4)
    reached = by_metric(realized_metrics(label, p, flagged, POLICY))["roc_auc"]
    assert (reached["upper"] - reached["lower"]) / 2 == pytest.approx(0.01, rel=0.05)


@pytest.mark.parametrize(
    ("rows", "positives", "enough"), [(200, 20, True), (199, 20, False), (200, 19, False), (0, 0, False)]
)
def test_metrics_from_enough_rows_on(rows, positives, enough):
    label = (np.arange(rows) < positives).astype(np.int8)
    frame = realized_metrics(label, np.linspace(0.1, 0.9, rows), np.ones(rows, dtype=bool), POLICY, COSTS)
    assert_sound(frame)
    measured = frame.filter(pl.col("method") != "count")
    assert set(measured["status"]) == {"PASS" if enough else "INSUFFICIENT_DATA"}
    if not enough:
        said = f"{rows} matured labels with {positives} positives; the policy asks for 200 and 20"
        assert measured["reason"].str.starts_with(said).all()
    cells = frame.filter(pl.col("method") == "count")["value"].to_list()
    assert cells == [positives, rows - positives, 0, 0], "counts are told however few"


def test_too_few_rows_say_how_many_it_takes():
    label = (np.arange(300) < 6).astype(np.int8)
    found = by_metric(realized_metrics(label, np.linspace(0.9, 0.1, 300), label == 1, POLICY))
    assert found["roc_auc"]["rows_needed"] == 1000, "20 positives at 2 %"
    # 1.96²/4/0.02² = 2401 cases: of all for accuracy, of positives for recall, at 2 % of them.
    assert found["accuracy"]["reason"].endswith("at most 2401 for an interval of ±0.02")
    assert found["recall"]["reason"].endswith(
        "about 1000 labels at this share of positives; at most 120046 for an interval of ±0.02"
    )
    assert found["ks"]["reason"].endswith("about 1000 labels at this share of positives")
    none = by_metric(realized_metrics(label[:0], np.empty(0), label[:0] == 1, POLICY))
    assert none["roc_auc"]["rows_needed"] is None
    assert none["roc_auc"]["reason"] == "0 matured labels with 0 positives; the policy asks for 200 and 20"


def test_one_class_leaves_rows_with_reasons_beside_those_that_can_be_told():
    ones = np.ones(300, dtype=np.int8)
    frame = realized_metrics(ones, np.linspace(0.1, 0.9, 300), ones == 1, POLICY)
    assert_sound(frame)
    found = by_metric(frame)
    for metric in ("roc_auc", "gini", "average_precision", "ks"):
        assert "needs both classes: 300 positives among 300" in found[metric]["reason"]
    assert "specificity needs at least one negative" in found["specificity"]["reason"]
    assert found["f1"]["value"] == found["recall"]["value"] == 1
    zeros = realized_metrics(0 * ones, np.linspace(0.1, 0.9, 300), ones == 0, AlarmPolicy(min_positives=1))
    assert_sound(zeros)
    assert "0 positives" in by_metric(zeros)["roc_auc"]["reason"]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 1.5, -0.1])
def test_a_score_that_is_no_probability_is_a_reason(bad):
    label, p, flagged = outcome(400)
    p[3] = bad
    frame = realized_metrics(label, p, flagged, POLICY)
    assert_sound(frame)
    found = by_metric(frame)
    assert found["roc_auc"]["reason"] == "1 of 400 scores are no probabilities (missing, or not in 0..1)"
    assert found["recall"]["value"] is not None, "decisions are known"


def test_a_constant_score_ranks_nothing_and_can_be_told():
    label, _, _ = outcome(400)
    found = by_metric(realized_metrics(label, np.full(400, 0.3), np.zeros(400, dtype=bool), POLICY))
    assert found["roc_auc"]["value"] == 0.5
    assert found["ks"]["value"] == 0
    assert found["average_precision"]["value"] == pytest.approx(label.mean())
    assert "precision needs at least one flagged case" in found["precision"]["reason"]


def test_a_label_that_is_no_label_is_an_error():
    label, p, flagged = outcome(300)
    label[:2] = 2
    with pytest.raises(ValueError, match="2 of 300 labels are neither 0 nor 1"):
        realized_metrics(label, p, flagged, POLICY)


def test_without_costs_the_business_value_is_a_row_that_says_so():
    row = by_metric(realized_metrics(*outcome(400), POLICY))["business_value"]
    assert row["value"] is None
    assert row["reason"].startswith("no costs in the policy")


def test_the_seed_alone_decides():
    one, same, other = (realized_metrics(*outcome(900), POLICY, seed=s) for s in (1, 1, 2))
    assert one.equals(same)
    assert not one.equals(other)


AREA, SIZE = Segment(name="area", feature="area"), Segment(name="size", feature="size", cuts=(10.0, 20.0))


def segmented(rows: int = 3000) -> pl.DataFrame:
    label, p, flagged = outcome(rows, seed=7)
    at = np.arange(rows)
    area = np.where(at < 100, "island", np.where(at < 150, "sea", np.where(at % 2, "urban", "rural")))
    return pl.DataFrame(
        {"label": label, "probability": p, "flagged": flagged, "area": area.tolist(), "size": at % 15}
    )


def test_segments_are_the_whole_first_then_each_and_the_smallest_pooled():
    cases = segmented()
    frame = realized_by_segment(cases, (AREA, SIZE), POLICY, COSTS)
    assert_sound(frame)
    names = frame["segment"].unique(maintain_order=True).to_list()
    assert names == ["all", "area=rural", "area=urban", "area=other", "size=10–20", "size=< 10"]
    assert frame.height == len(names) * len(REALIZED_METRICS)
    for name, where in {"area=rural": pl.col("area") == "rural", "size=10–20": pl.col("size") >= 10}.items():
        part = cases.filter(where)
        alone = realized_metrics(
            *(part[c].to_numpy() for c in ("label", "probability", "flagged")), POLICY, COSTS
        )
        assert frame.filter(pl.col("segment") == name).drop("segment").equals(alone.drop("segment"))
    pooled = frame.filter(pl.col("segment") == "area=other")
    held = {a: cases.filter(pl.col("area") == a)["label"].sum() for a in ("island", "sea")}
    assert set(pooled["note"]) == {
        "pooled, as each has fewer than 200 rows or 20 positives: "
        f"island (100 rows, {held['island']} positives), sea (50 rows, {held['sea']} positives)"
    }
    assert set(pooled["rows"]) == {150}
    assert pooled["reason"].drop_nulls()[0].startswith("150 matured labels")
    assert frame.filter(pl.col("segment") != "area=other")["note"].null_count() == 5 * len(REALIZED_METRICS)


def test_a_value_that_is_called_other_is_not_mixed_with_the_pooled():
    cases = segmented().with_columns(area=pl.col("area").replace("urban", "other"))
    names = realized_by_segment(cases, (AREA,), POLICY)["segment"].unique(maintain_order=True).to_list()
    assert names == ["all", "area=other", "area=rural", "area=other (pooled)"]


def test_missing_values_are_a_segment_of_their_own():
    cases = segmented().with_columns(area=pl.when(pl.col("area") == "urban").then(None).otherwise("area"))
    assert "area=missing" in realized_by_segment(cases, (AREA,), POLICY)["segment"].to_list()


def test_no_cases_have_one_row_per_metric_and_no_segment():
    frame = realized_by_segment(segmented().clear(), (AREA, SIZE), POLICY)
    assert_sound(frame)
    assert frame["segment"].unique().to_list() == ["all"]


def test_a_hundred_thousand_rows_take_seconds_not_minutes():
    data = outcome(100_000)
    started = time.process_time()
    realized_metrics(*data, POLICY, COSTS)
    assert time.process_time() - started < 2


drawn_rows = st.lists(
    st.tuples(st.integers(0, 1), st.one_of(st.floats(), st.sampled_from([0.0, 0.5, 1.0])), st.booleans()),
    max_size=25,
)


@settings(max_examples=80, deadline=None, derandomize=True)
@given(drawn_rows, st.integers(1, 5), st.integers(1, 3))
def test_whatever_comes_the_table_is_sound(drawn, min_rows, min_positives):
    label, p, flagged = (
        np.array([row[i] for row in drawn], dtype=t) for i, t in enumerate((np.int8, np.float64, bool))
    )
    policy = AlarmPolicy(min_rows=min_rows, min_positives=min_positives)
    frame = realized_metrics(label, p, flagged, policy, COSTS, figures=RealizedFigures(resamples=200))
    assert_sound(frame)
    assert frame["metric"].to_list() == list(REALIZED_METRICS)
