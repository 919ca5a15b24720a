"""`selfheal rollback`, `pending`, `approve`: what people decide about the champion, as they type it."""

import getpass
import json
from dataclasses import dataclass
from datetime import datetime

import polars as pl
import pytest
from click.testing import Result
from typer.testing import CliRunner

from selfheal_assets.cli import app
from selfheal_assets.core.decision import Action, Decision
from selfheal_assets.settings import Settings
from selfheal_assets.stores import approvals, cases, decision_ledger, promotion
from selfheal_assets.stores.approvals import REQUESTED_BY, NotApproved
from selfheal_assets.stores.model_registry import PREDECESSOR, QUARANTINED, ModelRegistry
from selfheal_assets.stores.tables import create_tables
from selfheal_assets.stores.warehouse import Warehouse
from selfheal_assets_tests.serving.conftest import fit, register, settings_in

pytestmark = pytest.mark.integration
DAY = datetime(2021, 2, 1)


@dataclass
class Installed:
    """Versions 1 and 2 were champion in turn; version 3 never was."""

    settings: Settings
    registry: ModelRegistry
    warehouse: Warehouse

    def run(self, *arguments: str) -> Result:
        s = self.settings
        where = {
            "SELFHEAL_USE_CASE": s.use_case,
            "SELFHEAL_HOME": str(s.home),
            "SELFHEAL_AS_OF": "2021-06-01",
        }
        return CliRunner().invoke(app, list(arguments), env=where | {"MLFLOW_TRACKING_URI": ""})

    def decide(self, action: Action, version: int, **evidence: str) -> int:
        prints = {"challenger": self.registry.fingerprint(version)}
        champion = self.registry.champion()
        decision = Decision(action, DAY, "it is better", champion, version, dict(evidence), prints)
        return decision_ledger.record(self.warehouse, decision)


@pytest.fixture(scope="module")
def registered(tmp_path_factory: pytest.TempPathFactory) -> tuple[Settings, ModelRegistry]:
    """Made once: MLflow's SQLite store costs seconds."""
    settings = settings_in(tmp_path_factory.mktemp("commands"))
    registry = ModelRegistry(settings)
    for seed in (1, 2, 3):
        register(registry, settings, fit(settings.case, seed))
    return settings, registry


@pytest.fixture
def installed(registered: tuple[Settings, ModelRegistry]) -> Installed:
    settings, registry = registered
    for version in (1, 2, 3):
        if QUARANTINED in registry.tags(version):
            registry._client.delete_model_version_tag(registry.model, str(version), QUARANTINED)
    settings.warehouse_path.unlink(missing_ok=True)
    warehouse = Warehouse(settings.warehouse_path, settings.published)
    create_tables(warehouse, settings.case)
    found = Installed(settings, registry, warehouse)
    for version in (1, 2):
        found.decide(Action.promote, version)
        promotion.carry_out(warehouse, registry)
    return found


def refused(result: Result, *words: str) -> None:
    assert result.exit_code == 2, result.output
    for word in words:
        assert word in result.output


def test_a_rollback_by_hand_is_recorded_carried_out_and_quarantines(installed: Installed):
    result = installed.run("rollback", "--to", "1", "--reason", "complaints", "--yes", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout) == {
        "decision": 3, "champion": 1, "quarantined": 2, "quarantined_rows": None,
    }  # fmt: skip
    assert (installed.registry.champion(), installed.registry.aliased(PREDECESSOR)) == (1, 2)
    assert installed.registry.tags(2)[QUARANTINED] == "by hand: complaints"
    last = decision_ledger.latest(installed.warehouse)
    assert last and (last["action"], last["champion"], last["challenger"]) == ("ROLL_BACK", 2, 1)
    assert last["as_of"] == datetime(2021, 6, 1)
    assert last["payload"]["evidence"]["account"] == getpass.getuser()
    assert installed.run("audit", "verify").exit_code == 0
    assert "complaints" in installed.run("decisions").stdout
    refused(installed.run("rollback", "--to", "2", "--reason", "x", "--yes"), "version 2 is quarantined")


