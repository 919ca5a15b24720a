"""The challenger is the member that the months which none of them has seen prefer; the others are told why not."""

from dataclasses import replace
from datetime import datetime

import numpy as np
import polars as pl
import pytest

from selfheal_assets.core.encoding import encode
from selfheal_assets.core.family import MEMBERS
from selfheal_assets.core.fitting import fit_booster
from selfheal_assets.core.material import Material
from selfheal_assets.core.maturity import TimingCurve, log_losses_so_far
from selfheal_assets.core.metrics import log_loss
from selfheal_assets.core.plan import NotEnoughData
from selfheal_assets.core.selection import choose_challenger, validate
from selfheal_assets.core.spec import Training
from selfheal_assets_tests.core.generated import FEATURES, PLAN, QUICK, cases, sigmoid
from selfheal_assets_tests.core.test_family import material

TWO = QUICK.model_copy(update={"family": ("full_history", "recent_window"), "recent_months": 7})


def matured(rows: pl.DataFrame, training: Training = TWO) -> Material:
    """All of it mature, as where only matured labels are evidence."""
    known = rows.with_columns(positive_age_days=pl.when(pl.col("label") == 1).then(30.0))
    curve = TimingCurve(np.array([30.0]), 365.0)
    return Material(known, PLAN, FEATURES, training, "generated", "abc", curve)


def loss(rows: pl.DataFrame, member: str = "full_history") -> float:
    found = validate(matured(rows), member).loss
    assert found is not None
    return found


def test_with_matured_labels_the_loss_is_the_log_loss_of_what_was_fitted_before():
    rows = cases(900, 1)
    earlier, later = (
        rows.filter(c)
        for c in (pl.col("event_time") < PLAN.validate_from, pl.col("event_time") >= PLAN.validate_from)
    )
    vocabulary = {"kind": ["a", "b", "c"]}
    booster = fit_booster(encode(earlier, FEATURES, vocabulary), earlier["label"].to_numpy(), TWO)
    p = booster.inplace_predict(encode(later, FEATURES, vocabulary))
    assert loss(rows) == pytest.approx(log_loss(later["label"].to_numpy(), p), abs=1e-6)


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
    assert loss(shuffled) > chance
    assert loss(rows) < chance


def test_a_preferred_member_is_taken_within_a_standard_error_and_no_further():
    same = matured(cases(3000, 3), TWO.model_copy(update={"recent_months": 8}))  # nearly all of the history
    assert [t.chosen for t in choose_challenger(same).trials] == [True, False]
    other, taken = choose_challenger(same, preferred="recent_window").trials
    assert taken.chosen and not other.chosen
    assert taken.reason.startswith("preferred, as the calibration is off: within a standard error")
    assert other.reason.endswith("which is preferred; within a standard error")
    turned = pl.when(pl.col("event_time") < datetime(2018, 12, 1)).then(-pl.col("signal")).otherwise("signal")
    misled = matured(same.rows.with_columns(signal=turned))
    assert next(t for t in choose_challenger(misled, preferred="full_history").trials if t.chosen).member == (
        "recent_window"
    )


def test_validation_prefers_the_window_that_still_holds():
    """The relation turned round in December 2018, where the recent window begins: what came before misleads."""
    rows = cases(3000, 3)
    turned = datetime(2018, 12, 1)
    rows = rows.with_columns(
        signal=pl.when(pl.col("event_time") < turned).then(-pl.col("signal")).otherwise("signal")
    )
    choice = choose_challenger(matured(rows))
    full, recent = choice.trials
    assert (recent.loss, full.loss) == (loss(rows, "recent_window"), loss(rows)), (
        "side by side or alone is the same"
    )
    assert recent.loss < full.loss and recent.chosen and not full.chosen
    assert recent.reason == "the least loss on the validation months"
    assert full.reason == f"loses {full.loss - recent.loss:.5f} nats a case more than recent_window"
    assert choice.bundle.to_files() == MEMBERS["recent_window"](matured(rows)).to_files(), (
        "fitted on all months"
    )


