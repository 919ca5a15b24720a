"""The bridge gives NannyML's own numbers, a reason where there is none, and keeps NannyML out of everything else."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest

import selfheal_assets
from selfheal_assets import nannyml_bridge
from selfheal_assets.core.spec import Feature
from selfheal_assets.settings import prepare_environment

# NannyML advises against few chunks; here one chunk is what is judged.
pytestmark = pytest.mark.filterwarnings("ignore:The resulting number of chunks is too low:UserWarning")

PACKAGE = Path(selfheal_assets.__file__).parent
NUMBERS = ("car_value", "debt_to_income_ratio", "driver_tenure")
CATEGORIES = ("salary_range", "size_of_downpayment")
FEATURES = tuple(
    [Feature(name=n, type="number", nullable=True) for n in NUMBERS]
    + [Feature(name=n, type="category", nullable=True) for n in CATEGORIES]
)
REFERENCE_ROWS, CHUNK_ROWS = 6000, 600  # so that a chunk is as long as one of the ten reference chunks


@pytest.fixture(scope="module")
def nml():
    prepare_environment()
    import nannyml

    return nannyml


@pytest.fixture(scope="module")
def car_loans(nml):
    """NannyML's car loan data: reference and analysis, pandas, as NannyML ships them."""
    reference, analysis, _ = nml.load_synthetic_car_loan_dataset()
    return reference.head(REFERENCE_ROWS), analysis


def features_of(frame) -> pl.DataFrame:
    return pl.from_pandas(frame[[*NUMBERS, *CATEGORIES]])


def scored_of(frame) -> pl.DataFrame:
    columns = {"y_pred_proba": "probability", "y_pred": "prediction", "repaid": "label"}
    frame = pl.from_pandas(frame[[c for c in columns if c in frame.columns]])
    return frame.rename({k: v for k, v in columns.items() if k in frame.columns})


@pytest.fixture(scope="module")
def drift(car_loans):
    return nannyml_bridge.fit_drift(features_of(car_loans[0]), FEATURES)


@pytest.fixture(scope="module")
def performance(car_loans):
    return nannyml_bridge.fit_performance(scored_of(car_loans[0]))


@pytest.fixture(scope="module")
def drift_by_nannyml(nml, car_loans):
    """NannyML's calculator used as its documentation does, over both ends of the analysis period."""
    reference, analysis = car_loans
    calculator = nml.UnivariateDriftCalculator(
        column_names=[*NUMBERS, *CATEGORIES],
        treat_as_categorical=list(CATEGORIES),
        continuous_methods=["jensen_shannon"],
        categorical_methods=["jensen_shannon"],
        chunk_size=CHUNK_ROWS,
    ).fit(reference)
    return {
        part: calculator.calculate(chunk).filter(period="analysis").to_df() for part, chunk in parts(analysis)
    }


def parts(analysis) -> list[tuple[str, object]]:
    return [("early", analysis.head(CHUNK_ROWS)), ("late", analysis.tail(CHUNK_ROWS).reset_index(drop=True))]


@pytest.mark.parametrize("part", ["early", "late"])
def test_drift_is_nannymls_own(drift, drift_by_nannyml, car_loans, part):
    found = drift.univariate_drift(features_of(dict(parts(car_loans[1]))[part]))
    direct = drift_by_nannyml[part].iloc[0]
    assert found["feature"].to_list() == [*NUMBERS, *CATEGORIES]
    for row in found.iter_rows(named=True):
        cell = direct[row["feature"]]["jensen_shannon"]
        assert row["value"] == pytest.approx(cell["value"], abs=1e-12)
        assert row["threshold"] == pytest.approx(cell["upper_threshold"], abs=1e-12)
        assert row["alert"] is bool(cell["alert"])
        assert row["reason"] is None


