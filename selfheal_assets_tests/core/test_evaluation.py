"""Both models on the same rows: resampling that is exact, bounds that are in order, segments that are named."""

import warnings
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from pydantic import ValidationError
from scipy.stats import norm
from sklearn import metrics as sk

from selfheal_assets.core import metrics
from selfheal_assets.core.evaluation import (
    ScoredRows,
    approvals,
    band_names,
    bootstrap_f1_difference,
    compare,
    compare_f1,
    compare_segments,
    mean_bounds,
    segment_of,
)
from selfheal_assets.core.policies import GatePolicy
from selfheal_assets.core.spec import Segment
from selfheal_assets_tests.core.generated import sigmoid

POLICY = GatePolicy(resamples=1000)


def scored(rows: int, seed: int, gain: float = 0.3) -> ScoredRows:
    """Two correlated models; the challenger separates the classes by ``gain`` more."""
    rng = np.random.default_rng(seed)
    label = (rng.uniform(size=rows) < 0.3).astype(np.int8)
    shared = rng.normal(size=rows)
    a, b = (sigmoid(d * label + 0.6 * shared + 0.8 * rng.normal(size=rows) - 1.3) for d in (1.0, 1.0 + gain))
    return ScoredRows(label, a, b, a >= 0.35, b >= 0.4)


