"""The README's three lines in a shell: the reference, one chunk, and the first champion."""

import re

import dagster as dg
import pytest

from selfheal_assets.stores import decision_ledger
from selfheal_assets_tests.e2e.conftest import MONITOR, README, REFERENCE, RETRAIN, Installation

pytestmark = pytest.mark.e2e


@pytest.fixture(params=["without_dagster_home", "with_dagster_home"])
def installation(request: pytest.FixtureRequest) -> Installation:
    return request.getfixturevalue(request.param)


def selected(line: str) -> set[str]:
    """Names of the assets that a line materializes."""
    return set(re.search(r"--select '?([\w,]+)", line)[1].split(","))  # type: ignore[index]


def test_the_readme_shows_these_lines():
    shown = README.read_text().splitlines()
    assert [line for line in shown if line in (REFERENCE, MONITOR, RETRAIN)] == [REFERENCE, MONITOR, RETRAIN]


def test_the_lines_succeed_one_after_another(installation: Installation):
    for line, printed in zip((REFERENCE, MONITOR, RETRAIN), installation.printed, strict=True):
        assert "RUN_SUCCESS" in printed, line
        assert "RUN_FAILURE" not in printed and "STEP_FAILURE" not in printed, line
        found = set(re.findall(r"ASSET_MATERIALIZATION - Materialized value (\w+)", printed))
        assert found == selected(line)


def test_the_reference_is_frozen(installation: Installation):
    stores = installation.stores
    [(rows, first, last)] = stores.warehouse.query(
        "select count(*), min(event_time)::date, max(event_time)::date from reference_data"
    ).rows()
    assert rows > 1000
    assert stores.case.reference.start <= first < last < stores.case.reference.end


def test_the_chunk_has_its_report_and_unknown_is_not_healthy(installation: Installation):
    [report] = installation.settings.reports.glob("drift_*.html")
    assert report.stat().st_size > 1000
    assert "Not known to be healthy" in report.read_text(), (
        "there is no traffic yet, and no check was evaluated"
    )


def test_the_first_champion_is_registered_by_a_recorded_decision(installation: Installation):
    stores = installation.stores
    assert installation.champion == 1
    assert stores.registry.versions()[0]["version"] == 1
    assert stores.registry.load(1).features == stores.case.features
    first = decision_ledger.history(stores.warehouse).sort("id").row(0, named=True)
    assert (first["action"], first["champion"], first["challenger"]) == ("PROMOTE", None, 1)
    assert decision_ledger.broken_links(stores.warehouse) == []


def test_dagsters_own_home_keeps_the_history(with_dagster_home: Installation):
    names = selected(REFERENCE) | selected(MONITOR) | selected(RETRAIN)
    with dg.DagsterInstance.from_config(with_dagster_home.values["DAGSTER_HOME"]) as instance:
        kept = {n for n in names if instance.get_latest_materialization_event(dg.AssetKey(n))}
    assert kept == names


def test_nothing_is_collected_for_dagsters_makers(without_dagster_home: Installation):
    """The checkout's dagster.yaml switches it off; in a home of the user's own, theirs decides."""
    assert "collect usage statistics" not in "".join(without_dagster_home.printed)
