"""The label ledger: append-only and bitemporal. When a label became true, and when we learned it.

Labels land as files (CSV, Parquet, JSON Lines) in a folder; ingestion appends what is new. A correction is a
new row. Rows that cannot be read go to a dead-letter file with the reason, and nothing else is lost.
"""

import json
import os
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import polars as pl

from selfheal_assets.stores.durable import sync_folder
from selfheal_assets.stores.warehouse import Warehouse, one

COLUMNS = {
    "prediction_id": pl.String,
    "entity_id": pl.String,
    "label": pl.Int8,
    "occurred_at": pl.Datetime("us"),
    "recorded_at": pl.Datetime("us"),
    "source": pl.String,
}
_READERS = {
    ".csv": lambda path: pl.read_csv(path, infer_schema=False),
    ".parquet": pl.read_parquet,
    ".jsonl": lambda path: pl.read_ndjson(path, infer_schema_length=None),
}


@dataclass(frozen=True)
class LabelIngestion:
    """What one ingestion did."""

    files: int
    rows_read: int
    rows_added: int
    rows_rejected: int


def drop(folder: Path, labels: pl.DataFrame) -> Path:
    """Land a label file: written beside its place, flushed, renamed. Columns as in :data:`COLUMNS`."""
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{uuid.uuid4().hex}.parquet"
    hidden = folder / f".{target.name}"
    labels.write_parquet(hidden)
    with hidden.open("rb") as written:
        os.fsync(written.fileno())
    os.rename(hidden, target)
    sync_folder(folder)
    return target


def conform(raw: pl.DataFrame, source: str, received_at: datetime) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Bring label rows into the ledger's shape.

    Args:
        raw: any subset of :data:`COLUMNS`; texts are parsed.
        source: used where the row names none.
        received_at: used where ``recorded_at`` is missing; the default of ``occurred_at`` too.

    Returns:
        The valid rows, and the rejected ones as they were with a ``reason`` column.
    """
    given = raw.select(
        (pl.col(name) if name in raw.columns else pl.lit(None)).cast(pl.String).alias(name)
        for name in COLUMNS
    ).with_row_index("row_id")
    parsed = given.select(
        "row_id",
        "prediction_id",
        "entity_id",
        pl.col("label").cast(pl.Float64, strict=False),
        *(
            pl.col(name)
            .str.strip_chars()
            .str.to_datetime(time_unit="us", strict=False, ambiguous="null")
            .alias(name)
            for name in ("occurred_at", "recorded_at")
        ),
        pl.col("source").fill_null(source),
    )
    unreadable = {
        name: given[name].is_not_null() & parsed[name].is_null() for name in ("occurred_at", "recorded_at")
    }
    parsed = parsed.with_columns(pl.col("recorded_at").fill_null(received_at)).with_columns(
        pl.col("occurred_at").fill_null(pl.col("recorded_at"))
    )
    reason = (
        pl.when(pl.col("entity_id").is_null() & pl.col("prediction_id").is_null())
        .then(pl.lit("neither entity_id nor prediction_id is given"))
        .when(pl.col("label").is_null() | ~pl.col("label").is_in([0.0, 1.0]))
        .then(pl.lit("label must be 0 or 1"))
        .when(unreadable["occurred_at"])
        .then(pl.lit("occurred_at is not a date or time (ISO 8601)"))
        .when(unreadable["recorded_at"])
        .then(pl.lit("recorded_at is not a date or time (ISO 8601)"))
        .when(pl.col("recorded_at") < pl.col("occurred_at"))
        .then(pl.lit("recorded_at is before occurred_at: a label cannot be known before it is true"))
    )
    judged = parsed.with_columns(reason=reason)
    valid = judged.filter(pl.col("reason").is_null()).select(pl.col(n).cast(t) for n, t in COLUMNS.items())
    bad = judged.filter(pl.col("reason").is_not_null()).select("row_id", "reason")
    return valid, given.join(bad, on="row_id").with_columns(pl.col("row_id") + 1)


def append(warehouse: Warehouse, labels: pl.DataFrame) -> int:
    """Append the rows that the ledger does not hold yet; returns how many."""
    keys = ", ".join(COLUMNS)
    with warehouse.write() as connection:
        connection.register("incoming", labels.to_arrow())
        same = " and ".join(f"l.{c} is not distinct from i.{c}" for c in COLUMNS)
        inserted = one(
            connection,
            f"""insert into labels ({keys}) select distinct {keys} from incoming i
                where not exists (select 1 from labels l where {same})""",
        )
        connection.unregister("incoming")
    return int(inserted[0]) if inserted else 0


def ingest(warehouse: Warehouse, folder: Path) -> LabelIngestion:
    """Append every landed file to the ledger, then move it to ``ingested/``; a second call adds nothing.

    Rows without ``recorded_at`` were learned when their file was written.
    """
    files = sorted(p for p in folder.glob("*") if p.suffix in _READERS and not p.name.startswith("."))
    read = added = rejected = 0
    for path in files:
        raw = _READERS[path.suffix](path)
        received_at = datetime.fromtimestamp(path.stat().st_mtime, UTC).replace(tzinfo=None)
        valid, bad = conform(raw, path.name, received_at)
        read, added, rejected = read + raw.height, added + append(warehouse, valid), rejected + bad.height
        _set_aside(folder, path, bad)
    return LabelIngestion(len(files), read, added, rejected)


def _set_aside(folder: Path, path: Path, bad: pl.DataFrame) -> None:
    if not bad.is_empty():
        dead_letters = folder / "rejected" / f"{path.name}.jsonl"
        dead_letters.parent.mkdir(exist_ok=True)
        dead_letters.write_text("".join(json.dumps(row) + "\n" for row in bad.iter_rows(named=True)))
    (folder / "ingested").mkdir(exist_ok=True)
    os.rename(path, folder / "ingested" / path.name)
