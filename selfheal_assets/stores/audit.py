"""The ledger held against what it was made from: what was known on a day, and what was decided on it.

Rebuilding reads the bitemporal warehouse as it was known then; nothing is written.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import polars as pl

from selfheal_assets.core.decision import Action
from selfheal_assets.stores import cases, decision_ledger
from selfheal_assets.stores.model_registry import ModelRegistry, NoSuchVersion
from selfheal_assets.stores.warehouse import Warehouse
from selfheal_assets.use_case import UseCase

_TRAINED = (Action.promote.value, Action.reject.value, Action.inconclusive.value)


@dataclass(frozen=True)
class Rebuilt:
    """One decision, and what differs from it when its training set and its bundles are made anew."""

    id: int
    action: str
    as_of: datetime
    differences: list[str]


@dataclass(frozen=True)
class AsOf:
    """What was known and decided at a time.

    ``cases`` that had happened, ``mature`` of them past the horizon, ``labels`` known, ``positives`` among these;
    the ``champion`` then, and the decisions until then.
    """

    as_of: datetime
    cases: int
    mature: int
    labels: int
    positives: int
    champion: int | None
    decisions: list[Rebuilt]

    @property
    def differs(self) -> bool:
        """Whether any decision cannot be rebuilt as it was recorded."""
        return any(d.differences for d in self.decisions)


def known_at(warehouse: Warehouse, case: UseCase, registry: ModelRegistry, as_of: datetime) -> AsOf:
    """Rebuild what was known at ``as_of``, and each decision's inputs until then.

    A decision's training set is put together anew as it was known on its own day, and its fingerprint compared with
    the one that was recorded; so are the fingerprints of the versions that it names.
    """
    known = warehouse.query(
        """select count(*) as cases, count(*) filter (is_mature) as mature, count(recorded_at) as labels,
                  count(recorded_at) filter (label = 1) as positives from labelled_cases(cast(? as timestamp))""",
        [as_of],
    ).row(0, named=True)
    decided = decision_ledger.recorded(warehouse, as_of)
    champion = [d for d in decided if d["action"] in (Action.promote.value, Action.roll_back.value)]
    rebuilt = [_rebuilt(warehouse, case, registry, d) for d in decided]
    return AsOf(as_of, **known, champion=champion[-1]["challenger"] if champion else None, decisions=rebuilt)


def _rebuilt(
    warehouse: Warehouse, case: UseCase, registry: ModelRegistry, decision: dict[str, Any]
) -> Rebuilt:
    prints, differences = decision["payload"]["fingerprints"], []
    for role in ("champion", "challenger"):
        if decision[role] and prints.get(role):
            differences += _of_version(registry, role, decision[role], prints[role])
    if decision["action"] in _TRAINED and not differences:
        differences += _of_training_set(warehouse, case, registry, decision)
    return Rebuilt(decision["id"], decision["action"], decision["as_of"], differences)


def _of_version(registry: ModelRegistry, role: str, version: int, recorded: str) -> list[str]:
    try:
        found = registry.load(version).fingerprint
    except (NoSuchVersion, OSError, ValueError, KeyError) as error:
        return [f"{role} {version} cannot be loaded: {error}"]
    return [] if found == recorded else [f"{role} {version} is {found}, recorded was {recorded}"]


def _of_training_set(
    warehouse: Warehouse, case: UseCase, registry: ModelRegistry, decision: dict[str, Any]
) -> list[str]:
    recorded = decision["payload"]["fingerprints"]["training_set"]
    bundle = registry.load(decision["challenger"])
    rows = cases.training_rows(warehouse, case, bundle.reference.as_of, bundle.trained_until)
    found = cases.fingerprint_of(rows)
    if found == recorded:
        return []
    return [f"training set as known at {bundle.reference.as_of:%Y-%m-%d} is {found}, recorded was {recorded}"]


def damaged(warehouse: Warehouse) -> pl.DataFrame:
    """The rows of the ledger that are not as they were recorded, in the columns of ``decision_ledger.history``."""
    broken = decision_ledger.broken_links(warehouse)
    return decision_ledger.history(warehouse).filter(pl.col("id").is_in(broken))
