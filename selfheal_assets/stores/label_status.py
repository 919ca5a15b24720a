"""Where labels stand: what waits in the landing folder, what the ledger holds, what was rejected and why.

The ledger is in the warehouse, which the service never opens: ingestion publishes what it knows of it.
"""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl

from selfheal_assets.stores import label_log
from selfheal_assets.stores.label_ledger import SUFFIXES, LabelIngestion, landed_files
from selfheal_assets.stores.segments import OPEN, READY, DamagedSegment, segments
from selfheal_assets.stores.warehouse import Warehouse

SNAPSHOT = "label_status"
NEWEST_REASONS = 10
_LIVE = pl.List(pl.Struct({"segment": pl.String, "rows": pl.Int64}))
# Unmatched: nothing that was scored or learned from has the name under which the outcome came.
_LEDGER = """
    with cases as (select entity_id from applications union select entity_id from prediction_log),
    scored as (select distinct entity_id from prediction_log where role = 'champion'),
    matched as (
        select count(*) as cases, count(l.entity_id) as labelled_cases
        from scored left join labels_as_of(timestamp '9999-12-31') l using (entity_id))
    select count(*) as rows, max(recorded_at) as newest_recorded_at,
        count(*) filter (case when l.entity_id is null then p.prediction_id is null else c.entity_id is null end)
            as unmatched,
        any_value(m.cases) as cases, any_value(m.labelled_cases) as labelled_cases
    from matched m left join labels l on true
    left join cases c on l.entity_id = c.entity_id
    left join prediction_log p on l.entity_id is null and l.prediction_id = p.prediction_id"""


def publish(warehouse: Warehouse, done: LabelIngestion, now: datetime) -> None:
    """Publish what the ledger holds, after an ingestion that ended at ``now`` (naive UTC)."""
    live = [{"segment": name, "rows": rows} for name, rows in done.live.items()]
    told = warehouse.query(_LEDGER).with_columns(
        pl.lit(now).alias("published_at"), pl.Series("live", [live], dtype=_LIVE)
    )
    warehouse.publish(SNAPSHOT, told)


def waiting(folder: Path, taken: dict[str, int]) -> dict[str, Any]:
    """What has landed and is not in the ledger: labels of the service, and dropped files, whose rows nobody counted.

    Args:
        folder: the landing folder.
        taken: rows of segments still written to that the last ingestion has taken, by the segment's name.
    """
    files = landed_files(folder)
    rows = 0
    for path in [*segments(folder, READY), *segments(folder, OPEN)]:
        try:
            rows += max(0, label_log.count_rows(path) - taken.get(path.name, 0))
        except FileNotFoundError:  # ingested, or handed over, in the meantime
            continue
        except DamagedSegment:  # as a file, as which ingestion will set it aside
            files.append(path)
    oldest = min(filter(None, map(_changed_at, files)), default=None)
    return {"rows": rows, "files": len(files), "oldest_file_landed_at": oldest}


def rejected(folder: Path) -> dict[str, Any]:
    """Rows and files that were set aside, and the newest reasons."""
    notes = [p for p in (folder / "rejected").glob("*.jsonl") if Path(p.stem).suffix in SUFFIXES]
    notes.sort(key=lambda p: (p.stat().st_mtime, p.name), reverse=True)
    rows = files = 0
    newest: list[dict[str, Any]] = []
    for note in notes:
        letters = list(_letters(note))
        whole = [letter for letter in letters if letter.get("row_id") is None]
        files, rows = files + len(whole), rows + len(letters) - len(whole)
        newest += [
            {
                "file": note.stem,
                "row": letter.get("row_id"),
                "reason": letter["reason"],
                "at": _changed_at(note),
            }
            for letter in reversed(letters[-NEWEST_REASONS:])
        ]
    return {"rows": rows, "files": files, "newest": newest[:NEWEST_REASONS]}


def _letters(note: Path) -> Iterator[dict[str, Any]]:
    for line in note.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            letter = json.loads(line)
        except ValueError:  # a label file that was set aside beside its own note
            continue
        if isinstance(letter, dict) and "reason" in letter:
            yield letter


def _changed_at(path: Path) -> datetime | None:
    try:
        return datetime.fromtimestamp(path.stat().st_mtime, UTC).replace(tzinfo=None)
    except FileNotFoundError:
        return None