def test_a_rollback_that_cannot_be_says_what_can(installed: Installed):
    before = decision_ledger.history(installed.warehouse)
    refused(
        installed.run("rollback", "--to", "3", "--reason", "x", "--yes"), "never champion", "go back to are 1"
    )
    refused(installed.run("rollback", "--to", "2", "--reason", "x", "--yes"), "version 2 is the champion")
    refused(installed.run("rollback", "--to", "1", "--reason", " ", "--yes"), "--reason must say why")
    refused(installed.run("rollback", "--to", "1", "--reason", "x"), "give --yes")
    for days in ("2021-01-01", "2021-02-01..2021-01-01"):
        refused(
            installed.run("rollback", "--to", "1", "--reason", "x", "--yes", "--quarantine-rows", days), days
        )
    assert decision_ledger.history(installed.warehouse).equals(before)
    assert installed.registry.champion() == 2


def test_quarantined_days_are_left_out_of_training_sets_from_then_on(installed: Installed):
    days = [datetime(2020, 2, d) for d in (1, 2, 3)]
    rows = pl.DataFrame({"event_time": pl.Series(days, dtype=pl.Datetime("us"))})
    result = installed.run(
        "rollback",
        "--to",
        "1",
        "--reason",
        "poisoned",
        "--yes",
        "--quarantine-rows",
        "2020-02-02..2020-02-03",
    )
    assert result.exit_code == 0, result.output

    def kept(as_of: datetime, decided_before: int | None = None) -> list[datetime]:
        found = cases.without_quarantined(installed.warehouse, rows, as_of, decided_before)
        return found["event_time"].to_list()

    assert kept(datetime(2021, 6, 1)) == [days[0], days[2]]
    assert kept(datetime(2021, 5, 31)) == days, "what was known before is rebuilt as it was"
    assert kept(datetime(2021, 6, 1), decided_before=3) == days
    assert kept(datetime(2021, 6, 1), decided_before=4) == [days[0], days[2]]


def test_a_promotion_waits_for_somebody_else(installed: Installed):
    assert "No promotion waits" in installed.run("pending").output
    number = installed.decide(Action.pending, 3, **{REQUESTED_BY: "ann"})
    [waiting] = json.loads(installed.run("pending", "--json").stdout)
    assert (waiting["decision"], waiting["requested_by"], waiting["obstacle"]) == (number, "ann", "")
    refused(installed.run("approve", str(number), "--by", " Ann "), "somebody else must approve it")
    refused(installed.run("approve", str(number), "--by", "selfheal"), "must name a person")
    refused(installed.run("approve", "99", "--by", "bob"), "there is no decision 99")
    refused(installed.run("approve", "1", "--by", "bob"), "waits for nobody")
    assert installed.registry.champion() == 2
    result = installed.run("approve", str(number), "--by", "bob", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout) == {
        "decision": number + 1, "approves": number, "approved_by": "bob", "champion": 3,
    }  # fmt: skip
    assert (installed.registry.champion(), installed.registry.aliased(PREDECESSOR)) == (3, 2)
    last = decision_ledger.latest(installed.warehouse)
    assert last and last["action"] == "PROMOTE"
    evidence = last["payload"]["evidence"]
    assert (evidence["approves"], evidence["approved_by"], evidence[REQUESTED_BY]) == (number, "bob", "ann")
    refused(installed.run("approve", str(number), "--by", "bob"), "was approved already")
    assert installed.run("audit", "verify").exit_code == 0


def test_what_was_overtaken_or_waited_too_long_is_not_approved(installed: Installed):
    policy, now = installed.settings.case.policy.gates, Settings.wall_clock()
    number = installed.decide(Action.pending, 3, **{REQUESTED_BY: "ann"})
    late = now.replace(year=now.year + 1)
    [waiting] = approvals.pending(installed.warehouse, installed.registry, policy, late)
    assert "it expired at" in waiting.obstacle and "approval_days: 14" in waiting.obstacle
    with pytest.raises(NotApproved, match="it expired at"):
        approvals.approve(installed.warehouse, installed.registry, policy, number, "bob", "root", DAY, late)
    installed.registry.tag(3, QUARANTINED, "it is bad")
    refused(installed.run("approve", str(number), "--by", "bob"), "version 3 is quarantined: it is bad")
    assert installed.run("rollback", "--to", "1", "--reason", "complaints", "--yes").exit_code == 0, (
        "a rollback needs no second pair of eyes"
    )
    refused(
        installed.run("approve", str(number), "--by", "bob"),
        f"decision {number + 1} (ROLL_BACK) has taken its place",
    )
    assert installed.registry.champion() == 1
