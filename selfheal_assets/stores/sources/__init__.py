"""Where cases and their outcomes come from: a file becomes validated frames, whole or not at all.

What every source shares belongs here: finding the file, the checks of id, time and label, the label rules. A
module beside this one reads one kind of file: ``read(path, case)`` returns its rows, in the file's order,
under the use case's own column names, as text or typed.
"""

import importlib
import pkgutil
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import polars as pl

from selfheal_assets.core import fingerprint
from selfheal_assets.core.schemas import (
    EMPTY,
    InvalidRows,
    Problem,
    control_characters,
    parse_cases,
    parse_times,
    require_columns,
    unreadable,
)
from selfheal_assets.settings import Settings
from selfheal_assets.use_case import UseCase

EARLIEST = datetime(1900, 1, 1)


class SourceError(ValueError):
    """The source cannot be read; the message says which file, what is wrong and what to do."""


@dataclass(frozen=True)
class Cases:
    """A source's cases and everything it will ever tell about their outcomes.

    Attributes:
        frame: one row per case: ``entity_id`` (String, unique), ``event_time`` (Datetime us, naive UTC), then
            the use case's features in declared order (``core.encoding.polars_type``).
        labels: one row per known outcome: ``entity_id`` (String), ``label`` (Int8, 0/1), ``occurred_at`` and
            ``recorded_at`` (Datetime us: when it became true, and known), ``source`` (String: file name).
            Not filtered by time: whoever reads it as of a day must look at ``recorded_at``.
        fingerprint: of the file's bytes.
        path: the file.
    """

    frame: pl.DataFrame
    labels: pl.DataFrame
    fingerprint: str
    path: Path


def read_cases(case: UseCase, settings: Settings) -> Cases:
    """Read and validate the first of the source's files that exists.

    Raises:
        SourceError: no file is there, or it cannot be read, has no rows or holds a bad value (at most ten are named).
    """
    path = source_path(case, settings)
    first_row = 2 if path.suffix == ".csv" else 1
    raw = _reader(case)(path, case)
    if raw.is_empty():
        raise SourceError(f"{path} has no rows; nothing was loaded")
    try:
        frame = _frame(raw, case, str(path), first_row, settings.wall_clock())
        labels = _labels(raw, frame, case, path, first_row)
    except InvalidRows as error:
        raise SourceError(str(error)) from error
    return Cases(frame, labels, fingerprint.of_bytes(path.read_bytes()), path)


def source_path(case: UseCase, settings: Settings) -> Path:
    """The first of the source's files that exists: beside a use case's own file, then in the project.

    Raises:
        SourceError: none does; names the paths and says where to get the file.
    """
    paths = case.source.full_paths if settings.full and case.source.full_paths else case.source.paths
    folders = [settings.use_case_folder, settings.project]
    tried = [folder.resolve() / p for p in paths for folder in folders if folder]
    found = next((p for p in tried if p.is_file()), None)
    if found is None:
        looked = "\n".join(f"  {p}" for p in tried)
        raise SourceError(f"use case '{case.name}': no source file; looked for\n{looked}\n{case.source.help}")
    return found


def _reader(case: UseCase):
    """The ``read`` function of the reader's module."""
    known = sorted(m.name for m in pkgutil.iter_modules(__path__))
    name = case.source.reader
    read = getattr(importlib.import_module(f"{__name__}.{name}"), "read", None) if name in known else None
    if read is None:
        raise SourceError(
            f"use case '{case.name}': source.reader '{name}' is not a reader: use 'table', or add a module "
            f"{__name__}.{name} with a function read(path, case)"
        )
    return read


def wanted_columns(case: UseCase) -> list[str]:
    """Our names of the columns that a reader must give."""
    outcome = [case.label.positive_at or case.label.column or ""]
    outcome += [case.label.recorded_at] if case.label.recorded_at else []
    return list(dict.fromkeys([case.entity_id, case.event_time, *case.feature_names, *outcome]))


def _frame(raw: pl.DataFrame, case: UseCase, what: str, first_row: int, now: datetime) -> pl.DataFrame:
    require_columns(raw, wanted_columns(case), what)
    ids = raw[case.entity_id].cast(pl.String).str.strip_chars().replace("", None)
    times, problems = parse_times(raw[case.event_time], first_row)
    problems += _empty(ids, first_row) + _repeated(ids, first_row) + control_characters(ids, first_row)
    if not problems:
        problems = _empty(times, first_row) + _outside(times, first_row, now)
    if problems:
        raise InvalidRows(what, problems)
    features = parse_cases(raw, case.features, what, first_row)
    return pl.DataFrame({"entity_id": ids, "event_time": times}).hstack(features)


def _empty(column: pl.Series, first_row: int) -> list[Problem]:
    return [Problem(column.name, row + first_row, EMPTY) for row in column.is_null().arg_true()]


