"""The label ledger: append-only and bitemporal. When a label became true, and when we learned it.

Labels land in a folder: as segments of the service (``label_log``) and as files (CSV, Parquet, JSON Lines) that
people drop. Ingestion appends what is new. A correction is a new row. Rows that cannot be read go to a dead-letter
file with the reason, a file that cannot be read goes there whole, and nothing else is lost.
"""

import difflib
import json
import os
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl

from selfheal_assets.core.schemas import parse_times
from selfheal_assets.stores import label_log
from selfheal_assets.stores.durable import sync_folder
from selfheal_assets.stores.label_log import COLUMNS
from selfheal_assets.stores.segments import OPEN, READY, DamagedSegment, adopt_abandoned, segments
from selfheal_assets.stores.sources import SourceError
from selfheal_assets.stores.sources.table import column_names, read_columns
from selfheal_assets.stores.warehouse import Warehouse, one

SUFFIXES = (".csv", ".parquet", ".jsonl")
# How alike a name must be to count as a column misspelt. Of times the last word varies most ('occurred_on').
_ALIKE = {"occurred_at": 0.75, "recorded_at": 0.75}
_ALIKE_OTHERWISE = 0.88
# Polars panics on some damaged Parquet files, and its panic is not an Exception.
_BROKEN = (SourceError, OSError, pl.exceptions.PolarsError, pl.exceptions.PanicException)


@dataclass(frozen=True)
class LabelIngestion:
    """What one ingestion did. ``live``: rows taken of each segment that is still written to."""

    files: int
    rows_read: int
    rows_added: int
    rows_rejected: int
    files_rejected: int
    live: dict[str, int] = field(default_factory=dict)


def landed_files(folder: Path) -> list[Path]:
    """Files that wait to be ingested, in the order of their names."""
    return sorted(p for p in folder.glob("*") if p.suffix in SUFFIXES and not p.name.startswith("."))


def drop(folder: Path, labels: pl.DataFrame) -> Path:
    """Land a label file, as people do: written beside its place, flushed, renamed. Columns as in :data:`COLUMNS`."""
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
        (pl.col(name) if name in raw.columns else pl.lit(None)).cast(pl.String).replace("", None).alias(name)
        for name in COLUMNS
    ).with_row_index("row_id")
    parsed = given.select(
        "row_id",
        "prediction_id",
        "entity_id",
        pl.col("label").cast(pl.Float64, strict=False),
        *(_times(raw, given, name) for name in ("occurred_at", "recorded_at")),
        pl.col("source").fill_null(source),
    )
    spoiled = pl.any_horizontal(
        given.select("prediction_id", "entity_id", "source").with_columns(
            pl.all().str.contains("\0", literal=True)
        )
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
        .when(spoiled)
        .then(pl.lit("an id or the source holds a NUL character"))
        .when(pl.col("label").is_null() | ~pl.col("label").is_in([0.0, 1.0]))
        .then(pl.lit("label must be 0 or 1"))
        .when(unreadable["occurred_at"])
        .then(pl.lit("occurred_at is not a date or time (ISO 8601)"))
        .when(unreadable["recorded_at"])
        .then(pl.lit("recorded_at is not a date or time (ISO 8601)"))
        .when(pl.col("recorded_at") < pl.col("occurred_at"))
        .then(
            pl.lit(
                "recorded_at is before occurred_at: a label cannot be known before it is true "
                "(a time without an offset is UTC)"
            )
        )
    )
    judged = parsed.with_columns(reason=reason)
    valid = judged.filter(pl.col("reason").is_null()).select(pl.col(n).cast(t) for n, t in COLUMNS.items())
    bad = judged.filter(pl.col("reason").is_not_null()).select("row_id", "reason")
    return valid, given.join(bad, on="row_id").with_columns(pl.col("row_id") + 1)


def _times(raw: pl.DataFrame, given: pl.DataFrame, name: str) -> pl.Series:
    typed = name in raw.columns and raw.schema[name] in (pl.Date, pl.Datetime)
    return parse_times(raw[name] if typed else given[name])[0]


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
    """Append everything that landed to the ledger; a second call adds nothing.

    Segments of the service are removed once their rows are committed, files are moved to ``ingested/``. Rows without
    ``recorded_at`` were learned when their file was written. A file that cannot be read whole is moved to
    ``rejected/``, beside a note that says why, and keeps no other from being ingested.
    """
    files = landed_files(folder)
    taken = _ingest_segments(warehouse, folder)
    read, added, rejected, broken = taken.rows_read, taken.rows_added, 0, taken.files_rejected
    for path in files:
        received_at = datetime.fromtimestamp(path.stat().st_mtime, UTC).replace(tzinfo=None)
        try:
            valid, bad = conform(_read(path), path.name, received_at)
        except _BROKEN as error:
            reason = f"{error}; nothing of it was taken: mend the file and move it back into {folder}"
            _set_aside(folder, path, "rejected", [{"row_id": None, "reason": reason}])
            broken += 1
            continue
        read += valid.height + bad.height
        added, rejected = added + append(warehouse, valid), rejected + bad.height
        _set_aside(folder, path, "ingested", bad.to_dicts())
    return LabelIngestion(len(files) + taken.files, read, added, rejected, broken, taken.live)


