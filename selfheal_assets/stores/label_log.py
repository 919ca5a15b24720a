"""The label log: outcomes that the service was told, appended by it and taken into the ledger by Dagster.

The same segments as the prediction log's (``segments`` says what is durable and what is detected), in the landing
folder. One line of JSON for each group of labels. What a label means, and files that people drop, are
``label_ledger``'s.
"""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import orjson
import polars as pl

from selfheal_assets.stores.segment_writer import Durability, SegmentWriter
from selfheal_assets.stores.segments import damaged, read_lines

COLUMNS = {
    "prediction_id": pl.String,
    "entity_id": pl.String,
    "label": pl.Int8,
    "occurred_at": pl.Datetime("us"),
    "recorded_at": pl.Datetime("us"),
    "source": pl.String,
}
_TIMES = ("occurred_at", "recorded_at")
_SCHEMA_VERSION = 1


class LabelLog:
    """Appends groups of labels. Safe to share between threads of one process; processes get segments each.

    Args:
        folder: the landing folder.
        durability: what has happened to a group when it counts as landed.
    """

    def __init__(self, folder: Path, durability: Durability = Durability.fsync) -> None:
        self.folder = folder
        self._segments = SegmentWriter(folder, durability)
        self.tend, self.close = self._segments.tend, self._segments.close

    def append(self, labels: Sequence[dict[str, Any]]) -> None:
        """Land labels, each with all of :data:`COLUMNS`; they are durable when this returns.

        Raises:
            OSError: they cannot be written; nothing was.
        """
        columns = {name: [label[name] for label in labels] for name in COLUMNS}
        group = {"schema": _SCHEMA_VERSION, "rows": len(labels), "labels": columns}
        self._segments.append(orjson.dumps(group))


def read_segment(path: Path) -> pl.DataFrame:
    """The labels of a segment, columns as in :data:`COLUMNS`; a torn tail is left out.

    Raises:
        DamagedSegment: it is not as its writer left it.
        FileNotFoundError: its writer has moved it in the meantime.
    """
    columns: dict[str, list[Any]] = {name: [] for name in COLUMNS}
    for number, line in enumerate(read_lines(path)[0], 1):
        try:
            group = _group(line)
            for name, values in columns.items():
                given = group["labels"][name]
                values += [t and datetime.fromisoformat(t) for t in given] if name in _TIMES else given
        except (ValueError, KeyError, TypeError) as error:
            raise damaged(path, number, f"no line of labels: {type(error).__name__}: {error}") from error
    return pl.DataFrame(columns, schema=COLUMNS)


def count_rows(path: Path) -> int:
    """How many labels a segment holds; raises as :func:`read_segment` does."""
    return sum(_group(line)["rows"] for line in read_lines(path)[0])


def _group(line: bytes) -> dict[str, Any]:
    group = orjson.loads(line)
    if group["schema"] != _SCHEMA_VERSION:
        raise ValueError(f"schema {group['schema']}, this version reads {_SCHEMA_VERSION}")
    return group
