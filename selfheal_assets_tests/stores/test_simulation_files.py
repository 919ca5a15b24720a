"""Scenarios from files, and simulated histories as files: what is read back is what was simulated."""

from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from selfheal_assets.core.random_scenario import random_scenario
from selfheal_assets.core.scenario import Scenario
from selfheal_assets.core.simulation import simulate
from selfheal_assets.settings import Settings
from selfheal_assets.stores import simulation_files
from selfheal_assets.stores.scenarios import SHIPPED, ScenarioError, load_scenario, shipped
from selfheal_assets.stores.sources import SourceError, read_cases
from selfheal_assets.use_case import load_use_case
from selfheal_assets_tests.core.simulated import population
from selfheal_assets_tests.stores.conftest import YAML

LIBRARY = sorted(p.stem for p in SHIPPED.glob("*.yaml"))
BASE = """
name: generated
title: Generated cases
source: {reader: table, paths: [none.parquet]}
entity_id: id
event_time: at
go_live: 2021-01-01
features:
  - {name: signal, type: number}
  - {name: size, type: integer, min: 0, max: 10000}
  - {name: kind, type: category, values: [a, b, c]}
label: {name: bad, positive_at: bad_on, horizon_months: 12, outcome: baddies}
segments: [{name: kind, feature: kind}]
reference: {start: 2018-01-01, end: 2019-01-01}
policy: {gates: {min_rows: 321}}
"""


@pytest.fixture
def case(tmp_path):
    (tmp_path / "base.yaml").write_text(BASE)
    return load_use_case(str(tmp_path / "base.yaml"))


def read(use_case: Path):
    settings = Settings(use_case=str(use_case), home=use_case.parent / "home", project=use_case.parent)
    return settings.case, read_cases(settings.case, settings)


@pytest.mark.parametrize("name", [*LIBRARY, "random"])
def test_what_is_read_back_is_what_was_simulated(name, case, tmp_path):
    scenario = load_scenario(name, seed=5).model_copy(update={"cases_per_month": 60})
    made = simulate(population(), scenario)
    written = simulation_files.write(made, case, tmp_path / "out")
    declared, cases = read(written.use_case)
    assert_frame_equal(cases.frame, made.cases)
    columns = ["entity_id", "label", "occurred_at", "recorded_at"]
    assert_frame_equal(
        cases.labels.select(columns).sort("entity_id"), made.labels.select(columns).sort("entity_id")
    )
    assert (declared.name, written.name) == (f"sim_{name}_5",) * 2
    assert declared.policy.gates.min_rows == 321 and declared.segments == case.segments
    assert (
        declared.label.horizon_months == made.scenario.horizon_months and declared.label.outcome == "baddies"
    )
    for part in ("truth", "events", "labels"):
        assert_frame_equal(pl.read_parquet(tmp_path / "out" / f"{part}.parquet"), getattr(made, part))


def test_the_scenario_that_is_written_makes_the_same_history_again(case, tmp_path):
    made = simulate(population(), random_scenario(8, cases_per_month=60))
    written = simulation_files.write(made, case, tmp_path)
    again = simulate(population(), load_scenario(str(written.folder / "scenario.yaml")))
    assert_frame_equal(again.cases, made.cases)
    assert_frame_equal(again.labels, made.labels)


def test_an_earlier_simulation_is_replaced(case, tmp_path):
    for name in ("sudden", "unchanged"):
        small = load_scenario(name).model_copy(update={"cases_per_month": 60})
        written = simulation_files.write(simulate(population(), small), case, tmp_path)
    assert read(written.use_case)[0].name == "sim_unchanged_0"
    assert pl.read_parquet(tmp_path / "events.parquet").is_empty()


def test_features_are_widened_only_as_far_as_schema_breaks_need(case):
    widened = {f.name: simulation_files.widened(f, load_scenario("unchanged")) for f in case.features}
    assert widened == {f.name: f for f in case.features}
    breaks = [
        {"kind": "missing_column", "feature": "signal", "start": 1},
        {"kind": "new_category", "feature": "kind", "value": "z", "start": 1},
        {"kind": "unit_change", "feature": "size", "factor": 100.0, "start": 1},
    ]
    scenario = Scenario.model_validate({"name": "broken", "events": breaks})
    signal, size, kind = (simulation_files.widened(f, scenario) for f in case.features)
    assert signal.nullable and not size.nullable
    assert (size.min, size.max) == (0, 1_000_000)
    assert kind.values == ("a", "b", "c", "z")


