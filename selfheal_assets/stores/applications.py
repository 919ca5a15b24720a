"""History: the cases and labels from before go-live, loaded from the use case's source into the warehouse.

Cases after go-live never come from the source: they arrive through the prediction log. Loading is idempotent
by the source's fingerprint; a source that changed replaces the whole history in one transaction.
"""

from dataclasses import dataclass
from datetime import datetime

import polars as pl

from selfheal_assets.core import fingerprint
from selfheal_assets.core.periods import midnight
from selfheal_assets.settings import Settings
from selfheal_assets.stores.sources import Cases, SourceError, read_cases, source_path
from selfheal_assets.stores.warehouse import Warehouse, one, replace_rows
from selfheal_assets.use_case import UseCase

HISTORY = "history"


@dataclass(frozen=True)
class HistoryLoad:
    """What a load did: number of cases, fingerprint of the source, and whether anything changed."""

    rows: int
    fingerprint: str
    changed: bool


def split_at_go_live(cases: Cases, go_live: datetime) -> tuple[Cases, Cases]:
    """Cases before go-live, and those from it on (the traffic that a replay sends)."""
    before = cases.frame.filter(pl.col("event_time") < go_live)
    after = cases.frame.filter(pl.col("event_time") >= go_live)

    def part(frame: pl.DataFrame) -> Cases:
        labels = cases.labels.join(frame.select("entity_id"), on="entity_id", how="semi")
        return Cases(frame, labels, cases.fingerprint, cases.path)

    return part(before), part(after)


def require_reference(case: UseCase, history: Cases) -> None:
    """See that the history holds what the first model is trained and judged on, before anything is trained.

    Raises:
        SourceError: no case lies before the reference period, or none in it; names the file and the key.
    """
    times, period = history.frame["event_time"], case.reference
    start, end = midnight(period.start), midnight(period.end)
    missing = []
    if not (times < start).any():
        missing.append(
            f"none before reference.start {period.start}, so the first model has nothing to learn from"
        )
    if not times.is_between(start, end, closed="left").any():
        missing.append(
            f"none in the reference period {period.start} to {period.end}, which judges the first model"
        )
    if missing:
        span = f"from {times.min():%Y-%m-%d} to {times.max():%Y-%m-%d}" if len(times) else "missing"
        raise SourceError(
            f"{history.path}: the cases before go_live {case.go_live} are {span}: {'; '.join(missing)}. "
            f"Mend 'reference' or 'go_live' of the use case '{case.name}', or give a file that reaches that far"
        )


def load_history(warehouse: Warehouse, settings: Settings) -> HistoryLoad:
    """Make sure that the warehouse, which has its tables, holds the history of the source as it is now.

    A label that the source dates in the future is a prognosis, not a record, and is left out.

    Raises:
        SourceError, InvalidRows: the source is missing or a row is invalid; nothing is loaded then.
    """
    name = _fingerprint(settings)
    with warehouse.write() as connection:
        known = one(connection, "select fingerprint, row_count from sources where name = ?", [HISTORY])
        if known and known[0] == name:
            return HistoryLoad(int(known[1]), name, changed=False)
        history, _ = split_at_go_live(read_cases(settings.case, settings), midnight(settings.case.go_live))
        require_reference(settings.case, history)
        labels = (
            history.labels.filter(pl.col("recorded_at") <= settings.wall_clock())
            .with_columns(prediction_id=pl.lit(None, dtype=pl.String), source=pl.lit(HISTORY))
            .select("prediction_id", "entity_id", "label", "occurred_at", "recorded_at", "source")
        )
        replace_rows(connection, "applications", history.frame)
        replace_rows(connection, "labels", labels, {"source": HISTORY})
        row = {"name": [HISTORY], "fingerprint": [name], "row_count": [history.frame.height]}
        replace_rows(connection, "sources", pl.DataFrame(row), {"name": HISTORY})
    return HistoryLoad(history.frame.height, name, changed=True)


def _fingerprint(settings: Settings) -> str:
    """Of the source file's bytes and of how the use case reads them."""
    case = settings.case
    reading = case.model_dump(
        mode="json", include={"source", "entity_id", "event_time", "go_live", "features", "label"}
    )
    path = source_path(case, settings)
    return fingerprint.of_bytes(path.read_bytes(), fingerprint.of_value(reading).encode())
