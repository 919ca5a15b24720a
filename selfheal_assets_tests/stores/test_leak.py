"""No future label: what is trained on and judged against at a day is what was known on that day."""

from datetime import datetime, timedelta

import polars as pl
import pytest

from selfheal_assets.core.bundle import ReferenceWindow
from selfheal_assets.core.plan import TrainingPlan
from selfheal_assets.settings import Settings
from selfheal_assets.stores import cases, label_ledger
from selfheal_assets.stores.applications import load_history
from selfheal_assets.stores.tables import create_tables
from selfheal_assets.stores.warehouse import Warehouse

AS_OF = datetime(2021, 1, 1)
USE_CASE = """
name: toy
title: Toy
source: {reader: table, paths: [toy.csv]}
entity_id: id
event_time: at
go_live: 2021-01-01
features: [{name: x, type: number}]
label: {name: bad, column: bad, horizon_months: 6, implicit_negatives: false}
reference: {start: 2020-04-01, end: 2020-06-01}
"""


@pytest.fixture
def loaded(tmp_path):
    days = [datetime(2020, 1, 1) + timedelta(days=d) for d in range(300)]
    rows = {"id": [f"c{i}" for i in range(300)], "at": days, "x": [i / 7 for i in range(300)]}
    pl.DataFrame(rows | {"bad": [int(i % 10 == 0) for i in range(300)]}).write_csv(tmp_path / "toy.csv")
    (tmp_path / "toy.yaml").write_text(USE_CASE)
    settings = Settings(use_case=str(tmp_path / "toy.yaml"), home=tmp_path / "run", project=tmp_path)
    warehouse = Warehouse(settings.warehouse_path, settings.published)
    create_tables(warehouse, settings.case)
    load_history(warehouse, settings)
    return warehouse, settings.case


def plant(warehouse: Warehouse, recorded_at: datetime) -> None:
    """Call every case bad, as of ``recorded_at``."""
    flipped = pl.DataFrame({"entity_id": [f"c{i}" for i in range(300)], "label": [1] * 300}).with_columns(
        occurred_at=pl.lit("2020-03-01"), recorded_at=pl.lit(recorded_at.isoformat())
    )
    valid, rejected = label_ledger.conform(flipped, "planted", recorded_at)
    assert rejected.is_empty()
    assert label_ledger.append(warehouse, valid) == 300


def known(warehouse, case, as_of):
    """What learning and judging would use at a day."""
    plan = TrainingPlan(
        as_of,
        datetime(2020, 8, 1),
        datetime(2020, 4, 1),
        datetime(2020, 6, 1),
        immature_until=datetime(2020, 9, 1),
    )
    window = ReferenceWindow(plan.evaluate_from, plan.evaluate_until, as_of)
    rows, trained = cases.freeze_training_set(warehouse, case, plan)
    reference = cases.freeze_reference(warehouse, case, window)
    ages = cases.timing_curve(warehouse, case, as_of).ages.tolist()
    turned = rows["positive_age_days"].sum()
    return trained, reference.fingerprint, int(rows["label"].sum()), turned, ages


@pytest.mark.parametrize("late", [timedelta(0), timedelta(days=1), timedelta(days=400)])
def test_a_label_recorded_later_changes_nothing(loaded, late):
    warehouse, case = loaded
    before = known(warehouse, case, AS_OF)
    plant(warehouse, AS_OF + late)
    assert known(warehouse, case, AS_OF) == before


def test_the_same_label_counts_once_it_is_recorded(loaded):
    warehouse, case = loaded
    before = known(warehouse, case, AS_OF)
    plant(warehouse, AS_OF - timedelta(seconds=1))
    after = known(warehouse, case, AS_OF)
    assert after[0] != before[0] and after[1] != before[1] and after[2] > before[2]


def test_freezing_twice_changes_nothing(loaded):
    warehouse, case = loaded
    assert known(warehouse, case, AS_OF) == known(warehouse, case, AS_OF)
    window = ReferenceWindow(datetime(2020, 4, 1), datetime(2020, 6, 1), AS_OF)
    assert not cases.freeze_reference(warehouse, case, window).changed
