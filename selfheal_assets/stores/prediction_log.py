"""The prediction log: what the service answered, appended by it and ingested by Dagster (``log_ingestion``).

One line of JSON for each group of answers, durable before any of them leaves (``segments`` says how).
"""

import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import polars as pl

from selfheal_assets.stores.segment_writer import Durability, SegmentWriter

SCHEMA_VERSION = 2
SHADOW_MARK = "~"


class Role(StrEnum):
    """As what a model scored. Only the champion's rows are production: monitoring and training read no others.

    ``challenger`` and ``predecessor`` scored in shadow what the champion answered; ``requested`` answered a client
    who named the version.
    """

    champion = "champion"
    challenger = "challenger"
    predecessor = "predecessor"
    requested = "requested"


SHADOWS = frozenset({Role.challenger, Role.predecessor})


@dataclass(frozen=True)
class Scorer:
    """Who gave the scores of a group."""

    model_version: int
    model_fingerprint: str
    threshold: float
    role: Role = Role.champion


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


def with_ids(given: Sequence[str | None]) -> list[str]:
    """The cases' own ids, and 32 random hexadecimal digits for each that has none."""
    missing = sum(1 for i in given if i is None)
    digits = secrets.token_hex(
        16 * missing
    )  # all at once: a call of the kernel for each costs more than scoring
    made = (digits[i : i + 32] for i in range(0, 32 * missing, 32))
    return [next(made) if i is None else i for i in given]


class PredictionLog:
    """Appends groups of answers. Safe to share between threads of one process; processes get segments each.

    Args:
        folder: of the log.
        durability: what has happened to a group when it counts as logged.
        max_bytes, max_age_s: when a segment is handed over, see :class:`SegmentWriter`.

    Attributes:
        follower: is given each line of the champion's that was logged, and its rows; must neither wait nor raise.
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
        self.tend, self.probe = self._segments.tend, self._segments.probe
        self.close = self._segments.close
        self.follower: Callable[[bytes, int], None] | None = None

    @property
    def problem(self) -> str | None:
        """Why rows cannot be logged, as far as is known; ``None`` when the last ones could."""
        reason = self._segments.problem
        mend = "free space, or mend the folder's rights"
        return f"the prediction log in {self.folder} cannot be written ({reason}): {mend}" if reason else None

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
    _require_finite(probability, scorer)
    batch, moment = _new_batch(), predicted_at.isoformat()
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
    if cases.prediction_id is not None:  # else the reader makes them
        made = _ids(group, cases.rows)
        group["prediction_id"] = [own or id for own, id in zip(cases.prediction_id, made, strict=True)]
    return _ids(group, cases.rows), orjson.dumps(group, option=orjson.OPT_SERIALIZE_NUMPY)


def _require_finite(probability: np.ndarray, scorer: Scorer) -> None:
    if not np.isfinite(probability).all():
        raise ValueError(f"version {scorer.model_version} gave a score that is no number: nothing is logged")


def rescored(group: dict[str, Any], probability: np.ndarray, scorer: Scorer) -> bytes:
    """The line that logs a champion's group as another model scored it, in shadow.

    Args:
        group: a decoded line of the champion's.
        probability: float64, shape (cases,).
        scorer: the other model.

    Raises:
        ValueError: a probability is not finite.
    """
    _require_finite(probability, scorer)
    theirs = {
        "model_version": scorer.model_version,
        "model_fingerprint": scorer.model_fingerprint,
        "role": scorer.role,
        "threshold": scorer.threshold,
        "probability": probability,
    }
    return orjson.dumps(group | theirs, option=orjson.OPT_SERIALIZE_NUMPY)


def _ids(group: Mapping[str, Any], rows: int) -> list[str]:
    """Prediction ids of a group; a shadow's are those of the champion's rows with a mark behind."""
    ids = group.get("prediction_id") or [f"{group['batch']}-{i}" for i in range(rows)]
    if group["role"] not in SHADOWS:
        return ids
    return [f"{i}{SHADOW_MARK}{group['model_version']}" for i in ids]


def _new_batch() -> str:
    """32 hexadecimal digits: the time in ms, then 80 random bits. So ids grow with time, see ``log_ingestion``."""
    return f"{time.time_ns() // 1_000_000:012x}{secrets.token_hex(10)}"
