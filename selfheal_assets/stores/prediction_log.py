"""The prediction log: what the service answered, appended by it and ingested by Dagster.

One line of JSON for each group of answers, durable before any of them leaves (``segments`` says how). Ingestion
is idempotent: rows are keyed by ``prediction_id`` (of two rows with one id the first is kept), a finished segment
is remembered and then removed. A torn last line (the writer died) is reported and skipped; the rows before it are
kept.
"""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import orjson
import polars as pl

from selfheal_assets.core.encoding import polars_type
from selfheal_assets.stores.segments import (
    OPEN,
    READY,
    Durability,
    SegmentWriter,
    adopt_abandoned,
    damaged,
    read_lines,
    segments,
)
from selfheal_assets.stores.tables import feature_list
from selfheal_assets.stores.warehouse import Warehouse, one
from selfheal_assets.use_case import UseCase

SCHEMA_VERSION = 2
_CASE_COLUMNS = {"entity_id": pl.String, "event_time": pl.String, "probability": pl.Float64}
_ISO = "%Y-%m-%dT%H:%M:%S%.f"  # the fraction may be missing
_GROUP_COLUMNS = {
    "predicted_at": pl.String,
    "model_version": pl.Int32,
    "model_fingerprint": pl.String,
    "role": pl.String,
    "threshold": pl.Float64,
}


@dataclass(frozen=True)
class Scorer:
    """Who gave the scores of a group."""

    model_version: int
    model_fingerprint: str
    threshold: float
    role: str = "champion"


@dataclass(frozen=True)
class CaseColumns:
    """Cases column by column, in the shape of the log: lists of equal length.

    ``event_time`` is ISO 8601, naive UTC, or ``None`` for the time of the answer; ``features`` holds float, int,
    str or ``None`` under each name. ``prediction_id`` holds the clients' own ids, if there are any.
    """

    entity_id: list[str]
    event_time: list[str | None]
    features: Mapping[str, list[Any]]
    prediction_id: Sequence[str | None] | None = None

    @property
    def rows(self) -> int:
        """How many cases."""
        return len(self.entity_id)


def case_columns(cases: pl.DataFrame, features: Sequence[str]) -> CaseColumns:
    """Columns of a frame that holds ``entity_id``, ``event_time`` (Datetime) and the features."""
    return CaseColumns(
        cases["entity_id"].to_list(),
        [t.isoformat() for t in cases["event_time"].to_list()],
        {name: cases[name].to_list() for name in features},
    )


class PredictionLog:
    """Appends groups of answers. Safe to share between threads of one process; processes get segments each.

    Args:
        folder: of the log.
        durability: what has happened to a group when it counts as logged.
        max_bytes, max_age_s: when a segment is handed over, see :class:`SegmentWriter`.
    """

    def __init__(
        self,
        folder: Path,
        durability: Durability = Durability.fsync,
        max_bytes: int = 64_000_000,
        max_age_s: float = 5.0,
    ) -> None:
        self.folder = folder
        self.durability = durability
        self._segments = SegmentWriter(folder, durability, max_bytes, max_age_s)
        self.seal_if_old, self.close = self._segments.seal_if_old, self._segments.close

    def append(
        self,
        cases: pl.DataFrame,
        features: Sequence[str],
        probability: Sequence[float],
        scorer: Scorer,
        predicted_at: datetime,
    ) -> list[str]:
        """:meth:`append_columns` for a frame with ``entity_id``, ``event_time`` and the features."""
        scores = np.asarray(probability, dtype=np.float64)
        return self.append_columns(case_columns(cases, features), scores, scorer, predicted_at)

    def append_columns(
        self, cases: CaseColumns, probability: np.ndarray, scorer: Scorer, predicted_at: datetime
    ) -> list[str]:
        """Write one group and return its prediction ids; the rows are durable when this returns.

        Args:
            cases: what was asked.
            probability: float64, shape (cases,), all finite.
            scorer: the model that scored.
            predicted_at: when, naive UTC.

        Raises:
            ValueError: a probability is not finite; nothing was written.
            OSError: the log cannot be written; nothing was.
        """
        ids, line = group_line(cases, probability, scorer, predicted_at)
        self.append_line(line)
        return ids

    def append_line(self, line: bytes) -> None:
        """Write what :func:`group_line` made; it is durable when this returns.

        Raises:
            OSError: the log cannot be written; nothing was.
        """
        self._segments.append(line)


