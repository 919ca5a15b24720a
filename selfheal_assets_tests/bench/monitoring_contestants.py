"""One contestant of ``bench-monitoring``, in a process of its own: the same figures, each from the same rows.

Processor seconds are those after the imports; the peak of memory is the process's, imports included.
"""

import json
import os
import resource
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import polars as pl
import typer

from selfheal_assets_tests.bench import report
from selfheal_assets_tests.bench.ingest import peak_mb
from selfheal_assets_tests.bench.monitoring_data import CATEGORIES, FEATURES, NUMBERS, window_rows

NUMBER_METHODS = ["jensen_shannon", "hellinger", "kolmogorov_smirnov", "wasserstein"]
CATEGORY_METHODS = ["jensen_shannon", "hellinger", "l_infinity", "chi2"]
METRICS = ["roc_auc", "average_precision", "f1", "precision", "recall", "specificity", "accuracy"]
CELLS = ("true_positive", "false_positive", "false_negative", "true_negative")
CONFUSION = {cell: f"{cell}s" for cell in CELLS}
_CONFIG = {"memory_limit": "300MB", "threads": 1}  # one thread, as the peers: two that share a core cost more
TOGETHER = 10_000_000
Stages = dict[str, float]


class Clock:
    """Processor seconds of this process, by stage."""

    def __init__(self) -> None:
        self.stages: Stages = {}
        self._cpu, self._wall = _cpu_s(), time.perf_counter()
        self._began = self._wall

    def done(self, stage: str) -> None:
        """The stage ends now, and the next one begins."""
        now = _cpu_s()
        self.stages[stage] = now - self._cpu
        self._cpu = now

    @property
    def seconds(self) -> float:
        """On the wall, since the clock was made."""
        return time.perf_counter() - self._began


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def pushdown(folder: Path, rows: int, parquet: bool = False) -> tuple[Clock, pl.DataFrame]:
    """Profile, statistics of all windows, drift and expected performance, from DuckDB or Parquet."""
    import duckdb
    import sklearn.isotonic
    import sklearn.model_selection  # noqa: F401

    from selfheal_assets.core.calibration import plain_map
    from selfheal_assets.core.drift import drift_figures
    from selfheal_assets.core.score_table import expected_performance
    from selfheal_assets.stores.pushdown import statistics_of
    from selfheal_assets.stores.reference_profile import fit_profile, scored_labels

    clock = Clock()
    path, table = (":memory:", f"read_parquet('{folder / 'rows.parquet'}')") if parquet else (
        str(folder / "rows.duckdb"), "rows"
    )  # fmt: skip
    threads = {"threads": os.cpu_count()} if rows > TOGETHER else {}  # where it is the wall that counts
    with duckdb.connect(path, read_only=not parquet, config=_CONFIG | threads) as connection:
        connection.execute(f"set temp_directory = '{folder / 'spilled'}'")
        reference = f"(from {table} where w < 0)"
        calibration = plain_map(*scored_labels(connection, reference, "label"))
        clock.done("calibrate")
        profile = fit_profile(connection, reference, FEATURES, calibration=calibration)
        clock.done("fit")
        statistics = statistics_of(connection, f"(from {table} where w >= 0)", profile, key="w")
        clock.done("count")
    drift = drift_figures(profile, statistics)
    expected = expected_performance(profile, statistics)
    clock.done("figures")
    found = drift.select("chunk", "feature", "method", "value")
    metrics = expected.select("chunk", pl.lit("").alias("feature"), pl.col("metric").alias("method"), "value")
    return clock, pl.concat([found, metrics])


