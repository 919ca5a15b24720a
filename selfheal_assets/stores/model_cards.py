"""What is told of a registered version: looked up in warehouse, ledger and registry, computed by ``core``."""

from datetime import datetime

import polars as pl

from selfheal_assets.core.model_card import (
    CALIBRATION_SCHEMA,
    ModelCard,
    calibration_curve,
    card_figures,
    limits_of,
)
from selfheal_assets.core.realized import REALIZED_SCHEMA, realized_metrics
from selfheal_assets.stores import decision_ledger
from selfheal_assets.stores.cases import matured_cases
from selfheal_assets.stores.model_registry import (
    CHALLENGER,
    CHAMPION,
    PREDECESSOR,
    QUARANTINED,
    ModelRegistry,
)
from selfheal_assets.stores.warehouse import Warehouse
from selfheal_assets.use_case import UseCase


def card_file(version: int) -> str:
    """Name of a version's card, in the folder of the reports."""
    return f"model_{version}.html"


def model_card(
    warehouse: Warehouse, registry: ModelRegistry, case: UseCase, version: int, as_of: datetime
) -> ModelCard:
    """A version's card.

    Args:
        warehouse, registry, case: of the installation.
        version: its number.
        as_of: which labels are known, for the cases that it answered; its own reference stands at its own time.

    Raises:
        NoSuchVersion: the registry does not have it.
    """
    bundle, window = registry.load(version), registry.load(version).reference
    rows = matured_cases(warehouse, case, window.as_of, window.start, window.end)
    found = card_figures(
        bundle,
        rows.filter(pl.col("label").is_not_null()),
        case.segments,
        case.policy.alarms,
        case.policy.realized,
        case.training.seed,
    )
    served, curve = _served(warehouse, case, version, as_of)
    standing, quarantined = _standing(registry, version)
    return ModelCard(
        version=version,
        bundle=bundle,
        standing=standing,
        quarantined=quarantined,
        figures=found,
        limits=limits_of(bundle, found, case.segments, case.label.horizon_months),
        candidates=_kept(warehouse, "shadow_models", "version", version),
        comparison=_kept(warehouse, "shadow_evaluation", "challenger", version),
        served=served,
        served_curve=curve,
        answered=_answered(warehouse, version),
        trail=[d for d in decision_ledger.recorded(warehouse) if version in (d["champion"], d["challenger"])],
    )


def _standing(registry: ModelRegistry, version: int) -> tuple[str, str]:
    """What the registry says of a version in one word, and why it is quarantined."""
    if reason := registry.tags(version).get(QUARANTINED):
        return "quarantined", reason
    words = {CHAMPION: "champion", PREDECESSOR: "previous champion", CHALLENGER: "challenger"}
    return next((word for alias, word in words.items() if registry.aliased(alias) == version), "retired"), ""


def _kept(warehouse: Warehouse, table: str, column: str, version: int) -> pl.DataFrame:
    if not warehouse.has(table):
        return pl.DataFrame()
    return warehouse.query(f"select * from {table} where {column} = ?", [version])


def _answered(warehouse: Warehouse, version: int) -> tuple[int, datetime | None, datetime | None]:
    found = warehouse.query(
        """select count(*) as n, min(event_time) as first, max(event_time) as last
           from prediction_log where role = 'champion' and model_version = ?""",
        [version],
    )
    return found.row(0)  # type: ignore[return-value]


def _served(
    warehouse: Warehouse, case: UseCase, version: int, as_of: datetime
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Realized performance of what the version answered, as far as it is mature, and its calibration curve."""
    rows = warehouse.query(
        """select l.label, p.probability, p.prediction
           from prediction_log p join labelled_cases(cast(? as timestamp)) l using (entity_id)
           where p.role = 'champion' and p.model_version = ? and l.is_mature and l.label is not null
           order by p.event_time, p.prediction_id""",
        [as_of, version],
    )
    if rows.is_empty():
        return pl.DataFrame(schema=REALIZED_SCHEMA), pl.DataFrame(schema=CALIBRATION_SCHEMA)
    policy, label, score = case.policy, rows["label"].to_numpy(), rows["probability"].to_numpy()
    flagged, figures = rows["prediction"].to_numpy() == 1, policy.realized
    return (
        realized_metrics(label, score, flagged, policy.alarms, None, case.training.seed, figures),
        calibration_curve(label, score, figures.calibration_bins, figures.confidence),
    )
