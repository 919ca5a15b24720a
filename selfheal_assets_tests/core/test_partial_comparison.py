"""Two models on labels so far: by hand, by brute force, by fresh samples; with whole labels, as on matured ones."""

import math
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from scipy.stats import norm, poisson

from selfheal_assets.core import metrics
from selfheal_assets.core.evaluation import Comparison, ScoredRows, compare_roc_auc, shared_level
from selfheal_assets.core.maturity import DAYS_PER_MONTH, TimingCurve
from selfheal_assets.core.partial_comparison import (
    PartialRows,
    compare_partial,
    compare_partial_segments,
    compare_ranking,
    count_bounds,
    coverage_so_far,
)
from selfheal_assets.core.policies import GatePolicy
from selfheal_assets.core.spec import Segment
from selfheal_assets_tests.core.generated import sigmoid

POLICY = GatePolicy(evidence="partial")
MONTHS = 24


def so_far(rows: int, seed: int, champion: float = 1.0, challenger: float = 1.0) -> PartialRows:
    """Cases of 0 to 24 months of age; a tenth turns positive, at an even pace over 36 months.

    Each model's score separates the classes by so many standard deviations and is a right probability.
    """
    rng = np.random.default_rng(seed)
    label = rng.random(rows) < 0.10
    stratum = rng.integers(0, MONTHS, rows)
    due = (stratum + 0.5) / 36
    common = rng.normal(size=rows)

    def scored(apart: float) -> np.ndarray:
        score = apart * label + math.sqrt(0.6) * common + math.sqrt(0.4) * rng.normal(size=rows)
        return sigmoid(apart * score - apart**2 / 2 + math.log(1 / 9))

    positive = (label & (rng.random(rows) < due)).astype(np.int8)
    return PartialRows(positive, due, stratum, scored(champion), scored(challenger))


def found(rows: PartialRows, policy: GatePolicy = POLICY) -> dict[str, Comparison]:
    return {c.metric: c for c in compare_partial(rows, policy)}


def pairwise_auc(rows: PartialRows, score: np.ndarray) -> float:
    """Over all pairs of one stratum, each positive's pairs with the same weight in all."""
    each = []
    for i in np.flatnonzero(rows.positive_so_far == 1):
        others = score[(rows.stratum == rows.stratum[i]) & (rows.positive_so_far == 0)]
        if len(others):
            each.append(np.mean((score[i] > others) + 0.5 * (score[i] == others)))
    return float(np.mean(each))


def test_losses_and_expectations_by_hand():
    positive, due, stratum = np.array([1, 1, 0, 0]), np.array([0.2, 1.0, 0.5, 0.0]), np.zeros(4, int)
    p, q = np.array([0.3, 0.9, 0.4, 0.8]), np.array([0.5, 0.5, 0.2, 0.1])
    compared = found(PartialRows(positive, due, stratum, p, q))
    loss, counted = compared["log_loss"], compared["expected_over_observed"]
    assert loss.champion == pytest.approx(-(math.log(0.3) + math.log(0.9) + math.log(1 - 0.4 * 0.5)) / 4)
    assert loss.challenger == pytest.approx(-(2 * math.log(0.5) + math.log(1 - 0.2 * 0.5)) / 4)
    assert counted.champion == pytest.approx((0.3 * 0.2 + 0.9 + 0.4 * 0.5) / 2)
    assert counted.challenger == pytest.approx((0.5 * 0.2 + 0.5 + 0.2 * 0.5) / 2)
    assert all((c.rows, c.positives, c.segment) == (4, 2, "all") for c in compared.values())


