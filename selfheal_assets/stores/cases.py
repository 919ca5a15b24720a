"""Labelled cases as they were known at a time: the rows that models learn from and are judged on."""

from dataclasses import dataclass
from datetime import datetime

import polars as pl

from selfheal_assets.core import fingerprint
from selfheal_assets.core.bundle import ReferenceWindow
from selfheal_assets.core.maturity import TimingCurve, fit_timing_curve
from selfheal_assets.core.training import NotEnoughData, TrainingPlan
from selfheal_assets.stores.tables import feature_list
from selfheal_assets.stores.warehouse import Warehouse, one, replace_rows
from selfheal_assets.use_case import UseCase


def matured_cases(
    warehouse: Warehouse,
    case: UseCase,
    as_of: datetime,
    start: datetime | None = None,
    end: datetime | None = None,
) -> pl.DataFrame:
    """Cases past the horizon at ``as_of`` with event times in [start, end), ordered by time and id.

    Returns:
        ``entity_id``, ``event_time``, the features, ``label`` (Int8; null where nothing was recorded and the
        use case does not count silence as negative), ``recorded_at``.
    """
    return warehouse.query(
        f"""select entity_id, event_time, {feature_list(case)}, label, recorded_at
            from labelled_cases(cast(? as timestamp))
            where is_mature and event_time >= coalesce(cast(? as timestamp), event_time)
              and event_time < coalesce(cast(? as timestamp), cast(? as timestamp))
            order by event_time, entity_id""",
        [as_of, start, end, as_of],
    )


def cases_so_far(warehouse: Warehouse, case: UseCase, as_of: datetime, start: datetime) -> pl.DataFrame:
    """Cases with event times in [start, as_of) and what is known of them at ``as_of``, ordered by time and id.

    Returns:
        ``entity_id``, ``event_time``, the features, ``age_days`` (Float64), ``positive_so_far`` (Int8).
    """
    return warehouse.query(
        f"""select entity_id, event_time, {feature_list(case)},
                epoch(cast(? as timestamp) - event_time) / 86400.0 as age_days,
                coalesce(label, 0)::tinyint as positive_so_far
            from labelled_cases(cast(? as timestamp)) where event_time >= ? order by event_time, entity_id""",
        [as_of, as_of, start],
    )


def timing_curve(warehouse: Warehouse, case: UseCase, as_of: datetime) -> TimingCurve:
    """Timing curve of everything mature at ``as_of``."""
    matured = warehouse.query(
        """select event_time, recorded_at, label from labelled_cases(cast(? as timestamp))
           where is_mature and label = 1""",
        [as_of],
    )
    return fit_timing_curve(matured, case.label)


TRAINING_SET = "training_set"


@dataclass(frozen=True)
class Reference:
    """A frozen reference: its rows with labels, and the fingerprint that names them."""

    frame: pl.DataFrame
    fingerprint: str
    changed: bool


def freeze_reference(warehouse: Warehouse, case: UseCase, window: ReferenceWindow) -> Reference:
    """The labelled rows of a reference window, kept under their fingerprint; freezing twice changes nothing.

    Raises:
        LookupError: no labelled case lies in the window.
    """
    columns = ["entity_id", "event_time", *case.feature_names, "label"]
    frame = matured_cases(warehouse, case, window.as_of, window.start, window.end)
    frame = frame.filter(pl.col("label").is_not_null()).select(columns)
    if frame.is_empty():
        raise LookupError(
            f"no labelled case between {window.start:%Y-%m-%d} and {window.end:%Y-%m-%d} was known at "
            f"{window.as_of:%Y-%m-%d}: check 'reference' in the use case, and that its source reaches that far"
        )
    name = fingerprint.of_frame(frame, ["entity_id"])
    with warehouse.write() as connection:
        known = one(connection, "select count(*) from reference_data where reference_fingerprint = ?", [name])
        changed = not (known and known[0])
        if changed:
            rows = frame.select(pl.lit(name).alias("reference_fingerprint"), *columns)
            replace_rows(connection, "reference_data", rows, {"reference_fingerprint": name})
    return Reference(frame, name, changed)


def training_rows(warehouse: Warehouse, case: UseCase, as_of: datetime, until: datetime) -> pl.DataFrame:
    """Matured, labelled cases from before ``until`` as they were known at ``as_of``, ordered by time and id."""
    rows = matured_cases(warehouse, case, as_of, end=until)
    return rows.filter(pl.col("label").is_not_null()).drop("recorded_at")


def fingerprint_of(rows: pl.DataFrame) -> str:
    """Names a training set."""
    return fingerprint.of_frame(rows, ["entity_id"])


def freeze_training_set(warehouse: Warehouse, case: UseCase, plan: TrainingPlan) -> tuple[pl.DataFrame, str]:
    """The training rows known at the plan's ``as_of``, and their fingerprint.

    They are kept in the table ``training_set``; freezing the same rows again changes nothing.

    Raises:
        NotEnoughData: no labelled case is mature.
    """
    rows = training_rows(warehouse, case, plan.as_of, plan.evaluate_from)
    if rows.is_empty():
        raise NotEnoughData(
            f"no matured, labelled case before {plan.evaluate_from:%Y-%m-%d} was known at {plan.as_of:%Y-%m-%d}"
        )
    name = fingerprint_of(rows)
    kept = {
        "name": [TRAINING_SET],
        "fingerprint": [name],
        "row_count": [rows.height],
        "scope": [_scope(plan)],
    }
    with warehouse.write() as connection:
        known = one(connection, "select fingerprint from sources where name = ?", [TRAINING_SET])
        if not known or known[0] != name:
            replace_rows(connection, TRAINING_SET, rows)
        replace_rows(connection, "sources", pl.DataFrame(kept), {"name": TRAINING_SET})
    return rows, name


def frozen_training_set(warehouse: Warehouse, case: UseCase, plan: TrainingPlan) -> tuple[pl.DataFrame, str]:
    """The frozen rows, if they were frozen for this plan; else they are frozen now."""
    with warehouse.read() as connection:
        known = one(
            connection,
            "select fingerprint from sources where name = ? and scope = ?",
            [TRAINING_SET, _scope(plan)],
        )
    if not known:
        return freeze_training_set(warehouse, case, plan)
    return warehouse.query(f"select * from {TRAINING_SET} order by event_time, entity_id"), known[0]


def _scope(plan: TrainingPlan) -> str:
    """What a training set was frozen for: its day and the end of its window."""
    return f"{plan.as_of.isoformat()} until {plan.evaluate_from.isoformat()}"
