"""`selfheal status` as cron and people use it, over a history that was lived through."""

import json

import polars as pl
import pytest

from selfheal_assets.defs.resources import Stores
from selfheal_assets_tests.conftest import Lived
from selfheal_assets_tests.test_decisions import told

pytestmark = pytest.mark.integration


@pytest.fixture
def stores(lived: Lived, tmp_path) -> Stores:
    return lived.copied(tmp_path / "home")


def newest_is(stores: Stores, status: str) -> None:
    """Publish the history with another end."""
    path = stores.settings.published / "health_report.parquet"
    rows = pl.read_parquet(path)
    last = pl.col("chunk") == pl.col("chunk").max()
    rows.with_columns(status=pl.when(last).then(pl.lit(status)).otherwise("status")).write_parquet(path)


@pytest.mark.parametrize(
    ("status", "code", "name"),
    [("PASS", 0, "healthy"), ("FAIL", 1, "attention"), ("INSUFFICIENT_DATA", 2, "unknown")],
)
def test_the_exit_code_tells_the_state(stores, status, code, name):
    newest_is(stores, status)
    shown = told(stores, "status")
    assert shown.exit_code == code
    assert shown.stdout.split()[1] == name
    piped = told(stores, "status", "--json")
    assert piped.exit_code == code
    assert json.loads(piped.stdout)["state"] == name


def test_one_screen_names_champion_evidence_labels_and_decisions(stores):
    shown, facts = told(stores, "status"), json.loads(told(stores, "status", "--json").stdout)
    champion = stores.registry.champion()
    assert facts["champion"]["version"] == champion
    assert f"version {champion}, since" in shown.stdout
    assert {row["stage"] for row in facts["evidence"]} == {"estimated", "partial", "realized"}
    assert [row["action"] for row in facts["decisions"]] == ["PROMOTE", "REJECT", "PROMOTE"]
    for word in ("estimated", "partial", "realized", "REJECT", "scored cases have one"):
        assert word in shown.stdout


def test_it_answers_while_the_loop_holds_the_warehouse(stores):
    newest_is(stores, "PASS")
    with stores.warehouse.locked():
        shown = told(stores, "status")
    assert shown.exit_code == 0
    assert "healthy" in shown.stdout


def test_a_home_without_anything_is_unknown(stores, tmp_path):
    empty = stores.settings.model_copy(update={"home": tmp_path / "empty"})
    empty.__dict__.pop("root", None)
    shown = told(Stores(empty), "status")
    assert shown.exit_code == 2
    assert "no chunk was monitored yet" in shown.stdout