def test_with_whole_labels_the_figures_are_those_of_matured_ones():
    rows = so_far(4000, 1, 1.0, 1.3)
    rows = replace(rows, due=np.ones(4000), stratum=np.zeros(4000, int))
    compared, label = found(rows), rows.positive_so_far
    scored = ScoredRows(label, rows.champion, rows.challenger, label > 2, label > 2)
    known = compare_roc_auc(scored, POLICY, 0)
    for ours, theirs in zip(
        (compared["roc_auc"].lower, compared["roc_auc"].upper, compared["roc_auc"].champion),
        (known.lower, known.upper, known.champion),
        strict=True,
    ):
        assert ours == pytest.approx(theirs, abs=2e-4)
    for side in ("champion", "challenger"):
        p = getattr(rows, side)
        assert getattr(compared["log_loss"], side) == pytest.approx(metrics.log_loss(label, p))
        expected = metrics.expected_over_observed(label, p)
        assert getattr(compared["expected_over_observed"], side) == pytest.approx(expected)


@pytest.mark.parametrize("digits", [1, 6])
def test_only_cases_of_one_age_are_ranked_against_each_other(digits):
    """With many ties and without; strata without a positive, or without anything else, have nothing to rank."""
    rows = so_far(1500, 2, 1.0, 1.4)
    lonely = replace(rows, stratum=np.where(np.arange(1500) == 7, 99, rows.stratum))
    lonely.positive_so_far[7] = 1
    rounded = replace(lonely, champion=rows.champion.round(digits), challenger=rows.challenger.round(digits))
    ranking = found(rounded)["roc_auc"]
    assert ranking.champion == pytest.approx(pairwise_auc(rounded, rounded.champion), abs=1e-12)
    assert ranking.challenger == pytest.approx(pairwise_auc(rounded, rounded.challenger), abs=1e-12)
    ranked = [
        s
        for s in np.unique(rounded.stratum)
        if 0 < np.mean(rounded.positive_so_far[rounded.stratum == s]) < 1
    ]
    assert ranking.rows == np.isin(rounded.stratum, ranked).sum()
    assert ranking.positives == rounded.positive_so_far.sum() - 1


def test_what_all_of_an_age_share_moves_no_ranking():
    rows = so_far(2000, 3, 1.0, 1.2)
    lifted = replace(
        rows, challenger=sigmoid(np.log(rows.challenger / (1 - rows.challenger)) + rows.stratum / 8)
    )
    assert found(lifted)["roc_auc"] == found(rows)["roc_auc"]


def test_the_bounds_have_the_spread_of_fresh_samples():
    """Over samples in which the number of positives, too, is chance."""
    drawn = [found(so_far(3000, seed, 1.0, 1.2)) for seed in range(400)]
    for metric in ("log_loss", "roc_auc"):
        seen = [d[metric] for d in drawn]
        errors = [(c.upper - c.lower) / 2 / norm.ppf(POLICY.confidence) for c in seen]
        # The Monte Carlo error of a spread of 400 is 3.5 %.
        assert np.mean(errors) == pytest.approx(np.std([c.difference for c in seen]), rel=0.12), metric


def test_a_models_level_is_judged_with_the_chance_of_the_count():
    """Two models whose levels are off by as much, in opposite directions: chance alone makes one look better.

    Bounds within classes would take the count of positives for given, and one of the two for proved better.
    """
    proved = 0
    for seed in range(300):
        rows = so_far(3000, seed)
        odds = rows.champion / (1 - rows.champion)
        low, high = (f * odds / (1 + f * odds) for f in (0.83, 1.19))
        loss = found(replace(rows, champion=low, challenger=high))["log_loss"]
        proved += loss.upper < 0 or loss.lower > 0
    assert proved / 300 <= 0.10 + 3 * math.sqrt(0.1 * 0.9 / 300)


@pytest.mark.parametrize("count", [1, 8, 200])
def test_the_bounds_of_a_count_are_exact(count):
    low, high = count_bounds(count, 0.95)
    assert poisson.sf(count - 1, low) == pytest.approx(0.05)
    assert poisson.cdf(count, high) == pytest.approx(0.05)


