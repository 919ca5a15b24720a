"""The promoting process is killed at every step of the journal; ledger, registry and a real service agree again."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import cycle, islice

import httpx
import pytest

from selfheal_assets.core.decision import Action
from selfheal_assets.settings import Settings
from selfheal_assets.stores import decision_ledger, promotion
from selfheal_assets.stores.model_registry import CHAMPION, PREDECESSOR, ModelRegistry
from selfheal_assets.stores.tables import create_tables
from selfheal_assets.stores.warehouse import Warehouse
from selfheal_assets_tests.serving.conftest import fit, register, settings_in
from selfheal_assets_tests.serving.test_hot_swap import free_port, is_healthy, wait_until
from selfheal_assets_tests.stores import promoter

pytestmark = pytest.mark.integration

ROUNDS, AGREES_WITHIN_S = 100, 5
SERVICE = """
import sys, uvicorn
from selfheal_assets.serving.app import create_app
from selfheal_assets.settings import Settings
uvicorn.run(create_app(Settings(), refresh_s=0.1), host="127.0.0.1", port=int(sys.argv[1]), log_level="warning")
"""


class Promoted:
    """An installation with a ledger and a running service, and processes that are forked cheaply."""

    def __init__(self, settings: Settings, url: str) -> None:
        self.settings, self.registry = settings, ModelRegistry(settings)
        self.warehouse = Warehouse(settings.warehouse_path, settings.published)
        self.client = httpx.Client(base_url=url)
        self._forking = multiprocessing.get_context("forkserver")
        self._forking.set_forkserver_preload(["selfheal_assets_tests.stores.promoter_warmed"])

    def start(self, target: Callable[..., None], *arguments: object) -> multiprocessing.process.BaseProcess:
        where = self.settings.use_case, str(self.settings.home)
        before = arguments[:1] if target is promoter.die_at else ()
        process = self._forking.Process(target=target, args=(*before, *where, *arguments[len(before) :]))
        process.start()
        return process

    def ended(self, target: Callable[..., None], *arguments: object) -> int | None:
        process = self.start(target, *arguments)
        process.join(60)
        return process.exitcode

    def served(self) -> int:
        return self.client.get("/health").json()["model_version"]

    def champions(self) -> list[int]:
        """Versions with the champion's alias."""
        return [v["version"] for v in self.registry.versions() if CHAMPION in v["aliases"]]

    def decided(self) -> int:
        verdict = promotion.newest_verdict(self.warehouse)
        assert verdict is not None
        return verdict.version


@pytest.fixture(scope="module")
def promoted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Promoted]:
    """Version 1 is champion by decision 1, and is served."""
    folder = tmp_path_factory.mktemp("promoted")
    settings = settings_in(folder)
    registry = ModelRegistry(settings)
    for seed in (1, 2):
        register(registry, settings, fit(settings.case, seed))
    warehouse = Warehouse(settings.warehouse_path, settings.published)
    create_tables(warehouse, settings.case)
    promoter.decide(warehouse, registry, Action.promote, 1)
    promotion.carry_out(warehouse, registry)
    port, log = free_port(), folder / "service.log"
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_")} | {
        "SELFHEAL_USE_CASE": settings.use_case,
        "SELFHEAL_HOME": str(settings.home),
    }
    with log.open("wb") as output:
        service = subprocess.Popen(
            [sys.executable, "-c", SERVICE, str(port)], env=environment, stdout=output, stderr=output
        )
        try:
            url = f"http://127.0.0.1:{port}"
            wait_until(lambda: is_healthy(service, url, log), 60)
            yield Promoted(settings, url)
        finally:
            service.kill()
            service.wait()


@pytest.mark.parametrize("rounds", [len(promoter.POINTS), pytest.param(ROUNDS, marks=pytest.mark.long)])
def test_a_kill_at_any_step_leaves_one_champion_and_all_agree_after_a_restart(
    promoted: Promoted, rounds: int
):
    agreed, slowest, settings = 0, 0.0, promoted.settings
    decided = decision_ledger.history(promoted.warehouse).height
    for number, point in enumerate(islice(cycle(promoter.POINTS), rounds)):
        before = promoted.decided()
        action = (Action.promote, Action.roll_back)[number % 2]
        assert promoted.ended(promoter.die_at, point, action, 3 - before) == -signal.SIGKILL, point
        assert len(promoted.champions()) == 1, point
        started = time.monotonic()
        promoter.restart(settings.use_case, str(settings.home))  # here: by a process that is not the dead one
        wait_until(lambda wanted=3 - before: promoted.served() == wanted, AGREES_WITHIN_S)
        slowest = max(slowest, time.monotonic() - started)
        assert promoted.champions() == [promoted.decided()] == [3 - before], point
        assert promoted.registry.aliased(PREDECESSOR) == before, point
        assert promotion.unfinished(promoted.warehouse) is None, point
        agreed += 1
    assert agreed == rounds and slowest < AGREES_WITHIN_S
    assert decision_ledger.broken_links(promoted.warehouse) == []
    assert decision_ledger.history(promoted.warehouse).height == decided + rounds, "each decided once"


def test_promoters_exclude_each_other(promoted: Promoted):
    before = promoted.decided()
    height = decision_ledger.history(promoted.warehouse).height
    racing = [promoted.start(promoter.promote, Action.promote, 3 - before) for _ in range(6)]
    for process in racing:
        process.join(60)
    assert [p.exitcode for p in racing] == [0] * 6
    rows = decision_ledger.history(promoted.warehouse)[height:].to_dicts()
    assert (rows[0]["champion"], rows[0]["challenger"]) == (before, 3 - before)
    assert all(row["champion"] == 3 - before for row in rows[1:]), (
        "nobody decided on a champion that had gone"
    )
    assert promoted.champions() == [promoted.decided()] == [3 - before]
    done = promoted.warehouse.query(
        "select decision, step, count(*) as n from promotion_journal group by all having n > 1"
    )
    assert done.is_empty(), "no step was taken by two"
    assert decision_ledger.broken_links(promoted.warehouse) == []
