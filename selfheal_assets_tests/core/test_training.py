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
from selfheal_assets.core.metrics import best_f1_threshold
from selfheal_assets.core.spec import LabelSpec, Period, Training
from selfheal_assets.core.training import (
    Candidate,
    NotEnoughData,
    TrainingPlan,
    candidates,
    fit_booster,
    fit_bundle,
    fit_calibrator,
    out_of_fold_margins,
    plan_training,
    validation_loss,
    validation_losses,
)
from selfheal_assets_tests.core.generated import FEATURES, PLAN, QUICK, START, cases, sigmoid, untrained

LABEL = LabelSpec(name="bad", positive_at="bad_on", horizon_months=12)
REFERENCE = Period(start=date(2019, 1, 1), end=date(2019, 7, 1))
FULL = Candidate("full_history", START)


def fit(rows: pl.DataFrame, training: Training = QUICK, candidate: Candidate = FULL):
    return fit_bundle(rows, candidate, PLAN, FEATURES, training, "generated", "abc")


def test_the_first_plan_holds_out_the_reference_period():
    plan = plan_training(datetime(2020, 7, 1), LABEL, Training(validation_months=6), None, REFERENCE)
    assert plan == TrainingPlan(
        as_of=datetime(2020, 7, 1),
        validate_from=datetime(2018, 7, 1),
        evaluate_from=datetime(2019, 1, 1),
        evaluate_until=datetime(2019, 7, 1),
    )


def test_a_reference_that_is_not_mature_says_what_to_do():
    with pytest.raises(NotEnoughData) as caught:
        plan_training(datetime(2020, 6, 30), LABEL, Training(), None, REFERENCE)
    assert str(caught.value) == (
        "the reference period ends 2019-07-01, but at 2020-06-30 only cases before 2019-06-30 are mature: "
        "move reference.end back or wait"
    )


def test_a_later_plan_holds_out_the_newest_matured_months():
    plan = plan_training(
        datetime(2023, 3, 31),
        LABEL,
        Training(evaluation_months=6),
        untrained(datetime(2020, 1, 1)),
        REFERENCE,
    )
    assert (plan.validate_from, plan.evaluate_from, plan.evaluate_until) == (
        datetime(2021, 3, 30),
        datetime(2021, 9, 30),
        datetime(2022, 3, 31),
    )


def test_no_evaluation_row_is_one_that_the_champion_was_trained_on():
    champion = untrained(until=datetime(2021, 8, 15))
    plan = plan_training(datetime(2022, 12, 1), LABEL, Training(evaluation_months=12), champion, REFERENCE)
    assert plan.evaluate_from == champion.trained_until
    assert plan.evaluate_until == datetime(2021, 12, 1)


def test_a_champion_that_has_seen_all_that_is_mature_cannot_be_compared_with():
    champion = untrained(until=datetime(2021, 12, 1))
    with pytest.raises(NotEnoughData, match="trained on cases before 2021-12-01, and at 2022-12-01 only"):
        plan_training(datetime(2022, 12, 1), LABEL, Training(), champion, REFERENCE)


def test_the_family_is_the_full_history_and_a_recent_window():
    family = candidates(PLAN, Training(recent_months=12), datetime(2017, 1, 1))
    assert family == [
        Candidate("full_history", datetime(2017, 1, 1)),
        Candidate("recent_window", datetime(2018, 7, 1)),
    ]


@pytest.mark.parametrize("earliest", [datetime(2018, 7, 1), datetime(2018, 7, 2)])
def test_a_history_no_longer_than_the_recent_window_is_one_candidate(earliest):
    family = candidates(PLAN, Training(recent_months=12), earliest)
    assert family == [Candidate("full_history", earliest)]


def with_evaluation_rows(rows: pl.DataFrame, kind: str) -> pl.DataFrame:
    """``rows`` and as many from the evaluation window, where ``kind`` gives the outcome away."""
    later = cases(rows.height, 99, PLAN.evaluate_from, PLAN.evaluate_until)
    leak = pl.when(pl.col("label") == 1).then(pl.lit(kind)).otherwise(pl.lit("b"))
    return pl.concat([rows, later.with_columns(kind=leak)])


@pytest.mark.parametrize("kind", ["a", "only_seen_later"])
def test_rows_of_the_evaluation_window_do_not_matter(kind):
    rows = cases(900, 1)
    leaked = with_evaluation_rows(rows, kind)
    loss = validation_loss(rows, FULL, PLAN, FEATURES, QUICK)
    assert validation_loss(leaked, FULL, PLAN, FEATURES, QUICK) == loss
    assert fit(leaked).fingerprint == fit(rows).fingerprint
    assert "only_seen_later" not in fit(leaked).vocabulary["kind"]


def test_the_validation_booster_does_not_see_the_validation_months():
    rows = cases(900, 2)
    later = pl.col("event_time") >= PLAN.validate_from
    noise = np.random.default_rng(5).permutation(rows.height)
    shuffled = rows.with_columns(
        label=pl.when(later).then(pl.Series(rows["label"].to_numpy()[noise])).otherwise(pl.col("label"))
    )
    # With random labels in the validation months only, a booster that had learnt them would do better than chance.
    rate = float(shuffled.filter(later)["label"].mean())
    chance = -(rate * np.log(rate) + (1 - rate) * np.log(1 - rate))
    assert validation_loss(shuffled, FULL, PLAN, FEATURES, QUICK) > chance
    assert validation_loss(rows, FULL, PLAN, FEATURES, QUICK) < chance


def test_validation_prefers_the_window_that_still_holds():
    """The relation turned round in 2019: what came before misleads."""
    rows = cases(3000, 3)
    turned = datetime(2018, 12, 1)
    rows = rows.with_columns(
        signal=pl.when(pl.col("event_time") < turned).then(-pl.col("signal")).otherwise("signal")
    )
    recent = Candidate("recent_window", turned)
    losses = validation_losses(rows, [FULL, recent], PLAN, FEATURES, QUICK)
    assert losses["recent_window"] < losses["full_history"]
    one_by_one = [validation_loss(rows, c, PLAN, FEATURES, QUICK) for c in (FULL, recent)]
    assert list(losses.values()) == one_by_one, "side by side or one after another is the same"


@pytest.mark.parametrize(
    "rows",
    [
        cases(300, 4).filter(pl.col("event_time") < PLAN.validate_from),
        cases(300, 4).filter((pl.col("event_time") >= PLAN.validate_from) | (pl.col("label") == 0)),
    ],
    ids=["nothing to validate on", "no positive to learn from"],
)
def test_a_candidate_that_cannot_be_validated_is_never_chosen(rows):
    assert validation_loss(rows, FULL, PLAN, FEATURES, QUICK) == float("inf")


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
        held_out = out_of_fold_margins(matrix, label, greedy, pool)
    # The standard error of an AUC of 0.5 on 2 × 300 rows is 0.024.
    assert abs(roc_auc_score(label, held_out) - 0.5) < 3 * 0.024
    assert np.isfinite(held_out).all()


def test_calibrator_and_threshold_come_from_out_of_fold_scores():
    rows = cases(900, 11)
    bundle = fit(rows)
    label = rows["label"].to_numpy()
    with ThreadPoolExecutor(2) as pool:
        held_out = out_of_fold_margins(encode(rows, FEATURES, bundle.vocabulary), label, QUICK, pool)
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