@pytest.mark.parametrize(("one", "other"), [(1.0, 0.5), (0.5, 1.0)])
def test_the_bounds_of_expected_over_observed_are_those_of_the_count(one, other):
    rows = so_far(2000, 4)
    rows = replace(rows, champion=rows.champion * one, challenger=rows.champion * other)
    counted = found(rows)["expected_over_observed"]
    change = float(np.sum((rows.challenger - rows.champion) * rows.due))
    ends = sorted(change / count for count in count_bounds(counted.positives, 0.95))
    assert (counted.lower, counted.upper) == pytest.approx(tuple(ends))
    assert counted.lower < counted.difference < counted.upper


def test_models_that_are_the_same_differ_in_nothing():
    rows = so_far(1000, 5)
    for c in compare_partial(replace(rows, challenger=rows.champion), POLICY):
        assert (c.difference, c.lower, c.upper) == (0, 0, 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"champion": math.nan}, "a champion's score is not between 0 and 1"),
        ({"challenger": 1.5}, "a challenger's score is not between 0 and 1"),
        ({"due": math.nan}, "a share due is not between 0 and 1"),
        ({"due": -0.1}, "a share due is not between 0 and 1"),
    ],
)
def test_what_is_no_share_is_refused(change, message):
    rows = so_far(500, 6)
    for name, value in change.items():
        getattr(rows, name)[3] = value
    with pytest.raises(metrics.UndefinedMetric, match=message):
        compare_partial(rows, POLICY)


@pytest.mark.parametrize("keep", [lambda y: y == 0, lambda y: y == 1, lambda y: np.cumsum(y) * y <= 1])
def test_rows_of_one_kind_or_with_one_positive_cannot_be_compared(keep):
    rows = so_far(500, 7)
    with pytest.raises(metrics.UndefinedMetric, match="at least two of either kind"):
        compare_partial(rows.where(keep(rows.positive_so_far)), POLICY)


def test_no_rows_cannot_be_compared():
    with pytest.raises(metrics.UndefinedMetric):
        compare_partial(so_far(100, 8).where(np.zeros(100, dtype=bool)), POLICY)


def test_rows_come_from_cases_with_their_age():
    curve = TimingCurve(np.array([40.0, 400.0]), 1096.0)
    frame = pl.DataFrame({"age_days": [0.0, 30.4, 30.5, 700.0, 1096.0], "positive_so_far": [0, 0, 0, 1, 1]})
    scores = np.linspace(0.1, 0.5, 5)
    rows = PartialRows.of(frame, curve, scores, scores[::-1])
    assert rows.stratum.tolist() == [0, 0, 1, int(700 / DAYS_PER_MONTH), 36]
    assert rows.due.tolist() == [0, 0, 0, 1, 1]
    assert rows.positive_so_far.tolist() == [0, 0, 0, 1, 1]
    assert (rows.champion == scores).all() and (rows.challenger == scores[::-1]).all()


def test_segments_are_ranked_on_their_own_rows_at_a_shared_level():
    rows = so_far(6000, 9)
    kind = np.random.default_rng(0).choice(["a", "b", "few"], 6000, p=[0.6, 0.39, 0.01])
    policy = POLICY.model_copy(update={"min_segment_rows": 100, "min_segment_positives": 20})
    segment = Segment(name="kind", feature="kind")
    compared = compare_partial_segments(pl.DataFrame({"kind": kind}), rows, (segment,), policy)
    shared = shared_level(policy, 2)
    assert compared == [compare_ranking(rows.where(kind == k), shared, f"kind={k}") for k in ("a", "b")]
    assert shared.confidence == pytest.approx(0.975)


@pytest.mark.parametrize(
    ("champion", "challenger", "share"), [(4.0, 2.0, 0.5), (1.6, 4.0, 0.625), (0.5, 3.0, 1.0)]
)
def test_coverage_is_by_the_model_that_expects_fewer(champion, challenger, share):
    counted = Comparison("expected_over_observed", champion, challenger, -9, 9, 500, 50)
    assert coverage_so_far(counted) == share
