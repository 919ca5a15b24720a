"""Labelled cases as of a day: what is mature, which label counts, and what stays frozen."""

from dataclasses import replace
from datetime import datetime, timedelta

import polars as pl
import pytest

from selfheal_assets.core import fingerprint
from selfheal_assets.core.bundle import ReferenceWindow
from selfheal_assets.core.plan import NotEnoughData, TrainingPlan
from selfheal_assets.settings import Settings
from selfheal_assets.stores import label_ledger
from selfheal_assets.stores.cases import (
    freeze_reference,
    freeze_training_set,
    frozen_training_set,
    matured_cases,
    timing_curve,
    training_rows,
)
from selfheal_assets.stores.tables import create_tables, set_clock
from selfheal_assets_tests.stores.conftest import DAY, YAML, members

pytestmark = pytest.mark.integration

MATURE = datetime(2020, 7, 1)  # DAY and the horizon of six months
AS_OF = datetime(2021, 1, 1)
TICK = timedelta(microseconds=1)
JANUARY = ReferenceWindow(DAY, datetime(2020, 2, 1), AS_OF)
PLAN = TrainingPlan(
    as_of=AS_OF, validate_from=datetime(2020, 3, 1), evaluate_from=datetime(2020, 4, 1), evaluate_until=MATURE
)


def load(warehouse, frame: pl.DataFrame) -> None:
    warehouse.replace("applications", frame)


def learn(
    warehouse, entity_id: str, label: int, occurred_at: datetime, recorded_at: datetime | None = None
) -> None:
    row = {"entity_id": [entity_id], "label": [label], "occurred_at": [occurred_at]}
    row |= {"recorded_at": [recorded_at or occurred_at]}
    valid, rejected = label_ledger.conform(pl.DataFrame(row), "test", AS_OF)
    assert rejected.is_empty()
    assert label_ledger.append(warehouse, valid) == 1


def log(warehouse, case, frame: pl.DataFrame, role: str = "champion") -> None:
    """Rows of the prediction log, as ingestion leaves them."""
    with warehouse.write() as connection:
        connection.register("incoming", frame.to_arrow())
        features = ", ".join(case.feature_names)
        connection.execute(
            f"""insert into prediction_log select '{role}-' || entity_id, entity_id, event_time, event_time, 1,
                'abc', '{role}', {features}, 0.5, 1, 0.5, 'segment' from incoming"""
        )


def labelled(warehouse, as_of: datetime) -> dict[str, tuple]:
    rows = warehouse.query(
        "select entity_id, is_mature, label from labelled_cases(cast(? as timestamp))", [as_of]
    ).rows()
    assert len({row[0] for row in rows}) == len(rows), "one row per case"
    return {entity: (is_mature, label) for entity, is_mature, label in rows}


@pytest.fixture
def waiting(tmp_path, warehouse):
    """The warehouse of a use case that does not count silence as negative."""
    text = YAML.replace("horizon_months: 6", "horizon_months: 6, implicit_negatives: false")
    (tmp_path / "waiting.yaml").write_text(text)
    create_tables(warehouse, Settings(use_case=str(tmp_path / "waiting.yaml"), project=tmp_path).case)
    return warehouse


# --- As of a day ------------------------------------------------------------------------------


def test_a_case_is_known_strictly_after_it_happened_and_mature_strictly_after_the_horizon(warehouse):
    load(warehouse, members(1))
    assert labelled(warehouse, DAY) == {}
    assert labelled(warehouse, DAY + TICK) == {"m0": (False, None)}
    assert labelled(warehouse, MATURE) == {"m0": (False, None)}
    assert labelled(warehouse, MATURE + TICK) == {"m0": (True, 0)}


def test_where_silence_says_nothing_a_mature_case_stays_unlabelled(waiting):
    load(waiting, members(2))
    learn(waiting, "m1", 0, datetime(2020, 8, 1))
    assert labelled(waiting, AS_OF) == {"m0": (True, None), "m1": (True, 0)}


def test_the_horizon_is_in_calendar_months(warehouse):
    load(warehouse, members(1).with_columns(event_time=datetime(2020, 8, 31)))
    assert labelled(warehouse, datetime(2021, 2, 28))["m0"] == (False, None)
    assert labelled(warehouse, datetime(2021, 2, 28) + TICK)["m0"] == (True, 0)


