"""The limit beside a distance is NannyML's own: held against its calculator on its car loan data."""

import polars as pl
import pytest

from selfheal_assets import nannyml_bridge
from selfheal_assets.core.drift import drift_figures
from selfheal_assets.core.drift_limits import METHOD, scatter_limits, with_limits
from selfheal_assets.core.profile import Profile
from selfheal_assets.core.spec import Feature
from selfheal_assets.settings import prepare_environment
from selfheal_assets.stores.champion_counts import fit_cells, reference_chunks
from selfheal_assets.stores.pushdown import statistics_of
from selfheal_assets.stores.warehouse import Warehouse
from selfheal_assets.use_case import load_use_case

NUMBERS = ("car_value", "debt_to_income_ratio", "driver_tenure")
CATEGORIES = ("salary_range", "size_of_downpayment")
FEATURES = (
    *(Feature(name=n, type="number", nullable=True) for n in NUMBERS),
    *(Feature(name=n, type="category", nullable=True) for n in CATEGORIES),
)
NAMES = {"y_pred_proba": "probability", "y_pred": "prediction", "repaid": "label"}
CASE = load_use_case("sba_loans").model_copy(update={"features": FEATURES, "segments": ()})
CHUNKS = 10
# Below and above the 10,000 rows from which on numbers are counted in cells; three rows are left over.
SIZES = (6_003, 20_003)


@pytest.fixture(scope="module")
def car_loans() -> tuple[pl.DataFrame, pl.DataFrame]:
    """Reference and analysis period."""
    prepare_environment()
    import nannyml

    reference, analysis, _ = nannyml.load_synthetic_car_loan_dataset()
    columns = [*NUMBERS, *CATEGORIES, *NAMES]
    return (
        pl.from_pandas(reference[columns]).rename(NAMES),
        pl.from_pandas(analysis[columns[:-1]]).rename(NAMES, strict=False),
    )


@pytest.fixture
def warehouse(tmp_path) -> Warehouse:
    return Warehouse(tmp_path / "w.duckdb", tmp_path / "published")


def fitted(warehouse: Warehouse, reference: pl.DataFrame) -> tuple[Profile, pl.DataFrame]:
    profile = fit_cells(warehouse, CASE, reference)
    return profile, scatter_limits(profile, reference_chunks(warehouse, profile, reference, CHUNKS))


@pytest.mark.parametrize("rows", SIZES)
def test_limits_and_alerts_are_nannymls_own(warehouse, car_loans, rows):
    reference, chunk = car_loans[0].head(rows), car_loans[1].tail(2_000)
    profile, limits = fitted(warehouse, reference)
    with warehouse.read() as connection:
        connection.register("rows_of_chunk", chunk.to_arrow())
        figures = drift_figures(profile, statistics_of(connection, "rows_of_chunk", profile, chunk="late"))
    names = [f.name for f in FEATURES]
    direct = nannyml_bridge.fit_drift(reference.select(names), FEATURES).univariate_drift(chunk.select(names))
    judged = {
        r["feature"]: r
        for r in with_limits(figures, limits).filter(method=METHOD, segment="all").iter_rows(named=True)
    }
    for row in direct.iter_rows(named=True):
        ours = judged[row["feature"]]
        assert ours["threshold"] == pytest.approx(row["threshold"], abs=1e-9), row["feature"]
        assert ours["value"] == pytest.approx(row["value"], abs=1e-9), row["feature"]
        assert ours["alert"] is row["alert"]
    assert {r["alert"] for r in direct.iter_rows(named=True)} == {True, False}


def test_there_is_a_limit_for_each_column_that_has_distances(warehouse, car_loans):
    reference = car_loans[0].head(3_000).with_columns(driver_tenure=pl.lit(None, dtype=pl.Float64))
    _, limits = fitted(warehouse, reference)
    assert limits.columns == ["feature", "segment", "method", "threshold"]
    assert set(limits["feature"]) == {f.name for f in FEATURES} - {"driver_tenure"} | {
        "probability",
        "prediction",
    }
    assert limits.select("segment", "method").unique().rows() == [("all", METHOD)]
    assert limits["threshold"].is_between(0, 1).all()


def test_a_limit_is_at_most_one(warehouse, car_loans):
    """Where a reference changes so much by itself that mean and three deviations exceed any distance there is."""
    reference = car_loans[0].head(3_000).with_row_index("at")
    changing = pl.concat_str(pl.lit("kind "), pl.max_horizontal("at", pl.lit(2_100)) // 300)
    reference = reference.with_columns(salary_range=changing).drop("at")
    _, limits = fitted(warehouse, reference)
    names = [f.name for f in FEATURES]
    judge = nannyml_bridge.fit_drift(reference.select(names), FEATURES)
    direct = judge.univariate_drift(reference.select(names).tail(300)).filter(feature="salary_range")
    assert limits.filter(feature="salary_range")["threshold"].to_list() == [1.0]
    assert (
        direct["threshold"][0] > 1.05
    )  # NannyML leaves its own as it is, which no distance can exceed either
    assert direct["alert"].to_list() == [False]


def test_a_distance_alerts_beyond_its_own_limit_and_not_at_it():
    keys = {"feature": ["b", "a", "a", "a", "c"], "segment": ["all", "all", "all", "s=1", "all"]}
    figures = pl.DataFrame(
        keys | {"method": [METHOD, METHOD, "psi", METHOD, METHOD], "value": [0.2, 0.2001, 9.0, 9.0, None]}
    )
    limits = pl.DataFrame(
        {"feature": ["a", "b", "c"], "segment": ["all"] * 3, "method": [METHOD] * 3, "threshold": [0.2] * 3}
    )
    judged = with_limits(figures, limits)
    assert judged["threshold"].to_list() == [0.2, 0.2, None, None, 0.2]
    assert judged["alert"].to_list() == [False, True, None, None, None]
    assert judged.select(figures.columns).equals(figures)
