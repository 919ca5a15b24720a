"""Each member learns from what it says, and from nothing that was not known or that judges it."""

from dataclasses import replace
from datetime import datetime, timedelta

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import roc_auc_score

from selfheal_assets.core import family
from selfheal_assets.core.encoding import encode
from selfheal_assets.core.material import Material
from selfheal_assets.core.maturity import TimingCurve
from selfheal_assets.core.metrics import log_loss
from selfheal_assets.core.plan import NotEnoughData, TrainingPlan, plan_of
from selfheal_assets.core.spec import Hazard
from selfheal_assets_tests.core.generated import FEATURES, QUICK, START, aging

HORIZON = 365.0
AS_OF = datetime(2022, 1, 1)
TURNED = datetime(2020, 7, 1)
PLAN = TrainingPlan(
    as_of=AS_OF,
    validate_from=datetime(2021, 4, 1),
    evaluate_from=datetime(2020, 10, 1),
    evaluate_until=datetime(2021, 1, 1),
    immature_until=datetime(2021, 9, 1),
)
CURVE = TimingCurve(np.linspace(0, HORIZON, 1000), HORIZON)
TRAINING = QUICK.model_copy(
    update={
        "rounds": 25,
        "recent_months": 12,
        "family": ("full_history", "recent_window", "maturity_aware", "recalibrated"),
        "hazard": Hazard(bands=6, half_life_months=6, cohort_half_life_months=12),
    }
)
ROWS = aging(12_000, 1, START, AS_OF, HORIZON, TURNED)


def material(rows: pl.DataFrame = ROWS, **changes) -> Material:
    rows = PLAN.learnable(rows)
    return replace(Material(rows, PLAN, FEATURES, TRAINING, "generated", "abc", CURVE), **changes)


@pytest.fixture(scope="module")
def aware():
    return family.maturity_aware(material())


@pytest.fixture(scope="module")
def later() -> pl.DataFrame:
    """Cases from after the day, with the labels they have in the end."""
    end = AS_OF + timedelta(days=1000)
    rows = aging(8000, 2, AS_OF, end, HORIZON, TURNED)
    return rows.filter(pl.col("event_time") < end - timedelta(days=HORIZON))


def test_a_relation_that_turned_is_learned_from_cohorts_that_are_not_mature(aware, later):
    matured = family.full_history(material())
    auc = {b.candidate: roc_auc_score(later["label"], b.margins(later)) for b in (aware, matured)}
    assert auc["maturity_aware"] > 0.6 > 0.4 > auc["full_history"]
    assert aware.calibrator.keeps_the_ranking
    assert not matured.calibrator.keeps_the_ranking, "and its gates are told so"


def test_the_level_is_that_of_the_horizon_not_of_the_labels_so_far(aware, later):
    p = aware.score(later)
    assert p.mean() == pytest.approx(later["chance"].mean(), rel=0.08)
    so_far = PLAN.learnable(ROWS).filter(pl.col("event_time") >= PLAN.evaluate_until)["label"].mean()
    assert so_far < 0.8 * p.mean(), "which is a third less"


def test_the_bundle_says_what_it_was_made_of(aware):
    rows = PLAN.learnable(ROWS)
    assert aware.notes == {
        "rows": rows.height, "positives": int(rows["label"].sum()), "immature_until": "2021-09-01T00:00:00",
        "evaluate_from": PLAN.evaluate_from.isoformat(), "evaluate_until": PLAN.evaluate_until.isoformat(),
    }  # fmt: skip
    assert (aware.candidate, aware.trained_from, aware.trained_until) == (
        "maturity_aware", START, PLAN.immature_until,
    )  # fmt: skip
    window = aware.reference
    assert (window.start, window.end, window.as_of) == (PLAN.evaluate_from, PLAN.evaluate_until, AS_OF)


def test_fitting_twice_gives_the_same_bundle(aware):
    assert family.maturity_aware(material()).fingerprint == aware.fingerprint


MEMBERS = [family.full_history, family.recent_window, family.maturity_aware]