@pytest.mark.parametrize(
    ("rows", "why"),
    [
        (
            cases(300, 4).filter(pl.col("event_time") < PLAN.validate_from),
            "no case in the validation months, 2019-07",
        ),
        (
            cases(300, 4).filter((pl.col("event_time") >= PLAN.validate_from) | (pl.col("label") == 0)),
            "0 positives among",
        ),
        (
            cases(300, 4).filter((pl.col("event_time") < PLAN.validate_from) | (pl.col("label") == 0)),
            "validation cases, 2019-07-01 to 2020-01-01, is positive so far",
        ),
    ],
    ids=["nothing to validate on", "no positive to learn from", "no positive to find"],
)
def test_a_member_that_cannot_be_measured_says_why(rows, why):
    trial = validate(matured(rows), "full_history")
    assert trial.loss is None and why in trial.reason


def test_where_none_can_be_measured_the_first_that_can_be_fitted_is_taken():
    rows = cases(300, 4).filter(pl.col("event_time") < PLAN.validate_from)
    training = TWO.model_copy(update={"family": ("recalibrated", "full_history", "recent_window")})
    choice = choose_challenger(matured(rows, training))
    assert [(t.member, t.loss, t.chosen) for t in choice.trials] == [
        ("recalibrated", None, False), ("full_history", None, True), ("recent_window", None, False),
    ]  # fmt: skip
    assert choice.trials[0].reason == "could not be fitted: recalibrated: there is no champion yet"
    assert choice.trials[1].reason.startswith(
        "the first that could be fitted, as none could be measured (full_"
    )


def test_where_none_can_be_fitted_each_says_why():
    few = cases(300, 4).filter(pl.col("label") == 0)
    with pytest.raises(NotEnoughData) as caught:
        choose_challenger(matured(few))
    assert "candidate full_history: 0 positives" in str(caught.value)
    assert "candidate recent_window: 0 positives" in str(caught.value)


def test_with_labels_so_far_the_member_that_follows_the_turn_is_chosen():
    choice = choose_challenger(material())
    losses = {t.member: t.loss for t in choice.trials}
    assert choice.bundle.candidate == "maturity_aware"
    assert losses["maturity_aware"] < min(losses["full_history"], losses["recent_window"])
    assert losses["recalibrated"] is None


def test_young_validation_cases_favour_nobody_who_says_too_little():
    """Of cases as young as these a third has shown: judged as if that were all, the model that says a third wins."""
    rows = material().plan.validation(material().rows)
    positive, due = material().so_far(rows)
    assert 0.2 < due.mean() < 0.8

    def judged(shift: float) -> float:
        margin = 1.2 * rows["signal"].to_numpy() * -1 + (rows["kind"] == "c").to_numpy() - 1.5 + shift
        return log_losses_so_far(sigmoid(margin), positive, due).mean()

    assert judged(0) < min(judged(-0.5), judged(0.5))


def test_a_champion_that_has_seen_the_validation_months_is_not_measured_on_them():
    champion = replace(MEMBERS["full_history"](material()), trained_until=datetime(2021, 6, 1))
    trial = validate(material(champion=champion), "recalibrated")
    assert trial.loss is None and "the champion has learned from cases up to 2021-06-01" in trial.reason


def test_members_are_compared_at_the_level_of_the_months_that_they_are_compared_on():
    """A champion whose level is far off, and whose ranking is right, loses no more than the same at its level."""
    champion = MEMBERS["maturity_aware"](material())
    champion = replace(champion, trained_until=datetime(2021, 4, 1))
    off = replace(
        champion, calibrator=replace(champion.calibrator, intercept=champion.calibrator.intercept - 2)
    )
    found = [validate(material(champion=b), "recalibrated").loss for b in (champion, off)]
    assert found[0] is not None and found[0] == pytest.approx(found[1], abs=1e-9)


def test_with_the_level_of_the_history_members_are_compared_as_they_are():
    made = material()
    kept = replace(made, training=made.training.model_copy(update={"level": "history"}))
    bundle = MEMBERS["full_history"](kept.without_validation)
    off = replace(bundle, calibrator=replace(bundle.calibrator, intercept=bundle.calibrator.intercept - 2))
    found = [validate(kept, "full_history", lambda *_, b=b: b).loss for b in (bundle, off)]
    assert found[0] is not None and found[1] is not None and found[1] > found[0] + 0.01


def test_progress_is_told():
    said: list[str] = []
    choose_challenger(matured(cases(900, 1)), said.append)
    assert said[-1].startswith("fitting ") and any("validation loss 0." in line for line in said)
