"""Training windows look back only, the fit is reproducible, and calibration is learnt out of fold."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import date, datetime

import numpy as np
import polars as pl
import pytest
from scipy.optimize import minimize
from sklearn.metrics import roc_auc_score

from selfheal_assets.core.encoding import encode
from selfheal_assets.core.fitting import (
    Candidate,
    fit_booster,
    fit_bundle,
    fit_calibrator,
    fit_partial_calibrator,
    held_out_margins,
    threshold_so_far,
)
from selfheal_assets.core.metrics import best_f1_threshold
from selfheal_assets.core.plan import NotEnoughData
from selfheal_assets.core.spec import LabelSpec, Period, Training
from selfheal_assets_tests.core.generated import FEATURES, PLAN, QUICK, START, cases, sigmoid

LABEL = LabelSpec(name="bad", positive_at="bad_on", horizon_months=12)
REFERENCE = Period(start=date(2019, 1, 1), end=date(2019, 7, 1))
FULL = Candidate("full_history", START)


def fit(rows: pl.DataFrame, training: Training = QUICK, candidate: Candidate = FULL):
    return fit_bundle(rows, candidate, PLAN, FEATURES, training, "generated", "abc")


def with_evaluation_rows(rows: pl.DataFrame, kind: str) -> pl.DataFrame:
    """``rows`` and as many from the evaluation window, where ``kind`` gives the outcome away."""
    later = cases(rows.height, 99, PLAN.evaluate_from, PLAN.evaluate_until)
    leak = pl.when(pl.col("label") == 1).then(pl.lit(kind)).otherwise(pl.lit("b"))
    return pl.concat([rows, later.with_columns(kind=leak)])


@pytest.mark.parametrize("kind", ["a", "only_seen_later"])
def test_rows_of_the_evaluation_window_do_not_matter(kind):
    rows = cases(900, 1)
    leaked = with_evaluation_rows(rows, kind)
    assert fit(leaked).fingerprint == fit(rows).fingerprint
    assert "only_seen_later" not in fit(leaked).vocabulary["kind"]


def test_fitting_twice_gives_the_same_bundle():
    rows = cases(900, 5)
    first, second = fit(rows), fit(rows)
    assert first.fingerprint == second.fingerprint
    assert first.to_files() == second.to_files()


def test_another_seed_or_other_rows_give_another_bundle():
    rows = cases(900, 5)
    prints = {fit(rows).fingerprint, fit(rows, replace_seed(1)).fingerprint, fit(rows.head(899)).fingerprint}
    assert len(prints) == 3


def replace_seed(seed: int) -> Training:
    return QUICK.model_copy(update={"seed": seed})


def test_the_bundle_says_what_it_was_made_of():
    rows = cases(900, 6)
    window = Candidate("recent_window", datetime(2019, 1, 1))
    bundle = fit(rows, candidate=window)
    used = rows.filter(pl.col("event_time") >= window.fit_from)
    assert (bundle.trained_from, bundle.trained_until) == (window.fit_from, PLAN.evaluate_from)
    assert (bundle.reference.start, bundle.reference.end) == (PLAN.evaluate_from, PLAN.evaluate_until)
    assert bundle.reference.as_of == PLAN.as_of
    assert bundle.notes == {"rows": used.height, "positives": int(used["label"].sum())}
    assert (bundle.candidate, bundle.training_fingerprint, bundle.use_case) == (
        "recent_window", "abc", "generated",
    )  # fmt: skip


def test_the_fitted_bundle_ranks_and_is_calibrated_on_later_rows():
    bundle = fit(cases(4000, 7), QUICK.model_copy(update={"rounds": 30}))
    later = cases(4000, 8, PLAN.evaluate_from, PLAN.evaluate_until)
    p, label = bundle.score(later), later["label"].to_numpy()
    assert roc_auc_score(label, p) > 0.75
    assert 0.9 < p.sum() / label.sum() < 1.1


def test_too_few_positives_say_how_many_are_missing():
    rows = cases(900, 9)
    few = pl.concat([rows.filter(pl.col("label") == 0), rows.filter(pl.col("label") == 1).head(29)])
    with pytest.raises(NotEnoughData) as caught:
        fit(few)
    assert str(caught.value) == (
        f"candidate full_history: 29 positives among {few.height} matured rows from 2018-01-01; "
        "training.min_positives asks for 30"
    )


def test_rows_before_the_candidates_window_are_not_used():
    rows = cases(900, 10)
    window = Candidate("recent_window", datetime(2019, 1, 1))
    earlier = pl.col("event_time") < window.fit_from
    spoiled = rows.with_columns(kind=pl.when(earlier).then(pl.lit("old")).otherwise("kind"))
    assert fit(spoiled, candidate=window).fingerprint == fit(rows, candidate=window).fingerprint


def test_calibrator_recovers_the_known_relation():
    rng = np.random.default_rng(0)
    margin = rng.normal(0, 2, 40_000)
    label = (rng.uniform(size=len(margin)) < sigmoid(0.6 * margin - 1.1)).astype(np.int8)
    found = fit_calibrator(margin, label)
    assert (found.slope, found.intercept) == pytest.approx((0.6, -1.1), abs=0.04)


@pytest.mark.parametrize("positives", [3, 60])
def test_calibrator_is_platts_maximum_likelihood(positives):
    """Against an independent optimiser of Platt's (1999) smoothed cross entropy."""
    rng = np.random.default_rng(positives)
    label = (np.arange(200) < positives).astype(np.int8)
    margin = rng.normal(1.5 * label - 1, 1)
    target = np.where(label == 1, (positives + 1) / (positives + 2), 1 / (200 - positives + 2))

    def cross_entropy(x: np.ndarray) -> float:
        z = x[0] * margin + x[1]
        return float(np.sum(np.logaddexp(0, z) - target * z))

    best = minimize(cross_entropy, [1.0, 0.0], method="BFGS", options={"gtol": 1e-8}).x
    found = fit_calibrator(margin, label)
    assert (found.slope, found.intercept) == pytest.approx(tuple(best), abs=2e-3)