@pytest.mark.parametrize(
    ("occurred_at", "label"),
    [(DAY, 1), (MATURE, 1), (MATURE + TICK, 0), (datetime(2020, 12, 1), 0)],
)
def test_a_positive_counts_only_if_it_happened_within_the_horizon(warehouse, occurred_at, label):
    load(warehouse, members(1))
    learn(warehouse, "m0", 1, occurred_at)
    assert labelled(warehouse, AS_OF) == {"m0": (True, label)}


def test_a_positive_within_the_horizon_counts_however_late_it_was_learned(warehouse):
    load(warehouse, members(1))
    learn(warehouse, "m0", 1, datetime(2020, 3, 1), datetime(2020, 12, 1))
    assert labelled(warehouse, datetime(2020, 12, 1)) == {"m0": (True, 0)}
    assert labelled(warehouse, datetime(2020, 12, 1) + TICK) == {"m0": (True, 1)}


def test_a_label_is_shown_before_the_case_is_mature(warehouse, case):
    load(warehouse, members(2))
    learn(warehouse, "m0", 1, datetime(2020, 2, 1))
    assert labelled(warehouse, datetime(2020, 3, 1)) == {"m0": (False, 1), "m1": (False, None)}
    assert matured_cases(warehouse, case, datetime(2020, 3, 1)).is_empty()


def test_a_correction_changes_what_is_known_from_then_on(warehouse):
    load(warehouse, members(1))
    learn(warehouse, "m0", 1, datetime(2020, 3, 1))
    learn(warehouse, "m0", 0, datetime(2020, 3, 1), datetime(2020, 9, 1))
    assert labelled(warehouse, datetime(2020, 9, 1)) == {"m0": (True, 1)}
    assert labelled(warehouse, AS_OF) == {"m0": (True, 0)}


def test_cases_come_from_history_and_from_the_log_but_not_from_shadows(warehouse, case):
    load(warehouse, members(2))
    log(warehouse, case, members(2, first=2))
    log(warehouse, case, members(4, first=2), role="challenger")
    learn(warehouse, "m2", 1, datetime(2020, 3, 1))
    assert labelled(warehouse, AS_OF) == {"m0": (True, 0), "m1": (True, 0), "m2": (True, 1), "m3": (True, 0)}
    frame = matured_cases(warehouse, case, AS_OF)
    assert frame.select(members(4).columns).equals(members(4))
    assert frame["label"].dtype == pl.Int8


def test_a_window_includes_its_start_and_excludes_its_end(warehouse, case):
    load(warehouse, members(10).sample(10, shuffle=True, seed=1))
    days = [DAY + timedelta(days=n) for n in range(10)]
    found = {
        window: matured_cases(warehouse, case, AS_OF, *window)["entity_id"].to_list()
        for window in ((None, None), (days[7], None), (None, days[2]), (days[3], days[5]))
    }
    every = [f"m{n}" for n in range(10)]
    assert list(found.values()) == [every, every[7:], every[:2], every[3:5]]


def test_the_timing_curve_knows_only_what_was_mature(warehouse, case):
    load(warehouse, members(40))
    for n in range(0, 40, 2):
        learn(warehouse, f"m{n}", 1, DAY + timedelta(days=n + 30))
    learn(warehouse, "m1", 1, MATURE + timedelta(days=2))  # too late to be a positive
    assert timing_curve(warehouse, case, AS_OF).ages.tolist() == [30.0] * 20
    assert len(timing_curve(warehouse, case, datetime(2020, 7, 10)).ages) == 5


def test_the_clock_has_one_row(warehouse, case):
    set_clock(warehouse, case, DAY)
    set_clock(warehouse, case, AS_OF)
    assert warehouse.query("select * from clock").rows() == [(AS_OF, case.monitoring.chunk, 6, True)]


# --- Frozen -----------------------------------------------------------------------------------


def kept_references(warehouse) -> dict[str, int]:
    return dict(
        warehouse.query("select reference_fingerprint, count(*) from reference_data group by all").rows()
    )


