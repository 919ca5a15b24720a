"""The generic reader: a CSV or Parquet file with one row per case.

Only the file's format belongs here; what its values must hold to is checked by the package.
"""

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import polars as pl

from selfheal_assets.stores.sources import SourceError, wanted_columns
from selfheal_assets.use_case import UseCase


def read(path: Path, case: UseCase) -> pl.DataFrame:
    """The use case's columns under our names, after ``source.columns``: text from CSV, typed from Parquet."""
    renames = {ours: case.source.columns.get(ours, ours) for ours in wanted_columns(case)}
    found = column_names(path)
    missing = [
        f"'{theirs}'" + (f" (our '{ours}')" if ours != theirs else "")
        for ours, theirs in renames.items()
        if theirs not in found
    ]
    if missing:
        raise SourceError(
            f"{path}: missing column{'s' if len(missing) > 1 else ''} {', '.join(missing)}; the file has "
            f"{', '.join(found)}. Add them, or name the file's columns under source.columns"
        )
    table = read_columns(path, list(dict.fromkeys(renames.values())))
    return table.select(pl.col(theirs).alias(ours) for ours, theirs in renames.items())


def column_names(path: Path) -> list[str]:
    """Names of the file's columns, without reading its rows.

    Raises:
        SourceError: the file cannot be read, or a column of a CSV has the name of another.
    """
    if path.suffix == ".parquet":
        try:
            return list(pl.read_parquet_schema(path))
        except (pl.exceptions.PolarsError, OSError) as error:
            raise SourceError(f"{path}: not a readable parquet file: {error}") from error
    if path.suffix != ".csv":
        raise SourceError(f"{path}: a source is a .csv or a .parquet file")
    _, names = next(_records(path), (1, []))
    if not names:
        raise SourceError(f"{path}: not a readable csv file: it has no header")
    if twice := [n for n in dict.fromkeys(names) if n and names.count(n) > 1]:
        numbers = " and ".join(str(i) for i, n in enumerate(names, 1) if n == twice[0])
        raise SourceError(
            f"{path}, row 1: the header names '{twice[0]}' more than once (columns {numbers}): rename or remove all "
            "but one"
        )
    return names


def read_columns(path: Path, columns: Sequence[str]) -> pl.DataFrame:
    """These columns of the file: all text from CSV (nothing is inferred), typed from Parquet.

    Raises:
        SourceError: the file is damaged; a CSV with rows of unequal length is.
    """
    try:
        if path.suffix == ".parquet":
            return pl.read_parquet(path, columns=list(columns))
        rows = _count_rows(path)
        return pl.read_csv(path, infer_schema=False, columns=list(columns)).head(rows)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise SourceError(f"{path}: not a readable {path.suffix[1:]} file: {error}") from error


def _count_rows(path: Path) -> int:
    """Rows below the header, without blank lines at the end.

    Polars fills a row that ends early with nulls. An empty outcome means 'good', so the torn last line of a
    half-copied file would load as a case that went well; hence each row is counted here first.
    """
    rows = [(row, len(fields)) for row, fields in _records(path)]
    while rows and rows[-1][1] == 0:
        rows.pop()
    for row, count in rows:
        if count != rows[0][1]:
            raise SourceError(
                f"{path}, row {row}: {count} fields, but the header has {rows[0][1]}: is the file complete?"
            )
    return len(rows) - 1


def _records(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Number (the header is 1) and fields of each row of a CSV.

    Raises:
        SourceError: the row's quotes do not match, or it is no text; names the row.
    """
    row, begun = 1, 1
    try:
        with path.open("rb") as file:
            reader = csv.reader(_lines(path, file), strict=True)
            for row, fields in enumerate(reader, 1):
                yield row, fields
                begun = reader.line_num + 1
                row += 1
    except csv.Error as error:
        where = f"{path}, row {row}" + (f" (line {begun})" if begun != row else "")
        raise SourceError(
            f'{where}: its quotes (") do not match: one is opened and not closed before the next separator or the '
            f"end of the file ({error}). Close it, or write a quote inside quotes twice"
        ) from error
    except OSError as error:
        raise SourceError(f"{path}: not a readable csv file: {error}") from error


def _lines(path: Path, file: BinaryIO) -> Iterator[str]:
    """The file's lines as text, without a byte order mark."""
    for number, line in enumerate(file, 1):
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            byte = line[error.start : error.start + 1]
            meant = (
                f" ({byte.decode('latin-1')!r} in Latin-1)" if byte.decode("latin-1").isprintable() else ""
            )
            raise SourceError(
                f"{path}, line {number}: byte 0x{byte.hex().upper()}{meant} is not UTF-8 text: "
                "save the file as UTF-8, for instance with `iconv -f LATIN1 -t UTF-8`"
            ) from error
        if "\0" in text:
            column = text[: text.index("\0")].count(",") + 1
            raise SourceError(f"{path}, line {number}: a NUL character about field {column}: remove it")
        yield text
