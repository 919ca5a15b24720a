"""The family's assets where labels so far are evidence: what is frozen, who is tried, what can be rebuilt."""

import logging

import dagster as dg
import pytest

from selfheal_assets.core.plan import plan_of
from selfheal_assets.definitions import build_definitions
from selfheal_assets.defs.resources import Stores
from selfheal_assets.settings import Settings
from selfheal_assets.stores import cases
from selfheal_assets_tests import toy
from selfheal_assets_tests.defs.test_loop import metadata_of

pytestmark = pytest.mark.integration

FAMILY = ("full_history", "recent_window", "maturity_aware", "recalibrated")


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[Stores, dg.ExecuteInProcessResult]:
    """The toy on the day of go-live, its horizon twice as long as the gates' months."""
    logging.getLogger("dagster").setLevel(logging.ERROR)
    folder = tmp_path_factory.mktemp("family")
    use_case = toy.make(folder)
    text = use_case.read_text().replace("primary_metric:", "evidence: partial, primary_metric:")
    family = f"family: [{', '.join(FAMILY)}], gate_months: 3, gate_positives: 0, "
    family += "min_positives: 20, hazard: {bands: 6}"
    use_case.write_text(text.replace("{recent_months: 1, ", f"{{{family}, recent_months: 1, ") + "\n")
    settings = Settings(
        use_case=str(use_case),
        home=folder / "home",
        project=toy.PROJECT,
        as_of=toy.GO_LIVE,
        mlflow_tracking_uri=None,
    )
    stores = Stores(settings)
    definitions = build_definitions(settings, stores)
    with dg.DagsterInstance.ephemeral() as instance:
        result = dg.materialize(
            list(definitions.assets or []),
            selection=[dg.AssetKey("training_set"), dg.AssetKey("shadow_models")],
            resources=definitions.resources,
            instance=instance,
        )
    return stores, result


def test_the_training_set_reaches_into_cohorts_that_are_not_mature(trained):
    stores, result = trained
    told = metadata_of(result, "training_set")
    assert (told["until"], told["immature_until"]) == ("2018-10-01", "2019-04-01")
    rows = stores.warehouse.query(
        """select count(*) filter (event_time < timestamp '2018-10-01') as before,
                  count(*) filter (event_time between timestamp '2018-10-01' and timestamp '2018-12-31') as held,
                  count(*) filter (event_time >= timestamp '2019-01-01') as after, max(event_time) as newest
           from training_set"""
    ).row(0, named=True)
    assert rows["before"] > 1000 and rows["after"] > 300 and rows["held"] == 0
    assert f"{rows['newest']:%Y-%m}" == "2019-03"


def test_each_member_is_told_why_it_was_chosen_or_not(trained):
    stores, result = trained
    table = stores.warehouse.query("select * from shadow_models").rows_by_key(
        "candidate", named=True, unique=True
    )
    assert set(table) == set(FAMILY)
    assert all(row["reason"] for row in table.values())
    [chosen] = [name for name, row in table.items() if row["chosen"]]
    measured = {name: row["validation_log_loss"] for name, row in table.items()}
    assert measured[chosen] == min(v for v in measured.values() if v is not None)
    assert measured["recalibrated"] is None and "no champion yet" in table["recalibrated"]["reason"]
    told = metadata_of(result, "shadow_models")
    assert told["seconds"] > 0 and 50 < told["peak_memory_mb"] < 8000


def test_the_training_set_of_a_version_can_be_put_together_anew(trained):
    stores, _ = trained
    bundle = stores.registry.load(1)
    plan = plan_of(bundle)
    assert plan.immature_until is not None
    rows = cases.training_rows(stores.warehouse, stores.case, plan)
    assert cases.fingerprint_of(rows) == bundle.training_fingerprint
    assert rows.height == metadata_of(trained[1], "training_set")["rows"]
