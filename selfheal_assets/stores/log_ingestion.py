"""Ingestion of the prediction log into the warehouse: every row once, whatever is killed, repeated or renamed.

Rows are keyed by ``prediction_id`` (of two rows with one id the first is kept), a finished segment is remembered and
then removed. A torn last line (the writer died) is reported and skipped; the rows before it are kept.
"""

from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import orjson
import polars as pl
import pyarrow as pa

from selfheal_assets.core.encoding import polars_type
from selfheal_assets.stores.prediction_log import SCHEMA_VERSION, SHADOW_MARK, SHADOWS
from selfheal_assets.stores.segments import OPEN, READY, adopt_abandoned, damaged, read_lines, segments
from selfheal_assets.stores.tables import feature_list
from selfheal_assets.stores.warehouse import Warehouse, one
from selfheal_assets.use_case import UseCase

_SLAB_ROWS, _PARTS_AHEAD, _BATCH_ROWS = 49_152, 4, 1_000_000
_MEMORY_MB, _MEMORY_MB_PER_FEATURE = 220, 3
_CASE_COLUMNS = {"entity_id": pl.String, "event_time": pl.String, "probability": pl.Float64}
_ISO = "%Y-%m-%dT%H:%M:%S%.f"  # the fraction may be missing
_GROUP_COLUMNS = {
    "batch": pl.String,
    "predicted_at": pl.String,
    "model_version": pl.Int32,
    "model_fingerprint": pl.String,
    "role": pl.String,
    "threshold": pl.Float64,
}


def read_segment(path: Path, case: UseCase) -> tuple[pl.DataFrame, int]:
    """Rows of a segment in the shape of the ``prediction_log`` table, and the size of its torn tail in bytes.

    Raises:
        DamagedSegment: it is not as its writer left it.
        FileNotFoundError: its writer has moved it in the meantime.
    """
    lines, torn = read_lines(path)
    frames = list(_slabs(path, lines, case))
    return pl.concat(frames, rechunk=False) if frames else _Rows(case).frame(path.name), torn


def _slabs(path: Path, lines: list[bytes], case: UseCase) -> Iterator[pl.DataFrame]:
    """The rows of a segment, some ``_SLAB_ROWS`` at a time, which the processor's cache holds. Empties ``lines``."""
    rows = _Rows(case)
    lines.reverse()
    for number in range(1, len(lines) + 1):
        line = lines.pop()
        try:
            rows.add(orjson.loads(line))
        except (ValueError, KeyError, TypeError) as error:
            raise damaged(
                path, number, f"no line of the prediction log: {type(error).__name__}: {error}"
            ) from error
        if rows.height >= _SLAB_ROWS:
            yield rows.frame(path.name)
            rows = _Rows(case)
    if rows.height:
        yield rows.frame(path.name)


class _Rows:
    """Collects groups column by column, as a frame for each group would cost more than its rows."""

    def __init__(self, case: UseCase) -> None:
        self._types = {f.name: polars_type(f) for f in case.features}
        self._cases: dict[str, list[Any]] = {name: [] for name in _CASE_COLUMNS}
        self._features: dict[str, list[Any]] = {name: [] for name in self._types}
        self._groups: dict[str, list[Any]] = {name: [] for name in _GROUP_COLUMNS}
        self._sizes: list[int] = []
        self._clients_ids: list[str | None] = []
        self._any_clients_ids = False
        self.height = 0

    def add(self, group: dict[str, Any]) -> None:
        """Take one group in."""
        if group["schema"] != SCHEMA_VERSION:
            raise ValueError(f"schema {group['schema']}, this version reads {SCHEMA_VERSION}")
        size, given = len(group["entity_id"]), group["features"]
        missing = [None] * size
        for name in _CASE_COLUMNS:
            self._cases[name] += group[name]
        for name, values in self._features.items():
            values += given.get(name) or missing
        for name, values in self._groups.items():
            values.append(group[name])
        ids = group.get("prediction_id")
        self._clients_ids += ids or missing
        self._any_clients_ids |= ids is not None
        self._sizes.append(size)
        self.height += size

    def frame(self, segment: str) -> pl.DataFrame:
        """Everything collected, in the shape of the ``prediction_log`` table."""
        sizes = np.array(self._sizes, dtype=np.int64)
        repeat = np.repeat(np.arange(len(sizes)), sizes)
        within = np.arange(self.height) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        groups = pl.DataFrame(self._groups, schema=_GROUP_COLUMNS)
        groups = groups.with_columns(pl.col("predicted_at").str.to_datetime(_ISO))[repeat]
        ids = groups.select(pl.format("{}-{}", "batch", pl.Series(within)))
        columns = {n: pl.Series(self._features[n], dtype=t) for n, t in self._types.items()}
        frame = pl.DataFrame(self._cases | columns, schema_overrides=_CASE_COLUMNS).with_columns(
            *groups.drop("batch"),
            pl.col("event_time").str.to_datetime(_ISO),
            prediction_id=ids.to_series(),
            prediction=(pl.col("probability") >= groups["threshold"]).cast(pl.Int8),
            segment_file=pl.lit(segment),
        )
        if self._any_clients_ids:
            own = pl.Series(self._clients_ids, dtype=pl.String)
            frame = frame.with_columns(prediction_id=pl.coalesce(own, "prediction_id"))
        if SHADOWS & set(self._groups["role"]):
            marked = pl.format(f"{{}}{SHADOW_MARK}{{}}", "prediction_id", "model_version")
            is_shadow = pl.col("role").is_in(list(SHADOWS))
            frame = frame.with_columns(
                pl.when(is_shadow).then(marked).otherwise("prediction_id").alias("prediction_id")
            )
        return frame


