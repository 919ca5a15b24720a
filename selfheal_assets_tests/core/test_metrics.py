"""Metrics agree with scikit-learn and with hand-made numbers; their intervals cover; none returns NaN."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm
from sklearn import metrics as sk

from selfheal_assets.core import metrics
from selfheal_assets.core.metrics import UndefinedMetric


def sample(rows: int, seed: int, decimals: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels and scores; few decimals make many ties."""
    rng = np.random.default_rng(seed)
    label = (rng.uniform(size=rows) < 0.3).astype(np.int8)
    return label, np.round(np.clip(rng.normal(0.3 + 0.2 * label, 0.2), 0, 1), decimals)


@pytest.mark.parametrize("decimals", [1, 2, 12])
@pytest.mark.parametrize("seed", range(4))
def test_values_are_those_of_scikit_learn(seed, decimals):
    label, p = sample(400, seed, decimals)
    flagged = p >= 0.4
    assert metrics.roc_auc(label, p) == pytest.approx(sk.roc_auc_score(label, p), abs=1e-12)
    assert metrics.f1_score(label, flagged) == pytest.approx(sk.f1_score(label, flagged), abs=1e-12)
    assert metrics.brier_score(label, p) == pytest.approx(sk.brier_score_loss(label, p), abs=1e-12)
    inside = np.clip(p, 0.01, 0.99)
    assert metrics.log_loss(label, inside) == pytest.approx(sk.log_loss(label, inside), abs=1e-12)
    assert metrics.average_precision(label, p) == pytest.approx(
        sk.average_precision_score(label, p), abs=1e-12
    )
    false, true, _ = sk.roc_curve(label, p, drop_intermediate=False)
    assert metrics.kolmogorov_smirnov(label, p) == pytest.approx(np.abs(true - false).max(), abs=1e-12)


def test_average_precision_by_hand():
    label, p = np.array([1, 0, 1, 1, 0]), np.array([0.9, 0.8, 0.8, 0.3, 0.1])
    assert metrics.average_precision(label, p) == pytest.approx((1 + 2 / 3 + 3 / 4) / 3)