def resampled_row_by_row(rows: ScoredRows, resamples: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    classes = [np.flatnonzero(rows.label == c) for c in (0, 1)]
    draws = np.empty(resamples)
    for i in range(resamples):
        part = rows.where(np.concatenate([rng.choice(c, len(c)) for c in classes]))
        draws[i] = metrics.f1_score(part.label, part.challenger_flagged) - metrics.f1_score(
            part.label, part.champion_flagged
        )
    return draws


def assert_same_distribution(a: np.ndarray, b: np.ndarray) -> None:
    """Mean and spread within four Monte Carlo errors, outer quantiles within a quarter of the spread."""
    size, spread = len(a), a.std(ddof=1)
    assert abs(a.mean() - b.mean()) < 4 * spread * np.sqrt(2 / size)
    assert abs(spread - b.std(ddof=1)) < 4 * spread / np.sqrt(size)
    for q in (0.05, 0.95):
        assert abs(np.quantile(a, q) - np.quantile(b, q)) < 0.25 * spread


@pytest.mark.parametrize("size", [60, 400])
def test_drawing_counts_is_resampling_rows(size):
    rows = scored(size, 1)
    assert_same_distribution(bootstrap_f1_difference(rows, 4000, 2), resampled_row_by_row(rows, 4000, 3))


def test_the_spread_of_the_bootstrap_is_that_of_fresh_samples():
    fresh = [compare_f1(scored(800, seed), POLICY, 0).difference for seed in range(400)]
    spreads = [bootstrap_f1_difference(scored(800, seed), 1000, 0).std() for seed in range(20)]
    assert np.mean(spreads) == pytest.approx(np.std(fresh), rel=0.15)


@pytest.mark.parametrize("size", [300, 3000])
def test_the_bounds_of_a_mean_are_those_of_its_stratified_bootstrap(size):
    rng = np.random.default_rng(4)
    label = (rng.uniform(size=size) < 0.2).astype(int)
    values = 0.3 * label + rng.exponential(0.1, size)
    draws = np.zeros(4000)
    for c in (0, 1):
        part = values[label == c]
        draws += rng.choice(part, (4000, len(part))).sum(axis=1) / size
    lower, upper = mean_bounds(values, label, 0.95)
    expected = np.quantile(draws, [0.05, 0.95])
    assert (lower, upper) == pytest.approx(tuple(expected), abs=0.06 * (upper - lower))


@pytest.mark.parametrize("size", [1000, 100_000])
def test_a_resample_is_eight_counts_however_many_rows(size, monkeypatch):
    """What is drawn, and so the time, does not grow with the rows: 2,000 resamples take 16,000 numbers."""
    drawn = []

    class Counted:
        def __init__(self, seed: int) -> None:
            self._rng = np.random.Generator(np.random.PCG64(seed))

        def __getattr__(self, name: str):
            def draw(*args, **kwargs):
                numbers = getattr(self._rng, name)(*args, **kwargs)
                drawn.append(np.size(numbers))
                return numbers

            return draw

    rows = scored(size, 5)
    monkeypatch.setattr(np.random, "default_rng", Counted)
    compare(rows, GatePolicy(resamples=2000), 0)
    assert sum(drawn) == 2000 * 8


def test_values_are_those_of_scikit_learn():
    rows = scored(500, 7)
    compared = {c.metric: c for c in compare(rows, POLICY, 0)}
    f1, brier, auc = (compared.pop(m) for m in ("f1", "brier", "roc_auc"))
    assert not compared
    for found, of in (
        (f1, lambda p, flagged: sk.f1_score(rows.label, flagged)),
        (brier, lambda p, flagged: sk.brier_score_loss(rows.label, p)),
        (auc, lambda p, flagged: sk.roc_auc_score(rows.label, p)),
    ):
        assert found.champion == pytest.approx(of(rows.champion, rows.champion_flagged))
        assert found.challenger == pytest.approx(of(rows.challenger, rows.challenger_flagged))
        assert (found.rows, found.positives, found.segment) == (500, int(rows.label.sum()), "all")


@pytest.mark.parametrize("seed", range(5))
def test_bounds_enclose_the_difference_and_widen_with_confidence(seed):
    rows = scored(600, seed)
    usual, strict = compare(rows, POLICY, seed), compare(rows, replace_confidence(0.99), seed)
    for narrow, wide in zip(usual, strict, strict=True):
        assert wide.lower < narrow.lower < narrow.difference < narrow.upper < wide.upper


def replace_confidence(confidence: float) -> GatePolicy:
    return POLICY.model_copy(update={"confidence": confidence})


@pytest.mark.parametrize("confidence", [0.9, 0.95])
def test_each_bound_is_one_sided(confidence):
    """A gate reads one bound: it errs with 1 - confidence, not with half of that."""
    rows = scored(4000, 16)
    policy = GatePolicy(resamples=4000, confidence=confidence)
    found = {c.metric: c for c in compare(rows, policy, 0)}
    squared = (rows.challenger - rows.label) ** 2 - (rows.champion - rows.label) ** 2
    auc = metrics.roc_auc_difference(rows.label, rows.champion, rows.challenger, 0.95)
    errors = {
        "f1": bootstrap_f1_difference(rows, 4000, 1).std(),
        "brier": np.sqrt(sum((rows.label == c).sum() * squared[rows.label == c].var() for c in (0, 1)))
        / 4000,
        "roc_auc": (auc.upper - auc.lower) / 2 / norm.ppf(0.975),
    }
    for metric, error in errors.items():
        width = found[metric].upper - found[metric].lower
        assert width / 2 / error == pytest.approx(norm.ppf(confidence), rel=0.05), metric


def test_swapping_the_models_turns_the_bounds_round():
    rows = scored(600, 8)
    turned = ScoredRows(
        rows.label, rows.challenger, rows.champion, rows.challenger_flagged, rows.champion_flagged
    )
    for one, other in zip(compare(rows, POLICY, 0), compare(turned, POLICY, 0), strict=True):
        assert other.difference == pytest.approx(-one.difference)
        # The draws differ: a tenth of the interval is their Monte Carlo error.
        assert (other.lower, other.upper) == pytest.approx(
            (-one.upper, -one.lower), abs=0.1 * (one.upper - one.lower)
        )


def test_identical_models_do_not_differ_at_all():
    rows = scored(500, 9)
    same = replace(rows, challenger=rows.champion, challenger_flagged=rows.champion_flagged)
    assert (bootstrap_f1_difference(same, 500, 0) == 0).all()
    for found in compare(same, POLICY, 0):
        assert (found.difference, found.lower, found.upper) == (0, 0, 0)


def test_the_same_seed_gives_the_same_bounds_and_another_does_not():
    rows = scored(500, 10)
    assert compare(rows, POLICY, 1) == compare(rows, POLICY, 1)
    assert compare(rows, POLICY, 1) != compare(rows, POLICY, 2)


@pytest.mark.parametrize("only", [0, 1])
def test_rows_of_one_class_cannot_be_compared(only):
    rows = scored(300, 11)
    with pytest.raises(metrics.UndefinedMetric, match="needs both classes"):
        compare(rows.where(rows.label == only), POLICY, 0)


def test_no_rows_cannot_be_compared():
    rows = scored(300, 12)
    with pytest.raises(metrics.UndefinedMetric):
        compare(rows.where(np.zeros(300, dtype=bool)), POLICY, 0)


AMOUNT = Segment(name="size", feature="amount", cuts=(50_000, 250_000))
KIND = Segment(name="kind", feature="kind")


@pytest.mark.parametrize(
    ("cuts", "names"),
    [
        ((50_000.0, 250_000.0), ["< 50000", "50000–250000", "≥ 250000"]),
        ((0.5,), ["< 0.5", "≥ 0.5"]),
        ((-1.0, 0.0, 2.5e6), ["< -1", "-1–0", "0–2500000", "≥ 2500000"]),
    ],
)
def test_bands_are_named_for_people(cuts, names):
    assert band_names(cuts) == names


@pytest.mark.parametrize("dtype", [pl.Float64, pl.Int64], ids=str)
def test_a_band_includes_its_lower_cut(dtype):
    amounts = [0, 49_999, 50_000, 249_999, 250_000, 9_999_999, None]
    frame = pl.DataFrame({"amount": pl.Series(amounts, dtype=dtype)})
    assert segment_of(frame, AMOUNT).to_list() == [
        "< 50000", "< 50000", "50000–250000", "50000–250000", "≥ 250000", "≥ 250000", "missing",
    ]  # fmt: skip


def test_not_a_number_is_missing_not_large():
    frame = pl.DataFrame({"amount": [float("nan"), 1.0]})
    assert segment_of(frame, AMOUNT).to_list() == ["missing", "< 50000"]


def test_a_category_is_its_own_segment():
    frame = pl.DataFrame({"kind": ["a", None, "b"]})
    assert segment_of(frame, KIND).to_list() == ["a", "missing", "b"]


def test_bands_use_nothing_that_polars_deprecates():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        segment_of(pl.DataFrame({"amount": [1.0]}), AMOUNT)


@pytest.mark.parametrize("cuts", [(2.0, 1.0), (1.0, 1.0)])
def test_cuts_that_do_not_ascend_are_refused_when_declared(cuts):
    with pytest.raises(ValidationError, match="must ascend strictly"):
        Segment(name="size", feature="amount", cuts=cuts)


def segmented(sizes: dict[str, tuple[int, int]]) -> tuple[pl.DataFrame, ScoredRows]:
    """Rows of kinds with (rows, positives) each; the challenger flags all positives, the champion none."""
    kind = [k for k, (rows, _) in sizes.items() for _ in range(rows)]
    label = np.array(
        [i < positives for rows, positives in sizes.values() for i in range(rows)], dtype=np.int8
    )
    nothing = np.zeros(len(label), dtype=bool)
    p = np.where(label == 1, 0.9, 0.1)
    return pl.DataFrame({"kind": kind}), ScoredRows(label, p, p, nothing, label == 1)


def test_segments_are_compared_from_enough_rows_and_positives_on():
    policy = POLICY.model_copy(update={"min_segment_rows": 40, "min_segment_positives": 10})
    frame, rows = segmented(
        {"at": (40, 10), "few_rows": (39, 20), "few_positives": (60, 9), "plenty": (90, 30)}
    )
    compared = compare_segments(frame, rows, (KIND,), policy, 0)
    assert [(c.segment, c.rows, c.positives) for c in compared] == [
        ("kind=at", 40, 10),
        ("kind=plenty", 90, 30),
    ]
    assert all((c.champion, c.challenger, c.lower, c.upper) == (0, 1, 1, 1) for c in compared)


def test_each_segment_is_compared_on_its_own_rows():
    rows = scored(3000, 13)
    amount = np.random.default_rng(14).choice([10_000.0, 100_000.0, np.nan], 3000)
    frame = pl.DataFrame({"amount": amount})
    policy = POLICY.model_copy(update={"min_segment_rows": 1, "min_segment_positives": 1})
    found = {c.segment: c for c in compare_segments(frame, rows, (AMOUNT,), policy, 0)}
    assert set(found) == {"size=< 50000", "size=50000–250000", "size=missing"}
    part = rows.where(amount == 10_000)
    shared = policy.model_copy(update={"confidence": 1 - (1 - 0.95) / 3, "resamples": 1200})
    assert found["size=< 50000"] == compare_f1(part, shared, 0, "size=< 50000")


def test_segments_share_one_error_rate():
    """Of equally good models, any of twenty segments is off by its bound in at most 5 % of the trials."""
    policy = GatePolicy(primary_metric="roc_auc", min_segment_rows=10, min_segment_positives=10)
    off = 0
    for seed in range(200):
        rows = scored(4000, seed, gain=0.0)
        frame = pl.DataFrame({"kind": [str(i % 20) for i in range(4000)]})
        found = compare_segments(frame, rows, (KIND,), policy, 0)
        off += any(c.upper < 0 for c in found)
    assert 0 < off / 200 <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 200)


