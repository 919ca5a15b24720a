"""The generic reader: a CSV or Parquet file with one row per case.

Only the file's format belongs here; what its values must hold to is checked by the package.
"""

import csv
from collections.abc import Sequence
from pathlib import Path

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
    """Names of the file's columns, without reading its rows."""
    try:
        if path.suffix == ".parquet":
            return list(pl.read_parquet_schema(path))
        if path.suffix == ".csv":
            return pl.read_csv(path, infer_schema=False, n_rows=0).columns
    except (pl.exceptions.PolarsError, OSError) as error:
        raise SourceError(f"{path}: not a readable {path.suffix[1:]} file: {error}") from error
    raise SourceError(f"{path}: a source is a .csv or a .parquet file")


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
    except (pl.exceptions.PolarsError, csv.Error, UnicodeDecodeError, OSError) as error:
        raise SourceError(f"{path}: not a readable {path.suffix[1:]} file: {error}") from error


def _count_rows(path: Path) -> int:
    """Rows below the header, without blank lines at the end.

    Polars fills a row that ends early with nulls. An empty outcome means 'good', so the torn last line of a
    half-copied file would load as a case that went well; hence each row is counted here first.
    """
    with path.open(newline="", encoding="utf-8-sig") as file:
        fields = [len(row) for row in csv.reader(file)]
    while fields and fields[-1] == 0:
        fields.pop()
    for row, count in enumerate(fields, 1):
        if count != fields[0]:
            raise SourceError(
                f"{path}, row {row}: {count} fields, but the header has {fields[0]}: is the file complete?"
            )
    return len(fields) - 1
