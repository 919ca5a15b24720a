"""A promotion on labels so far: which cases decide, what is known of them, and what becomes of missing evidence."""

import logging
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import dagster as dg
import polars as pl
import pytest

from selfheal_assets.core.decision import Action, Decision
from selfheal_assets.definitions import build_definitions
from selfheal_assets.defs.evaluate import challenger_of
from selfheal_assets.defs.promote import gather
from selfheal_assets.defs.resources import AS_OF_TAG, Stores
from selfheal_assets.serving.scoring import ScoringService
from selfheal_assets.stores import decision_ledger, label_ledger
from selfheal_assets.stores.applications import split_at_go_live
from selfheal_assets.stores.gate_rows import gate_cases
from selfheal_assets.stores.prediction_log import PredictionLog
from selfheal_assets.stores.sources import read_cases
from selfheal_assets_tests import toy

pytestmark = pytest.mark.integration

AS_OF, NEWEST = datetime(2020, 10, 1), datetime(2020, 6, 1)  # training.gate_months: 4
RETRAIN = ("shadow_models", "shadow_evaluation", "promotion_decision", "production_model")


def materialize(stores: Stores, as_of: datetime, *assets: str, partition: str | None = None) -> None:
    definitions = build_definitions(stores.settings, stores)
    every: list[Any] = list(definitions.assets or [])
    with dg.DagsterInstance.ephemeral() as instance, stores.warehouse.kept_open():
        assert dg.materialize(
            every,
            selection=[dg.AssetKey(name) for name in assets],
            partition_key=partition,
            resources=definitions.resources,
            instance=instance,
            tags={AS_OF_TAG: as_of.isoformat()},
        ).success


@pytest.fixture(scope="module")
def stores(tmp_path_factory) -> Iterator[Stores]:
    """A year after the world turned: the first champion has answered throughout, and a challenger is judged."""
    logging.getLogger("dagster").setLevel(logging.ERROR)
    settings = toy.settings(tmp_path_factory.mktemp("partial"), as_of=toy.GO_LIVE)
    use_case = settings.home.parent / "toy.yaml"  # type: ignore[union-attr]
    text = use_case.read_text().replace(
        "gates: {", "gates: {evidence: partial, min_segment_rows: 100, min_segment_positives: 10, "
    )
    use_case.write_text(
        text.replace("evaluation_months: 3,", "evaluation_months: 3, gate_months: 4, gate_positives: 0,")
    )
    stores = Stores(settings)
    materialize(stores, toy.GO_LIVE, "reference_data", *RETRAIN)
    traffic = split_at_go_live(read_cases(stores.case, settings), toy.GO_LIVE)[1]
    log = PredictionLog(settings.prediction_log)
    service = ScoringService(stores.registry, log, stores.case)
    assert service.refresh()
    service.score(traffic.frame.filter(pl.col("event_time") < AS_OF), toy.GO_LIVE)
    log.close()
    label_ledger.drop(settings.label_landing, traffic.labels)  # those of the future too
    materialize(stores, AS_OF, "prediction_log", "labels", partition="2020-10-01")
    materialize(stores, AS_OF, *RETRAIN)
    yield stores


def evaluated(stores: Stores) -> dict[tuple[str, str], dict]:
    rows = stores.warehouse.query("select * from shadow_evaluation where champion = 1 order by all")
    return {(r["segment"], r["metric"]): r for r in rows.iter_rows(named=True)}


def last_decision(stores: Stores) -> dict:
    last = decision_ledger.latest(stores.warehouse)
    assert last is not None
    return last


def gate_evidence(stores: Stores) -> dict[str, dict]:
    return {g["gate"]: g for g in last_decision(stores)["payload"]["evidence"]["gates"]}


def test_both_are_compared_on_the_newest_cases_by_what_is_known_of_them(stores):
    found = evaluated(stores)
    overall = {("all", metric) for metric in ("log_loss", "roc_auc", "expected_over_observed")}
    assert set(found) == overall | {("plan=basic", "roc_auc"), ("plan=family", "roc_auc")}
    source = toy.generate()
    newest = source.filter((pl.col("joined_on") >= NEWEST) & (pl.col("joined_on") < AS_OF))
    known = newest.filter(pl.col("left_on") < AS_OF)
    assert 0 < known.height < newest["left_on"].is_not_null().sum(), "some will leave later"
    for metric in ("log_loss", "expected_over_observed"):
        assert (found["all", metric]["rows"], found["all", metric]["positives"]) == (
            newest.height,
            known.height,
        )


def test_the_challenger_is_promoted_on_labels_so_far(stores):
    last = last_decision(stores)
    assert (last["action"], last["champion"], last["challenger"], last["as_of"]) == ("PROMOTE", 1, 2, AS_OF)
    assert stores.registry.champion() == 2
    gates = gate_evidence(stores)
    assert {g["verdict"] for g in gates.values()} == {"PASS"}
    assert gates["improvement"]["reason"].startswith("log loss so far")
    loss = evaluated(stores)["all", "log_loss"]
    assert gates["improvement"]["value"] == -loss["upper"] > 0
    assert gates["servability"]["reason"].startswith("loads in a fresh process; scores differ by at most 0;")


@pytest.mark.parametrize("side", ["champion", "challenger"])
def test_no_case_that_either_model_was_trained_on_decides(stores, side):
    models = {"champion": stores.registry.load(1), "challenger": stores.registry.load(2)}
    rows = gate_cases(stores.warehouse, stores.case, **models)
    assert NEWEST <= rows["event_time"][0] < NEWEST + timedelta(days=3)
    later = NEWEST + timedelta(days=40)
    rows = gate_cases(
        stores.warehouse, stores.case, **models | {side: replace(models[side], trained_until=later)}
    )
    assert later <= rows["event_time"][0] < later + timedelta(days=3)
    assert rows["event_time"][-1] < AS_OF
    assert rows["age_days"][0] == (AS_OF - rows["event_time"][0]).total_seconds() / 86400


def test_a_first_model_is_judged_on_the_reference(stores):
    rows = gate_cases(stores.warehouse, stores.case, None, stores.registry.load(1))
    window = stores.registry.load(1).reference
    assert window.start <= rows["event_time"][0] and rows["event_time"][-1] < window.end
    assert "label" in rows.columns


def test_a_comparison_with_another_champion_is_no_evidence(stores):
    """The champion was rolled back between evaluation and decision."""
    version, challenger = challenger_of(stores)
    assert gather(stores, version, challenger, 1).overall is not None
    other = gather(stores, version, challenger, version)
    assert (other.overall, other.segments, other.label_coverage) == (None, None, None)


def test_a_feed_that_fell_silent_decides_nothing(stores):
    """All labels of the newest cases are gone: other evidence than before, though all else is the same."""
    back = Decision(Action.roll_back, AS_OF, "to decide once more", 2, 1, {}, {})
    decision_ledger.record(stores.warehouse, back)
    with stores.warehouse.write() as connection:
        connection.execute(
            "delete from labels where entity_id in (select entity_id from prediction_log where event_time >= ?)",
            [NEWEST],
        )
    materialize(stores, AS_OF, "shadow_evaluation", "promotion_decision", "production_model")
    last = last_decision(stores)
    assert last["action"] == "INCONCLUSIVE"
    assert gate_evidence(stores)["label_coverage"]["verdict"] == "FAIL"
