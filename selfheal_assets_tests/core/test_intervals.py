"""Intervals: the published numbers, the plain bootstrap's where there is one, and the coverage they claim."""

import numpy as np
import pytest

from selfheal_assets.core import metrics
from selfheal_assets.core.intervals import MOST_GROUPS, resample, score_groups, wilson

BINS = 10


def sample(rows: int, seed: int, decimals: int = 12) -> tuple[np.ndarray, np.ndarray]:
    """Calibrated scores and their outcomes."""
    rng = np.random.default_rng(seed)
    p = np.round(rng.beta(1.5, 6, rows), decimals)
    return (rng.uniform(size=rows) < p).astype(np.int8), p


@pytest.mark.parametrize(
    ("hits", "among", "lower", "upper"),
    # Newcombe, Statistics in Medicine 17, 1998, table I, method 3.
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilsons_interval_is_the_published_one(hits, among, lower, upper):
    found = wilson(hits, among)
    assert found.value == hits / among
    assert (found.lower, found.upper) == pytest.approx((lower, upper), abs=5e-5)


def test_wilsons_interval_is_symmetric_and_holds_its_value():
    for hits in range(31):
        found, mirrored = wilson(hits, 30, 0.9), wilson(30 - hits, 30, 0.9)
        assert (found.lower, found.upper) == pytest.approx((1 - mirrored.upper, 1 - mirrored.lower))
        assert 0 <= found.lower <= found.value <= found.upper <= 1


def plain_bootstrap(label, p, metric, resamples: int) -> np.ndarray:
    rng, rows = np.random.default_rng(99), len(label)
    picks = [rng.integers(0, rows, rows) for _ in range(resamples)]
    return np.array([metric(label[i], p[i]) for i in picks])


@pytest.mark.parametrize(("rows", "decimals"), [(150, 12), (1500, 2), (3000, 12)])
def test_the_draws_are_those_of_the_plain_bootstrap(rows, decimals):
    """Few rows, many ties, and more scores than groups: the same standard deviations and percentiles."""
    label, p = sample(rows, 5, decimals)
    groups = score_groups(label, p, BINS)
    assert groups.counts.sum() == rows
    assert groups.counts.shape[1] <= max(MOST_GROUPS, min(rows, MOST_GROUPS))
    found = resample(groups, 4000, seed=3)
    ours = {
        metrics.brier_score: found.brier,
        metrics.log_loss: found.log_loss,
        metrics.average_precision: found.average_precision,
    }
    for metric, draws in ours.items():
        plain = plain_bootstrap(label, p, metric, 1500)
        # Tied neighbours move the average precision itself a little, but not its spread.
        off = 0.3 if metric is metrics.average_precision else 4 / np.sqrt(1500)
        assert draws.mean() == pytest.approx(plain.mean(), abs=off * plain.std())
        assert draws.std() == pytest.approx(plain.std(), rel=0.1), metric
        assert np.quantile(draws, [0.05, 0.95]) == pytest.approx(
            np.quantile(plain, [0.05, 0.95]), abs=0.3 * plain.std()
        )


def test_ungrouped_scores_give_the_metrics_themselves():
    label, p = sample(95, 8)
    groups = score_groups(label, p, BINS)
    assert (groups.variance_loss == 0).all()
    means = (
        (groups.counts * groups.mean_loss[0]).sum() / 95,
        (groups.counts * groups.mean_loss[1]).sum() / 95,
    )
    assert means == pytest.approx((metrics.brier_score(label, p), metrics.log_loss(label, p)), abs=1e-12)


def test_grouping_does_not_hide_the_spread_within_a_group():
    """The lowest group spans eight decades, and its rows' losses differ more than those of all others."""
    rng, rows, low = np.random.default_rng(4), 20 * MOST_GROUPS, 15
    p = np.r_[10.0 ** rng.uniform(-9, -1, low), rng.uniform(0.3, 0.31, rows - low)]
    label = np.r_[np.ones(low, dtype=np.int8), rng.uniform(size=rows - low) < 0.3].astype(np.int8)
    groups = score_groups(label, p, BINS)
    assert groups.counts[:, 0].sum() > low, "one group holds them all"
    draws = resample(groups, 4000, seed=2)
    loss = np.where(label == 1, -np.log(p), -np.log1p(-p))
    within = (groups.counts * groups.variance_loss[1]).sum() / rows
    assert within > 0.2 * loss.var()
    assert draws.log_loss.std() == pytest.approx(loss.std() / np.sqrt(rows), rel=0.05)
    assert draws.brier.std() == pytest.approx(((p - label) ** 2).std() / np.sqrt(rows), rel=0.05)


def test_groups_of_scores_lie_within_the_bins_of_the_calibration_error():
    label, p = sample(5000, 6)
    groups = score_groups(label, p, BINS)
    error = (
        np.abs(np.bincount(groups.bins, weights=(groups.counts * groups.residual).sum(axis=0))).sum() / 5000
    )
    assert error == pytest.approx(metrics.expected_calibration_error(label, p, BINS), abs=1e-12)


def test_the_calibration_errors_bound_covers_zero_where_the_scores_are_right():
    trials, covered = 300, 0
    for seed in range(trials):
        label, p = sample(600, 1000 + seed)
        value = metrics.expected_calibration_error(label, p, BINS)
        shift = resample(score_groups(label, p, BINS), 300, seed).calibration_shift
        covered += value <= np.quantile(shift, 0.95)
    assert 0.95 - 0.045 < covered / trials <= 1


def test_the_calibration_errors_bound_is_away_from_zero_where_they_are_wrong():
    label, p = sample(4000, 1)
    wrong = np.clip(p + 0.15, 0, 1)
    value = metrics.expected_calibration_error(label, wrong, BINS)
    assert (
        value - np.quantile(resample(score_groups(label, wrong, BINS), 500, 0).calibration_shift, 0.95) > 0.1
    )


def test_the_bound_of_ks_covers_more_often_than_it_says_and_percentiles_less_often():
    """Two normal distributions one standard deviation apart: KS = 2 Phi(1/2) − 1 = 0.383."""
    truth, rng, trials = 0.3829, np.random.default_rng(21), 200
    by_bound = by_percentiles = 0
    for seed in range(trials):
        label = (rng.uniform(size=400) < 0.2).astype(np.int8)
        p = 1 / (1 + np.exp(-rng.normal(size=400) - label))
        ks = metrics.kolmogorov_smirnov(label, p)
        reach = np.quantile(resample(score_groups(label, p, BINS), 300, seed).gap_shift, 0.95)
        by_bound += abs(ks - truth) <= reach
        lower, upper = np.quantile(plain_bootstrap(label, p, metrics.kolmogorov_smirnov, 100), [0.025, 0.975])
        by_percentiles += lower <= truth <= upper
    assert by_bound / trials > 0.95
    assert by_percentiles / trials < 0.88


def test_the_seed_alone_decides():
    groups = score_groups(*sample(800, 2), BINS)
    one, same, other = resample(groups, 300, 1), resample(groups, 300, 1), resample(groups, 300, 2)
    assert (one.brier == same.brier).all()
    assert (one.brier != other.brier).any()
