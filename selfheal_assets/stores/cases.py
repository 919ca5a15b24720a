"""Labelled cases as they were known at a time: the rows that models learn from and are judged on."""

from dataclasses import dataclass
from datetime import datetime

import polars as pl

from selfheal_assets.core import fingerprint
from selfheal_assets.core.bundle import ReferenceWindow
from selfheal_assets.core.maturity import TimingCurve, fit_timing_curve
from selfheal_assets.core.periods import add_months
from selfheal_assets.core.plan import NotEnoughData, TrainingPlan
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


def gates_from(warehouse: Warehouse, case: UseCase, as_of: datetime) -> datetime:
    """From when on the newest cases are the gates', where these judge by labels so far.

    ``training.gate_months`` before ``as_of``; earlier, down to the first month, where fewer than
    ``training.gate_positives`` are known to be positive since then.
    """
    newest, wanted = add_months(as_of, -case.training.gate_months), case.training.gate_positives
    if not wanted:
        return newest
    known = warehouse.query(
        """select event_time from labelled_cases(cast(? as timestamp)) where label = 1
           order by event_time desc limit 1 offset ?""",
        [as_of, wanted - 1],
    )
    reached = known["event_time"][0] if known.height else datetime.min
    return min(newest, reached.replace(hour=0, minute=0, second=0, microsecond=0))


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


def training_rows(
    warehouse: Warehouse, case: UseCase, plan: TrainingPlan, decided_before: int | None = None
) -> pl.DataFrame:
    """The cases that a plan may learn from, as they were known at its ``as_of``, ordered by time and id.

    Matured, labelled cases from before the reference; where labels so far count, the cases after it and until
    ``plan.immature_until`` too. None of a label recorded on the day or later is among what is known. Without cases of
    quarantined days; ``decided_before`` forgets the quarantines from that decision on.

    Returns:
        ``entity_id``, ``event_time``, the features, ``label`` (Int8: 1 if positive so far, else 0),
        ``positive_age_days`` (Float64: age at which the positive became known, at least 0; null where there is none).
        The age of a case is the plan's ``as_of`` less its ``event_time``.
    """
    known = "date_diff('second', event_time, recorded_at) / 86400e0"
    rows = warehouse.query(
        f"""select entity_id, event_time, {feature_list(case)}, coalesce(label, 0)::tinyint as label,
                case when label = 1 then greatest({known}, 0e0) end::double as positive_age_days
            from labelled_cases(cast(? as timestamp))
            where (is_mature and label is not null and event_time < cast(? as timestamp))
               or (event_time >= cast(? as timestamp) and event_time < cast(? as timestamp)
                   and (label is not null or not is_mature))
            order by event_time, entity_id""",
        [plan.as_of, plan.evaluate_from, plan.evaluate_until, plan.immature_until or plan.evaluate_until],
    )
    return without_quarantined(warehouse, rows, plan.as_of, decided_before)


def learnable_rows(warehouse: Warehouse, case: UseCase, plan: TrainingPlan) -> pl.DataFrame:
    """:func:`training_rows`, of which something can be learned that can be monitored afterwards.

    Raises:
        NotEnoughData: no labelled case is mature, or none lies in the plan's reference, as after an outage.
    """
    rows = training_rows(warehouse, case, plan)
    if rows.is_empty():
        raise NotEnoughData(
            f"no matured, labelled case before {plan.evaluate_from:%Y-%m-%d} was known at {plan.as_of:%Y-%m-%d}"
        )
    reference = matured_cases(warehouse, case, plan.as_of, plan.evaluate_from, plan.evaluate_until)
    if not reference["label"].count():
        raise NotEnoughData(
            f"no labelled case between {plan.evaluate_from:%Y-%m-%d} and {plan.evaluate_until:%Y-%m-%d} was known at "
            f"{plan.as_of:%Y-%m-%d}: a challenger would have no reference to be monitored by; wait, or lengthen "
            "training.evaluation_months"
        )
    return rows


def without_quarantined(
    warehouse: Warehouse, rows: pl.DataFrame, as_of: datetime, decided_before: int | None = None
) -> pl.DataFrame:
    """The rows (``event_time``) outside the days that are quarantined by ``as_of``; see :func:`quarantine_rows`."""
    if not warehouse.has("quarantined_rows"):  # made by an earlier version, and only read since
        return rows
    barred = warehouse.query(
        """select from_time, until_time from quarantined_rows
           where as_of <= ? and decision < coalesce(?, decision + 1)""",
        [as_of, decided_before],
    )
    for start, end in barred.iter_rows():
        rows = rows.filter(~((pl.col("event_time") >= start) & (pl.col("event_time") < end)))
    return rows


def quarantine_rows(
    warehouse: Warehouse, decision: int, as_of: datetime, start: datetime, end: datetime, reason: str
) -> None:
    """Keep the cases of [start, end) out of every training set that is put together from ``as_of`` on.

    ``decision`` is the one that asks for it, ``reason`` why. They stay cases: they are monitored and judged on.
    """
    with warehouse.write() as connection:
        connection.execute(
            "insert into quarantined_rows values (?, ?, ?, ?, ?)", [decision, as_of, start, end, reason]
        )


def fingerprint_of(rows: pl.DataFrame) -> str:
    """Names a training set."""
    return fingerprint.of_frame(rows, ["entity_id"])


def freeze_training_set(warehouse: Warehouse, case: UseCase, plan: TrainingPlan) -> tuple[pl.DataFrame, str]:
    """The training rows known at the plan's ``as_of``, and their fingerprint.

    They are kept in the table ``training_set``; freezing the same rows again changes nothing.

    Raises:
        NotEnoughData: see :func:`learnable_rows`.
    """
    rows = learnable_rows(warehouse, case, plan)
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
    """What a training set was frozen for: its day and the ends of its windows."""
    scope = f"{plan.as_of.isoformat()} until {plan.evaluate_from.isoformat()}"
    if plan.immature_until is None:
        return scope
    return f"{scope}, from {plan.evaluate_until.isoformat()} until {plan.immature_until.isoformat()}"
