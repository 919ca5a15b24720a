"""Rows at the edge: what is accepted is typed exactly, what is not is named by column, row and rule."""

from datetime import date, datetime

import polars as pl
import pytest

from selfheal_assets.core.failing_rows import failing_rows
from selfheal_assets.core.schemas import (
    InvalidRows,
    case_schema,
    parse_cases,
    parse_times,
    validate_cases,
)
from selfheal_assets.core.spec import Feature

FEATURES = (
    Feature(name="employees", type="integer", min=0, max=10000),
    Feature(name="amount", type="number", min=0.5, max=1e6, nullable=True),
    Feature(name="area", type="category", values=("urban", "rural")),
    Feature(name="bank", type="category", nullable=True),
)
TEXT = {
    "employees": ["1", " 2 ", "3.0"],
    "amount": ["1.5e3", "", None],
    "area": ["urban", "rural ", "urban"],
    "bank": ["x", "", None],
}


def parse(**columns) -> pl.DataFrame:
    return parse_cases(pl.DataFrame({**TEXT, **columns}), FEATURES, "loans.csv", first_row=2)


def errors(**columns) -> list[str]:
    with pytest.raises(InvalidRows) as caught:
        parse(**columns)
    return [str(p) for p in caught.value.problems]


def test_text_becomes_typed_values_in_declared_order():
    frame = parse()
    assert frame.schema == {
        "employees": pl.Int64, "amount": pl.Float64, "area": pl.String, "bank": pl.String,
    }  # fmt: skip
    assert frame.rows() == [(1, 1500.0, "urban", "x"), (2, None, "rural", None), (3, None, "urban", None)]


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"employees": ["1", "abc", "3"]}, "column 'employees', row 3: 'abc' is not an integer"),
        ({"employees": ["1", "2", "2.5"]}, "column 'employees', row 4: '2.5' is not an integer"),
        ({"employees": ["1", "9" * 25, "3"]}, f"column 'employees', row 3: '{'9' * 25}' is not an integer"),
        ({"amount": ["1,000", "1", "1"]}, "column 'amount', row 2: '1,000' is not a number"),
        ({"employees": ["1", "10001", "3"]}, "column 'employees', row 3: 10001 must be at most 10000"),
        ({"employees": ["-1", "1", "3"]}, "column 'employees', row 2: -1 must be at least 0"),
        ({"area": ["urban", "rural", "sea"]}, "column 'area', row 4: 'sea' must be one of urban, rural"),
        ({"area": ["urban", " ", "rural"]}, "column 'area', row 3: is empty, but must have a value"),
        ({"amount": ["1", "NaN", "1"]}, "column 'amount', row 3: NaN must be a finite number"),
        ({"amount": ["1", "1", "-inf"]}, "column 'amount', row 4: -inf must be a finite number"),
        ({"employees": [1.0, float("nan"), 3.0]}, "column 'employees', row 3: nan is not an integer"),
        ({"amount": [date(2001, 1, 1)] * 3}, "column 'amount': holds Date values, not numbers"),
    ],
)
def test_a_bad_value_is_named_by_column_row_value_and_rule(columns, expected):
    assert errors(**columns) == [expected]


def test_typed_input_is_cast_without_loss():
    frame = parse(employees=pl.Series([1, 2, 10000], dtype=pl.UInt16), amount=[1, None, 3])
    assert frame["employees"].to_list() == [1, 2, 10000]
    assert frame["amount"].to_list() == [1.0, None, 3.0]
    wide = (Feature(name="n", type="integer"),)
    exact = 2**53 + 1  # a detour through float64 would lose the last digit
    assert parse_cases(pl.DataFrame({"n": [exact]}), wide, "t")["n"].to_list() == [exact]
    assert parse_cases(pl.DataFrame({"n": [str(exact)]}), wide, "t")["n"].to_list() == [exact]