def test_calibrator_of_separable_margins_is_finite():
    label = np.repeat([0, 1], 50).astype(np.int8)
    found = fit_calibrator(np.where(label == 1, 1.0, -1.0), label)
    # Platt's targets: the 50 positives aim at 51/52, not at 1.
    assert found(np.array([1.0, -1.0])) == pytest.approx([51 / 52, 1 / 52], abs=1e-3)


def memorable_noise(rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(rows, 12)).astype(np.float32), rng.integers(0, 2, rows).astype(np.int8)


def test_out_of_fold_margins_are_out_of_fold():
    greedy = Training(rounds=60, max_depth=6, min_child_weight=0.0, seed=1)
    matrix, label = memorable_noise(600, 1)
    in_sample = fit_booster(matrix, label, greedy).inplace_predict(matrix, predict_type="margin")
    assert roc_auc_score(label, in_sample) > 0.98
    with ThreadPoolExecutor(2) as pool:
        rows, held_out = held_out_margins(matrix, label, greedy, pool, greedy.folds)
    # The standard error of an AUC of 0.5 on 2 × 300 rows is 0.024.
    assert abs(roc_auc_score(label, held_out) - 0.5) < 3 * 0.024
    assert rows.tolist() == list(range(600)) and np.isfinite(held_out).all()


def test_one_fold_is_a_part_of_all():
    matrix, label = memorable_noise(300, 2)
    with ThreadPoolExecutor(2) as pool:
        rows, some = held_out_margins(matrix, label, QUICK, pool, 1)
        every, whole = held_out_margins(matrix, label, QUICK, pool, QUICK.folds)
    assert len(rows) == 100 and every.tolist() == list(range(300))
    assert some.tolist() == whole[rows].tolist()


def test_calibrator_and_threshold_come_from_out_of_fold_scores():
    rows = cases(900, 11)
    bundle = fit(rows)
    label = rows["label"].to_numpy()
    with ThreadPoolExecutor(2) as pool:
        _, held_out = held_out_margins(
            encode(rows, FEATURES, bundle.vocabulary), label, QUICK, pool, QUICK.folds
        )
    assert bundle.calibrator == fit_calibrator(held_out, label)
    assert bundle.threshold == best_f1_threshold(label, bundle.calibrator(held_out))
    # The in-sample margins would have given a steeper calibrator.
    assert bundle.calibrator.slope < fit_calibrator(own_margins(bundle, rows), label).slope


def own_margins(bundle, rows: pl.DataFrame) -> np.ndarray:
    identity = replace(bundle.calibrator, slope=1.0, intercept=0.0)
    p = replace(bundle, calibrator=identity).score(rows)
    return np.log(p / (1 - p))


def test_noise_does_not_look_confident():
    """A model of nothing must say the base rate, not the certainty of its memory."""
    rng = np.random.default_rng(12)
    rows = cases(900, 12).with_columns(label=pl.Series(rng.integers(0, 2, 900).astype(np.int8)))
    greedy = QUICK.model_copy(update={"rounds": 25, "max_depth": 6, "min_child_weight": 0.0})
    p = fit(rows, greedy).score(cases(900, 13))
    assert np.abs(p - rows["label"].mean()).mean() < 0.05


def half_due(rows: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Margins, whether positive so far, the share due, and the outcome in the end, of a known relation."""
    rng = np.random.default_rng(seed)
    margin, due = rng.normal(0, 2, rows), rng.uniform(0, 1, rows)
    ever = rng.uniform(size=rows) < sigmoid(0.6 * margin - 1.1)
    return margin, (ever & (rng.uniform(size=rows) < due)).astype(np.int8), due, ever.astype(np.int8)


def test_a_calibrator_of_labels_so_far_finds_what_will_be():
    margin, so_far, due, ever = half_due(60_000, 1)
    found = fit_partial_calibrator(margin, so_far, due)
    assert (found.slope, found.intercept) == pytest.approx((0.6, -1.1), abs=0.06)
    assert fit_calibrator(margin, so_far).intercept < -1.6, "which labels so far alone would not say"
    mature = fit_partial_calibrator(margin, ever, np.ones(len(ever)))
    alike = fit_calibrator(margin, ever)
    assert (mature.slope, mature.intercept) == pytest.approx((alike.slope, alike.intercept), abs=2e-3)


def test_a_calibrator_follows_the_rows_that_count():
    margin, so_far, due, _ = half_due(20_000, 2)
    twice = np.concatenate([margin, margin]), np.concatenate([so_far, 0 * so_far]), np.concatenate([due, due])
    weight = np.repeat([1.0, 0.0], 20_000)
    found, wanted = fit_partial_calibrator(*twice, weight), fit_partial_calibrator(margin, so_far, due)
    assert (found.slope, found.intercept) == pytest.approx((wanted.slope, wanted.intercept), abs=1e-5)


def test_the_threshold_of_labels_so_far_is_that_of_the_outcome():
    margin, so_far, due, ever = half_due(60_000, 3)
    p = sigmoid(0.6 * margin - 1.1)
    found = threshold_so_far(p, so_far, due)
    assert found == pytest.approx(best_f1_threshold(ever, p), abs=0.02)
    assert threshold_so_far(p, ever, np.ones(len(p))) == best_f1_threshold(ever, p)
    assert abs(best_f1_threshold(so_far, p) - found) > 0.03, "the labels so far alone ask for another"
