"""Labelled cases as they were known at a time: the rows that models learn from and are judged on."""

from dataclasses import dataclass
from datetime import datetime

import polars as pl

from selfheal_assets.core import fingerprint
from selfheal_assets.core.bundle import ReferenceWindow
from selfheal_assets.core.maturity import TimingCurve, fit_timing_curve
from selfheal_assets.stores.tables import feature_list
from selfheal_assets.stores.warehouse import Warehouse, one, replace_rows
from selfheal_assets.use_case import UseCase


def matured_cases(
    warehouse: Warehouse, case: UseCase, as_of: datetime, start: datetime | None = None, end: datetime | None = None
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


def timing_curve(warehouse: Warehouse, case: UseCase, as_of: datetime) -> TimingCurve:
    """Timing curve of everything mature at ``as_of``."""
    matured = warehouse.query(
        """select event_time, recorded_at, label from labelled_cases(cast(? as timestamp))
           where is_mature and label = 1""",
        [as_of],
    )
    return fit_timing_curve(matured, case.label)


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
