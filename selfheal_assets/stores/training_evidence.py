"""What a training set is judged by before anything is trained on it: its rows with their ledger, and the last set."""

from datetime import datetime

import polars as pl

from selfheal_assets.core.label_soundness import Kept, TrainingEvidence
from selfheal_assets.core.plan import TrainingPlan
from selfheal_assets.stores.cases import TRAINING_SET
from selfheal_assets.stores.tables import feature_list
from selfheal_assets.stores.warehouse import Warehouse
from selfheal_assets.use_case import UseCase


def training_evidence(
    warehouse: Warehouse, case: UseCase, plan: TrainingPlan, kept: Kept | None
) -> TrainingEvidence:
    """All matured, labelled rows that the plan trains on or judges by, as known on its day, beside the last set."""
    horizon = f"to_months({case.label.horizon_months})"
    rows = warehouse.query(
        f"""select c.entity_id, c.event_time, {feature_list(case, "c.")}, c.label, c.recorded_at, l.occurred_at,
                   case when l.label = 1 and l.occurred_at > c.event_time + {horizon} then 0
                        else l.label end::tinyint as ledger_label
            from labelled_cases(cast(? as timestamp)) c
            left join labels_as_of(cast(? as timestamp)) l using (entity_id)
            where c.is_mature and c.label is not null and c.event_time < cast(? as timestamp)
            order by c.event_time, c.entity_id""",
        [plan.as_of, plan.as_of, plan.evaluate_until],
    )
    return TrainingEvidence(rows, plan.as_of, case.features, case.monitoring.chunk, kept)


def kept_training_set(warehouse: Warehouse, case: UseCase) -> Kept | None:
    """The last training set that was accepted, or ``None``: only an accepted one is ever frozen."""
    known = warehouse.query("select scope from sources where name = ?", [TRAINING_SET])
    if known.is_empty() or not warehouse.has(TRAINING_SET):
        return None
    known_at, until = map(datetime.fromisoformat, known["scope"][0].partition(",")[0].split(" until "))
    rows = warehouse.query(
        f"select entity_id, event_time, {feature_list(case)}, label from {TRAINING_SET} where event_time < ?",
        [until],
    )
    return Kept(rows, known_at, until)


def features_between(warehouse: Warehouse, case: UseCase, start: datetime, end: datetime) -> pl.DataFrame:
    """The features of all cases in [start, end), from history and log, labelled or not."""
    features = feature_list(case)
    return warehouse.query(
        f"""select {features} from applications where event_time >= ? and event_time < ?
            union all by name
            select {features} from prediction_log where role = 'champion' and event_time >= ? and event_time < ?""",
        [start, end, start, end],
    )