def test_a_reference_is_kept_under_its_fingerprint(warehouse, case):
    load(warehouse, members(100))
    learn(warehouse, "m3", 1, datetime(2020, 3, 1))
    first = freeze_reference(warehouse, case, JANUARY)
    assert first.changed and first.fingerprint == fingerprint.of_frame(first.frame, ["entity_id"])
    assert first.frame.columns == [*members(1).columns, "label"]
    assert first.frame["label"].to_list() == [int(n == 3) for n in range(31)]

    again = freeze_reference(warehouse, case, JANUARY)
    assert (again.changed, again.fingerprint) == (False, first.fingerprint)
    assert again.frame.equals(first.frame)

    other = freeze_reference(warehouse, case, replace(JANUARY, end=datetime(2020, 1, 11)))
    assert other.changed
    assert kept_references(warehouse) == {first.fingerprint: 31, other.fingerprint: 10}
    stored = warehouse.query(
        "select * exclude (reference_fingerprint) from reference_data where reference_fingerprint = ?",
        [first.fingerprint],
    )
    assert fingerprint.of_frame(stored, ["entity_id"]) == first.fingerprint


def test_a_correction_gives_another_reference_and_keeps_the_old(warehouse, case):
    load(warehouse, members(40))
    first = freeze_reference(warehouse, case, JANUARY)
    learn(warehouse, "m3", 1, datetime(2020, 3, 1))
    second = freeze_reference(warehouse, case, JANUARY)
    assert second.changed
    assert kept_references(warehouse) == {first.fingerprint: 31, second.fingerprint: 31}


def test_a_reference_holds_labelled_cases_only(waiting, case):
    load(waiting, members(40))
    with pytest.raises(LookupError) as caught:
        freeze_reference(waiting, case, JANUARY)
    for expected in (
        "between 2020-01-01 and 2020-02-01",
        "known at 2021-01-01",
        "'reference' in the use case",
    ):
        assert expected in str(caught.value)
    assert kept_references(waiting) == {}
    learn(waiting, "m5", 1, datetime(2020, 3, 1))
    learn(waiting, "m7", 0, datetime(2020, 8, 1))
    assert freeze_reference(waiting, case, JANUARY).frame["entity_id"].to_list() == ["m5", "m7"]


def test_a_training_set_ends_where_evaluation_begins(warehouse, case):
    load(warehouse, members(200))
    rows, name = freeze_training_set(warehouse, case, PLAN)
    assert rows["event_time"].max() == PLAN.evaluate_from - timedelta(days=1)
    assert rows.height == 91
    assert rows.columns == [*members(1).columns, "label", "positive_age_days"]
    assert name == fingerprint.of_frame(rows, ["entity_id"])
    early = replace(PLAN, as_of=datetime(2020, 8, 1))
    assert training_rows(warehouse, case, early).height == 31, "mature at that day only"


def test_what_a_plan_was_frozen_with_stays_when_more_is_learned(warehouse, case):
    load(warehouse, members(200))
    rows, name = freeze_training_set(warehouse, case, PLAN)
    learn(warehouse, "m3", 1, datetime(2020, 3, 1))  # arrives late: recorded before the plan's day
    kept, kept_name = frozen_training_set(warehouse, case, PLAN)
    assert kept.equals(rows) and kept_name == name == fingerprint.of_frame(kept, ["entity_id"])

    anew, anew_name = freeze_training_set(warehouse, case, PLAN)
    assert anew_name != name and anew["label"].sum() == 1
    assert frozen_training_set(warehouse, case, PLAN)[0].equals(anew)


def test_another_plan_is_frozen_anew_and_replaces_the_last(warehouse, case):
    load(warehouse, members(200))
    for plan, rows in ((PLAN, 91), (replace(PLAN, evaluate_from=datetime(2020, 3, 1)), 60)):
        frozen, name = frozen_training_set(warehouse, case, plan)
        assert (frozen.height, warehouse.query("select * from training_set").height) == (rows, rows)
        noted = warehouse.query("select fingerprint, row_count, scope from sources").rows()
        scope = f"2021-01-01T00:00:00 until {plan.evaluate_from.isoformat()}"
        assert noted == [(name, rows, scope)]


