"""The prediction log: segments that the service appends and Dagster ingests.

One JSON line per batch of answers, flushed to disk before the answers leave. A writer owns one segment in
``open/`` (held by a file lock) and moves it to ``ready/`` when it is full, old or closed. Ingestion is
idempotent: rows are keyed by ``prediction_id``, a finished segment is remembered and then removed. A torn last
line (the writer died) is reported and skipped; the rows before it are kept.
"""

import fcntl
import json
import os
import threading
import time
import uuid
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import duckdb
import polars as pl

from selfheal_assets.core.encoding import polars_type
from selfheal_assets.stores.durable import sync_folder
from selfheal_assets.stores.tables import feature_list
from selfheal_assets.stores.warehouse import Warehouse, one
from selfheal_assets.use_case import UseCase

SCHEMA_VERSION = 1
_VISIBLE = "[!.]*.jsonl"  # pathlib's '*' matches hidden files too


class DamagedSegment(ValueError):
    """A segment holds a complete line that no writer of ours has written."""


@dataclass(frozen=True)
class Scorer:
    """Who gave the scores of a batch."""

    model_version: int
    model_fingerprint: str
    threshold: float
    role: str = "champion"


class PredictionLog:
    """Appends batches durably. Safe to share between threads of one process; processes get segments each."""

    def __init__(self, folder: Path, max_bytes: int = 64_000_000, max_age_s: float = 5.0) -> None:
        self.folder = folder
        self._max_bytes = max_bytes
        self._max_age_s = max_age_s
        self._mutex = threading.Lock()
        self._file: Any = None
        self._path = folder
        self._opened_at = 0.0

    def append(
        self,
        cases: pl.DataFrame,
        features: Sequence[str],
        probability: Sequence[float],
        scorer: Scorer,
        predicted_at: datetime,
    ) -> list[str]:
        """Write one batch and return its prediction ids; the rows are on disk when this returns.

        Args:
            cases: ``entity_id``, ``event_time`` and the features.
            features: names of the features to log.
            probability: of each case.
            scorer: the model that scored.
            predicted_at: when, naive UTC.
        """
        batch = uuid.uuid4().hex
        line = {
            "schema": SCHEMA_VERSION,
            "batch": batch,
            "predicted_at": predicted_at.isoformat(),
            "model_version": scorer.model_version,
            "model_fingerprint": scorer.model_fingerprint,
            "role": scorer.role,
            "threshold": scorer.threshold,
            "entity_id": cases["entity_id"].to_list(),
            "event_time": [t.isoformat() for t in cases["event_time"].to_list()],
            "probability": [float(p) for p in probability],
            "features": {name: cases[name].to_list() for name in features},
        }
        self._write(json.dumps(line, separators=(",", ":"), allow_nan=False).encode() + b"\n")
        return [f"{batch}-{i}" for i in range(cases.height)]

    def _write(self, line: bytes) -> None:
        with self._mutex:
            if self._file is None:
                self._file = self._open()
            self._write_durably(line)
            if self._file.tell() >= self._max_bytes or time.monotonic() - self._opened_at > self._max_age_s:
                self._seal()

    def _write_durably(self, line: bytes) -> None:
        """The whole line or, on a full disk, nothing: half a line would spoil the next one."""
        before = self._file.tell()
        try:
            rest = memoryview(line)
            while rest:
                rest = rest[self._file.write(rest) :]
            os.fdatasync(self._file.fileno())
        except OSError:
            os.ftruncate(self._file.fileno(), before)
            self._file.seek(before)
            raise

    def _open(self) -> Any:
        opened = self.folder / "open"
        opened.mkdir(parents=True, exist_ok=True)
        name = f"{time.time_ns():020d}-{uuid.uuid4().hex[:8]}.jsonl"
        hidden = opened / f".{name}"
        segment = hidden.open("wb", buffering=0)
        # Before it can be seen: a visible unlocked segment is a dead writer's.
        fcntl.flock(segment, fcntl.LOCK_EX)
        self._path = opened / name
        os.rename(hidden, self._path)
        sync_folder(opened)
        self._opened_at = time.monotonic()
        return segment

    def _seal(self) -> None:
        ready = self.folder / "ready"
        ready.mkdir(exist_ok=True)
        os.rename(self._path, ready / self._path.name)
        sync_folder(ready)
        self._file.close()
        self._file = None

    def close(self) -> None:
        """Seal the open segment, if there is one."""
        with self._mutex:
            if self._file is not None:
                self._seal()