def group_line(
    cases: CaseColumns, probability: np.ndarray, scorer: Scorer, predicted_at: datetime
) -> tuple[list[str], bytes]:
    """Prediction ids of a group, and its line of the log; arguments as of :meth:`PredictionLog.append_columns`.

    Raises:
        ValueError: a probability is not finite.
    """
    if not np.isfinite(probability).all():
        raise ValueError(f"version {scorer.model_version} gave a score that is no number: nothing is logged")
    batch, moment = uuid.uuid4().hex, predicted_at.isoformat()
    group = {
        "schema": SCHEMA_VERSION,
        "batch": batch,
        "predicted_at": moment,
        "model_version": scorer.model_version,
        "model_fingerprint": scorer.model_fingerprint,
        "role": scorer.role,
        "threshold": scorer.threshold,
        "entity_id": cases.entity_id,
        "event_time": [t or moment for t in cases.event_time],
        "probability": probability,
        "features": cases.features,
    }
    ids = [f"{batch}-{i}" for i in range(cases.rows)]
    if cases.prediction_id is not None:
        ids = [own or made for own, made in zip(cases.prediction_id, ids, strict=True)]
        group["prediction_id"] = ids  # else the reader makes them, as above
    return ids, orjson.dumps(group, option=orjson.OPT_SERIALIZE_NUMPY)


def read_segment(path: Path, case: UseCase) -> tuple[pl.DataFrame, int]:
    """Rows of a segment in the shape of the ``prediction_log`` table, and the size of its torn tail in bytes.

    Raises:
        DamagedSegment: it is not as its writer left it.
        FileNotFoundError: its writer has moved it in the meantime.
    """
    lines, torn = read_lines(path)
    rows = _Rows(case)
    for number, line in enumerate(lines, 1):
        try:
            rows.add(orjson.loads(line))
        except (ValueError, KeyError, TypeError) as error:
            raise damaged(
                path, number, f"no line of the prediction log: {type(error).__name__}: {error}"
            ) from error
    return rows.frame(path.name), torn


class _Rows:
    """Collects groups column by column, as a frame for each group would cost more than its rows."""

    def __init__(self, case: UseCase) -> None:
        self._types = {f.name: polars_type(f) for f in case.features}
        self._cases: dict[str, list[Any]] = {name: [] for name in ("prediction_id", *_CASE_COLUMNS)}
        self._features: dict[str, list[Any]] = {name: [] for name in self._types}
        self._groups: dict[str, list[Any]] = {name: [] for name in _GROUP_COLUMNS}
        self._sizes: list[int] = []

    def add(self, group: dict[str, Any]) -> None:
        """Take one group in."""
        if group["schema"] != SCHEMA_VERSION:
            raise ValueError(f"schema {group['schema']}, this version reads {SCHEMA_VERSION}")
        size, given = len(group["entity_id"]), group["features"]
        ids = group.get("prediction_id") or [f"{group['batch']}-{i}" for i in range(size)]
        self._cases["prediction_id"] += ids
        for name in _CASE_COLUMNS:
            self._cases[name] += group[name]
        for name, values in self._features.items():
            values += given.get(name) or [None] * size
        for name, values in self._groups.items():
            values.append(group[name])
        self._sizes.append(size)

    def frame(self, segment: str) -> pl.DataFrame:
        """Everything collected, in the shape of the ``prediction_log`` table."""
        repeat = np.repeat(np.arange(len(self._sizes)), self._sizes)
        groups = pl.DataFrame(self._groups, schema=_GROUP_COLUMNS)[repeat]
        columns = {n: pl.Series(self._features[n], dtype=t) for n, t in self._types.items()}
        return pl.DataFrame(self._cases | columns, schema_overrides=_CASE_COLUMNS).with_columns(
            *groups.with_columns(pl.col("predicted_at").str.to_datetime(_ISO)),
            pl.col("event_time").str.to_datetime(_ISO),
            prediction=(pl.col("probability") >= groups["threshold"]).cast(pl.Int8),
            segment_file=pl.lit(segment),
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
    adopt_abandoned(folder)
    finished, live = segments(folder, READY), segments(folder, OPEN)
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
    first = frame.unique("prediction_id", keep="first", maintain_order=True)
    connection.register("incoming", first.to_arrow())
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
