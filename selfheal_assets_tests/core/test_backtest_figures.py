"""Figures under weights are the plain figures, resamples are paired, and costs add up."""

import numpy as np
import pytest

from selfheal_assets.core import metrics
from selfheal_assets.core.backtest_figures import Answers, compared_figures, off_balance, resampled
from selfheal_assets.core.hindsight import by_chunk, summarize
from selfheal_assets.core.policies import Costs

COSTS = Costs(missed_positive=10, refused_good=1, caught_positive=2, accepted_good=0.5)


def answers(seed: int = 0, size: int = 900, strength: float = 1.0, **given) -> Answers:
    rng = np.random.default_rng(0)
    label = (rng.uniform(size=size) < 0.3).astype(np.int8)
    chunk = np.sort(rng.integers(0, 4, size))
    noise = np.random.default_rng(seed).normal(size=size)
    p = np.round(1 / (1 + np.exp(1 - strength * label - noise)), 2)  # rounded, so that scores tie
    return Answers(label, p, p >= 0.4, chunk, **given)


def test_with_all_weights_one_they_are_the_figures():
    a = answers()
    found = a.figures(np.ones(len(a.label)))
    assert found["auc"] == pytest.approx(metrics.roc_auc(a.label, a.probability))
    assert found["f1"] == pytest.approx(metrics.f1_score(a.label, a.flagged))
    assert found["brier"] == pytest.approx(metrics.brier_score(a.label, a.probability))
    assert found["log_loss"] == pytest.approx(
        metrics.log_loss(a.label, np.clip(a.probability, 1e-6, 1 - 1e-6))
    )
    assert found["expected_over_observed"] == pytest.approx(
        metrics.expected_over_observed(a.label, a.probability)
    )


def test_the_auc_within_chunks_is_hindsights():
    import polars as pl

    a = answers()
    scored = pl.DataFrame(
        {"chunk": a.chunk, "label": a.label, "probability": a.probability, "first": a.probability}
    ).with_columns(
        event_time=pl.lit(0).cast(pl.Datetime("us")), chunk=pl.col("chunk").cast(pl.Datetime("us"))
    )
    expected = summarize(scored, [], None)["auc_within_healed"]
    assert round(a.figures(np.ones(len(a.label)))["auc_within"], 4) == expected
    off = by_chunk(scored).select((pl.col("expected") - pl.col("observed")).abs().sum()).item()
    assert a.figures(np.ones(len(a.label)))["calibration_error"] == pytest.approx(off / len(a.label))


def test_a_weight_is_a_case_that_is_there_so_often():
    a = answers()
    weight = np.random.default_rng(5).integers(0, 3, len(a.label)).astype(float)
    times = np.repeat(np.arange(len(a.label)), weight.astype(int))
    drawn = Answers(a.label[times], a.probability[times], a.flagged[times], a.chunk[times], COSTS)
    plain = Answers(a.label, a.probability, a.flagged, a.chunk, COSTS)
    assert plain.figures(weight) == pytest.approx(drawn.figures(np.ones(len(times))))


def test_a_chunk_of_one_class_is_left_out_of_the_auc_within():
    label = np.array([0, 1, 0, 1, 0, 0], dtype=np.int8)
    p = np.array([0.1, 0.9, 0.9, 0.1, 0.5, 0.6])
    found = Answers(label, p, p > 0.5, np.array([0, 0, 1, 1, 2, 2])).figures(np.ones(6))
    assert found["auc_within"] == 0.5


def test_costs_are_what_was_lost_less_what_was_gained_and_what_retraining_took():
    label = np.array([1, 1, 0, 0, 0], dtype=np.int8)
    flagged = np.array([True, False, True, False, False])
    a = Answers(label, flagged.astype(float), flagged, np.zeros(5, dtype=int), COSTS, spent=100.0)
    assert a.figures(np.ones(5))["cost"] == pytest.approx(100 + 10 + 1 - 2 - 2 * 0.5)
    unpriced = Answers(label, flagged.astype(float), flagged, np.zeros(5, dtype=int))
    assert np.isnan(unpriced.figures(np.ones(5))["cost"])


def test_differences_are_paired_and_repeatable():
    both = {"one": answers(), "same": answers(), "better": answers(strength=2.0)}
    rows = compared_figures(both, "one", 200, 3, 0.95)
    found = {(policy, metric): row for policy, _, metric, *row in rows}
    assert found["same", "auc"] == [0, 0, 0], "the same answers differ by nothing in every resample"
    difference, lower, upper = found["better", "auc"]
    assert 0 < lower < difference < upper
    assert {m for p, m in found if p == "same"} == {
        "auc", "auc_within", "f1", "brier", "log_loss", "expected_over_observed", "calibration_error", "off_balance",
    }  # fmt: skip
    assert rows == compared_figures(both, "one", 200, 3, 0.95)
    assert rows != compared_figures(both, "one", 200, 4, 0.95)


def test_intervals_hold_what_they_promise():
    """The bootstrap's spread of the AUC is DeLong's standard error."""
    a = answers(size=3000)
    drawn = resampled({"it": a}, 400, 0)["it"]["auc"]
    assert np.std(drawn) == pytest.approx(metrics.roc_auc_error(a.label, a.probability), rel=0.15)


@pytest.mark.parametrize(("ratio", "expected"), [(1, 0), (2, np.log(2)), (0.5, np.log(2))])
def test_off_balance_is_the_same_either_way(ratio, expected):
    assert off_balance(ratio) == pytest.approx(expected)


def test_off_balance_of_nothing_is_unknown():
    assert np.isnan(off_balance(float("nan"))) and np.isnan(off_balance(0))
