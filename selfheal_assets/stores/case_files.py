"""Files of cases, read batch by batch.

Only formats belong here: a file may be larger than memory, a row that is no row is set aside with its reason, and
what the values must hold to is checked by whoever reads them.
"""

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import polars as pl

from selfheal_assets.stores.sources import SourceError
from selfheal_assets.use_case import UseCase

BATCH_ROWS = 20_000
ROW = "#row"  # no feature has such a name
FORMATS = (".csv", ".parquet")


@dataclass(frozen=True)
class BrokenRow:
    """A row that could not be split into its columns."""

    row: int
    reason: str


@dataclass(frozen=True)
class RawBatch:
    """Some rows of a file.

    Attributes:
        frame: :data:`ROW` (Int64: its number as the user sees it, the header of a CSV being row 1), and the
            wanted columns under our names: all text from a CSV, typed from Parquet.
        broken: rows among them that are none.
        done: how much of the file's ``size`` has been read.
    """

    frame: pl.DataFrame
    broken: list[BrokenRow]
    done: int


class CaseFile:
    """A CSV or Parquet file of cases; its rows may have other columns too, which are not read.

    Args:
        path: the file.
        case: a feature's column has its name, or the one that ``source.columns`` gives it. The id is
            ``entity_id`` or the use case's name for it, the time ``event_time`` or likewise; either may be missing.

    Raises:
        SourceError: the file cannot be read, or lacks a feature's column.
    """

    def __init__(self, path: Path, case: UseCase) -> None:
        self.path = path
        if path.suffix not in FORMATS:
            raise SourceError(f"{path}: a file of cases is a .csv or a .parquet file")
        self._read = _CsvRows(path) if path.suffix == ".csv" else _ParquetRows(path)
        self.columns = _chosen(path, self._read.names, case)

    @property
    def size(self) -> int:
        """What ``RawBatch.done`` is at the end: bytes of a CSV, rows of a Parquet file."""
        return self._read.size

    def batches(self) -> Iterator[RawBatch]:
        """The rows, from the first, at most :data:`BATCH_ROWS` at a time."""
        return self._read.batches(self.columns)


def _chosen(path: Path, names: Sequence[str], case: UseCase) -> dict[str, str]:
    """Our names of the columns to the file's."""
    if twice := sorted({n for n in names if names.count(n) > 1}):
        raise SourceError(f"{path}: the header has {', '.join(map(repr, twice))} twice; keep one")
    renames = case.source.columns
    candidates = {f: [f, renames.get(f, f)] for f in case.feature_names}
    candidates["entity_id"] = ["entity_id", case.entity_id, renames.get(case.entity_id, "entity_id")]
    candidates["event_time"] = ["event_time", case.event_time, renames.get(case.event_time, "event_time")]
    found = {ours: next((n for n in theirs if n in names), None) for ours, theirs in candidates.items()}
    if missing := [f for f in case.feature_names if found[f] is None]:
        raise SourceError(
            f"{path}: missing column{'s' if len(missing) > 1 else ''} {', '.join(map(repr, missing))}; the file has "
            f"{', '.join(names)}. Add them (empty, where a feature may be), or name the file's columns under "
            "source.columns"
        )
    return {ours: theirs for ours, theirs in found.items() if theirs is not None}


class _CsvRows:
    """Python's reader, not Polars': it tells which row is torn, and goes on behind it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with self._open() as file:
            try:
                self.names = [name.strip() for name in next(csv.reader(file, strict=True), [])]
            except csv.Error as error:
                raise SourceError(f"{path}, row 1: not CSV: {error}") from error
        if not self.names:
            raise SourceError(f"{path}: the file is empty; its first row is a header")
        if not _is_text(self.names):
            raise SourceError(f"{path}, row 1: not UTF-8 text")
        self.size = path.stat().st_size

    def _open(self) -> IO[str]:
        try:
            return self._path.open(newline="", encoding="utf-8-sig", errors="surrogateescape")
        except OSError as error:
            raise SourceError(f"{self._path}: cannot be read: {error.strerror}") from error

    def batches(self, columns: Mapping[str, str]) -> Iterator[RawBatch]:
        """See :meth:`CaseFile.batches`."""
        places = {ours: self.names.index(theirs) for ours, theirs in columns.items()}
        with self._open() as file:
            reader = csv.reader(file, strict=True)
            next(reader)
            gathered = _Gathered()
            for number, row in _numbered(reader):
                gathered.add(number, row, len(self.names))
                if gathered.count == BATCH_ROWS:
                    yield gathered.batch(places, file.buffer.tell())  # type: ignore[attr-defined]
                    gathered = _Gathered()
            yield gathered.batch(places, self.size)


def _numbered(reader: Iterator[list[str]]) -> Iterator[tuple[int, list[str] | csv.Error]]:
    """Rows below the header, counted as an editor does; in place of a row that is torn, why."""
    number = 1
    while True:
        number += 1
        try:
            yield number, next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield number, error


@dataclass
class _Gathered:
    """Rows of a CSV on their way into a frame."""

    rows: list[list[str]] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)
    broken: list[BrokenRow] = field(default_factory=list)
    count: int = 0

    def add(self, number: int, row: list[str] | csv.Error, width: int) -> None:
        self.count += 1
        if isinstance(row, csv.Error):
            self.broken.append(BrokenRow(number, f"not CSV: {row}"))
        elif len(row) == width and _is_text(row):
            self.rows.append(row)
            self.numbers.append(number)
        elif row:  # an empty line is nothing
            reason = (
                f"{len(row)} fields, but the header has {width}" if len(row) != width else "not UTF-8 text"
            )
            self.broken.append(BrokenRow(number, reason))

    def batch(self, places: Mapping[str, int], done: int) -> RawBatch:
        columns = list(zip(*self.rows, strict=True)) or [()] * (max(places.values()) + 1)
        frame = {n: pl.Series(columns[i], dtype=pl.String) for n, i in places.items()}
        numbers = pl.Series(self.numbers, dtype=pl.Int64)
        return RawBatch(pl.DataFrame({ROW: numbers} | frame), self.broken, done)


def _is_text(row: Sequence[str]) -> bool:
    """Whether the bytes were UTF-8: those that were not have become lone surrogates."""
    joined = "".join(row)
    if joined.isascii():
        return True
    try:
        joined.encode()
    except UnicodeEncodeError:
        return False
    return True


class _ParquetRows:
    def __init__(self, path: Path) -> None:
        import pyarrow
        import pyarrow.parquet

        self._path, self._errors = path, (pyarrow.ArrowException, OSError)
        try:
            self._file = pyarrow.parquet.ParquetFile(path)
        except self._errors as error:
            raise SourceError(f"{path}: not a readable parquet file: {error}") from error
        self.names = list(self._file.schema_arrow.names)
        self.size = self._file.metadata.num_rows

    def batches(self, columns: Mapping[str, str]) -> Iterator[RawBatch]:
        """See :meth:`CaseFile.batches`."""
        done = 0
        theirs = list(dict.fromkeys(columns.values()))
        try:
            for batch in self._file.iter_batches(BATCH_ROWS, columns=theirs):
                rows = pl.DataFrame(pl.from_arrow(batch))
                numbers = pl.Series(ROW, range(done + 1, done + rows.height + 1), dtype=pl.Int64)
                done += rows.height
                frame = rows.select(pl.col(theirs).alias(ours) for ours, theirs in columns.items())
                yield RawBatch(frame.insert_column(0, numbers), [], done)
        except self._errors as error:
            raise SourceError(f"{self._path}: damaged behind row {done}: {error}") from error