@dataclass(frozen=True)
class Ingestion:
    """What one ingestion did."""

    segments: int
    rows_read: int
    rows_added: int
    torn_bytes: int


def ingest(warehouse: Warehouse, case: UseCase, folder: Path) -> Ingestion:
    """Bring every complete line of the log into the ``prediction_log`` table; a second call adds nothing.

    Segments are taken in batches of at least ``_BATCH_ROWS`` rows, as commits are dear; memory does not grow with
    the log. The rows of a batch and the note that its segments are done are one transaction; the files are removed
    only afterwards. Segments that a live service still writes are read up to their last complete line and read
    again next time.

    Raises:
        DamagedSegment: a segment is not as its writer left it; nothing of its batch was ingested.
    """
    adopt_abandoned(folder)
    finished, live = segments(folder, READY), segments(folder, OPEN)
    left = _not_ingested(warehouse, [*finished, *live])
    read = added = torn_bytes = 0
    with warehouse.tuned(**_duckdb_settings(case)), closing(_read_ahead(_parts(left, case))) as parts:
        while (first := next(parts, None)) is not None:
            with warehouse.write() as connection:
                batch = _Batch(connection, case)
                batch.take(first)
                while not batch.is_full and (part := next(parts, None)) is not None:
                    batch.take(part)
            _remove(batch.finished)
            read, added = read + batch.read, added + batch.added
            torn_bytes += batch.torn_bytes
    _remove([path for path in finished if path not in left])  # a crash left them behind
    return Ingestion(len(finished) + len(live), read, added, torn_bytes)


def _not_ingested(warehouse: Warehouse, paths: Sequence[Path]) -> list[Path]:
    if not paths:
        return []
    done = set(warehouse.query("select segment_file from ingested_segments")["segment_file"])
    return [path for path in paths if path.name not in done]


def _remove(paths: Sequence[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)


def _duckdb_settings(case: UseCase) -> dict[str, int | str]:
    """One thread, as a part is too small for two and the other processor reads ahead.

    Little memory: DuckDB then writes a row group as soon as it is full, instead of all of them at the commit, which
    is faster too (``make bench-ingest``). Enough for some row groups of the use case, however wide it is.
    """
    return {"threads": 1, "memory_limit": f"{_MEMORY_MB + _MEMORY_MB_PER_FEATURE * len(case.features)}MB"}


class _Batch:
    """The segments that one transaction takes."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, case: UseCase) -> None:
        self._connection, self._case = connection, case
        self.read = self.added = self.torn_bytes = self._added_of_segment = 0
        self.finished: list[Path] = []
        self.is_full = False

    def take(self, part: "_Part") -> None:
        """Insert what is new, and note a finished segment after its last rows."""
        if part.rows is not None:
            self.read += part.rows_read
            self._added_of_segment += _insert_new(self._connection, self._case, part.rows, part.span)
            return
        if part.path.parent.name == READY:
            note = [part.path.name, self._added_of_segment, part.torn_bytes]
            self._connection.execute("insert into ingested_segments values (?, ?, ?)", note)
            self.finished.append(part.path)
            self.torn_bytes += part.torn_bytes
        self.added += self._added_of_segment
        self._added_of_segment = 0
        self.is_full = self.read >= _BATCH_ROWS


@dataclass(frozen=True)
class _Part:
    """Some rows of a segment, without those whose id an earlier one of them has; none after the last.

    ``span`` is the least and the greatest of their ids.
    """

    path: Path
    rows: pa.Table | None
    rows_read: int = 0
    torn_bytes: int = 0
    span: tuple[str, str] = ("", "")


def _parts(paths: Sequence[Path], case: UseCase) -> Iterator[_Part]:
    for path in paths:
        try:
            lines, torn = read_lines(path)
        except FileNotFoundError:  # sealed since it was listed: the next ingestion finds it in ready/
            continue
        for frame in _slabs(path, lines, case):
            once, ids = frame, frame["prediction_id"]
            if ids.n_unique() < frame.height:
                once = frame.unique("prediction_id", keep="first", maintain_order=True)
            yield _Part(path, once.to_arrow(), frame.height, span=(str(ids.min()), str(ids.max())))
        yield _Part(path, None, torn_bytes=torn)


def _read_ahead(parts: Iterator[_Part]) -> Generator[_Part]:
    """The same; the next ones are read by a thread while DuckDB, which needs no Python, inserts."""
    with ThreadPoolExecutor(1, "read-ahead") as reader:
        ahead = deque(reader.submit(next, parts, None) for _ in range(_PARTS_AHEAD))
        try:
            while (part := ahead.popleft().result()) is not None:
                ahead.append(reader.submit(next, parts, None))
                yield part
        finally:
            for future in ahead:
                future.cancel()


def _insert_new(
    connection: duckdb.DuckDBPyConnection, case: UseCase, rows: pa.Table, span: tuple[str, str]
) -> int:
    """Insert the rows, whose ids are in ``span``, if the table does not have their id; returns how many.

    The table has no index on ``prediction_id``: it would cost as much as everything else together, and would
    have to fit into memory. Ids that the log makes begin with their time, so DuckDB skips what lies outside
    ``between``.
    """
    columns = (
        "prediction_id, entity_id, predicted_at, event_time, model_version, model_fingerprint, role, "
        f"{feature_list(case)}, probability, prediction, threshold, segment_file"
    )
    connection.register("incoming", rows)
    inserted = one(
        connection,
        f"""insert into prediction_log ({columns}) select {columns} from incoming
            where not exists (select 1 from prediction_log p
                              where p.prediction_id = incoming.prediction_id and p.prediction_id between ? and ?)""",
        list(span),
    )
    connection.unregister("incoming")
    return int(inserted[0]) if inserted else 0