def test_the_same_rows_for_another_day_are_the_same_set(warehouse, case):
    load(warehouse, members(200))
    _, name = freeze_training_set(warehouse, case, PLAN)
    later = replace(PLAN, as_of=AS_OF + timedelta(days=90))
    assert freeze_training_set(warehouse, case, later)[1] == name
    assert frozen_training_set(warehouse, case, later)[1] == name


def test_without_a_mature_labelled_case_there_is_nothing_to_train_on(waiting, case):
    load(waiting, members(200))
    with pytest.raises(NotEnoughData, match="before 2020-04-01 was known at 2021-01-01"):
        freeze_training_set(waiting, case, PLAN)
    assert not waiting.has("training_set")
    learn(waiting, "m120", 1, datetime(2020, 6, 1))  # labelled, but an evaluation row
    with pytest.raises(NotEnoughData):
        frozen_training_set(waiting, case, PLAN)


def test_without_a_labelled_case_in_the_reference_nothing_is_trained(warehouse, case):
    """Months of an outage: a model promoted on such a day could not be monitored."""
    rows = members(200)
    in_reference = (pl.col("event_time") >= PLAN.evaluate_from) & (pl.col("event_time") < PLAN.evaluate_until)
    load(warehouse, rows.filter(~in_reference))
    with pytest.raises(NotEnoughData, match="no reference to be monitored by"):
        freeze_training_set(warehouse, case, PLAN)
    assert not warehouse.has("training_set")


SO_FAR = TrainingPlan(
    as_of=datetime(2020, 10, 1),
    validate_from=datetime(2020, 6, 1),
    evaluate_from=datetime(2020, 2, 1),
    evaluate_until=datetime(2020, 4, 1),
    immature_until=datetime(2020, 7, 1),
)


def test_where_labels_so_far_count_the_training_set_holds_cases_that_are_not_mature(warehouse, case):
    """One case a day: until the reference all mature; after it, until the gates' months, as known on the day."""
    load(warehouse, members(250))
    learn(warehouse, "m3", 1, datetime(2020, 2, 3), recorded_at=datetime(2020, 2, 13))
    learn(warehouse, "m100", 1, datetime(2020, 9, 1), recorded_at=datetime(2020, 9, 8))
    learn(warehouse, "m101", 1, datetime(2020, 9, 1), recorded_at=SO_FAR.as_of)  # as of then nobody knew
    learn(warehouse, "m40", 1, datetime(2020, 5, 1))  # in the reference
    rows, name = freeze_training_set(warehouse, case, SO_FAR)
    numbers = [int(e.removeprefix("m")) for e in rows["entity_id"]]
    assert numbers == [*range(31), *range(91, 182)]
    known = rows.filter(pl.col("label") == 1).select("entity_id", "positive_age_days").rows()
    assert known == [("m3", 40.0), ("m100", 151.0)]
    assert rows.filter(pl.col("label") == 0)["positive_age_days"].null_count() == rows.height - 2
    assert frozen_training_set(warehouse, case, SO_FAR)[0].equals(rows)
    other = replace(SO_FAR, immature_until=datetime(2020, 6, 1))
    assert frozen_training_set(warehouse, case, other)[1] != name, "another plan is another scope"


def test_an_immature_case_without_a_label_is_negative_so_far_and_a_mature_one_unknown(waiting, case):
    load(waiting, members(250))
    learn(waiting, "m5", 0, datetime(2020, 8, 1))
    rows = training_rows(waiting, case, SO_FAR)
    mature = datetime(2020, 4, 1)  # six months before the day, exclusive
    assert rows.filter(pl.col("event_time") < mature)["entity_id"].to_list() == ["m5"]
    assert rows.filter(pl.col("event_time") >= mature)["label"].to_list() == [0] * 91


def test_a_label_from_before_its_case_counts_at_age_nought(warehouse, case):
    load(warehouse, members(250))
    learn(warehouse, "m120", 1, datetime(2020, 3, 1))
    rows, _ = freeze_training_set(warehouse, case, SO_FAR)
    assert rows.filter(pl.col("entity_id") == "m120")["positive_age_days"].to_list() == [0.0]