@pytest.mark.parametrize("member", MEMBERS, ids=lambda m: m.__name__)
def test_neither_the_reference_nor_the_gates_rows_nor_what_validates_is_learned(member):
    """With the labels turned round where nothing may be learned, all stays as it is."""
    quick = material(training=TRAINING.model_copy(update={"rounds": 5}), rows=ROWS).without_validation
    time = pl.col("event_time")
    reference = (time >= PLAN.evaluate_from) & (time < PLAN.evaluate_until)
    turned = (
        pl.when(reference | (time >= PLAN.validate_from)).then(1 - pl.col("label")).otherwise(pl.col("label"))
    )
    spoiled = ROWS.with_columns(label=turned, positive_age_days=pl.col("positive_age_days").fill_null(1.0))
    assert member(replace(quick, rows=spoiled)).fingerprint == member(quick).fingerprint


def test_cases_beyond_the_history_months_are_left_out():
    short = TRAINING.model_copy(update={"rounds": 3, "hazard": Hazard(bands=6, history_months=30)})
    begins = datetime(2019, 7, 1)
    bundle = family.maturity_aware(material(training=short))
    assert begins <= bundle.trained_from < begins + timedelta(days=1)
    recent = ROWS.filter(pl.col("event_time") >= begins)
    assert bundle.booster == family.maturity_aware(material(recent, training=short)).booster


def test_labels_that_are_known_at_the_horizon_only_teach_nothing_before():
    late = ROWS.with_columns(positive_age_days=pl.lit(HORIZON))
    with pytest.raises(NotEnoughData) as caught:
        family.maturity_aware(material(late))
    assert str(caught.value) == (
        f"maturity_aware: 0 positives became known before the horizon among {PLAN.learnable(ROWS).height} cases from "
        "2016-01-01; training.min_positives asks for 30"
    )


def test_the_calibrator_is_of_scores_that_have_not_seen_the_rows(aware):
    """In-sample margins would be steeper than what holds, and ask for a flatter calibrator than out-of-fold ones."""
    greedy = TRAINING.model_copy(update={"rounds": 60, "max_depth": 8, "min_child_weight": 0.0})
    noise = np.random.default_rng(4).normal(size=ROWS.height)
    bundle = family.maturity_aware(material(ROWS.with_columns(signal=pl.Series(noise)), training=greedy))
    assert bundle.calibrator.slope < 0.75 < aware.calibrator.slope


@pytest.fixture(scope="module")
def champion():
    early = replace(PLAN, evaluate_from=datetime(2020, 1, 1), evaluate_until=datetime(2020, 4, 1))
    return family.full_history(material(plan=replace(early, immature_until=None)))


def with_level(rise: float, since: datetime = START) -> tuple[pl.DataFrame, np.ndarray]:
    """A history whose ranking holds, with log odds that rise by so much at a time; its cases' chances."""
    rng = np.random.default_rng(9)
    calm = aging(12_000, 3, START, AS_OF, HORIZON)
    spread = rng.uniform(0, HORIZON, calm.height)
    risen = np.where(calm["event_time"] >= since, rise, 0.0)
    p = 1 / (1 + np.exp(-(np.log(calm["chance"] / (1 - calm["chance"])).to_numpy() + risen)))
    age = (pl.lit(AS_OF) - pl.col("event_time")).dt.total_seconds() / 86400
    positive = (rng.uniform(size=calm.height) < p) & (spread < calm.select(age).to_series().to_numpy())
    rows = calm.with_columns(
        label=pl.Series(positive.astype(np.int8)),
        positive_age_days=pl.Series(np.where(positive, spread, np.nan)).fill_nan(None),
    )
    return rows, p


@pytest.mark.parametrize("member", MEMBERS, ids=lambda m: m.__name__)
def test_every_members_level_is_that_of_the_newest_cases_that_may_be_learned_from(member):
    """Risen in the validation months: nothing that is matured knows of it."""
    rows, p = with_level(1.2, PLAN.validate_from)
    later = (rows["event_time"] >= PLAN.immature_until).to_numpy()
    found = member(material(rows, training=TRAINING.model_copy(update={"level_positives": 100})))
    assert found.score(rows.filter(later)).mean() == pytest.approx(p[later].mean(), rel=0.12)