def _adopt_abandoned(folder: Path) -> None:
    """Move segments whose writer died (nobody holds their lock) to ``ready/``."""
    ready = folder / "ready"
    for path in sorted((folder / "open").glob(_VISIBLE)):
        # Held: its writer lives. Gone: its writer has just moved it to ready/ itself.
        with suppress(BlockingIOError, FileNotFoundError), path.open("rb") as segment:
            fcntl.flock(segment, fcntl.LOCK_EX | fcntl.LOCK_NB)
            ready.mkdir(exist_ok=True)
            os.rename(path, ready / path.name)


def read_segment(path: Path, case: UseCase) -> tuple[pl.DataFrame, int]:
    """Rows of a segment in the shape of the ``prediction_log`` table, and the size of its torn tail in bytes.

    Raises:
        DamagedSegment: a line before the tail cannot be read.
    """
    content = path.read_bytes()
    whole, _, tail = content.rpartition(b"\n")
    frames = []
    for number, line in enumerate(whole.split(b"\n"), 1):
        try:
            frames += [_batch_frame(json.loads(line), case, path.name)] if line else []
        except (ValueError, KeyError, TypeError, pl.exceptions.PolarsError) as error:
            raise DamagedSegment(
                f"{path}, line {number}: not a line of the prediction log ({type(error).__name__}: {error}); nothing "
                "was ingested. Mend the line or move the file out of the folder, then ingest again"
            ) from error
    return (pl.concat(frames) if frames else pl.DataFrame()), len(tail)


def _batch_frame(batch: dict[str, Any], case: UseCase, segment: str) -> pl.DataFrame:
    rows = len(batch["entity_id"])
    given = batch["features"]
    features = {
        f.name: pl.Series(given.get(f.name, [None] * rows), dtype=polars_type(f)) for f in case.features
    }
    return pl.DataFrame(
        {
            "prediction_id": [f"{batch['batch']}-{i}" for i in range(rows)],
            "entity_id": pl.Series(batch["entity_id"], dtype=pl.String),
            "predicted_at": [datetime.fromisoformat(batch["predicted_at"])] * rows,
            "event_time": [datetime.fromisoformat(t) for t in batch["event_time"]],
            "model_version": pl.Series([batch["model_version"]] * rows, dtype=pl.Int32),
            "model_fingerprint": [batch["model_fingerprint"]] * rows,
            "role": [batch["role"]] * rows,
            **features,
            "probability": pl.Series(batch["probability"], dtype=pl.Float64),
            "prediction": pl.Series(
                [int(p >= batch["threshold"]) for p in batch["probability"]], dtype=pl.Int8
            ),
            "threshold": pl.Series([batch["threshold"]] * rows, dtype=pl.Float64),
            "segment_file": [segment] * rows,
        }
    )


@dataclass(frozen=True)
class Ingestion:
    """What one ingestion did."""

    segments: int
    rows_read: int
    rows_added: int
    torn_bytes: int


def ingest(warehouse: Warehouse, case: UseCase, folder: Path) -> Ingestion:
    """Bring every complete line of the log into the ``prediction_log`` table; a second call adds nothing.

    Rows and the note that a segment is done are one transaction; its file is removed only afterwards. Segments
    that a live service still writes are read up to their last complete line and read again next time.
    """
    if (folder / "open").is_dir():
        _adopt_abandoned(folder)
    finished = sorted((folder / "ready").glob(_VISIBLE))
    live = sorted((folder / "open").glob(_VISIBLE))
    read = added = torn_total = 0
    with warehouse.write() as connection:
        done = {row[0] for row in connection.execute("select segment_file from ingested_segments").fetchall()}
        for path in [*finished, *live]:
            if path.name in done:
                continue
            try:
                frame, torn = read_segment(path, case)
            except FileNotFoundError:  # sealed since it was listed: the next ingestion finds it in ready/
                continue
            count = _insert_new(connection, case, frame)
            read, added = read + frame.height, added + count
            if path in finished:
                torn_total += torn
                connection.execute("insert into ingested_segments values (?, ?, ?)", [path.name, count, torn])
    for path in finished:
        path.unlink(missing_ok=True)
    return Ingestion(len(finished) + len(live), read, added, torn_total)


def _insert_new(connection: duckdb.DuckDBPyConnection, case: UseCase, frame: pl.DataFrame) -> int:
    if frame.is_empty():
        return 0
    connection.register("incoming", frame.to_arrow())
    columns = (
        "prediction_id, entity_id, predicted_at, event_time, model_version, model_fingerprint, role, "
        f"{feature_list(case)}, probability, prediction, threshold, segment_file"
    )
    inserted = one(
        connection,
        f"""insert into prediction_log ({columns}) select {columns} from incoming
            where not exists (select 1 from prediction_log p where p.prediction_id = incoming.prediction_id)""",
    )
    connection.unregister("incoming")
    return int(inserted[0]) if inserted else 0