def test_a_longer_chunk_is_judged_whole_by_the_limits_of_the_reference_chunks(nml, drift, car_loans):
    reference, analysis = car_loans
    whole = nml.UnivariateDriftCalculator(
        column_names=["car_value"], continuous_methods=["jensen_shannon"], chunk_size=2 * CHUNK_ROWS
    ).fit(reference)
    direct = whole.calculate(analysis.head(2 * CHUNK_ROWS)).filter(period="analysis").to_df().iloc[0]
    found = drift.univariate_drift(features_of(analysis.head(2 * CHUNK_ROWS))).row(0, named=True)
    shorter = drift.univariate_drift(features_of(analysis.head(CHUNK_ROWS))).row(0, named=True)
    assert found["value"] == pytest.approx(direct["car_value"]["jensen_shannon"]["value"], abs=1e-12)
    assert found["threshold"] == shorter["threshold"]


def test_left_over_reference_rows_do_not_raise_the_limits(nml, drift, car_loans):
    """NannyML's default keeps an incomplete chunk of the reference, whose scatter drowns a real shift."""
    analysis = car_loans[1]
    more = nml.load_synthetic_car_loan_dataset()[0].head(REFERENCE_ROWS + 3)
    judge = nannyml_bridge.fit_drift(features_of(more), FEATURES)
    chunk = features_of(analysis.head(CHUNK_ROWS))
    with_rest = judge.univariate_drift(chunk)["threshold"]
    without = drift.univariate_drift(chunk)["threshold"]
    assert ((with_rest / without - 1).abs() < 0.1).all()
    kept = nml.UnivariateDriftCalculator(
        column_names=["car_value"], continuous_methods=["jensen_shannon"], chunk_size=CHUNK_ROWS
    ).fit(more)
    limit = kept.calculate(analysis.head(CHUNK_ROWS)).filter(period="analysis").to_df().iloc[0]
    assert limit["car_value"]["jensen_shannon"]["upper_threshold"] > 2 * without[0]


@pytest.mark.parametrize("part", ["early", "late"])
def test_estimates_are_nannymls_own(nml, performance, car_loans, part):
    from nannyml.thresholds import StandardDeviationThreshold

    reference, analysis = car_loans
    direct = (
        nml.CBPE(
            y_pred_proba="y_pred_proba",
            y_pred="y_pred",
            y_true="repaid",
            problem_type="classification_binary",
            metrics=["roc_auc", "f1"],
            chunk_size=CHUNK_ROWS,
            thresholds={m: StandardDeviationThreshold(3, None) for m in ("roc_auc", "f1")},
        )
        .fit(reference)
        .estimate(dict(parts(analysis))[part])
        .filter(period="analysis")
        .to_df()
        .iloc[0]
    )
    found = performance.estimate(scored_of(dict(parts(analysis))[part]))
    assert found["metric"].to_list() == ["roc_auc", "f1"]
    for row in found.iter_rows(named=True):
        cell = direct[row["metric"]]
        assert row["value"] == pytest.approx(cell["value"], abs=1e-12)
        assert row["lower"] == pytest.approx(cell["lower_confidence_boundary"], abs=1e-12)
        assert row["upper"] == pytest.approx(cell["upper_confidence_boundary"], abs=1e-12)
        assert row["threshold_lower"] == pytest.approx(cell["lower_threshold"], abs=1e-12)
        assert row["alert"] is bool(cell["alert"])
        assert (row["threshold_upper"], row["reason"]) == (None, None)


def test_only_a_fall_alerts(performance, car_loans):
    rows = scored_of(car_loans[0]).drop("label")
    sure = rows.filter((pl.col("probability") < 0.1) | (pl.col("probability") > 0.9)).head(CHUNK_ROWS)
    unsure = rows.with_columns(probability=0.45 + pl.col("probability") / 10).head(CHUNK_ROWS)
    better, worse = (performance.estimate(chunk).row(0, named=True) for chunk in (sure, unsure))
    assert better["value"] > worse["value"]
    assert (better["alert"], worse["alert"]) == (False, True)


def test_judging_does_not_change_the_judge(drift, performance, car_loans):
    early, late = (chunk for _, chunk in parts(car_loans[1]))
    drifts = [drift.univariate_drift(features_of(c)) for c in (early, late.head(200), early)]
    together = [drift.multivariate_drift(features_of(c)) for c in (early, late.head(200), early)]
    estimates = [performance.estimate(scored_of(c)) for c in (early, late.head(200), early)]
    for first, other, again in (drifts, together, estimates):
        assert first.equals(again)
        assert not first.equals(other)


