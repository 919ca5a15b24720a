"""`make bench-monitoring`: the same drift and performance figures by NannyML, by Evidently and pushed down to DuckDB.

Each contestant runs in a process of its own over the same synthetic rows. What NannyML and the push-down engine
both compute is compared figure by figure.
"""

import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import duckdb
import polars as pl
import typer

from selfheal_assets.core.calibration import fit_isotonic
from selfheal_assets.core.chunk_statistics import ChunkStatistics, side_by_side
from selfheal_assets.core.drift import drift_figures
from selfheal_assets.core.profile import Profile
from selfheal_assets.core.score_table import expected_performance
from selfheal_assets.settings import ENVIRONMENT
from selfheal_assets.stores.chunk_tables import store_statistics
from selfheal_assets.stores.pushdown import statistics_of
from selfheal_assets.stores.reference_profile import fit_profile, scored_labels
from selfheal_assets_tests.bench import report
from selfheal_assets_tests.bench.installation import scratch_folder
from selfheal_assets_tests.bench.monitoring_contestants import CONFUSION
from selfheal_assets_tests.bench.monitoring_data import FEATURES, WINDOWS, batches, write

SIZES = (100_000, 1_000_000, 10_000_000)
HUGE = 100_000_000
RANKING = ("roc_auc", "average_precision")
CHUNK, SMALL_CHUNK = 100_000, 20_000
QUIET = {"DO_NOT_TRACK": "1", "ITERATIVE_DO_NOT_TRACK": "1"}


def main(
    huge: Annotated[bool, typer.Option("--huge", help="Also 1e8 rows: the push-down engine alone.")] = False,
    only: Annotated[int | None, typer.Option(help="One size instead of three.")] = None,
    repetitions: Annotated[int, typer.Option(min=3, help="Of a single chunk; the median counts.")] = 15,
    seed: Annotated[int, typer.Option(help="Of the rows.")] = 7,
    folder: Annotated[Path | None, typer.Option(help="Where to work. Default: data/run.")] = None,
) -> None:
    """Compare processor time, memory and figures, then time single chunks."""
    told: dict[str, Any] = {}
    for rows in [only] if only is not None else SIZES:
        with scratch_folder(folder, "bench-monitoring-") as scratch:
            told[f"{rows:.0e}".replace("+0", "")] = _size(scratch, rows, seed, everybody=True)
    if huge:
        with scratch_folder(folder, "bench-monitoring-") as scratch:
            told["1e8"] = _size(scratch, HUGE, seed, everybody=False)
    with scratch_folder(folder, "bench-monitoring-") as scratch:
        single = _single_chunks(scratch, seed, repetitions)
    report.figures(**told, **single)


def _size(folder: Path, rows: int, seed: int, everybody: bool) -> dict[str, Any]:
    """All contestants at one size."""
    report.say(f"Writing {rows:,} rows")
    write(rows, folder, seed, parquet=everybody)
    names = ["pushdown", "pushdown_parquet", "nannyml", "evidently"] if everybody else ["pushdown"]
    costs = {name: _contestant(name, folder, rows) for name in names}
    report.table(
        f"{rows:,} rows, {len(FEATURES)} features, {WINDOWS} windows",
        ["contestant", "CPU s", "seconds", "peak MB", "stages (CPU s)"],
        [
            (
                n,
                c["cpu_s"],
                c["seconds"],
                c["peak_mb"],
                ", ".join(f"{k} {v:.2g}" for k, v in c["stages"].items()),
            )
            for n, c in costs.items()
        ],
    )
    ours = costs["pushdown"]
    found = {"cpu_s": ours["cpu_s"], "peak_mb": ours["peak_mb"], "rows_per_second": rows / ours["seconds"]}
    if not everybody:
        return found
    ratios = {f"cpu_ratio_vs_{n}": costs[n]["cpu_s"] / ours["cpu_s"] for n in ("nannyml", "evidently")}
    parquet = costs["nannyml"]["cpu_s"] / costs["pushdown_parquet"]["cpu_s"]
    peaks = {f"peak_mb_{n}": costs[n]["peak_mb"] for n in ("nannyml", "evidently")}
    return found | ratios | {"cpu_ratio_from_parquet_vs_nannyml": parquet} | peaks | _differences(folder)


def _contestant(name: str, folder: Path, rows: int) -> dict[str, Any]:
    report.say(f"  {name}")
    command = [sys.executable, "-m", "selfheal_assets_tests.bench.monitoring_contestants", name]
    command += [str(folder), str(rows)]
    environment = {**_inherited(), **ENVIRONMENT, **QUIET}
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=3600)
    if ran.returncode:
        raise SystemExit(f"{name} failed:\n{ran.stderr[-3000:]}")
    return json.loads(ran.stdout.splitlines()[-1])


def _inherited() -> dict[str, str]:
    import os

    return dict(os.environ)