def test_equal_count_bins_hold_equally_many_and_never_part_ties():
    assert metrics.equal_count_bins(np.arange(8) / 8, 4).tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert metrics.equal_count_bins(np.arange(8)[::-1] / 8, 4).tolist() == [3, 3, 2, 2, 1, 1, 0, 0]
    assert metrics.equal_count_bins(np.array([0.1, 0.2, 0.2, 0.2, 0.3, 0.4]), 3).tolist() == [
        0,
        1,
        1,
        1,
        2,
        2,
    ]
    assert len(set(metrics.equal_count_bins(np.full(9, 0.5), 10).tolist())) == 1
    for bins in (7, 10):
        counts = np.bincount(metrics.equal_count_bins(np.random.default_rng(0).uniform(size=1003), bins))
        assert set(counts.tolist()) <= {1003 // bins, 1003 // bins + 1}


def test_expected_calibration_error_by_hand():
    # Two bins of two: means 0.15 and 0.75, shares 0.5 and 0.5.
    label, p = np.array([1, 0, 1, 0]), np.array([0.1, 0.2, 0.7, 0.8])
    assert metrics.expected_calibration_error(label, p, 2) == pytest.approx((0.35 + 0.25) / 2)
    assert metrics.expected_calibration_error(label, p, 1) == pytest.approx(0.05)


def test_log_loss_of_a_certain_error_is_large_but_finite():
    assert metrics.log_loss(np.array([1, 0]), np.array([0.0, 0.0])) == pytest.approx(-math.log(1e-12) / 2)


def test_f1_by_hand():
    label = np.array([1, 1, 1, 0, 0])
    assert metrics.f1_score(label, np.array([True, True, False, True, False])) == pytest.approx(4 / 6)
    assert metrics.f1_score(label, np.zeros(5, dtype=bool)) == 0
    assert metrics.f1_score(np.zeros(5, dtype=np.int8), np.zeros(5, dtype=bool)) == 0


def test_expected_over_observed_by_hand():
    assert metrics.expected_over_observed(np.array([1, 0, 0]), np.array([0.5, 0.5, 0.2])) == pytest.approx(
        1.2
    )


def test_delong_by_hand():
    # Positives 0.8 and 0.4 outrank 3 and 2 of the 3 negatives; negatives are outranked by 1, 2 and 2 of the 2
    # positives: variance = var(1, 2/3)/2 + var(1/2, 1, 1)/3 = 1/36 + 1/36.
    label, p = np.array([1, 1, 0, 0, 0]), np.array([0.8, 0.4, 0.5, 0.3, 0.1])
    difference = metrics.roc_auc_difference(label, np.zeros(5), p, 0.95)
    assert difference.value == pytest.approx(5 / 6 - 1 / 2)
    assert difference.upper - difference.value == pytest.approx(norm.ppf(0.975) * math.sqrt(1 / 18))
    interval = metrics.roc_auc_interval(label, p)
    assert interval.value == pytest.approx(5 / 6)
    assert interval.lower == pytest.approx(5 / 6 - norm.ppf(0.975) * math.sqrt(1 / 18))
    assert interval.upper == 1


def test_delong_interval_is_the_published_one():
    # The example in the README of the pauc package (srijitseal/pauc): AUC 0.708, 95 % interval (0.378, 1.000).
    label = np.array([0, 0, 1, 1, 0, 1, 0, 0, 1, 1, 0, 1])
    p = np.array([0.1, 0.35, 0.24, 0.8, 0.2, 0.85, 0.13, 0.85, 0.74, 0.58, 0.71, 0.25])
    found = metrics.roc_auc_interval(label, p)
    assert [round(x, 3) for x in (found.value, found.lower, found.upper)] == [0.708, 0.378, 1.0]


@pytest.mark.parametrize("decimals", [1, 12])
def test_paired_delong_is_the_textbook_covariance(decimals):
    label, a = sample(120, 3, decimals)
    b = np.round(0.5 * a + 0.5 * sample(120, 4, decimals)[1], decimals)

    def components(p):
        kernel = np.array([[(x > y) + 0.5 * (x == y) for y in p[label == 0]] for x in p[label == 1]])
        return kernel.mean(axis=1), kernel.mean(axis=0)

    (up_a, down_a), (up_b, down_b) = components(a), components(b)
    contrast = np.array([-1, 1])
    covariance = np.cov(up_a, up_b) / len(up_a) + np.cov(down_a, down_b) / len(down_a)
    half = norm.ppf(0.95) * math.sqrt(contrast @ covariance @ contrast)
    found = metrics.roc_auc_difference(label, a, b, 0.90)
    assert found.value == pytest.approx(sk.roc_auc_score(label, b) - sk.roc_auc_score(label, a))
    assert (found.lower, found.upper) == pytest.approx((found.value - half, found.value + half))


def test_delong_interval_covers_the_truth_as_often_as_it_says():
    # Binormal scores: AUC = Phi(d / sqrt(2)). 1,500 trials at 90 %: the Monte Carlo error is 0.8 points.
    rng = np.random.default_rng(11)
    label = np.repeat([1, 0], [60, 140])
    truth, trials, covered = norm.cdf(1 / math.sqrt(2)), 1500, 0
    for _ in range(trials):
        found = metrics.roc_auc_interval(label, rng.normal(size=200) + label, 0.90)
        covered += found.lower <= truth <= found.upper
    assert 0.90 - 0.03 < covered / trials < 0.90 + 0.03


def test_paired_delong_interval_covers_a_difference_of_correlated_models():
    rng = np.random.default_rng(12)
    label = np.repeat([1, 0], [60, 140])
    truth, trials, covered = norm.cdf(1.2 / math.sqrt(2)) - norm.cdf(0.8 / math.sqrt(2)), 1500, 0
    for _ in range(trials):
        shared = rng.normal(size=200)
        a, b = (0.8 * shared + 0.6 * rng.normal(size=200) + d * label for d in (0.8, 1.2))
        found = metrics.roc_auc_difference(label, a, b, 0.90)
        covered += found.lower <= truth <= found.upper
    assert 0.90 - 0.03 < covered / trials < 0.90 + 0.03


@pytest.mark.parametrize("label", [np.zeros(5, dtype=np.int8), np.ones(5, dtype=np.int8)])
@pytest.mark.parametrize(
    "metric",
    [
        metrics.roc_auc,
        metrics.roc_auc_interval,
        lambda label, p: metrics.roc_auc_difference(label, p, p),
        metrics.average_precision,
        metrics.kolmogorov_smirnov,
    ],
)
def test_ranking_metrics_of_one_class_are_undefined(metric, label):
    with pytest.raises(UndefinedMetric, match=r"needs both classes: [05] positives among 5 labelled rows"):
        metric(label, np.linspace(0, 1, 5))


def test_an_interval_from_a_single_positive_is_undefined():
    with pytest.raises(UndefinedMetric, match="at least two rows of each class"):
        metrics.roc_auc_interval(np.array([1, 0, 0]), np.array([0.9, 0.2, 0.1]))


def test_expected_over_observed_without_a_positive_is_undefined():
    with pytest.raises(UndefinedMetric, match="at least one positive among 2"):
        metrics.expected_over_observed(np.array([0, 0]), np.array([0.1, 0.2]))


OF_LABEL_AND_SCORE = [
    metrics.average_precision,
    metrics.kolmogorov_smirnov,
    metrics.expected_calibration_error,
    metrics.roc_auc,
    metrics.roc_auc_interval,
    metrics.brier_score,
    metrics.log_loss,
    metrics.expected_over_observed,
    metrics.best_f1_threshold,
]


@pytest.mark.parametrize("metric", OF_LABEL_AND_SCORE)
def test_no_rows_are_undefined(metric):
    with pytest.raises(UndefinedMetric):
        metric(np.empty(0, dtype=np.int8), np.empty(0))


@pytest.mark.parametrize("metric", OF_LABEL_AND_SCORE)
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_score_that_is_not_finite_is_undefined(metric, bad):
    with pytest.raises(UndefinedMetric, match="1 of 4 scores are not finite"):
        metric(np.array([1, 0, 1, 0]), np.array([0.5, bad, 0.2, 0.1]))


rows = st.lists(
    st.tuples(st.integers(0, 1), st.one_of(st.floats(0, 1), st.sampled_from([0.0, 0.25, 0.5, 1.0]))),
    max_size=30,
)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(rows)
def test_no_metric_is_ever_nan(drawn):
    label = np.array([row[0] for row in drawn], dtype=np.int8)
    p = np.array([row[1] for row in drawn], dtype=np.float64)
    for metric in OF_LABEL_AND_SCORE:
        try:
            found = metric(label, p)
        except UndefinedMetric:
            continue
        values = [found.value, found.lower, found.upper] if isinstance(found, metrics.Interval) else [found]
        assert np.isfinite(values).all(), metric
    assert math.isfinite(metrics.f1_score(label, p >= 0.5))


@settings(max_examples=150, deadline=None, derandomize=True)
@given(rows)
def test_auc_is_symmetric_under_a_flip_of_labels_and_of_scores(drawn):
    label = np.array([row[0] for row in drawn], dtype=np.int8)
    # Rounded: 1 - p would tie scores that differ by less than the last bit of 1.
    p = np.round(np.array([row[1] for row in drawn], dtype=np.float64), 6)
    if len(set(label.tolist())) < 2:
        return
    auc = metrics.roc_auc(label, p)
    assert 0 <= auc <= 1
    assert metrics.roc_auc(1 - label, np.round(1 - p, 6)) == pytest.approx(auc, abs=1e-12)
    assert metrics.roc_auc(1 - label, p) == pytest.approx(1 - auc, abs=1e-12)


def test_best_f1_threshold_is_the_best_of_all_scores():
    label, p = sample(300, 5, 2)
    best = max(metrics.f1_score(label, p >= t) for t in np.unique(p))
    assert metrics.f1_score(label, p >= metrics.best_f1_threshold(label, p)) == pytest.approx(best)