def test_a_shifted_feature_alerts_and_the_others_do_not(drift, car_loans):
    chunk = features_of(car_loans[1].head(CHUNK_ROWS))
    shifted = chunk.with_columns(pl.col("car_value") * 1.5)
    alerts = dict(drift.univariate_drift(shifted).select("feature", "alert").iter_rows())
    assert alerts == dict.fromkeys(alerts, False) | {"car_value": True}


def test_a_category_never_seen_alerts(drift, car_loans):
    chunk = features_of(car_loans[1].head(CHUNK_ROWS)).with_columns(salary_range=pl.lit("a million"))
    row = drift.univariate_drift(chunk).filter(pl.col("feature") == "salary_range").row(0, named=True)
    assert (row["value"], row["alert"]) == (1.0, True)


def test_a_domain_classifier_judges_where_it_is_asked(nml, car_loans):
    reference, chunk = features_of(car_loans[0].head(2000)), features_of(car_loans[1].head(CHUNK_ROWS))
    judge = nannyml_bridge.fit_drift(reference, FEATURES, domain_classifier=True)
    shifted = chunk.with_columns(pl.col("car_value") * 1.5, salary_range=pl.lit("a million"))
    alike, moved = (judge.multivariate_drift(c).row(1, named=True) for c in (chunk, shifted))
    assert alike["method"] == nannyml_bridge.DOMAIN_CLASSIFIER
    assert (alike["lower_threshold"], alike["upper_threshold"]) == (0.45, 0.65)
    assert 0.4 < alike["value"] < 0.65 and not alike["alert"]
    assert moved["value"] > 0.99 and moved["alert"]