def _ingest_segments(warehouse: Warehouse, folder: Path) -> LabelIngestion:
    """Append the rows of all segments in one transaction, then remove those that are done with.

    No manifest is needed: a row that is read again is in the ledger already.
    """
    adopt_abandoned(folder)
    finished, live = segments(folder, READY), segments(folder, OPEN)
    frames: dict[Path, pl.DataFrame] = {}
    broken = 0
    for path in [*finished, *live]:
        try:
            frames[path] = label_log.read_segment(path)
        except FileNotFoundError:  # sealed since it was listed: the next ingestion finds it in ready/
            continue
        except DamagedSegment as error:
            if path in finished:  # else its writer lives, and will hand it over
                _set_aside(folder, path, "rejected", [{"row_id": None, "reason": str(error)}])
                broken += 1
    labels = pl.concat(frames.values()) if frames else pl.DataFrame(schema=COLUMNS)
    added = 0 if labels.is_empty() else append(warehouse, labels)
    for path in finished:
        path.unlink(missing_ok=True)
    taken = {path.name: frames[path].height for path in live if path in frames}
    return LabelIngestion(len(frames) + broken, labels.height, added, 0, broken, taken)


def _read(path: Path) -> pl.DataFrame:
    """The file as it is, whole.

    Raises:
        SourceError: it is torn or damaged, has no column for the label or for what is labelled, or one whose name
            looks misspelt, which would silently not be read.
    """
    raw = _read_json_lines(path) if path.suffix == ".jsonl" else read_columns(path, column_names(path))
    if "label" not in raw.columns or not {"entity_id", "prediction_id"} & set(raw.columns):
        raise SourceError(
            f"{path}: a label file has the columns 'label' and 'entity_id' or 'prediction_id'; this one has "
            f"{', '.join(raw.columns)}"
        )
    if misspelt := _misspelt(raw.columns):
        given, meant = misspelt
        raise SourceError(
            f"{path}: column '{given}' looks like '{meant}', which the file does not have, and would not be read; "
            f"rename it to '{meant}', or to something else if it is not that"
        )
    return raw


def _misspelt(columns: Sequence[str]) -> tuple[str, str] | None:
    """A column that is nearly one of ours, and the one that it may have been meant to be."""
    for meant in (name for name in COLUMNS if name not in columns):
        alike = _ALIKE.get(meant, _ALIKE_OTHERWISE)
        for given in (name for name in columns if name not in COLUMNS):
            plain = given.strip().lower().replace(" ", "_").replace("-", "_")
            if difflib.SequenceMatcher(None, plain, meant).ratio() >= alike:
                return given, meant
    return None


def _read_json_lines(path: Path) -> pl.DataFrame:
    for number, line in enumerate(path.read_bytes().split(b"\n"), 1):
        try:  # Polars would not say which line it is
            json.loads(line.strip() or b"{}")
        except ValueError as error:
            raise SourceError(f"{path}, line {number}: not JSON: is the file complete?") from error
    return pl.read_ndjson(path, infer_schema_length=None)


def _set_aside(folder: Path, path: Path, where: str, dead_letters: list[dict[str, Any]]) -> None:
    """Move a file out of the landing folder, its dead letters first; neither replaces those of an earlier file."""
    name, count = path.name, 1
    while any(
        (folder / place / taken).exists()
        for place in ("ingested", "rejected")
        for taken in (name, f"{name}.jsonl")
    ):
        count += 1
        name = f"{path.stem}-{count}{path.suffix}"
    (folder / where).mkdir(exist_ok=True)
    if dead_letters:
        (folder / "rejected").mkdir(exist_ok=True)
        with (folder / "rejected" / f"{name}.jsonl").open("w", encoding="utf-8") as note:
            note.writelines(json.dumps(row) + "\n" for row in dead_letters)
            note.flush()
            os.fsync(note.fileno())
        sync_folder(folder / "rejected")
    os.rename(path, folder / where / name)
