"""The record of decisions, read and audited as a user does, over a history that was lived through."""

import json
import os

import pytest
from typer.testing import CliRunner, Result

from selfheal_assets.cli import app
from selfheal_assets.defs.resources import Stores
from selfheal_assets_tests.conftest import REDIRECTING, Lived

pytestmark = pytest.mark.integration


@pytest.fixture
def stores(lived: Lived, tmp_path) -> Stores:
    return lived.copied(tmp_path / "home")


def told(stores: Stores, *command: str) -> Result:
    values = {"SELFHEAL_HOME": str(stores.settings.home), "SELFHEAL_USE_CASE": stores.settings.use_case}
    left_over = {name: None for name in os.environ if name.startswith(REDIRECTING)}
    return CliRunner().invoke(app, [*command], env=left_over | values)


def alter(stores: Stores, sql: str) -> None:
    with stores.warehouse.write() as connection:
        connection.execute(sql)


def test_decisions_are_listed_newest_last_for_people_and_for_programs(stores):
    rows = json.loads(told(stores, "decisions", "--json").stdout)
    assert [r["action"] for r in rows] == ["PROMOTE", "REJECT", "PROMOTE"]
    lines = told(stores, "decisions").stdout.splitlines()
    assert len(lines) == 3
    for row, line in zip(rows, lines, strict=True):
        assert row["action"] in line
        assert row["reason"] in line
        assert row["as_of"][:10] in line


def test_one_decision_is_shown_with_the_answer_of_each_gate(stores):
    result = told(stores, "decisions", "show", "2")
    assert result.exit_code == 0
    kept = json.loads(told(stores, "decisions", "show", "2", "--json").stdout)
    gates = kept["payload"]["evidence"]["gates"]
    assert {g["gate"] for g in gates} >= {"improvement", "calibration", "servability", "cooldown"}
    for gate in gates:
        assert f"{gate['gate']}: {gate['reason']}" in result.stdout
    assert kept["payload"]["fingerprints"]["training_set"] in result.stdout
    assert kept["hash"] in result.stdout


def test_a_decision_that_there_is_not(stores):
    result = told(stores, "decisions", "show", "99")
    assert result.exit_code == 2
    assert "there is no decision 99: `selfheal decisions` lists them" in result.stderr


def test_a_ledger_as_it_was_written_is_verified(stores):
    result = told(stores, "audit", "verify", "--json")
    assert result.exit_code == 0
    found = json.loads(result.stdout)
    assert (found["decisions"], found["broken"], found["cut_off"]) == (3, [], False)
    again = told(stores, "audit", "verify", "--last", found["last_hash"])
    assert again.exit_code == 0
    assert found["last_hash"] in again.stdout


@pytest.mark.parametrize("column", ["payload", "reason", "action", "hash", "previous_hash"])
def test_one_changed_byte_is_found_and_its_row_named(stores, column):
    alter(stores, f"update decisions set {column} = 'x' || substr({column}, 2) where id = 2")
    result = told(stores, "audit", "verify")
    assert result.exit_code == 1
    assert "decision 2 (" in result.stdout
    assert "NOT all as recorded" in result.stdout
    assert 2 in json.loads(told(stores, "audit", "verify", "--json").stdout)["broken"]


def test_rows_cut_off_at_the_end_show_by_the_hash_written_down(stores):
    last = json.loads(told(stores, "audit", "verify", "--json").stdout)["last_hash"]
    alter(stores, "delete from decisions where id = 3")
    assert told(stores, "audit", "verify").exit_code == 0, "a shorter chain is whole in itself"
    result = told(stores, "audit", "verify", "--last", last)
    assert result.exit_code == 1
    assert f"no row has the hash {last}" in result.stdout


def test_a_day_is_rebuilt_as_it_was_recorded(stores):
    decided = json.loads(told(stores, "decisions", "--json").stdout)
    day = decided[1]["as_of"][:10]
    result = told(stores, "asof", day, "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert [d["id"] for d in found["decisions"]] == [1, 2], "none of a later day"
    assert [d["differences"] for d in found["decisions"]] == [[], []]
    assert found["champion"] == 1
    labels = stores.warehouse.query(
        "select count(distinct entity_id) as n from labels where recorded_at < cast(? as timestamp)", [day]
    )
    assert 0 < found["positives"] <= found["labels"]
    assert found["labels"] <= found["cases"]
    assert found["labels"] <= labels["n"][0] + found["mature"]


def test_a_label_changed_behind_the_ledgers_back_shows(stores):
    """The bitemporal ledger only grows: whoever edits a row changes what a past decision rested on."""
    alter(stores, "update labels set label = 1 - label where recorded_at < timestamp '2019-06-01'")
    result = told(stores, "asof", "2021-01-01")
    assert result.exit_code == 1
    assert "training set as known at" in result.stdout
    assert "recorded was" in result.stdout


def test_a_damaged_ledger_is_not_rebuilt_from(stores):
    alter(stores, "update decisions set payload = '{' where id = 1")
    result = told(stores, "asof", "2021-01-01")
    assert result.exit_code == 2
    assert "decision 1 is not as it was recorded: see `selfheal audit verify`" in result.stderr


@pytest.mark.parametrize(
    "command", [["decisions"], ["decisions", "show", "1"], ["audit", "verify"], ["asof", "2020-01-01"]]
)
def test_where_nothing_was_decided_the_message_says_how_to_begin(tmp_path, command):
    result = CliRunner().invoke(app, command, env={"SELFHEAL_HOME": str(tmp_path / "empty")})
    assert result.exit_code == 2
    assert "no decision was taken yet: run `selfheal replay`" in result.stderr
    assert not list(tmp_path.glob("empty/*/warehouse.duckdb")), "asking makes no warehouse"


def test_no_audit_writes(stores):
    before = contents(stores)
    assert {"decisions", "labels", "training_set", "sources"} <= before.keys()
    for command in (["decisions"], ["decisions", "show", "1"], ["audit", "verify"], ["asof", "2021-01-01"]):
        assert told(stores, *command).exit_code == 0
    assert contents(stores) == before


def contents(stores: Stores) -> dict[str, tuple]:
    """Rows and a checksum of each table, by name."""
    names = stores.warehouse.query("select table_name from duckdb_tables()")["table_name"].to_list()
    checksum = "select count(*), sum(hash(t)::hugeint)::varchar from {} as t"
    return {name: stores.warehouse.query(checksum.format(name)).row(0) for name in names}