def test_segments_are_compared_by_the_primary_metric():
    rows = scored(1000, 15)
    frame = pl.DataFrame({"kind": ["a"] * 1000})
    policy = POLICY.model_copy(update={"primary_metric": "roc_auc"})
    (found,) = compare_segments(frame, rows, (KIND,), policy, 0)
    overall = {c.metric: c for c in compare(rows, policy, 0)}["roc_auc"]
    assert found == replace(overall, segment="kind=a")


@pytest.mark.parametrize("metric", ["f1", "roc_auc"])
def test_a_segment_of_positives_only_is_left_out(metric):
    policy = POLICY.model_copy(
        update={"min_segment_rows": 10, "min_segment_positives": 10, "primary_metric": metric}
    )
    frame, rows = segmented({"all_bad": (20, 20), "one_good": (20, 19), "two_good": (20, 18)})
    assert [c.segment for c in compare_segments(frame, rows, (KIND,), policy, 0)] == ["kind=two_good"]


def test_approvals_by_hand():
    frame = pl.DataFrame({"kind": ["a", "a", "a", "b", "b", None]})
    flagged = np.array([True, False, False, True, True, False])
    found = {group: (a.rate, a.rows) for group, a in approvals(frame, flagged, KIND).items()}
    assert found == {"a": (2 / 3, 3), "b": (0.0, 2), "missing": (1.0, 1)}