@pytest.mark.parametrize("member", MEMBERS, ids=lambda m: m.__name__)
def test_labels_that_come_later_are_not_taken_for_a_level_that_fell(member):
    """Reports of the validation months' cases come 90 days late, so that many are lacking by their ages."""
    rows, p = with_level(0.0)
    delayed = pl.when(pl.col("event_time") >= PLAN.validate_from).then(90).otherwise(0)
    late = pl.col("positive_age_days") + delayed
    known = late <= (pl.lit(AS_OF) - pl.col("event_time")).dt.total_seconds() / 86400
    late_rows = rows.with_columns(
        label=pl.when(known).then(pl.col("label")).otherwise(0).cast(pl.Int8),
        positive_age_days=pl.when(known).then(late),
    )
    quick = TRAINING.model_copy(update={"level_positives": 100})
    doubting, trusting = (
        member(material(late_rows, training=quick.model_copy(update={"max_timing_errors": z})))
        for z in (3, 1e9)
    )
    assert trusting.score(rows).mean() < 0.85 * p.mean()
    assert doubting.score(rows).mean() == pytest.approx(p.mean(), rel=0.12)


def test_a_recalibration_that_late_labels_could_explain_is_not_made(champion):
    late = ROWS.with_columns(pl.col("positive_age_days").sqrt() * HORIZON**0.5)
    known = pl.col("positive_age_days") <= (pl.lit(AS_OF) - pl.col("event_time")).dt.total_seconds() / 86400
    late = late.with_columns(label=pl.when(known).then(pl.col("label")).otherwise(0).cast(pl.Int8))
    with pytest.raises(NotEnoughData, match="become known at other ages than the matured ones"):
        family.recalibrated(material(late, champion=champion))


def test_reports_that_stopped_are_not_taken_for_a_level_that_fell():
    rows, p = with_level(0.0)
    became = pl.col("event_time") + pl.duration(days=pl.col("positive_age_days").ceil())
    told = became < AS_OF - timedelta(days=90)
    silent = rows.with_columns(
        label=pl.when(told).then(pl.col("label")).otherwise(0).cast(pl.Int8),
        positive_age_days=pl.when(told).then(pl.col("positive_age_days")),
    )
    quick = TRAINING.model_copy(update={"level_positives": 100})
    doubting, trusting = (
        family.full_history(material(silent, training=quick.model_copy(update={"max_timing_errors": z})))
        for z in (3, 1e9)
    )
    assert trusting.score(rows).mean() < 0.85 * p.mean()
    assert doubting.score(rows).mean() == pytest.approx(p.mean(), rel=0.12)


@pytest.mark.parametrize("member", MEMBERS, ids=lambda m: m.__name__)
def test_a_use_case_may_keep_the_level_of_its_history(member):
    """Risen in the validation months: the level stays behind, between what it was and what it is."""
    rows, p = with_level(1.2, PLAN.validate_from)
    later = (rows["event_time"] >= PLAN.immature_until).to_numpy()
    kept = TRAINING.model_copy(update={"level_positives": 100, "level": "history"})
    assert member(material(rows, training=kept)).score(rows.filter(later)).mean() < 0.85 * p[later].mean()


def test_the_level_reaches_back_until_enough_positives_are_known():
    m = material()
    newest = m.level_rows(m.rows)
    assert (
        newest["event_time"].min() < PLAN.validate_from
        and newest["label"].sum() == m.training.level_positives
    )
    few = replace(m, training=m.training.model_copy(update={"level_positives": 1, "validation_months": 5}))
    assert (
        PLAN.validate_from
        <= few.level_rows(m.rows)["event_time"].min()
        < PLAN.validate_from + timedelta(days=3)
    )
    assert few.level_rows(m.rows.clear()).is_empty()