def _outside(times: pl.Series, first_row: int, now: datetime) -> list[Problem]:
    """Cases that cannot have happened yet (a day's grace for time zones), or whose century is wrong."""
    early, late = times < EARLIEST, times > now + timedelta(days=1)
    return [
        Problem(
            times.name,
            row + first_row,
            f"{times[row].date()} lies {'in the future' if late[row] else 'before 1900'}: is the year right?",
        )
        for row in (early | late).arg_true()
    ]


def _before_its_case(column: str, keyed: pl.DataFrame, happened: pl.Series, first_row: int) -> list[Problem]:
    """Outcomes dated on a day before their case's: one of the two dates is wrong."""
    event = keyed["event_time"]
    early = (happened.dt.date() < event.dt.date()).fill_null(False)
    return [
        Problem(
            column,
            row + first_row,
            f"the outcome of {happened[row].date()} is before its case of {event[row].date()}: correct the date, "
            "or leave it empty if nothing happened",
        )
        for row in early.arg_true()
    ]


def _repeated(ids: pl.Series, first_row: int) -> list[Problem]:
    first = ids.is_first_distinct() | ids.is_null()
    if first.all():
        return []
    return [
        Problem(ids.name, row + first_row, f"'{ids[row]}' is in an earlier row already; ids must be unique")
        for row in (~first).arg_true()
    ]


def _labels(
    raw: pl.DataFrame, frame: pl.DataFrame, case: UseCase, path: Path, first_row: int
) -> pl.DataFrame:
    """Labels by the use case's rule; a case whose 0/1, or whose time of recording, is empty has none."""
    keyed = frame.select(
        "entity_id", "event_time", due=pl.col("event_time").dt.offset_by(f"{case.label.horizon_months}mo")
    )
    if case.label.positive_at:
        times, problems = parse_times(raw[case.label.positive_at], first_row)
        problems += _before_its_case(case.label.positive_at, keyed, times, first_row) if not problems else []
        # A date without a time is at midnight, perhaps before its case of the same day.
        happened = keyed.with_columns(happened=pl.max_horizontal(times, keyed["event_time"]))
        happened = happened.with_columns(pl.when(times.is_not_null()).then("happened"))
        # A date after the horizon is kept negative: it is not this case's outcome.
        positive = pl.col("happened").is_between("event_time", "due").fill_null(False)
        labelled = happened.with_columns(
            label=positive.cast(pl.Int8), known=pl.when(positive).then("happened").otherwise("due")
        )
    else:
        values, problems = _parse_binary(raw[case.label.column or ""], first_row)
        never = pl.lit(None, dtype=pl.Datetime("us"))
        labelled = keyed.with_columns(values.alias("label"), known=pl.col("due"), happened=never)
    if case.label.recorded_at and not problems:
        labelled, problems = _recorded(raw[case.label.recorded_at], labelled, first_row)
    if problems:
        raise InvalidRows(str(path), problems)
    known = labelled.drop_nulls("label")
    recorded = pl.col("recorded") if case.label.recorded_at else pl.col("known")
    return known.select(
        "entity_id", "label", occurred_at="known", recorded_at=recorded, source=pl.lit(path.name)
    ).drop_nulls("recorded_at")


def _recorded(
    column: pl.Series, labelled: pl.DataFrame, first_row: int
) -> tuple[pl.DataFrame, list[Problem]]:
    """The labels with when they were ``recorded`` (null: never), and those recorded on a day before they can be.

    What is not dated itself (a good outcome, a 0 or 1) and is recorded before the horizon's end was known then.
    """
    times, problems = parse_times(column, first_row)
    if problems:
        return labelled, problems
    dated = pl.col("happened").is_not_null() & (pl.col("label") == 1)
    least = pl.when(dated).then("happened").otherwise("event_time")
    early = labelled.select((times.dt.date() < least.dt.date()).fill_null(False)).to_series()
    problems = [
        Problem(
            column.name,
            row + first_row,
            f"recorded on {times[row].date()}, before it can be known ({day.date()}): correct the date, or leave it "
            "empty if the outcome was never recorded",
        )
        for row, day in zip(early.arg_true(), labelled.filter(early).select(least).to_series(), strict=True)
    ]
    # A date without a time is at midnight, perhaps before the outcome of the same day.
    known = (
        pl.when(dated)
        .then("known")
        .otherwise(pl.max_horizontal("event_time", pl.min_horizontal("known", times)))
    )
    labelled = labelled.with_columns(known=known)
    return labelled.with_columns(
        recorded=pl.when(times.is_not_null()).then(pl.max_horizontal("known", times))
    ), problems


def _parse_binary(column: pl.Series, first_row: int) -> tuple[pl.Series, list[Problem]]:
    given = column.cast(pl.String).str.strip_chars().replace("", None)
    codes = {"0": 0, "1": 1, "0.0": 0, "1.0": 1, "false": 0, "true": 1}
    parsed = given.str.to_lowercase().replace_strict(codes, default=None, return_dtype=pl.Int8)
    return parsed, unreadable(column, given, parsed, "0 or 1", first_row)
