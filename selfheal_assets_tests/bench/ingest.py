"""`make bench-ingest`: a million logged answers, from closed segments into a new warehouse.

The log is written by ``PredictionLog`` itself, in groups as a busy service commits them. The ingestion runs in a
process of its own, whose memory is measured; what arrived is counted and compared with what was logged.
"""

import json
import resource
import subprocess
import sys
import time
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import polars as pl
import typer

from selfheal_assets.stores.log_ingestion import ingest
from selfheal_assets.stores.prediction_log import CaseColumns, PredictionLog, Scorer, case_columns
from selfheal_assets.stores.segment_writer import Durability
from selfheal_assets.stores.tables import create_tables
from selfheal_assets.stores.warehouse import Warehouse
from selfheal_assets_tests.bench import report
from selfheal_assets_tests.bench.installation import (
    cases_of,
    process_environment,
    scratch_folder,
    settings_in,
)

SERVED = datetime(2007, 5, 1, 12)
SCORER = Scorer(model_version=3, model_fingerprint="0123456789abcdef", threshold=0.07)
CHECKED = """select count(*) as rows, count(distinct prediction_id) as ids, sum(hash(entity_id)) as entities,
    sum(probability) as probability, sum(prediction) as positives, sum(amount) as amount,
    sum(employees) as employees, count(bank_state) as bank_states from prediction_log"""
EXACT = ("rows", "ids", "entities", "positives", "employees", "bank_states")


def main(
    rows: Annotated[int, typer.Option(min=1, help="Answers to log and ingest.")] = 1_000_000,
    group: Annotated[int, typer.Option(min=1, help="Most answers of a commit.")] = 64,
    rounds: Annotated[int, typer.Option(min=1, help="Ingestions of the same log; the median counts.")] = 3,
    seed: Annotated[int, typer.Option(help="Of groups and scores.")] = 7,
    folder: Annotated[Path | None, typer.Option(help="Where to work. Default: data/run.")] = None,
    child: Annotated[bool, typer.Option("--child", hidden=True)] = False,
) -> None:
    """Log a million answers, ingest them into a new warehouse, and count what arrived."""
    if child:
        assert folder is not None
        print(json.dumps(_ingested(folder)))
        return
    with scratch_folder(folder, "bench-ingest-") as scratch:
        report.say(f"Logging {rows:,} answers in groups of 1 to {group}")
        expected = _log(scratch, rows, group, seed)
        done = [_round(scratch, n, expected) for n in range(rounds)]
    wrong = sorted({name for d in done for name in d["wrong"]})
    per_second, peak = report.median(d["rows_per_second"] for d in done), max(d["peak_mb"] for d in done)
    report.table(
        f"Ingestion of {rows:,} answers in {expected['segments']} segments, {expected['megabytes']:,} MB",
        ["round", "rows/s", "seconds", "CPU s", "peak MB", "wrong"],
        [(n, *(d[k] for k in _SHOWN), ", ".join(d["wrong"]) or "nothing") for n, d in enumerate(done, 1)],
    )
    report.figures(rows_per_second=per_second, peak_mb=peak, rows=rows, rounds=rounds, wrong=wrong)
    raise typer.Exit(1 if wrong else 0)


_SHOWN = ("rows_per_second", "seconds", "cpu_s", "peak_mb")