def test_problems_come_in_row_order_from_all_columns():
    assert errors(employees=["1", "2", "-3"], area=["sea", "urban", "sky"]) == [
        "column 'area', row 2: 'sea' must be one of urban, rural",
        "column 'employees', row 4: -3 must be at least 0",
        "column 'area', row 4: 'sky' must be one of urban, rural",
    ]
    assert errors(employees=["1", "2", "c"], amount=["a", "b", "1"]) == [
        "column 'amount', row 2: 'a' is not a number",
        "column 'amount', row 3: 'b' is not a number",
        "column 'employees', row 4: 'c' is not an integer",
    ]


def test_all_missing_columns_are_named_at_once():
    with pytest.raises(InvalidRows) as caught:
        parse_cases(pl.DataFrame({"area": ["urban"], "zip": ["1"]}), FEATURES, "loans.csv")
    assert [p.column for p in caught.value.problems] == ["employees", "amount", "bank"]
    assert "columns found: area, zip" in str(caught.value)


def test_the_message_lists_ten_problems_and_counts_all():
    rows = pl.DataFrame({k: [v[0]] * 25 for k, v in TEXT.items()}).with_columns(employees=pl.lit("-1"))
    with pytest.raises(InvalidRows) as caught:
        parse_cases(rows, FEATURES, "loans.csv", first_row=2)
    lines = str(caught.value).splitlines()
    assert lines[0] == "loans.csv: 25 problems; nothing was loaded"
    assert len(lines) == 12
    assert lines[10].endswith("row 11: -1 must be at least 0")
    assert lines[11].strip() == "… and 15 more"
    assert len(caught.value.problems) == 25


def test_validating_a_frame_of_the_wrong_type_names_both_types():
    frame = parse().with_columns(pl.col("employees").cast(pl.String))
    with pytest.raises(InvalidRows, match="column 'employees': holds String values, must hold Int64"):
        validate_cases(frame, FEATURES, "request")


def test_validation_counts_rows_from_first_row_and_ignores_other_columns():
    frame = parse().with_columns(extra=pl.lit("?"), employees=pl.Series([1, 2, 99999]))
    with pytest.raises(InvalidRows, match="row 103: 99999"):
        validate_cases(frame, FEATURES, "request", first_row=101)
    validate_cases(frame.head(2), FEATURES, "request")


def test_the_schema_holds_one_column_per_feature():
    schema = case_schema(FEATURES)
    assert list(schema.columns) == ["employees", "amount", "area", "bank"]
    assert [c.nullable for c in schema.columns.values()] == [False, True, False, True]


def test_times_are_naive_utc_microseconds():
    text = pl.Series("t", ["2001-02-03", "2001-02-03T10:11:12.5", "2001-02-03T10:00:00+02:00", " ", None])
    times, problems = parse_times(text)
    assert problems == []
    assert times.dtype == pl.Datetime("us")
    assert times.to_list() == [
        datetime(2001, 2, 3), datetime(2001, 2, 3, 10, 11, 12, 500_000), datetime(2001, 2, 3, 8), None, None,
    ]  # fmt: skip
    aware = pl.Series([datetime(2001, 7, 1, 12)]).dt.replace_time_zone("Europe/Paris")
    assert parse_times(aware)[0].to_list() == [datetime(2001, 7, 1, 10)]
    assert parse_times(pl.Series([date(2001, 7, 1)]))[0].to_list() == [datetime(2001, 7, 1)]


@pytest.mark.parametrize("between", ["T", " "])
@pytest.mark.parametrize("clock", ["14:05", "14:05:00", "14:05:00.000000"])
@pytest.mark.parametrize(
    ("offset", "hour"),
    [("", 14), ("Z", 14), ("+00:00", 14), ("+02:00", 12), ("+0200", 12), ("+02", 12), ("-05:00", 19)],
)
def test_an_offset_counts_however_the_time_is_written(between, clock, offset, hour):
    """pandas puts a blank before the time, PostgreSQL tells only the offset's hours."""
    times, problems = parse_times(pl.Series("t", [f"2024-01-31{between}{clock}{offset}", "2024-01-31"]))
    assert problems == []
    assert times.to_list() == [datetime(2024, 1, 31, hour, 5), datetime(2024, 1, 31)]