def test_the_recalibrated_champion_keeps_its_booster_and_meets_the_new_level(champion):
    """Where the level has risen and the ranking holds: positives three times as frequent."""
    risen, p = with_level(1.0)
    found = family.recalibrated(material(risen, champion=champion))
    assert (found.booster, found.vocabulary) == (champion.booster, champion.vocabulary)
    assert (found.candidate, found.trained_until) == ("recalibrated", PLAN.immature_until)
    assert found.training_fingerprint == "abc" and found.reference.as_of == AS_OF
    assert found.score(risen).mean() == pytest.approx(p.mean(), rel=0.06)
    assert champion.score(risen).mean() < 0.8 * p.mean()
    assert found.threshold != champion.threshold


def test_only_cases_that_the_champion_has_not_seen_recalibrate_it(champion):
    seen = pl.col("event_time") < champion.trained_until
    spoiled = ROWS.with_columns(label=pl.when(seen).then(0).otherwise(pl.col("label")).cast(pl.Int8))
    found = [family.recalibrated(material(r, champion=champion)) for r in (ROWS, spoiled)]
    assert found[0].calibrator == found[1].calibrator
    late = replace(champion, trained_until=datetime(2021, 8, 25))
    with pytest.raises(
        NotEnoughData, match=r"positives among .* cases from 2021-08-25, where the champion's"
    ):
        family.recalibrated(material(champion=late))
    with pytest.raises(NotEnoughData, match="there is no champion yet"):
        family.recalibrated(material())


def test_a_champion_that_ranks_backwards_is_flattened_to_the_level_and_not_turned_round(champion, later):
    found = family.recalibrated(material(champion=champion))
    assert roc_auc_score(later["label"], later_scores := found.score(later)) < 0.5
    assert later_scores.std() < 0.05 and later_scores.mean() == pytest.approx(
        later["chance"].mean(), rel=0.12
    )
    lost = [log_loss(later["label"].to_numpy(), b.score(later)) for b in (champion, found)]
    assert lost[1] < lost[0] - 0.05


def test_no_reference_of_a_recalibrated_champion_is_one_that_its_booster_learned_from(champion):
    """Else it would be judged, and its drift measured, by rows that it knows."""
    early, late = (replace(champion, trained_until=t) for t in (PLAN.evaluate_from, PLAN.evaluate_until))
    moved = family.recalibrated(material(champion=early))
    assert (moved.reference.start, moved.reference.end) == (PLAN.evaluate_from, PLAN.evaluate_until)
    kept = family.recalibrated(material(champion=late))
    assert kept.reference == replace(champion.reference, as_of=PLAN.as_of)
    for bundle in (moved, kept):
        assert plan_of(bundle) == replace(PLAN, validate_from=PLAN.evaluate_from), (
            "its training set is the plan's"
        )


def test_with_matured_labels_alone_immature_rows_are_not_used(champion):
    plan = replace(PLAN, immature_until=None)
    matured = ROWS.filter(pl.col("event_time") < PLAN.evaluate_from)
    for rows in (ROWS, matured):
        found = family.recalibrated(material(rows, plan=plan, champion=champion))
        assert found.trained_until == PLAN.evaluate_from and "immature_until" not in found.notes
    encoded = encode(matured, FEATURES, champion.vocabulary)
    assert encoded.shape[0] == matured.height


def test_the_recent_window_is_as_long_as_the_policy_says_and_ends_with_the_matured():
    bundle = family.recent_window(material())
    assert (bundle.trained_from, bundle.trained_until) == (datetime(2019, 10, 1), PLAN.immature_until)
    early = pl.col("event_time") < PLAN.evaluate_from
    matured = family.recent_window(material(ROWS.filter(early)))
    assert matured.trained_until == PLAN.evaluate_from and matured.booster == bundle.booster
    long = TRAINING.model_copy(update={"recent_months": 33})
    with pytest.raises(
        NotEnoughData, match=r"the history begins on 2018-01-01, within training\.recent_months = 33"
    ):
        family.recent_window(material(training=long))
    alone = long.model_copy(update={"family": ("recent_window",)})
    assert family.recent_window(material(training=alone)).trained_from == START
