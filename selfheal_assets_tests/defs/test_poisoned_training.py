"""Kinds of corrupted training data, each planted into the warehouse: held with its cause, and nothing is trained."""

import logging
import re
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import dagster as dg
import pytest

from selfheal_assets.definitions import build_definitions
from selfheal_assets.defs.resources import AS_OF_TAG, HELD_TAG, Stores
from selfheal_assets.stores import decision_ledger
from selfheal_assets_tests import toy

pytestmark = pytest.mark.integration

AS_OF = datetime(
    2020, 1, 1
)  # mature are cases before July 2019; the first champion learned from those of 2018
RETRAIN = ("shadow_models", "shadow_evaluation", "promotion_decision", "production_model")
NEW = "event_time >= timestamp '2018-10-01'"  # not trained on yet
Q2 = "event_time >= timestamp '2019-04-01' and event_time < timestamp '2019-07-01'"
TENTH = "hash(entity_id) % 10 = 0"
POSITIVE = "entity_id in (select entity_id from labels where label = 1)"


def correct(where: str) -> str:
    """The ledger learns in December 2019 that these labels were the other way round."""
    return f"""insert into labels select null, entity_id, case when {POSITIVE} then 0 else 1 end,
        event_time + to_days(30), timestamp '2019-12-01', 'poison' from applications where {where}"""


def learn(where: str, after: str = "(1 + hash(entity_id) % 179)::integer") -> str:
    """The good cases among these are called bad, as if that had been known after so many days."""
    return f"""update labels l set label = 1, occurred_at = a.at, recorded_at = a.at from (
        select entity_id, event_time + to_days({after}) as at from applications where {where}) a
        where l.entity_id = a.entity_id and l.label = 0"""


def put(column: str, value: str, where: str = NEW) -> str:
    return f"update applications set {column} = {value} where {where}"


KINDS = {
    "all labels flipped": ([correct("true")], "labels were flipped"),
    "a tenth of the labels flipped": ([correct(TENTH)], "labels were flipped"),
    "labels of one segment flipped": (
        [correct("plan = 'basic' and hash(entity_id) % 4 = 0")],
        "labels were flipped: .* nearly all where plan is basic",
    ),
    "labels overwritten in place": (
        ["update labels set label = 0"], "labels contradict the ledger: .* no correction"
    ),
    "labels shifted to other cases": (
        ["update labels set entity_id = 'm' || lpad(((substr(entity_id, 2)::int + 1) % 4500)::varchar, 4, '0')"],
        "labels contradict the ledger",
    ),
    "event dates shifted": (
        ["update applications set event_time = event_time + to_days(30)"],
        r"event dates were shifted: .* by \+30.0 days",
    ),
    "labels that occurred in the future": (
        [f"update labels set occurred_at = timestamp '2030-01-01' where {TENTH}"],
        "labels come from the future",
    ),
    "labels from before their case": (
        ["update labels set occurred_at = occurred_at - to_days(200), recorded_at = recorded_at - to_days(200)"],
        "label dates are shifted: .* before their case happened",
    ),
    "labels that all come late": (
        ["update labels l set recorded_at = a.event_time + to_days(175) from applications a "
         f"where l.entity_id = a.entity_id and a.{NEW}"],
        "label timing jumped",
    ),
    "too many positives in one cohort": ([learn(f"{Q2} and hash(entity_id) % 10 < 9")], "the label rate jumped"),
    "a cohort whose positives are lost": (
        ["delete from labels where entity_id in "
         f"(select entity_id from applications where {Q2} and hash(entity_id) % 10 < 9)"],
        "the label rate jumped",
    ),
    "too many positives in one segment": (
        [learn(f"{Q2} and plan = 'basic' and hash(entity_id) % 10 < 7")],
        "the label rate (where plan is basic )?jumped",
    ),
    "constant label": ([learn(NEW)], "the label is constant"),
    "rows duplicated": (["insert into applications select * from applications"], "rows are duplicated"),
    "rows duplicated under other ids": (
        [f"insert into applications select * replace ('x' || entity_id as entity_id) from applications where {NEW}"],
        "rows are duplicated under other ids",
    ),
    "column stuck": ([put("age", "0.25")], "age is stuck: all .* hold 0.25"),
    "column missing": ([put("age", "null")], "age is missing"),
    "unit changed": ([put("age", "age * 1000")], "age changed its unit: .* times that"),
    "unit changed in all rows": ([put("age", "age * 1000", "true")], "age changed its unit, by a factor of 1000"),
    "columns swapped": (
        ["update applications set age = distance, distance = age"], "age and distance are swapped"
    ),
    "column shuffled": (
        ["""update applications a set age = b.age from (select a.entity_id, b.age from
            (select entity_id, event_time < timestamp '2018-10-01' old, row_number() over (partition by old
             order by entity_id) n from applications) a join
            (select age, event_time < timestamp '2018-10-01' old, row_number() over (partition by old
             order by hash(entity_id)) n from applications) b using (old, n)) b where a.entity_id = b.entity_id"""],
        "age was shuffled",
    ),
    "category recoded": ([put("plan", "upper(plan)")], "plan was recoded: .* never seen before"),
    "categories exchanged": (
        [put("plan", "case plan when 'basic' then 'family' else 'basic' end", "true")],
        "plan was recoded .basic → family",
    ),
    "sign turned": ([put("distance", "-distance", "true")], "distance became negative where it was positive"),
    "label copied into a feature": (
        [put("distance", f"case when {POSITIVE} then 1 else -1 end * (0.5 + age * age / 100)")],
        "distance leaks the label",
    ),
    "history truncated": (
        ["delete from applications where event_time < timestamp '2018-04-01'"], "the history is truncated"
    ),
    "rows lost": ([f"delete from applications where {NEW} and hash(entity_id) % 10 < 9"], "the volume jumped"),
    "foreign rows among old ones": (
        ["""insert into applications select * replace ('x' || entity_id as entity_id, age / 2 as age)
            from applications where event_time < timestamp '2018-10-01'"""],
        "foreign rows were mixed in",
    ),
    "foreign rows among new ones": (
        [f"""insert into applications select * replace ('x' || entity_id as entity_id, 6 + age as age)
            from applications where {NEW}"""],
        "rows of another population were mixed in",
    ),
}  # fmt: skip


