"""Expected metrics: by hand, against every possible labelling, against NannyML, and never a NaN."""

import itertools

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfheal_assets.core import metrics
from selfheal_assets.core.expected import (
    METRICS,
    business_value,
    expected_average_precision,
    expected_brier,
    expected_calibration_error,
    expected_confusion,
    expected_f1,
    expected_gini,
    expected_ks,
    expected_log_loss,
    expected_metrics,
    expected_precision,
    expected_recall,
    expected_roc_auc,
    expected_specificity,
    folded_normal_mean,
)
from selfheal_assets.core.policies import Costs
from selfheal_assets.core.score_groups import ScoreGroups, groups_of_labels, groups_of_rows

COSTS = Costs(missed_positive=10, refused_good=3, caught_positive=1, accepted_good=2, currency="USD")
# Four rows: two share a probability on a plateau, one of these is flagged.
SCORE = np.array([0.9, 0.1, 0.5, 0.4])
CALIBRATED = np.array([0.8, 0.0, 0.25, 0.25])
FLAGGED = np.array([True, False, True, False])


def by_name(frame: pl.DataFrame, column: str = "value") -> dict:
    return dict(frame.select("metric", column).iter_rows())


def plateaus(rows: int, seed: int, levels: int = 12) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores with some ties, a rising step map of them, and a threshold that cuts a step."""
    rng = np.random.default_rng(seed)
    score = np.round(rng.beta(1.5, 4, rows), 3)
    calibrated = np.sort(rng.uniform(size=levels))[np.minimum((score * levels).astype(int), levels - 1)]
    return score, calibrated, score >= 0.31


# Groups.


def test_groups_gather_neighbours_of_one_probability():
    groups = groups_of_rows(SCORE, CALIBRATED, FLAGGED)
    assert groups.probability.tolist() == [0.0, 0.25, 0.25, 0.8]
    assert groups.rows.tolist() == [1, 1, 1, 1]
    assert groups.flagged.tolist() == [False, False, True, True]
    assert groups.rank.tolist() == [0, 1, 1, 2]
    assert groups.score_sum == pytest.approx([0.1, 0.4, 0.5, 0.9])
    assert groups.score_square_sum == pytest.approx([0.01, 0.16, 0.25, 0.81])
    assert groups.log_score_sum == pytest.approx(np.log([0.1, 0.4, 0.5, 0.9]))
    assert groups.log_complement_sum == pytest.approx(np.log([0.9, 0.6, 0.5, 0.1]))


def test_one_probability_in_two_places_of_the_order_is_two_groups():
    groups = groups_of_rows(np.array([0.1, 0.2, 0.3]), np.array([0.5, 0.1, 0.5]), np.zeros(3, bool))
    assert groups.probability.tolist() == [0.5, 0.1, 0.5]


@pytest.mark.parametrize(
    ("score", "calibrated", "says"),
    [
        ([0.1, np.nan], [0.1, 0.2], "1 of 2 scores are not finite"),
        ([0.1, 0.2], [np.inf, 0.2], "1 of 2 scores are not finite"),
        ([0.1, 0.1], [0.1, 0.2], "two rows of one score"),
        ([0.1, 0.2], [0.1, 1.2], "1 of 2 calibrated probabilities lie outside"),
    ],
)
def test_rows_that_cannot_be_grouped(score, calibrated, says):
    with pytest.raises(ValueError, match=says):
        groups_of_rows(np.array(score), np.array(calibrated), np.zeros(2, bool))


# By hand.


def test_figures_of_four_rows_by_hand():
    groups = groups_of_rows(SCORE, CALIBRATED, FLAGGED)
    c = expected_confusion(groups)
    assert (c.tp, c.fp, c.fn, c.tn) == pytest.approx((1.05, 0.95, 0.25, 1.75))
    assert expected_precision(groups) == pytest.approx(1.05 / 2)
    assert expected_recall(groups) == pytest.approx(1.05 / 1.3)
    assert expected_specificity(groups) == pytest.approx(1.75 / 2.7)
    assert expected_f1(groups) == pytest.approx(1.05 / (1.05 + 0.6))
    # Negatives 0.2, 1.5, 1.0 from the top; each beats half of its own step and loses to all above.
    auc = (0.2 * 0.4 + 1.5 * (0.8 + 0.25) + 1.0 * 1.3) / (1.3 * 2.7)
    assert expected_roc_auc(groups) == pytest.approx(auc)
    assert expected_gini(groups) == pytest.approx(2 * auc - 1)
    assert expected_ks(groups) == pytest.approx(0.8 / 1.3 - 0.2 / 2.7)
    precisions = [0.8, 1.05 / 2, 1.3 / 3, 1.3 / 4]
    gained = np.array([0.8, 0.25, 0.25, 0.0])
    assert expected_average_precision(groups) == pytest.approx(gained @ precisions / 1.3)
    assert business_value(groups, COSTS) == pytest.approx((1.05 * 1 + 1.75 * 2 - 0.25 * 10 - 0.95 * 3) / 4)


@pytest.mark.parametrize(
    ("expected", "realized"), [(expected_brier, metrics.brier_score), (expected_log_loss, metrics.log_loss)]
)
def test_loss_is_the_mean_over_every_possible_labelling(expected, realized):
    total = 0.0
    for labels in itertools.product([0, 1], repeat=4):
        label = np.array(labels)
        chance = np.prod(np.where(label == 1, CALIBRATED, 1 - CALIBRATED))
        total += chance * realized(label, SCORE)
    assert expected(groups_of_rows(SCORE, CALIBRATED, FLAGGED)) == pytest.approx(total, rel=1e-12)


def test_certain_probabilities_give_the_realized_metrics():
    rng = np.random.default_rng(3)
    score = rng.permutation(np.linspace(0.01, 0.99, 400))
    label = (rng.uniform(size=400) < score).astype(int)
    groups = groups_of_rows(score, label.astype(float), score >= 0.6)
    assert expected_roc_auc(groups) == pytest.approx(metrics.roc_auc(label, score), rel=1e-12)
    assert expected_f1(groups) == pytest.approx(metrics.f1_score(label, score >= 0.6), rel=1e-12)
    assert expected_brier(groups) == pytest.approx(metrics.brier_score(label, score), rel=1e-12)
    assert expected_log_loss(groups) == pytest.approx(metrics.log_loss(label, score), rel=1e-12)
    bins = np.sort(np.arange(400) * 10 // 400)
    order = np.argsort(score)
    gaps = [abs(score[order][bins == b].mean() - label[order][bins == b].mean()) for b in range(10)]
    assert expected_calibration_error(groups) == pytest.approx(np.mean(gaps), rel=1e-3)


def test_calibration_error_expects_what_drawn_labels_show():
    score, calibrated, flagged = plateaus(3000, 5)
    rng = np.random.default_rng(6)
    order = np.argsort(score, kind="stable")
    gaps = []
    for _ in range(400):
        label = rng.uniform(size=3000) < calibrated
        gap = (label - score)[order].reshape(10, 300).mean(axis=1)
        gaps.append(np.abs(gap).mean())
    estimated = expected_calibration_error(groups_of_rows(score, calibrated, flagged))
    assert estimated == pytest.approx(np.mean(gaps), rel=0.01)


@pytest.mark.parametrize("rows", [1, 2, 5, 11])
def test_few_rows_and_certain_scores_stay_within_a_tables_range(rows):
    """Bins of a tenth of a row gave a calibration error of 1.26; rounding a Brier score of −1e-16."""
    rng = np.random.default_rng(rows)
    for _ in range(50):
        score = rng.random(rows)
        coin = groups_of_rows(score, np.full(rows, 0.5), score > 0.5)
        assert expected_calibration_error(coin) <= 1
        sure = 1 - score * 1e-9
        assert expected_brier(groups_of_rows(sure, np.ones(rows), sure > 0.5)) >= 0
    # One row is one bin: |y − s| by a folded normal, of a coin and a score of ½ √(2/π)/2.
    even = groups_of_rows(np.array([0.5]), np.array([0.5]), np.array([True]))
    assert expected_calibration_error(even) == pytest.approx(0.5 * np.sqrt(2 / np.pi))


def test_a_calibrated_score_has_a_calibration_error_by_chance_alone():
    p = np.linspace(0.05, 0.95, 1000)
    groups = groups_of_rows(p, p, p > 0.5)
    sigma = np.sqrt((p * (1 - p)).reshape(10, 100).sum(axis=1))
    assert expected_calibration_error(groups) == pytest.approx(
        np.sqrt(2 / np.pi) * sigma.sum() / 1000, rel=1e-6
    )


def test_folded_normal_by_simulation():
    draws = np.abs(np.random.default_rng(1).normal(0.7, 1.3, 400_000)).mean()
    found = folded_normal_mean(np.array([0.7, -0.7, -2.0]), np.array([1.3, 1.3, 0.0]))
    assert found == pytest.approx([draws, draws, 2.0], rel=5e-3)


# Against NannyML: its formulas, over all its rows.


@pytest.fixture(scope="module")
def nannyml_metrics():
    from selfheal_assets.settings import prepare_environment

    prepare_environment()
    from nannyml.performance_estimation.confidence_based import metrics as theirs

    return theirs


@pytest.mark.integration
@pytest.mark.parametrize("seed", range(4))
def test_equal_to_nannyml_row_by_row(nannyml_metrics, seed):
    score, calibrated, flagged = plateaus(20_000, seed, levels=30)
    groups = groups_of_rows(score, calibrated, flagged)
    one = flagged.astype(int)
    for name in ("f1", "precision", "recall", "specificity", "accuracy"):
        theirs = getattr(nannyml_metrics, f"estimate_{name}")(one, calibrated)
        assert METRICS[name][1](groups) == pytest.approx(theirs, rel=1e-12), name
    matrix = np.array([[2.0, -3.0], [-10.0, 1.0]])
    value = nannyml_metrics.estimate_business_value(one, calibrated, None, matrix) / len(one)
    assert business_value(groups, COSTS) == pytest.approx(value, rel=1e-12)
    assert expected_roc_auc(groups) == pytest.approx(
        nannyml_metrics.estimate_roc_auc(calibrated, score), abs=1e-7
    )
    assert expected_average_precision(groups) == pytest.approx(
        nannyml_metrics.estimate_ap(calibrated, score), abs=1e-7
    )


# What is not defined.


def groups_with(probability: list[float], flagged: list[bool]) -> ScoreGroups:
    score = np.linspace(0.1, 0.9, len(probability))
    return groups_of_rows(score, np.array(probability), np.array(flagged, dtype=bool))


@pytest.mark.parametrize(
    ("groups", "unknown"),
    [
        (groups_with([], []), {*METRICS, "business_value"}),
        (
            groups_with([0.0, 0.0], [False, False]),
            {"roc_auc", "average_precision", "f1", "precision", "recall", "ks", "gini"},
        ),
        (groups_with([1.0, 1.0], [True, True]), {"roc_auc", "specificity", "ks", "gini"}),
        (groups_with([0.2, 0.4], [False, False]), {"precision"}),
        (groups_with([0.2], [True]), set()),
    ],
)
def test_what_is_not_defined_has_a_reason(groups, unknown):
    frame = expected_metrics(groups, COSTS)
    assert set(frame.filter(pl.col("value").is_null())["metric"]) == unknown
    assert set(frame.filter(pl.col("reason").is_not_null())["metric"]) == unknown


def test_what_was_not_collected_or_declared_has_a_reason():
    full = groups_of_rows(SCORE, CALIBRATED, FLAGGED)
    bare = ScoreGroups(
        full.probability, full.rows, full.flagged, full.score_sum, full.score_square_sum, full.rank
    )
    frame = expected_metrics(bare)
    reasons = by_name(frame.filter(pl.col("value").is_null()), "reason")
    assert "ln(score)" in reasons.pop("log_loss")
    assert "costs" in reasons.pop("business_value")
    assert not reasons


def test_the_table_names_units():
    frame = expected_metrics(groups_of_rows(SCORE, CALIBRATED, FLAGGED), COSTS)
    assert frame.schema == {"metric": pl.String, "value": pl.Float64, "unit": pl.String, "reason": pl.String}
    units = by_name(frame, "unit")
    assert (units["business_value"], units["true_positives"], units["log_loss"]) == (
        "USD per case",
        "rows",
        "nats",
    )
    assert by_name(frame)["accuracy"] == pytest.approx(2.8 / 4)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.floats(0, 1), st.sampled_from([0.0, 1e-300, 0.3, 0.5, 1.0]), st.booleans()), max_size=30
    )
)
def test_no_nan_and_no_infinity_whatever_the_rows(rows):
    score = np.array(sorted({r[0] for r in rows}))
    calibrated = np.sort([r[1] for r in rows][: len(score)])
    flagged = np.array([r[2] for r in rows][: len(score)], dtype=bool)
    frame = expected_metrics(groups_of_rows(score, calibrated, flagged), COSTS)
    assert frame["value"].drop_nulls().is_finite().all()
    assert (frame["value"].is_null() == frame["reason"].is_not_null()).all()
    shares = frame.filter(pl.col("unit") == "share", pl.col("metric") != "gini")["value"].drop_nulls()
    assert ((shares >= 0) & (shares <= 1 + 1e-12)).all()


# Labels are certain probabilities.


def test_labelled_rows_give_the_realized_metrics_with_ties():
    rng = np.random.default_rng(8)
    score = np.round(rng.beta(2, 3, 3000), 2)
    label = (rng.uniform(size=3000) < score).astype(int)
    flagged = score >= 0.5
    flagged[:40] = ~flagged[:40]  # two model versions: one score, two decisions
    found = by_name(expected_metrics(groups_of_labels(score, label, flagged)))
    hits = int((flagged & (label == 1)).sum())
    positive, negative = np.sort(score[label == 1]), np.sort(score[label == 0])
    at = np.unique(score)
    apart = [np.searchsorted(x, at, side="right") / len(x) for x in (positive, negative)]
    wanted = {
        "roc_auc": metrics.roc_auc(label, score),
        "f1": metrics.f1_score(label, flagged),
        "precision": hits / flagged.sum(),
        "recall": hits / label.sum(),
        "accuracy": (flagged == label).mean(),
        "brier": metrics.brier_score(label, score),
        "log_loss": metrics.log_loss(label, score),
        "ks": np.abs(apart[0] - apart[1]).max(),
        "true_positives": hits,
    }
    assert {name: found[name] for name in wanted} == pytest.approx(wanted, rel=1e-12)


def test_labelled_rows_without_ties_give_the_average_precision():
    from sklearn.metrics import average_precision_score

    rng = np.random.default_rng(9)
    score = rng.permutation(np.linspace(0.01, 0.99, 500))
    label = (rng.uniform(size=500) < score).astype(int)
    groups = groups_of_labels(score, label, score > 0.5)
    assert expected_average_precision(groups) == pytest.approx(
        average_precision_score(label, score), rel=1e-12
    )
