"""What the processes of ``test_promotion_kills`` do; forked from a server that has imported everything once."""

import os
import signal

from selfheal_assets.core.decision import Action, Decision
from selfheal_assets.defs.resources import Stores
from selfheal_assets.settings import Settings
from selfheal_assets.stores import promotion
from selfheal_assets.stores.model_registry import ModelRegistry
from selfheal_assets.stores.warehouse import Warehouse

DECIDED = "decided, nothing carried out"
POINTS = (DECIDED, *promotion.POINTS)


def settings_of(use_case: str, home: str) -> Settings:
    return Settings(use_case=use_case, home=home, mlflow_tracking_uri=None)  # type: ignore[arg-type]


def decide(warehouse: Warehouse, registry: ModelRegistry, action: Action, version: int) -> int:
    """Record that ``version`` becomes champion."""
    day = Settings.wall_clock()
    return promotion.record(warehouse, Decision(action, day, "planted", registry.champion(), version, {}, {}))


def die_at(point: str, use_case: str, home: str, action: Action, version: int) -> None:
    """Decide, begin to carry it out, and kill this process outright at ``point``."""

    def reached(here: str) -> None:
        if here == point:
            os.kill(os.getpid(), signal.SIGKILL)

    settings = settings_of(use_case, home)
    warehouse, registry = Warehouse(settings.warehouse_path, settings.published), ModelRegistry(settings)
    decide(warehouse, registry, action, version)
    reached(DECIDED)
    promotion.carry_out(warehouse, registry, reached)


def restart(use_case: str, home: str) -> None:
    """What every run of the loop does first: open the stores."""
    _ = Stores(settings_of(use_case, home)).warehouse


def promote(use_case: str, home: str, action: Action, version: int) -> None:
    """Decide and carry out, as one of several at a time."""
    stores = Stores(settings_of(use_case, home))
    try:
        decide(stores.warehouse, stores.registry, action, version)
    except promotion.ChampionChanged:
        return
    promotion.carry_out(stores.warehouse, stores.registry)