def related(rows: int, seed: int) -> pl.DataFrame:
    """Two features that go together and a third that does not."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=rows)
    return pl.DataFrame({"x": x, "y": x + 0.1 * rng.normal(size=rows), "z": rng.normal(size=rows)})


def test_multivariate_drift_sees_a_relation_that_no_single_feature_shows(nml):
    features = [Feature(name=n, type="number") for n in ("x", "y", "z")]
    reference, chunk = related(REFERENCE_ROWS, 1), related(CHUNK_ROWS, 2)
    judge = nannyml_bridge.fit_drift(reference, features)
    direct = nml.DataReconstructionDriftCalculator(column_names=["x", "y", "z"], chunk_size=CHUNK_ROWS)
    cell = (
        direct.fit(reference.to_pandas())
        .calculate(chunk.to_pandas())
        .filter(period="analysis")
        .to_df()
        .iloc[0]
    )
    row = judge.multivariate_drift(chunk).row(0, named=True)
    assert row["value"] == pytest.approx(cell["reconstruction_error"]["value"], abs=1e-12)
    assert row["upper_threshold"] == pytest.approx(cell["reconstruction_error"]["upper_threshold"], abs=1e-12)
    assert row["alert"] is False
    parted = chunk.with_columns(y=pl.col("y").shuffle(seed=3))
    assert judge.multivariate_drift(parted)["alert"].to_list() == [True]
    assert judge.univariate_drift(parted).equals(judge.univariate_drift(chunk))


def assert_no_nan(frame: pl.DataFrame) -> None:
    for name in frame.columns:
        if frame.schema[name].is_float():
            assert not frame[name].is_nan().any()


@pytest.mark.parametrize("name", ["car_value", "salary_range"])
def test_a_column_that_is_missing_in_the_chunk_is_a_row_with_its_reason(drift, car_loans, name):
    chunk = features_of(car_loans[1].head(CHUNK_ROWS))
    chunk = chunk.with_columns(pl.lit(None, dtype=chunk.schema[name]).alias(name))
    frame = drift.univariate_drift(chunk)
    row = frame.filter(pl.col("feature") == name).row(0, named=True)
    assert (row["value"], row["alert"]) == (None, None)
    assert row["reason"] == "all values are missing in this chunk"
    assert frame["value"].null_count() == 1
    assert_no_nan(frame)
    assert_no_nan(drift.multivariate_drift(chunk))


@pytest.mark.parametrize("value", [1.0, None])
def test_a_column_that_is_constant_in_the_reference_is_a_row_with_its_reason(car_loans, value):
    reference, analysis = (features_of(f.head(1200)) for f in car_loans)
    flat = reference.with_columns(car_value=pl.lit(value, dtype=pl.Float64))
    judge = nannyml_bridge.fit_drift(flat, FEATURES)
    frame = judge.univariate_drift(analysis)
    row = frame.filter(pl.col("feature") == "car_value").row(0, named=True)
    assert row["reason"] == "constant or missing in the reference"
    assert (row["value"], row["threshold"], row["alert"]) == (None, None, None)
    assert frame.height == len(FEATURES)
    assert frame["value"].null_count() == 1
    assert_no_nan(frame)
    assert judge.multivariate_drift(analysis)["value"].null_count() == 0


def test_a_reference_in_which_nothing_varies_is_refused(car_loans):
    with pytest.raises(ValueError, match="each of the 5 features is constant or missing in the reference"):
        nannyml_bridge.fit_drift(features_of(car_loans[0].head(1)), FEATURES)


def test_one_predicted_class_is_no_nan(performance, car_loans):
    rows = scored_of(car_loans[1]).filter(pl.col("prediction") == 0).head(CHUNK_ROWS)
    frame = performance.estimate(rows)
    assert_no_nan(frame)
    assert frame["metric"].to_list() == ["roc_auc", "f1"]
    for row in frame.iter_rows(named=True):
        assert (row["value"] is None) == (row["reason"] is not None) == (row["alert"] is None)


@pytest.mark.parametrize("lost", [None, np.nan, np.inf])
def test_scores_that_are_no_numbers_are_counted(performance, car_loans, lost):
    rows = scored_of(car_loans[1]).head(CHUNK_ROWS)
    broken = pl.when(pl.int_range(pl.len()) < 7).then(pl.lit(lost, dtype=pl.Float64)).otherwise("probability")
    frame = performance.estimate(rows.with_columns(probability=broken))
    assert frame["reason"].to_list() == [f"7 of {CHUNK_ROWS} scores are no numbers and are left out"] * 2
    assert frame.drop("reason").equals(performance.estimate(rows[7:]).drop("reason"))
    assert performance.estimate(rows)["reason"].to_list() == [None, None]
    none = performance.estimate(rows.with_columns(probability=pl.lit(lost, dtype=pl.Float64)))
    assert none["value"].to_list() == [None, None] == none["alert"].to_list()
    assert none["reason"][0] == f"{CHUNK_ROWS} of {CHUNK_ROWS} scores are no numbers and are left out"


def modules_imported_by(source: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module)
    return found


def test_no_other_module_imports_nannyml():
    importing = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        if any(name.split(".")[0] == "nannyml" for name in modules_imported_by(path))
    }
    assert importing == {"nannyml_bridge.py"}


def run(code: str) -> str:
    environment = {k: v for k, v in os.environ.items() if k != "NML_DISABLE_USAGE_LOGGING"}
    environment["PYTHONPATH"] = str(PACKAGE.parent)
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_importing_the_bridge_does_not_import_nannyml():
    code = "import sys, selfheal_assets.nannyml_bridge; print('nannyml' in sys.modules)"
    assert run(code) == "False"


def test_usage_logging_is_off_before_nannyml_is_imported():
    """A finder looks at the environment at the moment NannyML is asked for, and ends the import there."""
    code = """
import os, sys
class Spy:
    def find_spec(self, name, path=None, target=None):
        if name == "nannyml":
            print(os.environ.get("NML_DISABLE_USAGE_LOGGING"))
            raise ImportError("seen")
sys.meta_path.insert(0, Spy())
import polars as pl
from selfheal_assets import nannyml_bridge
rows = pl.DataFrame({"probability": [0.1, 0.9], "prediction": [0, 1], "label": [0, 1]})
try:
    nannyml_bridge.fit_performance(rows)
except ImportError as error:
    print(error)
"""
    assert run(code).split() == ["1", "seen"]
