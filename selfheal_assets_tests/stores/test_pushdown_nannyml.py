"""NannyML is the judge: on its own data sets and on ours, pushed-down figures are its figures.

Every univariate method and every metric of CBPE, chunk by chunk: to 1e-12 for drift and confusion cells, to 1e-7 for
ROC AUC and average precision, which NannyML rounds on the way.
"""

import os
import warnings
from dataclasses import dataclass

import duckdb
import numpy as np
import polars as pl
import pytest

from selfheal_assets.core.calibration import plain_map
from selfheal_assets.core.drift import drift_figures
from selfheal_assets.core.score_table import expected_performance
from selfheal_assets.core.spec import Feature, FeatureType
from selfheal_assets.stores.pushdown import statistics_of
from selfheal_assets.stores.reference_profile import fit_profile, scored_labels
from selfheal_assets_tests.toy import PROJECT

pytestmark = pytest.mark.integration
NUMBER_METHODS = ["jensen_shannon", "hellinger", "kolmogorov_smirnov", "wasserstein"]
CATEGORY_METHODS = ["jensen_shannon", "hellinger", "l_infinity", "chi2"]
METRICS = ["f1", "precision", "recall", "specificity", "accuracy"]
CELLS = ("true_positive", "false_positive", "false_negative", "true_negative")
CONFUSION = {cell: f"{cell}s" for cell in CELLS}


@dataclass
class Data:
    """A reference and an analysis frame with ``probability``, ``prediction`` and ``label``, and which columns."""

    reference: pl.DataFrame
    analysis: pl.DataFrame
    numbers: list[str]
    categories: list[str]
    size: int


@pytest.fixture(scope="module")
def nml():
    os.environ["NML_DISABLE_USAGE_LOGGING"] = "1"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import nannyml

        yield nannyml


def car_loan(nml) -> Data:
    reference, analysis, _ = nml.load_synthetic_car_loan_dataset()
    numbers = ["car_value", "debt_to_income_ratio", "driver_tenure", "loan_length"]
    categories = ["salary_range", "repaid_loan_on_prev_car", "size_of_downpayment"]
    names = {"y_pred_proba": "probability", "y_pred": "prediction", "repaid": "label"}
    return _data(reference, analysis, numbers, categories, names, 5_000)


def employment(nml) -> Data:
    reference, analysis, _ = nml.load_us_census_ma_employment_data()
    names = {"predicted_probability": "probability", "prediction": "prediction", "employed": "label"}
    return _data(reference, analysis, ["AGEP"], ["SCHL", "SEX", "RAC1P", "MAR"], names, 20_000)


def _data(reference, analysis, numbers, categories, names, size) -> Data:
    frames = []
    for frame in (reference, analysis):
        frame = frame.rename(columns=names)
        kept = [*numbers, *categories, *(n for n in names.values() if n in frame)]
        frames.append(
            pl.from_pandas(frame[kept]).with_columns(
                pl.col(numbers).cast(pl.Float64), pl.col(categories).cast(pl.String)
            )
        )
    return Data(*frames, numbers, categories, size)