def _log(folder: Path, rows: int, group: int, seed: int) -> dict[str, Any]:
    """Write the log; returns what the warehouse must hold."""
    settings = settings_in(folder)
    names = settings.case.feature_names
    frame = cases_of(settings).frame
    repeated = pl.concat([frame] * -(-rows // frame.height)).head(rows)
    columns = case_columns(repeated, names)
    entities = [f"{e}-{i}" for i, e in enumerate(columns.entity_id)]
    rng = np.random.default_rng(seed)
    probability = rng.beta(1, 12, rows)
    log = PredictionLog(folder / "log", Durability.none, max_age_s=3600)
    at = 0
    for size in _sizes(rng, rows, group):
        part = slice(at, at + size)
        features = {name: columns.features[name][part] for name in names}
        cases = CaseColumns(entities[part], columns.event_time[part], features)
        log.append_columns(cases, probability[part], SCORER, SERVED + timedelta(microseconds=37 * at))
        at += size
    log.close()
    sealed = list((folder / "log" / "ready").iterdir())
    checked = {
        "rows": rows,
        "ids": rows,
        "probability": float(probability.sum()),
        "positives": int((probability >= SCORER.threshold).sum()),
        "amount": repeated["amount"].sum(),
        "employees": repeated["employees"].sum(),
        "bank_states": rows - repeated["bank_state"].null_count(),
        "entities": _hashed(entities),
    }
    size = sum(p.stat().st_size for p in sealed)
    return checked | {"segments": len(sealed), "megabytes": round(size / 1e6)}


def _sizes(rng: np.random.Generator, rows: int, group: int) -> list[int]:
    """Sizes of commits: mostly near ``group``, one in eight a single answer."""
    sizes, total = [], 0
    while total < rows:
        size = 1 if rng.random() < 0.125 else int(rng.integers(max(1, group * 3 // 4), group + 1))
        sizes.append(min(size, rows - total))
        total += sizes[-1]
    return sizes


def _hashed(entities: list[str]) -> int:
    """Sum of DuckDB's hashes, in which every id counts."""
    import duckdb

    ids = pl.DataFrame({"entity_id": entities}).to_arrow()  # noqa: F841 - DuckDB finds it by name
    return int(duckdb.sql("select sum(hash(entity_id)) from ids").fetchall()[0][0])


def _round(folder: Path, number: int, expected: dict[str, Any]) -> dict[str, Any]:
    """Ingest a copy of the log (hard links: ingestion removes files) in a process of its own."""
    own = folder / f"round-{number}"
    (own / "log" / "ready").mkdir(parents=True)
    for segment in (folder / "log" / "ready").iterdir():
        (own / "log" / "ready" / segment.name).hardlink_to(segment)
    command = [sys.executable, "-m", __spec__.name, "--child", "--folder", str(own)]
    environment = process_environment(settings_in(own))
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    if ran.returncode:
        raise SystemExit(f"the ingestion failed:\n{ran.stderr}")
    told = json.loads(ran.stdout.splitlines()[-1])
    report.say(f"Round {number + 1}: {told['rows_per_second']:,.0f} rows/s")
    return told | {"wrong": _wrong(settings_in(own), expected)}


def _wrong(settings: Any, expected: dict[str, Any]) -> list[str]:
    """Names of the sums that are not what was logged."""
    warehouse = Warehouse(settings.warehouse_path, settings.published)
    found = warehouse.query(CHECKED).row(0, named=True)
    exact = [n for n in EXACT if int(found[n]) != expected[n]]
    near = [n for n in ("probability", "amount") if not np.isclose(found[n], expected[n], rtol=1e-12)]
    return exact + near


def _ingested(folder: Path) -> dict[str, Any]:
    """Ingest what lies in ``folder/log`` into a warehouse there; seconds, and this process's peak memory."""
    settings = settings_in(folder)
    warehouse = Warehouse(settings.warehouse_path, settings.published)
    create_tables(warehouse, settings.case)
    started, before = time.perf_counter(), _cpu_s()
    done = ingest(warehouse, settings.case, folder / "log")
    seconds = time.perf_counter() - started
    return {
        "rows_per_second": done.rows_added / seconds,
        "seconds": seconds,
        "cpu_s": _cpu_s() - before,
        "peak_mb": peak_mb(),
    }


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def peak_mb() -> float:
    """Most memory that this process has held at a time, in MB."""
    status = Path("/proc/self/status")
    if status.exists():  # a child's ru_maxrss begins with what its parent held when it was forked
        line = next(x for x in status.read_text().splitlines() if x.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024 / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


if __name__ == "__main__":
    report.run(main)
