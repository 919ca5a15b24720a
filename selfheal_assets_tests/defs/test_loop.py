"""The loop's assets, materialized as a user does from the shell, on one home that starts empty.

The tests follow each other on that home, like the days of an installation; each fixture is what the next builds on.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

import dagster as dg
import polars as pl
import pytest

from selfheal_assets.core.bundle import Calibrator
from selfheal_assets.core.decision import Action, Decision
from selfheal_assets.definitions import build_definitions
from selfheal_assets.defs.resources import Stores
from selfheal_assets.serving.scoring import ScoringService
from selfheal_assets.stores import decision_ledger, label_ledger
from selfheal_assets.stores.applications import split_at_go_live
from selfheal_assets.stores.model_registry import PREDECESSOR, QUARANTINED
from selfheal_assets.stores.prediction_log import PredictionLog
from selfheal_assets.stores.sources import read_cases
from selfheal_assets_tests import toy

pytestmark = pytest.mark.integration

CHUNK, CHUNK_END = "2019-07-01", datetime(2019, 10, 1)
MONITOR = "prediction_log,labels,chunk_statistics,drift_alarms,drift_report"
RETRAIN = "shadow_models,shadow_evaluation,promotion_decision,production_model,model_card"


@dataclass(frozen=True)
class Loop:
    """One installation and its Dagster instance."""

    stores: Stores
    definitions: dg.Definitions
    instance: dg.DagsterInstance

    def materialize(self, selection: str, partition: str | None = None) -> dg.ExecuteInProcessResult:
        """``dagster asset materialize --select``; the run must succeed."""
        result = dg.materialize(
            list(self.definitions.assets or []),
            selection=[dg.AssetKey(name) for name in selection.split(",")],
            partition_key=partition,
            resources=self.definitions.resources,
            instance=self.instance,
            raise_on_error=True,
        )
        assert result.success
        return result

    def decisions(self) -> pl.DataFrame:
        return decision_ledger.history(self.stores.warehouse)


def materialized(result: dg.ExecuteInProcessResult) -> set[str]:
    events = result.get_asset_materialization_events()
    return {e.asset_key.to_user_string() for e in events if e.asset_key}


def metadata_of(result: dg.ExecuteInProcessResult, asset: str) -> dict:
    [event] = [e for e in result.get_asset_materialization_events() if e.asset_key == dg.AssetKey(asset)]
    return {k: v.value for k, v in event.materialization.metadata.items()}


@pytest.fixture(scope="module")
def loop(tmp_path_factory) -> Iterator[Loop]:
    """An empty home on the day of go-live."""
    logging.getLogger("dagster").setLevel(logging.ERROR)
    settings = toy.settings(tmp_path_factory.mktemp("loop"), as_of=toy.GO_LIVE)
    stores = Stores(settings)
    with dg.DagsterInstance.ephemeral() as instance:
        yield Loop(stores, build_definitions(settings, stores), instance)


@pytest.fixture(scope="module")
def referenced(loop) -> dg.ExecuteInProcessResult:
    return loop.materialize("reference_data")


@pytest.fixture(scope="module")
def monitored(loop, referenced) -> dg.ExecuteInProcessResult:
    """Before any model answers."""
    return loop.materialize(MONITOR, CHUNK)


@pytest.fixture(scope="module")
def first_champion(loop, monitored) -> dg.ExecuteInProcessResult:
    return loop.materialize(RETRAIN)


@pytest.fixture(scope="module")
def same_again(loop, first_champion) -> tuple[list[dict], pl.DataFrame, dg.ExecuteInProcessResult]:
    """The retraining run again: the versions and decisions before it, and its result."""
    return loop.stores.registry.versions(), loop.decisions(), loop.materialize(RETRAIN)


@pytest.fixture(scope="module")
def bad_promotion(loop, same_again) -> int:
    """Version of a model that says the opposite, promoted in the ledger; its alias was never moved."""
    registry = loop.stores.registry
    good = registry.load(1)
    upside_down = Calibrator(-good.calibrator.slope, good.calibrator.intercept)
    bad = replace(good, calibrator=upside_down, candidate="upside_down")
    version = registry.register(bad, {}, registry.new_run("upside_down"))
    decision = Decision(
        Action.promote, toy.GO_LIVE, "planted", 1, version, {}, {"challenger": bad.fingerprint}
    )
    decision_ledger.record(loop.stores.warehouse, decision)
    return version


@pytest.fixture(scope="module")
def recovered(loop, bad_promotion) -> dg.ExecuteInProcessResult:
    assert loop.stores.registry.champion() == 1, "the move was lost"
    return loop.materialize("production_model")


@pytest.fixture(scope="module")
def rolled_back(loop, recovered, bad_promotion) -> dg.ExecuteInProcessResult:
    """A quarter answered by the bad version, its labels so far, and the judgement at its end."""
    stores = loop.stores
    go_live = datetime.combine(stores.case.go_live, datetime.min.time())
    traffic = split_at_go_live(read_cases(stores.case, stores.settings), go_live)[1]
    log = PredictionLog(stores.settings.prediction_log)
    service = ScoringService(stores.registry, log, stores.case)
    assert service.refresh() and service.champion.version == bad_promotion
    service.score(traffic.frame.filter(pl.col("event_time") < CHUNK_END), go_live)
    log.close()
    known = traffic.labels.filter(pl.col("recorded_at") < CHUNK_END)
    label_ledger.drop(stores.settings.label_landing, known)
    labelled = "stg_predictions,stg_labels,fct_labelled_predictions"
    return loop.materialize(f"prediction_log,labels,{labelled},rollback_decision", CHUNK)


def test_the_reference_needs_nothing_but_the_source(loop, referenced):
    found = metadata_of(referenced, "reference_data")
    joined = toy.generate()["joined_on"]
    assert found["rows"] == ((joined >= datetime(2018, 10, 1)) & (joined < datetime(2019, 1, 1))).sum()
    assert found["champion"] == "none yet"
    assert 0 < found["positives"] < found["rows"]


def test_drift_before_the_first_prediction_is_unknown_and_not_healthy(monitored):
    checks = {c.check_name: c for c in monitored.get_asset_check_evaluations()}
    drift = checks["drift_within_limits"]
    assert not drift.passed
    assert drift.metadata["status"].value == "INSUFFICIENT_DATA"
    assert drift.metadata["window"].value == CHUNK
    assert drift.severity is dg.AssetCheckSeverity.WARN
    said, to_do = drift.description.split(". What to do: ")
    assert said == "0 predictions in this chunk; alarms.min_rows asks for 150"
    assert to_do.startswith("nothing yet")
    assert checks["schema_is_valid"].passed
    assert materialized(monitored) == set(MONITOR.split(","))


def test_the_first_model_becomes_champion_by_a_recorded_decision(loop, first_champion):
    registry = loop.stores.registry
    assert registry.champion() == 1
    assert registry.aliased(PREDECESSOR) is None
    [decision] = loop.decisions().to_dicts()
    assert (decision["action"], decision["champion"], decision["challenger"]) == ("PROMOTE", None, 1)
    assert materialized(first_champion) == set(RETRAIN.split(","))
    assert metadata_of(first_champion, "production_model")["previous"] == "none"
    assert registry.load(1).trained_until == datetime(2018, 10, 1), "the reference is held out"
    card = Path(metadata_of(first_champion, "model_card")["card"])
    assert card == loop.stores.settings.reports / "model_1.html"
    assert registry.load(1).fingerprint in card.read_text(encoding="utf-8")


def test_the_same_retraining_again_changes_nothing(loop, same_again):
    versions, decisions, result = same_again
    assert loop.stores.registry.versions() == versions
    assert loop.decisions().equals(decisions)
    assert materialized(result) == set(RETRAIN.split(",")) - {"production_model"}
    found = metadata_of(result, "promotion_decision")
    assert (found["decision"], found["unchanged"], found["action"]) == (1, True, "PROMOTE")


def test_a_promotion_whose_move_was_lost_is_followed_by_the_next_run(loop, recovered, bad_promotion):
    registry = loop.stores.registry
    assert (registry.champion(), registry.aliased(PREDECESSOR)) == (bad_promotion, 1)
    found = metadata_of(recovered, "production_model")
    assert (found["version"], found["previous"]) == (bad_promotion, 1)
    again = loop.materialize("production_model")
    assert materialized(again) == set()
    assert (registry.champion(), registry.aliased(PREDECESSOR)) == (bad_promotion, 1)


def test_a_bad_promotion_is_taken_back(loop, rolled_back, bad_promotion):
    registry = loop.stores.registry
    assert registry.champion() == 1
    last = decision_ledger.latest(loop.stores.warehouse)
    assert (last["action"], last["champion"], last["challenger"]) == ("ROLL_BACK", bad_promotion, 1)
    assert last["as_of"] == CHUNK_END
    evidence = metadata_of(rolled_back, "rollback_decision")
    assert evidence["log_wealth"] > evidence["limit"] > 0
    assert (evidence["champion"], evidence["predecessor"]) == (bad_promotion, 1)
    assert registry.tags(bad_promotion)[QUARANTINED] == last["reason"] == evidence["reason"]
    assert QUARANTINED not in registry.tags(1)
    assert decision_ledger.broken_links(loop.stores.warehouse) == []


def test_what_was_taken_back_stays_back(loop, rolled_back, bad_promotion):
    before = loop.decisions()
    told = loop.materialize("production_model")
    assert metadata_of(told, "production_model")["version"] == 1, "the lineage is told of the rollback, once"
    assert materialized(loop.materialize("production_model")) == set()
    assert materialized(loop.materialize("rollback_decision", CHUNK)) == set(), "nothing to go back to"
    assert loop.stores.registry.champion() == 1
    assert loop.decisions().equals(before)


def test_a_quarantined_version_is_refused(loop, rolled_back, bad_promotion):
    assert loop.stores.registry.aliased("challenger") == bad_promotion
    result = loop.materialize("shadow_evaluation,promotion_decision,production_model")
    last = decision_ledger.latest(loop.stores.warehouse)
    assert (last["action"], last["challenger"]) == ("REJECT", bad_promotion)
    gates = {g["gate"]: g for g in last["payload"]["evidence"]["gates"]}
    assert gates["eligibility"]["verdict"] == "FAIL"
    assert f"version {bad_promotion} is quarantined" in gates["eligibility"]["reason"]
    assert "production_model" not in materialized(result)
    assert loop.stores.registry.champion() == 1


def test_a_version_that_turns_its_own_ranking_round_is_refused(loop, rolled_back):
    """As the bad promotion, but never promoted, so that nobody has quarantined it."""
    registry = loop.stores.registry
    good = registry.load(1)
    for slope in (-good.calibrator.slope, 0.0):
        bad = replace(good, calibrator=Calibrator(slope, 0.0), candidate=f"slope {slope}")
        version = registry.register(bad, {}, registry.new_run("turned"))
        loop.materialize("shadow_evaluation,promotion_decision,production_model")
        last = decision_ledger.latest(loop.stores.warehouse)
        assert (last["action"], last["challenger"]) == ("REJECT", version)
        gates = {g["gate"]: g for g in last["payload"]["evidence"]["gates"]}
        said = f"version {version} turns its own ranking round (Platt slope {slope:.2g})"
        assert gates["eligibility"]["reason"].startswith(said)
        assert registry.champion() == 1