def sba_loans(nml, reference_rows: int) -> Data:
    """Our sample, with a stand-in for the score; a reference below 10,000 rows is compared by value."""
    numbers, categories = ["amount", "employees", "jobs_created"], ["state", "business_age", "area"]
    loans = pl.read_parquet(PROJECT / "data" / "sba_loans_sample.parquet").sort("approved_on", "loan_id")
    rng = np.random.default_rng(3)
    score = 1 / (
        1 + np.exp(2.0 + 0.2 * np.log1p(loans["amount"].to_numpy()) - rng.normal(2, 1, loans.height))
    )
    frame = loans.select(
        pl.col(numbers).cast(pl.Float64),
        *categories,
        pl.Series("probability", score),
        pl.Series("prediction", (score > 0.2).astype(np.int8)),
        pl.Series("label", (rng.random(loans.height) < score**1.2).astype(np.int8)),
    )
    analysis = frame.slice(reference_rows, 4 * (reference_rows // 2))
    return Data(frame.head(reference_rows), analysis, numbers, categories, reference_rows // 2)


CASES = {
    "car_loan": car_loan,
    "employment": employment,
    "sba_loans": lambda nml: sba_loans(nml, 12_000),
    "sba_loans_small": lambda nml: sba_loans(nml, 3_000),
}


@pytest.mark.parametrize("name", CASES)
def test_every_figure_is_nannymls(nml, name):
    data = CASES[name](nml)
    drift, expected = _pushed_down(data)
    for (column, method), theirs in _univariate(nml, data).items():
        ours = drift.filter((pl.col("feature") == column) & (pl.col("method") == method))["value"].to_numpy()
        assert ours == pytest.approx(theirs, rel=1e-12, abs=1e-300), (column, method)
    for metric, theirs in _cbpe(nml, data).items():
        ours = expected.filter(pl.col("metric") == metric)["value"].to_numpy()
        tolerance = 1e-7 if metric in ("roc_auc", "average_precision") else 1e-12
        assert ours == pytest.approx(theirs, rel=tolerance), metric


def _pushed_down(data: Data) -> tuple[pl.DataFrame, pl.DataFrame]:
    features = [Feature.model_construct(name=n, type=FeatureType.number) for n in data.numbers]
    features += [Feature.model_construct(name=n, type=FeatureType.category) for n in data.categories]
    chunks = data.analysis.height // data.size
    with duckdb.connect() as connection:
        connection.register("reference", data.reference.to_arrow())
        analysis = data.analysis.head(chunks * data.size).with_row_index("i")
        connection.register("analysis", analysis.to_arrow())
        calibration = plain_map(*scored_labels(connection, "reference", "label"))
        profile = fit_profile(connection, "reference", features, calibration=calibration)
        statistics = statistics_of(connection, "analysis", profile, key=f"(i // {data.size})::integer")
    assert [int(c) for c in statistics.chunks] == list(range(chunks))
    return drift_figures(profile, statistics), expected_performance(profile, statistics)


def _chunker(data: Data):
    from nannyml.chunk import SizeBasedChunker

    return SizeBasedChunker(data.size, incomplete="drop")


def _univariate(nml, data: Data) -> dict[tuple[str, str], np.ndarray]:
    numbers, categories = [*data.numbers, "probability"], [*data.categories, "prediction"]
    frames = [
        f.with_columns(pl.col(categories).cast(pl.String)).to_pandas().astype({c: object for c in categories})
        for f in (data.reference, data.analysis)
    ]
    calculator = nml.UnivariateDriftCalculator(
        column_names=[*numbers, *categories],
        treat_as_categorical=categories,
        continuous_methods=NUMBER_METHODS,
        categorical_methods=CATEGORY_METHODS,
        chunker=_chunker(data),
    ).fit(frames[0])
    found = calculator.calculate(frames[1]).filter(period="analysis").to_df()
    return {
        (c, m): found[(c, m, "value")].to_numpy().astype(float)
        for columns, methods in ((numbers, NUMBER_METHODS), (categories, CATEGORY_METHODS))
        for c in columns
        for m in methods
    }


def _cbpe(nml, data: Data) -> dict[str, np.ndarray]:
    estimator = nml.CBPE(
        y_pred_proba="probability",
        y_pred="prediction",
        y_true="label",
        problem_type="classification_binary",
        metrics=["roc_auc", "average_precision", *METRICS, "confusion_matrix"],
        chunker=_chunker(data),
    ).fit(data.reference.to_pandas())
    found = (
        estimator.estimate(data.analysis.drop("label", strict=False).to_pandas())
        .filter(period="analysis")
        .to_df()
    )
    names = {m: m for m in ["roc_auc", "average_precision", *METRICS]} | CONFUSION
    return {ours: found[(theirs, "value")].to_numpy().astype(float) for theirs, ours in names.items()}