def test_a_summer_time_is_what_its_offset_says():
    """Two o'clock is there twice on the night the clocks go back; without an offset it would be UTC."""
    times, _ = parse_times(pl.Series("t", ["2024-10-27 02:30:00+02:00", "2024-10-27 02:30:00+01:00"]))
    assert times.to_list() == [datetime(2024, 10, 27, 0, 30), datetime(2024, 10, 27, 1, 30)]


@pytest.mark.parametrize(
    "column",
    [
        pl.Series("t", ["9999-12-31T23:59:59-10:00", "2001-02-03", "0001-01-01T00:00:00+10:00"]),
        pl.Series("t", [253_402_300_800_000_000, 0, -62_135_596_800_000_001]).cast(pl.Datetime("us")),
    ],
    ids=["text", "typed"],
)
def test_a_time_beyond_the_years_1_to_9999_is_none(column):
    """Polars and DuckDB keep it; whoever reads it in Python afterwards would fail."""
    times, problems = parse_times(column)
    assert [p.row for p in problems] == [1, 3]
    assert [t is None for t in times.to_list()] == [True, False, True]


def test_what_is_not_a_date_is_named():
    _, problems = parse_times(pl.Series("t", ["2001-02-03", "2001-02-30", "3/2/2001"]), first_row=2)
    assert [str(p) for p in problems] == [
        "column 't', row 3: '2001-02-30' is not a date (expected YYYY-MM-DD)",
        "column 't', row 4: '3/2/2001' is not a date (expected YYYY-MM-DD)",
    ]
    _, problems = parse_times(pl.Series("t", [20010203]))
    assert [str(p) for p in problems] == ["column 't': holds Int64 values, not dates"]


PERSONAL = tuple(f.model_copy(update={"personal": f.name in ("employees", "bank")}) for f in FEATURES)


@pytest.mark.parametrize(
    ("columns", "secret", "expected"),
    [
        ({"employees": ["77a", "2", "3"]}, "77a", "row 2: a personal value, not shown, is not an integer"),
        (
            {"employees": ["1", "77777", "3"]},
            "77777",
            "row 3: a personal value, not shown, must be at most 10000",
        ),
        ({"bank": ["x\x00", "y", "z"]}, "x", "row 2: a personal value, not shown, holds a control character"),
        (
            {"employees": ["1", "", None], "area": ["urban", "urban", "sea"]},
            "None",
            "row 4: 'sea' must be one of",
        ),
    ],
)
def test_what_is_personal_is_in_no_message(columns, secret, expected):
    features = tuple(
        f.model_copy(update={"nullable": True}) if f.name == "employees" else f for f in PERSONAL
    )
    with pytest.raises(InvalidRows) as caught:
        parse_cases(pl.DataFrame({**TEXT, **columns}), features, "loans.csv", first_row=2)
    told = [str(p) for p in caught.value.problems]
    assert len(told) == 1
    assert expected in told[0]
    assert secret not in told[0].replace("not shown", "")


def test_failing_rows_are_sampled_with_their_problems_and_without_the_person():
    frame = parse().with_columns(entity_id=pl.lit("e"), at=pl.int_range(3))
    frame = pl.concat([frame.with_columns(employees=pl.lit(-1, dtype=pl.Int64)), frame[:1]] * 5)
    with pytest.raises(InvalidRows) as caught:
        validate_cases(frame, PERSONAL, "log", first_row=100)
    sample = failing_rows(frame, caught.value, PERSONAL, first_row=100)
    assert sample.columns == ["row", "problems", "amount", "area", "at"]
    assert sample["row"].to_list() == [100, 101, 102, 104, 105, 106, 108, 109, 110, 112]
    assert sample["at"].to_list() == [0, 1, 2, 0, 1, 2, 0, 1, 2, 0]
    assert set(sample["problems"]) == {"column 'employees': a personal value, not shown, must be at least 0"}
    none = failing_rows(frame, InvalidRows("log", []), PERSONAL)
    assert none.is_empty()
    assert none.columns == sample.columns
