"""Scoring files by the command: every row is answered, logged and written, or set aside with its reason."""

import io
import json
import os
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from selfheal_assets.cli import main
from selfheal_assets.serving import file_scoring
from selfheal_assets.settings import Settings
from selfheal_assets.stores import case_files, log_ingestion
from selfheal_assets.stores.tables import create_tables
from selfheal_assets.stores.warehouse import Warehouse
from selfheal_assets_tests.serving.conftest import YAML, Installation, generate

pytestmark = pytest.mark.integration
HEADER = "entity_id,event_time,monthly_fee,visits,plan,city,balance,age,note"
GOOD_ROW = "s1,2020-03-01,49.5,3,basic,Oslo,-12.25,41,x"


def environment(settings: Settings) -> dict[str, str]:
    return {
        "SELFHEAL_USE_CASE": settings.use_case,
        "SELFHEAL_HOME": str(settings.home),
        "SELFHEAL_PROJECT": str(settings.project),
        "MLFLOW_TRACKING_URI": settings.tracking_uri,
        "COLUMNS": "200",
    }


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    returncode: int
    stdout: str
    stderr: str


def run(settings: Settings, *arguments: str | Path) -> Done:
    """``selfheal score`` with these arguments, in this process: its imports take seconds."""
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8") for _ in "ab")
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        for name, value in environment(settings).items():
            patch.setenv(name, value)
        patch.setattr(sys, "argv", ["selfheal", "score", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
    for stream in (out, err):
        stream.flush()
    told = [stream.buffer.getvalue().decode() for stream in (out, err)]  # type: ignore[attr-defined]
    return Done(int(ended.value.code or 0), *told)


def score(installation: Installation, *arguments: str | Path) -> dict[str, Any]:
    """The summary of a run that must end well."""
    done = run(installation.settings, *arguments, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def refused(installation: Installation, *arguments: str | Path) -> str:
    """The message of a run that must not end well, and must leave nothing behind."""
    done = run(installation.settings, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert "Traceback" not in done.stderr
    assert not list(installation.settings.prediction_log.rglob("*.jsonl")), "something was scored"
    return done.stderr.strip()


def write(path: Path, *rows: str) -> Path:
    path.write_text("\n".join([HEADER, *rows]) + "\n")
    return path


def logged(installation: Installation) -> pl.DataFrame:
    settings = installation.settings
    warehouse = Warehouse(settings.warehouse_path, settings.published)
    create_tables(warehouse, installation.case)
    log_ingestion.ingest(warehouse, installation.case, settings.prediction_log)
    return warehouse.query("select * from prediction_log")


def letters(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize(("given", "wanted"), [("csv", "parquet"), ("parquet", "csv")])
def test_each_row_is_scored_logged_and_written(
    installation: Installation, tmp_path: Path, given: str, wanted: str
):
    cases = generate(45_000, 3).drop("label").with_columns(note=pl.lit("not ours"))
    path, output = tmp_path / f"cases.{given}", tmp_path / f"out.{wanted}"
    cases.write_csv(path) if given == "csv" else cases.write_parquet(path)
    summary = score(installation, path, "--output", output)
    assert summary == {
        "rows": 45_000,
        "scored": 45_000,
        "rejected": 0,
        "with_warnings": 0,
        "model_version": installation.versions[0],
        "output": str(output),
        "rejected_file": None,
    }
    written = pl.read_csv(output) if wanted == "csv" else pl.read_parquet(output)
    bundle = installation.bundles[0]
    np.testing.assert_array_equal(written["probability"], bundle.score(cases))
    np.testing.assert_array_equal(written["prediction"], written["probability"] >= bundle.threshold)
    assert written["entity_id"].to_list() == cases["entity_id"].to_list(), "in the file's order"
    assert written["row"].to_list()[:2] == ([2, 3] if given == "csv" else [1, 2])
    rows = logged(installation).join(written, on="prediction_id", suffix="_written")
    assert rows.height == 45_000
    assert set(rows["role"]) == {"champion"}
    assert set(rows["event_time"]) == {datetime(2020, 1, 1)}
    assert (rows["probability"] == rows["probability_written"]).all()


def test_a_second_run_answers_anew_and_replaces_the_output(installation: Installation, tmp_path: Path):
    path = write(tmp_path / "cases.csv", GOOD_ROW)
    first, second = ((score(installation, path), pl.read_csv(tmp_path / "cases.scored.csv"))[1] for _ in "ab")
    assert first["probability"].to_list() == second["probability"].to_list()
    assert logged(installation)["prediction_id"].sort().to_list() == sorted(
        [*first["prediction_id"], *second["prediction_id"]]
    )


def test_standard_output_is_csv(installation: Installation, tmp_path: Path):
    path = write(tmp_path / "cases.csv", GOOD_ROW)
    done = run(installation.settings, path, "-o", "-")
    header, row = done.stdout.splitlines()
    assert header == "row,prediction_id,entity_id,probability,prediction,threshold,model_version,warnings"
    assert row.split(",")[2] == "s1"
    assert "1 of 1 rows scored by version" in done.stderr
    mixed = run(installation.settings, path, "-o", "-", "--json")
    assert (mixed.returncode, mixed.stdout) == (2, "")


def test_ids_and_times_may_be_left_out_or_have_the_use_cases_names(
    installation: Installation, tmp_path: Path
):
    named = tmp_path / "named.csv"
    named.write_text(
        "subscriber,signed_on,monthly_fee,visits,plan,city,balance,age\ns9,2020-05-06,1,,basic,,,30\n"
    )
    bare = tmp_path / "bare.csv"
    bare.write_text("monthly_fee,visits,plan,city,balance,age\n1,2,basic,Oslo,3,30\n1,2,family,Oslo,3,31\n")
    score(installation, named)
    score(installation, bare)
    rows = logged(installation)
    assert rows.filter(entity_id="s9")["event_time"].to_list() == [datetime(2020, 5, 6)]
    drawn = rows.filter(pl.col("entity_id") != "s9")
    assert drawn["entity_id"].n_unique() == 2
    assert (drawn["event_time"] == drawn["predicted_at"]).all()


BAD = [
    ("s2,2020-03-01,501,3,basic,Oslo,1,41,x", "column 'monthly_fee': 501.0 must be at most 500"),
    ("s3,2020-03-01,49,3.5,basic,Oslo,1,41,x", "column 'visits': '3.5' is not an integer"),
    ("s4,2020-03-01,49,3,gold,Oslo,1,41,x", "column 'plan': 'gold' must be one of basic, family"),
    ("s5,2020-03-01,,3,basic,Oslo,1,41,x", "column 'monthly_fee': is empty, but must have a value"),
    ("s6,2020-03-01,nan,3,basic,Oslo,1,41,x", "column 'monthly_fee': NaN must be a finite number"),
    ("s7,2020-03-01,49,3,basic,Oslo,1e39,41,x", "column 'balance': is beyond ±3.4e+38"),
    (
        "s8,tomorrow,49,3,basic,Oslo,1,41,x",
        "column 'event_time': 'tomorrow' is not a date (expected YYYY-MM-DD)",
    ),
    (f"s9,2020-03-01,49,3,basic,{'x' * 201},1,41,x", "column 'city': is longer than 200 characters"),
    (f"{'y' * 201},2020-03-01,49,3,basic,Oslo,1,41,x", "column 'entity_id': is longer than 200 characters"),
    ("s10,2020-03-01,49,3,basic,Oslo,1", "7 fields, but the header has 9"),
    ("s11,2020-03-01,49,3,ba\udcffsic,Oslo,1,41,x", "not UTF-8 text"),
    (
        "s12,2020-03-01,49,3,basic,Oslo,1,99999999999999999999,x",
        "column 'age': '99999999999999999999' is not an integer",
    ),
]


def write_bad(path: Path) -> Path:
    """Good and bad rows in turns, and a last one that is torn within quotes."""
    rows = [row for bad, _ in BAD for row in (GOOD_ROW, bad)] + ['s13,2020-03-01,49,3,"bas']
    path.write_bytes("\n".join([HEADER, *rows]).encode(errors="surrogateescape"))
    return path


def test_bad_rows_are_set_aside_with_their_reason(installation: Installation, tmp_path: Path):
    path = write_bad(tmp_path / "cases.csv")
    summary = score(installation, path, "--on-error", "skip", "-o", tmp_path / "out.csv")
    assert (summary["rows"], summary["scored"], summary["rejected"]) == (25, 12, 13)
    found = letters(tmp_path / "out.csv.rejected.jsonl")
    assert summary["rejected_file"] == str(tmp_path / "out.csv.rejected.jsonl")
    expected = {2 * i + 3: [reason] for i, (_, reason) in enumerate(BAD)}
    expected[26] = ["not CSV: unexpected end of data"]
    assert {row["row"]: row["reasons"] for row in found} == expected
    assert found[0]["values"]["entity_id"] == "s2"
    assert found[0]["values"]["monthly_fee"] == "501"
    assert pl.read_csv(tmp_path / "out.csv")["row"].to_list() == list(range(2, 26, 2))
    assert logged(installation).height == 12


def test_by_default_one_bad_row_keeps_the_whole_file_from_being_scored(
    installation: Installation, tmp_path: Path
):
    path = write_bad(tmp_path / "cases.csv")
    message = refused(installation, path)
    aside = tmp_path / "cases.scored.csv.rejected.jsonl"
    assert (
        f"selfheal: {path}: 13 of 25 rows are bad, and nothing was scored. The first: row 3, column"
        in message
    )
    assert len(message.splitlines()) == 1
    assert len(letters(aside)) == 13
    assert not (tmp_path / "cases.scored.csv").exists()
    write(path, GOOD_ROW)
    score(installation, path)
    assert not aside.exists(), "an earlier run's"
    assert sorted(p.name for p in tmp_path.glob("*cases*")) == ["cases.csv", "cases.scored.csv"]


def test_a_row_tells_all_that_is_wrong_with_its_values(installation: Installation, tmp_path: Path):
    path = write(tmp_path / "cases.csv", "s2,2020-03-01,501,-3,gold,Oslo,1,41,x")
    refused(installation, path)
    (letter,) = letters(tmp_path / "cases.scored.csv.rejected.jsonl")
    assert [r.split("'")[1] for r in letter["reasons"]] == ["monthly_fee", "visits", "plan"]


def test_unseen_categories_are_told_or_refused(installation: Installation, tmp_path: Path):
    path = write(tmp_path / "cases.csv", GOOD_ROW, GOOD_ROW.replace("Oslo", "Xanadu"))
    summary = score(installation, path)
    assert summary["with_warnings"] == 1
    told = pl.read_csv(tmp_path / "cases.scored.csv")["warnings"].to_list()
    assert told == ["", "city: category 'Xanadu' was not seen in training and is treated as missing"]

    strict = tmp_path / "strict.yaml"
    strict.write_text(f"{YAML}serving: {{unseen_category: refuse}}\n")
    uri = installation.settings.tracking_uri
    settings = Settings(use_case=str(strict), home=tmp_path / "h", project=tmp_path, mlflow_tracking_uri=uri)
    done = run(settings, path)
    assert done.returncode == 2
    assert "row 3, column 'city': 'Xanadu' was not seen in training" in done.stderr


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("cases.csv", b"", "the file is empty; its first row is a header"),
        (
            "cases.csv",
            b"entity_id,plan\na,basic\n",
            "missing columns 'monthly_fee', 'visits', 'city', 'balance', 'age'",
        ),
        ("cases.csv", f"{HEADER},city\n".encode(), "the header has 'city' twice; keep one"),
        ("cases.parquet", b"PAR1 not at all", "not a readable parquet file"),
        ("cases.xlsx", b"", "a file of cases is a .csv or a .parquet file"),
    ],
)
def test_a_file_that_cannot_be_read_is_one_message(
    installation: Installation, tmp_path: Path, name: str, content: bytes, told: str
):
    (tmp_path / name).write_bytes(content)
    message = refused(installation, tmp_path / name, "-o", tmp_path / "out.csv")
    assert message.startswith(f"selfheal: {tmp_path / name}: {told}")
    assert len(message.splitlines()) == 1
    assert not (tmp_path / "out.csv").exists()


def test_paths_that_cannot_be_are_one_message(installation: Installation, tmp_path: Path):
    path = write(tmp_path / "cases.csv", GOOD_ROW)
    for arguments, told in (
        ([tmp_path / "none.csv"], "none.csv: cannot be read: No such file or directory"),
        ([path, "-o", path], "the results would replace the cases: give another --output"),
        ([path, "-o", tmp_path / "out.txt"], "results are written as .csv or .parquet"),
        ([path, "-o", tmp_path / "no" / "out.csv"], "No such file or directory"),
    ):
        message = refused(installation, *arguments)
        assert told in message
        assert len(message.splitlines()) == 1


def test_without_a_champion_it_says_what_to_do(installation: Installation, tmp_path: Path):
    path = write(tmp_path / "cases.csv", GOOD_ROW)
    settings = Settings(
        use_case=installation.settings.use_case,
        home=tmp_path / "other",
        project=tmp_path,
        mlflow_tracking_uri=f"sqlite:///{tmp_path / 'empty.db'}",
    )
    done = run(settings, path)
    assert done.returncode == 2
    assert "there is no production model" in done.stderr


def test_typed_parquet_of_another_type_is_refused_whole(installation: Installation, tmp_path: Path):
    frame = generate(3, 1).with_columns(monthly_fee=pl.lit(datetime(2020, 1, 1)))
    frame.write_parquet(tmp_path / "cases.parquet")
    message = refused(installation, tmp_path / "cases.parquet", "--on-error", "skip")
    assert "column 'monthly_fee': holds Datetime" in message


def command(settings: Settings, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """``selfheal score`` in a process of its own, which ends by printing its peak memory in MB."""
    program = (
        "import atexit; from selfheal_assets.cli import main; "
        "from selfheal_assets_tests.bench.ingest import peak_mb; "
        "atexit.register(lambda: print(peak_mb())); main()"
    )
    return subprocess.run(
        [sys.executable, "-c", program, "score", *map(str, arguments)],
        env=os.environ | environment(settings),
        capture_output=True,
        text=True,
        timeout=240,
    )


@pytest.mark.long
def test_memory_does_not_grow_with_the_file(installation: Installation, tmp_path: Path):
    peaks = []
    for batches in (2, 15):
        path = tmp_path / f"cases_{batches}.csv"
        generate(case_files.BATCH_ROWS * batches, 3).drop("label").write_csv(path)
        done = command(installation.settings, path)
        assert done.returncode == 0, done.stderr
        peaks.append(float(done.stdout))
    assert peaks[1] - peaks[0] < 60, f"{peaks} MB"


def test_a_failure_is_exit_code_2_and_one_line(installation: Installation, tmp_path: Path):
    done = command(installation.settings, write(tmp_path / "cases.csv", BAD[0][0]))
    assert done.returncode == 2
    assert done.stderr.startswith("selfheal: ")
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_log_that_cannot_be_written_leaves_no_output(installation: Installation, tmp_path: Path):
    path = write(tmp_path / "cases.csv", GOOD_ROW)
    folder = installation.settings.prediction_log
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.write_text("in the way")
    done = run(installation.settings, path)
    assert done.returncode == 2
    assert "cannot be written" in done.stderr
    assert sorted(p.name for p in tmp_path.glob("*cases*")) == ["cases.csv"]
    assert file_scoring.default_output(path) == tmp_path / "cases.scored.csv"
