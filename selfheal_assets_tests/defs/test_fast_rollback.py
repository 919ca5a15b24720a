"""The fast path: a champion that fails technically answers nobody, and is taken back within ten seconds."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

import dagster as dg
import httpx
import polars as pl
import pytest

from selfheal_assets.core.bundle import Bundle, Calibrator
from selfheal_assets.core.decision import Action, Decision
from selfheal_assets.defs.resources import Stores
from selfheal_assets.defs.rollback import build_champion_guard
from selfheal_assets.stores import champion_failures, decision_ledger, promotion
from selfheal_assets.stores.champion_failures import ChampionFailure, Kind
from selfheal_assets.stores.model_registry import QUARANTINED, ModelRegistry
from selfheal_assets_tests.serving.conftest import fit, generate, register, settings_in
from selfheal_assets_tests.serving.test_hot_swap import serving, wait_until

pytestmark = pytest.mark.integration

TICK_S, TAKEN_BACK_WITHIN_S = 5.0, 10.0  # the daemon's interval
ROWS = 10_000


@dataclass
class Served:
    """An installation with version 1 as champion by its ledger, and a real service that answers with it."""

    stores: Stores
    instance: dg.DagsterInstance
    url: str

    @property
    def registry(self) -> ModelRegistry:
        return self.stores.registry

    def promoted(self, bundle: Bundle) -> int:
        version = register(self.registry, self.stores.settings, bundle)
        day = self.stores.settings.now()
        promotion.record(
            self.stores.warehouse,
            Decision(Action.promote, day, "planted", self.registry.champion(), version, {}, {}),
        )
        promotion.carry_out(self.stores.warehouse, self.registry)
        return version

    def tick(self) -> dg.SensorResult | dg.SkipReason:
        """One evaluation of the guard, as the daemon's."""
        guard = build_champion_guard(["team:ml-platform"])
        with dg.build_sensor_context(self.instance, resources={"stores": self.stores}) as context:
            return guard(context)  # type: ignore[return-value]

    def health(self) -> dict:
        return httpx.get(f"{self.url}/health").json()

    def scores(self, body: dict) -> tuple[set[int], list[float]]:
        answer = httpx.post(f"{self.url}/predict/batch", json=body, timeout=60)
        assert answer.status_code == 200, answer.text
        given = answer.json()["predictions"]
        return {p["model_version"] for p in given}, [p["probability"] for p in given]


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Nobody serves it yet."""
    stores = Stores(settings_in(tmp_path_factory.mktemp("served")))
    with dg.DagsterInstance.ephemeral() as instance:
        found = Served(stores, instance, "")
        found.promoted(fit(stores.case, 1))
        yield found


@pytest.fixture(scope="module")
def served(planted: Served, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(planted.stores.settings, tmp_path_factory.mktemp("log")) as server:
        planted.url = server.url
        yield planted


@pytest.fixture(scope="module")
def body() -> dict:
    rows = generate(ROWS, 5).drop("entity_id", "event_time", "label")
    return {"cases": rows.to_dicts()}


NAN = Calibrator(float("nan"), 0.0)
COLLAPSED = Calibrator(1e-12, -1.0)


@pytest.mark.parametrize(("calibrator", "kind"), [(NAN, Kind.does_not_load), (COLLAPSED, Kind.scores)])
def test_a_champion_that_fails_is_taken_back_within_ten_seconds(served: Served, body: dict, calibrator, kind):
    versions, before = served.scores(body)
    assert versions == {1}
    bad = served.promoted(replace(fit(served.stores.case, 2), calibrator=calibrator))
    started = time.monotonic()
    folder = served.stores.settings.champion_failures
    if kind is Kind.scores:
        wait_until(lambda: served.health()["model_version"] == bad, 5)
        assert served.scores(body) == ({1}, before), (
            "the answers that show the failure are the old champion's"
        )
    wait_until(lambda: champion_failures.reported(folder), 5)
    assert [f.kind for f in champion_failures.reported(folder)] == [kind]
    time.sleep(max(0.0, TICK_S - (time.monotonic() - started)))
    result = served.tick()
    assert served.registry.champion() == 1
    wait_until(lambda: served.health()["status"] == "ok", 5)
    assert time.monotonic() - started <= TAKEN_BACK_WITHIN_S
    assert served.scores(body) == ({1}, before), "to the last bit"
    last = decision_ledger.latest(served.stores.warehouse)
    assert last and (last["action"], last["champion"], last["challenger"]) == ("ROLL_BACK", bad, 1)
    assert served.registry.tags(bad)[QUARANTINED] == last["reason"]
    assert last["payload"]["evidence"]["kind"] == kind.value
    assert isinstance(result, dg.SensorResult) and result.asset_events[0].metadata["version"].value == 1
    assert champion_failures.reported(folder) == []
    quiet = served.tick()
    assert isinstance(quiet, dg.SkipReason), "nothing is left to do"
    assert quiet.skip_message == "version 1 is champion, as the ledger says, and no service reports a failure"


def test_what_only_a_service_cannot_load_is_not_taken_back(planted: Served):
    good = planted.promoted(fit(planted.stores.case, 3))
    folder = planted.stores.settings.champion_failures
    told = ChampionFailure(good, Kind.does_not_load, "its disk is full", planted.stores.settings.now())
    champion_failures.report(folder, told)
    result = planted.tick()
    assert isinstance(result, dg.SkipReason)
    assert "but it loads here: mend the service" in str(result.skip_message)
    assert planted.registry.champion() == good
    champion_failures.settle(folder, good)


def test_the_guard_finishes_what_was_cut_off(planted: Served):
    champion, settings = planted.registry.champion(), planted.stores.settings
    version = register(planted.registry, settings, fit(planted.stores.case, 4))
    cut_off = Decision(Action.promote, settings.now(), "planted", champion, version, {}, {})
    decision_ledger.record(planted.stores.warehouse, cut_off)
    assert planted.registry.champion() == champion
    planted.tick()
    assert planted.registry.champion() == version


def test_a_bundle_is_one_version_that_pyfunc_loads_and_whose_signature_refuses(planted: Served):
    import mlflow.pyfunc
    from mlflow.exceptions import MlflowException

    mlflow.set_tracking_uri(planted.stores.settings.tracking_uri)
    bundle = planted.registry.load(1)
    model = mlflow.pyfunc.load_model(f"models:/{planted.registry.model}/1")
    rows = generate(50, 8)
    frame = rows.select([f.name for f in bundle.features]).to_pandas()
    given = pl.from_pandas(model.predict(frame))["probability"]
    assert given.to_list() == bundle.score(rows).tolist()
    for wrong in (frame.drop(columns="monthly_fee"), frame.assign(monthly_fee="much"), frame.assign(age=1.5)):
        with pytest.raises(MlflowException):
            model.predict(wrong)
    kept = bundle.to_files()["bundle.json"].decode()
    for part in ("calibrator", "threshold", "features", "vocabulary", "reference", "training_fingerprint"):
        assert f'"{part}"' in kept