class Installation:
    """A toy with its first champion, and what its tables held then."""

    def __init__(self, stores: Stores, definitions: dg.Definitions, instance: dg.DagsterInstance) -> None:
        self.stores, self.definitions, self.instance = stores, definitions, instance

    def retrain(self, as_of: datetime, *assets: str) -> dg.ExecuteInProcessResult:
        return dg.materialize(
            list(self.definitions.assets or []),
            selection=[dg.AssetKey(name) for name in assets],
            resources=self.definitions.resources,
            instance=self.instance,
            tags={AS_OF_TAG: as_of.isoformat()},
        )

    def spoil(self, *statements: str) -> None:
        """Run these on tables as they were in the beginning."""
        with self.stores.warehouse.write() as connection:
            for table in ("applications", "labels", "training_set", "sources"):
                connection.execute(f"create table if not exists sound_{table} as from {table}")
                connection.execute(f"delete from {table}")
                connection.execute(f"insert into {table} from sound_{table}")
            for statement in statements:
                connection.execute(statement)

    def state(self) -> dict[str, Any]:
        kept = "select fingerprint from sources where name = 'training_set'"
        return {
            "champion": self.stores.registry.champion(),
            "versions": self.stores.registry.versions(),
            "trained on": self.stores.warehouse.query(kept)["fingerprint"].to_list(),
        }


def materialized(result: dg.ExecuteInProcessResult) -> list[str]:
    return [e.asset_key.to_user_string() for e in result.get_asset_materialization_events() if e.asset_key]


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Iterator[Installation]:
    logging.getLogger("dagster").setLevel(logging.CRITICAL)
    settings = toy.settings(tmp_path_factory.mktemp("poisoned"))
    stores = Stores(settings)
    with dg.DagsterInstance.ephemeral() as instance, stores.warehouse.kept_open():
        made = Installation(stores, build_definitions(settings, stores), instance)
        assert made.retrain(toy.GO_LIVE, "training_set", *RETRAIN).success
        assert stores.registry.champion() == 1
        yield made


def test_there_are_twenty_kinds_and_more():
    assert len(KINDS) >= 20


@pytest.mark.parametrize("kind", KINDS)
def test_corrupted_training_data_are_held_with_their_cause_and_nothing_is_trained(installed, kind):
    statements, cause = KINDS[kind]
    installed.spoil(*statements)
    before, decided = installed.state(), decision_ledger.history(installed.stores.warehouse).height
    result = installed.retrain(AS_OF, "training_set", *RETRAIN)
    assert result.success, "a held set is no failure: the champion goes on"
    assert materialized(result) == []
    assert installed.state() == before, "nothing registered, promoted or frozen"
    [last] = decision_ledger.history(installed.stores.warehouse)[decided:].to_dicts()
    assert last["action"] == "FIX_DATA"
    assert re.search(cause, last["reason"]), last["reason"]
    assert HELD_TAG in installed.instance.get_run_by_id(result.run_id).tags


def test_what_is_held_is_recorded_once_and_held_too_where_only_the_models_are_asked_for(installed):
    installed.spoil(put("age", "0.75"))
    decided = decision_ledger.history(installed.stores.warehouse).height
    for selected in (["training_set", *RETRAIN], [*RETRAIN], ["training_set"]):
        assert materialized(installed.retrain(AS_OF, *selected)) == []
    assert decision_ledger.history(installed.stores.warehouse).height == decided + 1
    assert decision_ledger.broken_links(installed.stores.warehouse) == []


def test_sound_data_are_trained_on_after_all_that(installed):
    installed.spoil()
    result = installed.retrain(AS_OF, "training_set", *RETRAIN)
    assert {"training_set", "shadow_models", "promotion_decision"} <= set(materialized(result))
    assert decision_ledger.latest(installed.stores.warehouse)["as_of"] == AS_OF
    installed.spoil("update labels set label = 0")
    again = installed.retrain(AS_OF, *RETRAIN)
    assert materialized(again) == [], "what was accepted is not what is known any more"
