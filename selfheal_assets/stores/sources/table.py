"""The generic reader: a CSV or Parquet file with one row per case.

Only the file's format belongs here; what its values must hold to is checked by the package.
"""

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
    """These columns of the file: all text from CSV (nothing is inferred), typed from Parquet."""
    try:
        if path.suffix == ".parquet":
            return pl.read_parquet(path, columns=list(columns))
        return pl.read_csv(path, infer_schema=False, columns=list(columns))
    except (pl.exceptions.PolarsError, OSError) as error:
        raise SourceError(f"{path}: not a readable {path.suffix[1:]} file: {error}") from error