def _differences(folder: Path) -> dict[str, float]:
    """Largest relative difference from NannyML over all its figures; ranking metrics apart, as it rounds inside."""
    ours, theirs = (pl.read_parquet(folder / f"{n}.parquet") for n in ("pushdown", "nannyml"))
    both = theirs.join(ours, on=["chunk", "feature", "method"], how="left", suffix="_ours")
    if missing := both["value_ours"].null_count():
        raise SystemExit(f"{missing} of NannyML's {theirs.height} figures are not among ours")
    gap = both.select("method", gap=(pl.col("value") - pl.col("value_ours")).abs() / pl.col("value").abs())
    ranking = pl.col("method").is_in(RANKING)
    exact, ranked = (gap.filter(where)["gap"].fill_nan(0.0).max() for where in (~ranking, ranking))
    return {"largest_difference": exact, "largest_difference_ranking": ranked, "figures": both.height}  # type: ignore[dict-item]


def _single_chunks(folder: Path, seed: int, repetitions: int) -> dict[str, float]:
    """A chunk of 20,000 rows; and one of 100,000 with the statistics of 1 and of 1,000 such chunks stored."""
    rows = pl.concat(list(batches(1_000_000, seed)))
    profile = _profile(rows.filter(pl.col("w") < 0))
    new = rows.filter(pl.col("w") >= 0)
    stores = {1: folder / "few.duckdb", 1000: folder / "many.duckdb"}
    report.say("Storing the statistics of 1,000 chunks of 100,000 rows")
    for chunks, path in stores.items():
        with duckdb.connect(str(path)) as connection:
            _fill(connection, profile, new, chunks)
    spent: dict[int, list[tuple[float, float]]] = {chunks: [] for chunks in stores}
    small: list[tuple[float, float]] = []
    for n in range(repetitions):
        part = new.slice((n % 7) * CHUNK, CHUNK)
        for chunks, path in stores.items():
            with duckdb.connect(str(path)) as connection:
                spent[chunks].append(_one_chunk(connection, profile, part))
        with duckdb.connect() as connection:
            small.append(_one_chunk(connection, profile, part.head(SMALL_CHUNK)))
    few, many, little = (_medians(times) for times in (spent[1], spent[1000], small))
    report.table(
        "One more chunk: count, store, all figures",
        ["rows of the chunk", "rows seen before", "ms", "CPU ms"],
        [(SMALL_CHUNK, 0, *little), (CHUNK, CHUNK, *few), (CHUNK, 1000 * CHUNK, *many)],
    )
    cpu = {"chunk_20k_cpu_ms": little[1], "chunk_100k_cpu_ms": many[1]}
    return {"new_chunk_ratio": many[1] / few[1], "chunk_20k_ms": little[0], "chunk_100k_ms": many[0]} | cpu


def _medians(times: list[tuple[float, float]]) -> tuple[float, float]:
    """Median milliseconds on the wall and of the processor."""
    wall, cpu = (statistics.median(t) * 1000 for t in zip(*times, strict=True))
    return wall, cpu


def _profile(reference: pl.DataFrame) -> Profile:
    with duckdb.connect() as connection:
        connection.register("reference", reference.to_arrow())
        calibration = fit_isotonic(*scored_labels(connection, "reference", "label"))
        return fit_profile(connection, "reference", FEATURES, calibration=calibration)


def _fill(connection: duckdb.DuckDBPyConnection, profile: Profile, rows: pl.DataFrame, chunks: int) -> None:
    """Statistics of ``chunks`` chunks: of as many different ones as there are rows for, under new names."""
    connection.register("rows", rows.with_row_index("i").to_arrow())
    different = statistics_of(connection, "rows", profile, key=f"i // {CHUNK}")
    names = different.chunks[: rows.height // CHUNK]
    for start in range(0, chunks, 50):
        renamed = [
            _renamed(different.of(names[i % len(names)]), f"c{i:04d}")
            for i in range(start, min(start + 50, chunks))
        ]
        store_statistics(connection, profile, side_by_side(renamed))


def _renamed(statistics: ChunkStatistics, name: str) -> ChunkStatistics:
    named = pl.lit(name).alias("chunk")
    return ChunkStatistics(statistics.features.with_columns(named), statistics.scores.with_columns(named))


def _one_chunk(
    connection: duckdb.DuckDBPyConnection, profile: Profile, rows: pl.DataFrame
) -> tuple[float, float]:
    """Seconds from rows in a table to every figure, stored counts included: on the wall, of the processor."""
    connection.register("incoming_rows", rows.to_arrow())
    connection.execute("create or replace temp table new_rows as from incoming_rows")
    connection.unregister("incoming_rows")
    started, before = time.perf_counter(), time.process_time()
    statistics = statistics_of(connection, "new_rows", profile, chunk="new")
    store_statistics(connection, profile, statistics)
    drift, expected = drift_figures(profile, statistics), expected_performance(profile, statistics)
    spent = time.perf_counter() - started, time.process_time() - before
    if drift["value"].null_count() == drift.height or {*CONFUSION.values()} - {*expected["metric"]}:
        raise SystemExit("the figures of a chunk are missing")
    return spent


if __name__ == "__main__":
    report.run(main)
