"""Files of results, and of the rows that were rejected: written beside their place, and renamed."""

import json
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import polars as pl

from selfheal_assets.stores.case_files import FORMATS
from selfheal_assets.stores.durable import sync_folder
from selfheal_assets.stores.sources import SourceError

STDOUT = Path("-")


class ResultFile:
    """A file of results that appears whole, or not at all; ``-`` is standard output, as CSV.

    A context manager: the file takes its place at the end of the block, if that ends well.

    Args:
        path: a .csv or .parquet file; one that is there is replaced.
        schema: of the frames to be written.

    Raises:
        SourceError: the suffix is another.
    """

    def __init__(self, path: Path, schema: Mapping[str, Any]) -> None:
        if path != STDOUT and path.suffix not in FORMATS:
            raise SourceError(
                f"{path}: results are written as .csv or .parquet, or as CSV to - (standard output)"
            )
        self.path, self._schema = path, pl.Schema(schema)

    def __enter__(self) -> Self:
        self._hidden = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        self._file: Any = sys.stdout.buffer if self.path == STDOUT else self._hidden.open("wb")
        self._parquet: Any = None
        if self.path.suffix == ".parquet":
            import pyarrow.parquet

            self._parquet = pyarrow.parquet.ParquetWriter(
                self._file, self._schema.to_frame().to_arrow().schema
            )
        else:
            self._schema.to_frame().write_csv(self._file)
        return self

    def write(self, frame: pl.DataFrame) -> None:
        """Append rows."""
        if self._parquet:
            self._parquet.write_table(frame.to_arrow())
        else:
            frame.write_csv(self._file, include_header=False)

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if self.path == STDOUT:
            self._file.flush()
            return
        try:
            if self._parquet:
                self._parquet.close()
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            if kind is None:
                os.replace(self._hidden, self.path)
                sync_folder(self.path.parent)
        finally:
            self._hidden.unlink(missing_ok=True)


class DeadLetters:
    """Rejected rows of a file, one JSON object a line: ``row``, ``reasons``, ``values`` as they were given.

    A context manager: the file takes its place at the end; where nothing was rejected, there is none.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.count = 0

    def __enter__(self) -> Self:
        self._hidden = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        self._file = self._hidden.open("w", encoding="utf-8")
        return self

    def add(self, row: int, reasons: Sequence[str], values: Mapping[str, Any]) -> None:
        """Set one row aside."""
        told = {"row": row, "reasons": list(reasons), "values": dict(values)}
        self._file.write(json.dumps(told, default=str) + "\n")
        self.count += 1

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self._file.close()
        if self.count:
            os.replace(self._hidden, self.path)
        else:
            self._hidden.unlink()
            with suppress(FileNotFoundError):
                self.path.unlink()  # an earlier run's
