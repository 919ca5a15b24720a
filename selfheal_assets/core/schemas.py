"""Validation at the edge: rows of text or typed values become a frame true to its features, or an error.

Casting and checking belong here, with messages that name column, row, value and rule. Where the rows come
from belongs to ``stores.sources`` and ``serving``.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

import polars as pl

from selfheal_assets.core.encoding import polars_type
from selfheal_assets.core.spec import Feature, FeatureType

if TYPE_CHECKING:
    import pandera.polars as pa
    from pandera.errors import SchemaErrors

SHOWN = 10
DATE_FORMATS = (
    "%Y-%m-%d",
    "%Y-%m-%d %H:%M:%S%.f",
    "%Y-%m-%dT%H:%M:%S%.f",
    "%Y-%m-%d %H:%M",
    "%Y-%m-%dT%H:%M",
)
FINITE = "must be a finite number"
_DATE = "a date (expected YYYY-MM-DD)"
EMPTY = "is empty, but must have a value"
PERSONAL = "a personal value, not shown,"


@dataclass(frozen=True)
class Problem:
    """What is wrong with one value (or, where ``row`` is None, with a whole column)."""

    column: str
    row: int | None
    text: str

    def __str__(self) -> str:
        where = f"column '{self.column}'" + ("" if self.row is None else f", row {self.row}")
        return f"{where}: {self.text}"


class InvalidRows(ValueError):
    """Rows that cannot be used; the message lists the first problems, ``problems`` holds all of them."""

    def __init__(self, what: str, problems: Sequence[Problem]):
        self.problems = tuple(problems)
        lines = [f"{what}: {len(problems)} problem{'s' if len(problems) > 1 else ''}; nothing was loaded"]
        lines += [f"  {problem}" for problem in problems[:SHOWN]]
        if len(problems) > SHOWN:
            lines.append(f"  … and {len(problems) - SHOWN} more")
        super().__init__("\n".join(lines))


def case_schema(features: Sequence[Feature]) -> "pa.DataFrameSchema":
    """Pandera schema of a frame with one column per feature, in any order; others are ignored."""
    # Pandera's import takes a second: what loads this module without validating should not pay for it.
    import pandera.polars as pa

    return pa.DataFrameSchema(
        {f.name: pa.Column(polars_type(f), _checks(f), nullable=f.nullable) for f in features}
    )


def _checks(feature: Feature) -> "list[pa.Check]":
    import pandera.polars as pa

    checks = []
    if feature.type is FeatureType.number:
        checks.append(pa.Check(lambda d: d.lazyframe.select(pl.col(d.key).is_finite()), error=FINITE))
    if feature.min is not None:
        checks.append(pa.Check.ge(feature.min, error=f"must be at least {feature.min:g}"))
    if feature.max is not None:
        checks.append(pa.Check.le(feature.max, error=f"must be at most {feature.max:g}"))
    if feature.values is not None:
        checks.append(pa.Check.isin(feature.values, error=f"must be one of {', '.join(feature.values)}"))
    return checks


def validate_cases(frame: pl.DataFrame, features: Sequence[Feature], what: str, first_row: int = 1) -> None:
    """Check types, bounds, allowed values and empty values of the features' columns.

    Args:
        frame: one column per feature, of :func:`~selfheal_assets.core.encoding.polars_type`, or more.
        features: what the columns must hold to.
        what: names the rows in the error (a file's path, ``request``).
        first_row: number of the frame's first row where the user sees it: 2 for a CSV with a header.

    Raises:
        InvalidRows: any value breaks a rule.
    """
    require_columns(frame, [f.name for f in features], what)
    wrong_types = [
        Problem(f.name, None, f"holds {frame.schema[f.name]} values, must hold {polars_type(f)}")
        for f in features
        if frame.schema[f.name] != polars_type(f)
    ]
    if wrong_types:
        raise InvalidRows(what, wrong_types)
    from pandera.errors import SchemaErrors

    try:
        case_schema(features).validate(frame, lazy=True)
    except SchemaErrors as error:
        raise InvalidRows(what, _problems(error, features, first_row)) from None


def _problems(error: "SchemaErrors", features: Sequence[Feature], first_row: int) -> list[Problem]:
    """One problem per value: NaN breaks every bound too, but the first rule says it best."""
    failures = error.failure_cases.unique(["column", "index"], keep="first", maintain_order=True)
    quoted = {f.name for f in features if f.type is FeatureType.category}
    personal = {f.name for f in features if f.personal}

    def shown(column: str, value: str) -> str:
        if column in personal and value != "NaN":
            return PERSONAL
        return f"'{value}'" if column in quoted else value

    return [
        Problem(column, row + first_row, _rule(shown(column, value), check))
        for column, row, value, check in failures.sort("index", maintain_order=True)
        .select("column", "index", "failure_case", "check")
        .iter_rows()
    ]


def _rule(value: str, check: str) -> str:
    if check != "not_nullable":
        return f"{value} {check}"
    # Pandera counts NaN as empty; whoever sent it needs to hear which of the two it was.
    return f"{value} {FINITE}" if value == "NaN" else EMPTY


def require_columns(frame: pl.DataFrame, names: Sequence[str], what: str) -> None:
    """Raise one InvalidRows that names every column that is missing."""
    missing = [n for n in names if n not in frame.columns]
    if missing:
        present = ", ".join(frame.columns)
        raise InvalidRows(what, [Problem(n, None, f"is missing (columns found: {present})") for n in missing])


def parse_cases(
    raw: pl.DataFrame, features: Sequence[Feature], what: str, first_row: int = 1
) -> pl.DataFrame:
    """Cast text or loosely typed columns to the features' types, and validate them.

    Text is stripped and empty text is null. Nothing is guessed or lost: a value that does not fit its type is
    an error, never a null.

    Args:
        raw: one column per feature, as text (a CSV read without type inference) or typed (Parquet, JSON).
        features: the types and rules; their order is the result's.
        what: names the rows in the error.
        first_row: number of the first row where the user sees it.

    Returns:
        The features' columns, of :func:`~selfheal_assets.core.encoding.polars_type`.

    Raises:
        InvalidRows: a column is missing, a value cannot be cast or breaks a rule.
    """
    require_columns(raw, [f.name for f in features], what)
    parsed, problems = {}, []
    for f in features:
        parsed[f.name], wrong = _parse(raw[f.name], f, first_row)
        problems += wrong
    if problems:
        raise InvalidRows(what, sorted(problems, key=_by_row))
    frame = pl.DataFrame(parsed)
    validate_cases(frame, features, what, first_row)
    return frame


def _by_row(problem: Problem) -> int:
    return -1 if problem.row is None else problem.row


def _parse(column: pl.Series, feature: Feature, first_row: int) -> tuple[pl.Series, list[Problem]]:
    """The column in its feature's type, and what could not be cast."""
    kind, personal = feature.type, feature.personal
    if kind is FeatureType.category:
        return _text(column), control_characters(column, first_row, personal)
    if not (column.dtype.is_numeric() or column.dtype in (pl.String, pl.Categorical, pl.Boolean, pl.Null)):
        return column, [Problem(column.name, None, f"holds {column.dtype} values, not numbers")]
    column = column.cast(pl.String) if column.dtype == pl.Categorical else column
    given = _text(column) if column.dtype == pl.String else column
    number = given.cast(pl.Float64, strict=False)
    if kind is FeatureType.number:
        return number, unreadable(column, given, number, "a number", first_row, personal)
    whole = given.cast(pl.Int64, strict=False)
    # Tables written by pandas hold '2.0' where an integer column has gaps.
    whole = whole.zip_with(whole.is_not_null(), number.cast(pl.Int64, strict=False))
    exact = whole.zip_with((number == number.floor()).fill_null(False), pl.Series([None], dtype=pl.Int64))
    return exact, unreadable(column, given, exact, "an integer", first_row, personal)


def _text(column: pl.Series) -> pl.Series:
    stripped = column.cast(pl.String).str.strip_chars()
    return stripped.replace("", None)


def _quoted(value: object, personal: bool) -> str:
    return PERSONAL if personal else repr(value)


def unreadable(
    column: pl.Series,
    given: pl.Series,
    parsed: pl.Series,
    kind: str,
    first_row: int,
    personal: bool = False,
) -> list[Problem]:
    """One problem per row where a value was given and could not be read; what is personal is not quoted."""
    rows = (given.is_not_null() & parsed.is_null()).arg_true()
    values = column.gather(rows)
    return [
        Problem(column.name, row + first_row, f"{_quoted(value, personal)} is not {kind}")
        for row, value in zip(rows, values, strict=True)
    ]


def control_characters(column: pl.Series, first_row: int, personal: bool = False) -> list[Problem]:
    """One problem per text with a character that no file, page or key could show, such as NUL.

    What is personal is not quoted.
    """
    if column.dtype not in (pl.String, pl.Categorical):
        return []
    text = column.cast(pl.String)
    rows = text.str.contains(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]").fill_null(False).arg_true()
    return [
        Problem(
            column.name,
            row + first_row,
            f"{_quoted(text[row], personal)} holds a control character: remove it",
        )
        for row in rows
    ]


def parse_times(column: pl.Series, first_row: int = 1) -> tuple[pl.Series, list[Problem]]:
    """Dates and times as Datetime (us, naive UTC), and what could not be read.

    Accepts dates, datetimes (a time zone is converted to UTC) and ISO 8601 text, of the years 1 to 9999; empty text
    is null.
    """
    if column.dtype == pl.Null:
        return column.cast(pl.Datetime("us")), []
    if isinstance(column.dtype, pl.Datetime) and column.dtype.time_zone:
        column = column.dt.convert_time_zone("UTC").dt.replace_time_zone(None)
    if column.dtype in (pl.Date, pl.Datetime):
        times = _of_calendar(column.cast(pl.Datetime("us")))
        return times, unreadable(column.cast(pl.String), column, times, _DATE, first_row)
    if column.dtype != pl.String:
        return column, [Problem(column.name, None, f"holds {column.dtype} values, not dates")]
    given = _text(column)
    parsed = _of_calendar(_read_times(given))
    return parsed, unreadable(column, given, parsed, _DATE, first_row)


def _of_calendar(times: pl.Series) -> pl.Series:
    """The times of the years 1 to 9999; null for others, which Polars and DuckDB keep but Python cannot read."""
    return times.set(~times.is_between(datetime.min, datetime.max).fill_null(True), None)


def _read_times(text: pl.Series) -> pl.Series:
    """The first format that fits each text; text with an offset ('Z', '+02:00', '-05') goes to UTC."""
    written = pl.col(text.name).str
    naive = [written.to_datetime(f, time_unit="us", strict=False) for f in DATE_FORMATS]
    aware = [
        written.to_datetime(f"{f}%#z", time_unit="us", strict=False, time_zone="UTC").dt.replace_time_zone(
            None
        )
        for f in DATE_FORMATS
        if "%H" in f
    ]
    return text.to_frame().select(pl.coalesce(*naive, *aware).alias(text.name)).to_series()
