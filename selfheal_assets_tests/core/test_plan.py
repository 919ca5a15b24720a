"""Windows of a retraining: what is learned from is known, and what judges is later and unseen."""

from dataclasses import replace
from datetime import date, datetime, timedelta

import polars as pl
import pytest

from selfheal_assets.core.plan import NotEnoughData, TrainingPlan, plan_of, plan_training
from selfheal_assets.core.spec import LabelSpec, Period, Training
from selfheal_assets_tests.core.generated import untrained

LABEL = LabelSpec(name="bad", positive_at="bad_on", horizon_months=12)
REFERENCE = Period(start=date(2019, 1, 1), end=date(2019, 7, 1))


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


PARTIAL = plan_training(
    datetime(2023, 1, 1),
    LABEL,
    Training(evaluation_months=3, validation_months=2, gate_months=4),
    untrained(datetime(2021, 12, 1)),
    REFERENCE,
    gates_from=datetime(2022, 9, 1),
)
DAILY = pl.DataFrame({"event_time": [datetime(2021, 1, 1) + timedelta(days=n) for n in range(730)]})


def span(rows: pl.DataFrame) -> list[tuple[datetime, datetime]]:
    """First day and day after the last of each unbroken run."""
    days = rows["event_time"].to_list()
    starts = [d for d in days if d - timedelta(days=1) not in days]
    ends = [d + timedelta(days=1) for d in days if d + timedelta(days=1) not in days]
    return list(zip(starts, ends, strict=True))


def test_with_labels_so_far_the_newest_months_are_the_gates_and_the_reference_nobodys():
    """The reference is not cut where the champion's training ended: it is not the gates' then."""
    assert (
        TrainingPlan(
            as_of=datetime(2023, 1, 1),
            validate_from=datetime(2022, 7, 1),
            evaluate_from=datetime(2021, 10, 1),
            evaluate_until=datetime(2022, 1, 1),
            immature_until=datetime(2022, 9, 1),
        )
        == PARTIAL
    )
    before, after = (
        (datetime(2021, 1, 1), datetime(2021, 10, 1)),
        (datetime(2022, 1, 1), datetime(2022, 9, 1)),
    )
    assert span(PARTIAL.matured(DAILY)) == [before]
    assert span(PARTIAL.matured(DAILY, since=datetime(2021, 5, 1))) == [(datetime(2021, 5, 1), before[1])]
    assert span(PARTIAL.learnable(DAILY)) == [before, after]
    assert span(PARTIAL.validation(DAILY)) == [(datetime(2022, 7, 1), datetime(2022, 9, 1))]


def test_what_chooses_the_challenger_is_not_learned_from_meanwhile():
    without = PARTIAL.without_validation
    assert span(without.learnable(DAILY))[-1] == (datetime(2022, 1, 1), PARTIAL.validate_from)
    matured = replace(PARTIAL, validate_from=datetime(2021, 8, 1), immature_until=None)
    assert span(matured.validation(DAILY)) == [(datetime(2021, 8, 1), datetime(2021, 10, 1))]
    assert span(matured.without_validation.learnable(DAILY)) == [(datetime(2021, 1, 1), datetime(2021, 8, 1))]


def test_the_reference_is_no_validation_month():
    """Validation months that reach back beyond the reference skip it, and are left out on both sides of it."""
    long = replace(PARTIAL, validate_from=datetime(2021, 9, 1))
    assert span(long.validation(DAILY)) == [
        (datetime(2021, 9, 1), datetime(2021, 10, 1)),
        (datetime(2022, 1, 1), datetime(2022, 9, 1)),
    ]
    assert span(long.without_validation.learnable(DAILY)) == [(datetime(2021, 1, 1), datetime(2021, 9, 1))]


@pytest.mark.parametrize("plan", [PARTIAL, replace(PARTIAL, immature_until=None)], ids=["partial", "matured"])
def test_a_bundle_tells_which_rows_it_was_made_from(plan):
    bundle = untrained(plan.evaluate_from)
    window = replace(bundle.reference, start=plan.evaluate_from, end=plan.evaluate_until, as_of=plan.as_of)
    found = plan_of(
        replace(bundle, reference=window, notes=plan.noted(DAILY["event_time"].is_null().to_numpy()))
    )
    assert found.learnable(DAILY).equals(plan.learnable(DAILY))
    assert (found.as_of, found.immature_until) == (plan.as_of, plan.immature_until)