def test_every_scenario_of_the_library_is_named_as_its_file_and_says_what_happens():
    library = shipped()
    assert list(library) == LIBRARY == sorted(s.name for s in library.values())
    asked_for = "unchanged crisis gradual recurring delay_change noise outage schema_break mixed"
    assert set(asked_for.split()) <= {*LIBRARY}
    assert all(s.description for s in library.values())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "name: x\nevents:\n  - {kind: scaling, feature: a, factor: 0, start: 1}\n",
            "line 3: events.0.factor: Input",
        ),
        ("name: x\nevents:\n  - {kind: scalign, start: 1}\n", "line 3: events.0: Input tag 'scalign'"),
        ("name: x\nmonthss: 3\n", "line 2: monthss: is not permitted: no such key"),
        (
            "name: x\nevents:\n  - kind: outage\n    of: labels\n    start: 3\n",
            "line 3: events.0.end: an outage must",
        ),
        (
            "name: x\nmonths: 2\nevents:\n  - kind: prior_shift\n    odds: 2\n    start: 3\n",
            "line 6: events.0.start: ",
        ),
        ("name: x\nhistory_months: 3\n", "line 2: history_months: 3 is too short"),
        ("name: [", "not valid YAML"),
    ],
)
def test_a_mistake_in_a_scenario_is_told_with_file_line_and_key(tmp_path, text, words):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ScenarioError) as caught:
        load_scenario(str(path))
    assert str(path) in str(caught.value) and words in str(caught.value)


@pytest.mark.parametrize("name", ["nosuch", "nosuch.yaml"])
def test_an_unknown_scenario_is_told_with_those_there_are(name):
    with pytest.raises(ScenarioError, match=r"no scenario 'nosuch.*unchanged, random; or give a path"):
        load_scenario(name)


# --- label.recorded_at in any source ------------------------------------------------------------


GYM = """\
member,joined_on,fee,visits,plan,left_on,noted_on
in_time,2020-01-10,1,1,a,2020-03-01,2020-03-01
late,2020-01-10,1,1,a,2020-03-01,2020-09-15
good_late,2020-01-10,1,1,a,,2020-08-01
good_early,2020-01-10,1,1,a,,2020-05-01
never,2020-01-10,1,1,a,2020-03-01,
"""


@pytest.fixture
def gym(tmp_path):
    text = YAML.replace("positive_at: left_on,", "positive_at: left_on, recorded_at: noted_on,")
    (tmp_path / "gym.yaml").write_text(text)

    def reading(csv: str) -> pl.DataFrame:
        (tmp_path / "members.csv").write_text(csv)
        return read(tmp_path / "gym.yaml")[1].labels

    return reading


def test_a_source_may_say_when_an_outcome_was_recorded(gym):
    told = gym(GYM).with_columns(pl.col("occurred_at", "recorded_at").dt.strftime("%Y-%m-%d"))
    assert told.select("entity_id", "label", "occurred_at", "recorded_at").rows() == [
        ("in_time", 1, "2020-03-01", "2020-03-01"),
        ("late", 1, "2020-03-01", "2020-09-15"),
        ("good_late", 0, "2020-07-10", "2020-08-01"),
        ("good_early", 0, "2020-05-01", "2020-05-01"),
    ]


def test_an_outcome_that_was_recorded_before_it_could_be_is_refused_with_its_row(gym):
    with pytest.raises(SourceError) as caught:
        gym(GYM.replace("2020-09-15", "2020-02-29"))
    words = "column 'noted_on', row 3: recorded on 2020-02-29, before it can be known (2020-03-01): correct the date"
    assert words in str(caught.value)


def test_when_an_outcome_was_recorded_is_no_feature(tmp_path):
    text = YAML.replace("positive_at: left_on,", "positive_at: left_on, recorded_at: fee,")
    (tmp_path / "gym.yaml").write_text(text)
    with pytest.raises(ValueError, match="'fee' is only known after the outcome"):
        load_use_case(str(tmp_path / "gym.yaml"))