def nannyml(folder: Path, rows: int) -> tuple[Clock, pl.DataFrame]:
    """The univariate calculator with every method, on features, score and prediction; CBPE with every metric."""
    import logging

    import pandas as pd

    warnings.simplefilter("ignore")
    import nannyml as nml
    from nannyml.chunk import SizeBasedChunker

    logging.getLogger("nannyml").setLevel(logging.ERROR)
    clock = Clock()
    frame = pd.read_parquet(folder / "rows.parquet")
    numbers, categories = [*NUMBERS, "probability"], [*CATEGORIES, "drift_prediction"]
    frame["drift_prediction"] = frame["prediction"]  # CBPE wants it as a number
    for c in categories:
        frame[c] = frame[c].astype("category")
    reference, analysis = frame[frame.w < 0], frame[frame.w >= 0]
    del frame
    clock.done("load")
    chunker = SizeBasedChunker(window_rows(rows), incomplete="drop")
    calculator = nml.UnivariateDriftCalculator(
        column_names=[*numbers, *categories],
        treat_as_categorical=categories,
        continuous_methods=NUMBER_METHODS,
        categorical_methods=CATEGORY_METHODS,
        chunker=chunker,
    ).fit(reference)
    estimator = nml.CBPE(
        y_pred_proba="probability",
        y_pred="prediction",
        y_true="label",
        problem_type="classification_binary",
        metrics=[*METRICS, "confusion_matrix"],
        chunker=chunker,
    ).fit(reference)
    clock.done("fit")
    drift = calculator.calculate(analysis).filter(period="analysis").to_df()
    performance = estimator.estimate(analysis).filter(period="analysis").to_df()
    clock.done("figures")
    parts = [
        _column(drift[(c, m, "value")], c.removeprefix("drift_"), m)
        for names, methods in ((numbers, NUMBER_METHODS), (categories, CATEGORY_METHODS))
        for c in names
        for m in methods
    ]
    theirs = {m: m for m in METRICS} | CONFUSION
    parts += [_column(performance[(m, "value")], "", ours) for m, ours in theirs.items()]
    return clock, pl.concat(parts)


def _column(values: Any, feature: str, method: str) -> pl.DataFrame:
    value = values.to_numpy().astype(float)
    names = {"chunk": [str(i) for i in range(len(value))], "feature": feature, "method": method}
    return pl.DataFrame(names | {"value": value})


def evidently(folder: Path, rows: int) -> tuple[Clock, pl.DataFrame]:
    """Jensen–Shannon of each column in one report, of all analysis rows as one window: a part of the figures."""
    import pandas as pd

    warnings.simplefilter("ignore")
    from evidently import DataDefinition, Dataset, Report
    from evidently.metrics import ValueDrift

    clock = Clock()
    numbers, categories = [*NUMBERS, "probability"], [*CATEGORIES, "prediction"]
    frame = pd.read_parquet(folder / "rows.parquet", columns=["w", *numbers, *categories])
    for c in categories:
        frame[c] = frame[c].astype("category")
    reference, analysis = (frame[m].drop(columns="w") for m in (frame.w < 0, frame.w >= 0))
    del frame
    clock.done("load")
    definition = DataDefinition(numerical_columns=numbers, categorical_columns=categories)
    old, new = (Dataset.from_pandas(f, data_definition=definition) for f in (reference, analysis))
    columns = [*numbers, *categories]
    ran = Report([ValueDrift(column=c, method="jensenshannon") for c in columns]).run(new, old)
    values = [m["value"] for m in ran.dict()["metrics"]]
    clock.done("figures")
    found = {
        "chunk": "all",
        "feature": columns,
        "method": "jensen_shannon",
        "value": [float(v) for v in values],
    }
    return clock, pl.DataFrame(found)


CONTESTANTS: dict[str, Callable[[Path, int], tuple[Clock, pl.DataFrame]]] = {
    "pushdown": pushdown,
    "pushdown_parquet": lambda folder, rows: pushdown(folder, rows, parquet=True),
    "nannyml": nannyml,
    "evidently": evidently,
}


def main(
    name: Annotated[str, typer.Argument(help=f"One of {', '.join(CONTESTANTS)}.")],
    folder: Annotated[Path, typer.Argument(help="Where the rows are.")],
    rows: Annotated[int, typer.Argument(help="How many there are.")],
) -> None:
    """Compute the figures, leave them in FOLDER/NAME.parquet, and print what it cost as JSON."""
    clock, figures = CONTESTANTS[name](folder, rows)
    figures.write_parquet(folder / f"{name}.parquet")
    cost = {"cpu_s": sum(clock.stages.values()), "seconds": clock.seconds, "peak_mb": peak_mb()}
    print(json.dumps(cost | {"stages": clock.stages}))


if __name__ == "__main__":
    report.run(main)
