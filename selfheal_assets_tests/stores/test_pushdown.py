"""Counting in SQL: against NumPy on the rows, over awkward values, segments, sums of chunks, and bad input."""

import json

import duckdb
import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfheal_assets.core import distances
from selfheal_assets.core.calibration import IsotonicMap, fit_isotonic
from selfheal_assets.core.chunk_statistics import ChunkStatistics, cells_of, merge
from selfheal_assets.core.drift import coarse_counts, drift_figures, psi_readings, segment_notes
from selfheal_assets.core.evaluation import segment_of
from selfheal_assets.core.evidence_policy import DriftFigures
from selfheal_assets.core.expected import expected_metrics
from selfheal_assets.core.grid import decile_edges
from selfheal_assets.core.profile import Profile
from selfheal_assets.core.score_table import expected_performance, score_groups
from selfheal_assets.core.spec import Feature, FeatureType, Segment
from selfheal_assets.stores import pushdown
from selfheal_assets.stores.chunk_tables import (
    NotCounted,
    load_statistics,
    span_statistics,
    store_statistics,
    stored_chunks,
)
from selfheal_assets.stores.pushdown import statistics_of
from selfheal_assets.stores.reference_profile import fit_profile

NUMBER, KIND = Feature(name="x", type="number"), Feature(name="kind", type="category")
SMALL_SEGMENTS = DriftFigures(min_segment_rows=30, max_segment_values=2)


@pytest.fixture(autouse=True, params=[0, 150_000], ids=["pushed down", "fetched"])
def _way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways to count, whatever the number of rows."""
    monkeypatch.setattr(pushdown, "_FEW", request.param)


@pytest.fixture
def connection():
    with duckdb.connect(config={"threads": 2}) as opened:
        yield opened


def rows(count: int, seed: int, shift: float = 0.0) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    kind = pl.Series(rng.choice(["a", "b", "c", "rare"], count, p=[0.5, 0.3, 0.19, 0.01]).tolist())
    score = rng.beta(2, 6, count)
    return pl.DataFrame(
        {
            "x": np.where(rng.random(count) < 0.02, np.nan, rng.normal(shift, 1, count)),
            "cents": np.round(rng.lognormal(3, 1, count), 1),
            "whole": rng.poisson(4 + shift, count),
            "kind": kind,
            "probability": score,
            "prediction": (score > 0.3).astype(np.int8),
            "label": (rng.random(count) < score**1.3).astype(np.int8),
            "day": np.arange(count) // 1000,
        }
    ).with_columns(pl.when(pl.col("day") % 7 == 3).then(None).otherwise(pl.col("kind")).alias("kind"))


FEATURES = (NUMBER, Feature(name="cents", type="number"), Feature(name="whole", type="integer"), KIND)
SEGMENTS = (Segment(name="kind", feature="kind"), Segment(name="size", feature="whole", cuts=(3.0, 6.0)))


def fitted(connection, reference: pl.DataFrame, features=FEATURES, **options) -> Profile:
    connection.register("reference", reference.to_arrow())
    return fit_profile(connection, "reference", features, **options)


def counted(connection, profile: Profile, frame: pl.DataFrame, **options) -> ChunkStatistics:
    connection.register("chunk_rows", frame.to_arrow())
    return statistics_of(connection, "chunk_rows", profile, **options)


def histogram(profile: Profile, statistics: ChunkStatistics, feature: str, which: str) -> np.ndarray:
    """A chunk's rows by coarse or fine cell, from its counts."""
    grid = next(c.grid for c in profile.columns if c.name == feature)
    cells = cells_of(statistics).filter((pl.col("feature") == feature) & (pl.col("segment") == "all"))
    dense = np.zeros(len(grid.edges) - 1)
    inside = cells.filter(pl.col("cell").is_between(0, len(dense) - 1))
    dense[inside["cell"].to_numpy()] = inside["rows"].to_numpy()
    return np.bincount(getattr(grid, f"{which}_of"), dense, getattr(grid, which))


@pytest.mark.parametrize("feature", ["x", "cents", "whole"])
def test_counts_are_those_of_numpys_histogram_with_doanes_edges(connection, feature):
    reference, chunk = rows(20_000, 1), rows(5_000, 2, shift=0.4)
    profile = fitted(connection, reference)
    statistics = counted(connection, profile, chunk)
    known = reference[feature].cast(pl.Float64).drop_nans().to_numpy()
    edges = np.histogram_bin_edges(known, bins="doane")
    values = chunk[feature].cast(pl.Float64).drop_nans().to_numpy()
    assert np.array_equal(histogram(profile, statistics, feature, "coarse"), np.histogram(values, edges)[0])
    fine = np.linspace(known.min(), known.max(), 10_001)
    assert np.array_equal(histogram(profile, statistics, feature, "fine"), np.histogram(values, fine)[0])


AWKWARD = st.one_of(
    st.floats(-2, 2, width=32),
    st.integers(-20, 20).map(lambda i: i / 10),
    st.floats(allow_nan=True, allow_infinity=True),
    st.sampled_from([-1.0, 1.0, 0.30000000000000004, np.nextafter(1, 2), np.nextafter(-1, -2), 5e-324]),
    st.none(),
)


@pytest.fixture(scope="module")
def uniform():
    """A connection, and a profile of 10,001 equal steps from −1 to 1."""
    with duckdb.connect(config={"threads": 1}) as opened:
        yield opened, fitted(opened, pl.DataFrame({"x": np.linspace(-1, 1, 10_001)}), [NUMBER])


@settings(max_examples=60, deadline=None)
@given(st.lists(AWKWARD, min_size=1, max_size=40))
def test_awkward_values_are_counted_as_numpy_does_and_give_no_nan(uniform, values):
    connection, profile = uniform
    frame = pl.DataFrame({"x": pl.Series(values, dtype=pl.Float64, strict=False)})
    statistics = counted(connection, profile, frame)
    known = np.array([v for v in values if v is not None and np.isfinite(v)])
    edges = np.linspace(-1, 1, 10_001)
    assert np.array_equal(histogram(profile, statistics, "x", "fine"), np.histogram(known, edges)[0])
    row = statistics.features.row(0, named=True)
    infinite = sum(v is not None and np.isinf(v) for v in values)
    assert (row["rows"], row["infinite"]) == (len(values), infinite)
    assert row["missing"] == len(values) - infinite - len(known)
    sound(drift_figures(profile, statistics))


def sound(figures: pl.DataFrame) -> None:
    """Each row has a number or a reason, never both, never neither, never NaN."""
    assert not figures["value"].is_nan().any()
    assert figures.filter(pl.col("value").is_null() == pl.col("reason").is_null()).is_empty()


def test_values_on_edges_are_counted_with_both_edges_compared(connection):
    edges = np.linspace(0.1, 99.9, 10_001)
    plain = np.minimum(np.floor((edges - 0.1) / ((99.9 - 0.1) / 10_000)), 9_999).astype(int)
    numpys = np.histogram(edges, edges)[0]
    assert not np.array_equal(np.bincount(plain, minlength=10_000), numpys)  # arithmetic alone is wrong here
    profile = fitted(connection, pl.DataFrame({"x": edges}), [NUMBER])
    statistics = counted(connection, profile, pl.DataFrame({"x": edges}))
    assert np.array_equal(histogram(profile, statistics, "x", "fine"), numpys)


def test_psi_cells_hold_tenths_of_the_reference_even_where_one_fine_cell_holds_it_all(connection):
    values = np.random.default_rng(0).normal(size=20_000)
    outlier = np.append(values, 1e9)
    profile = fitted(connection, pl.DataFrame({"x": outlier}), [NUMBER])
    column = profile.columns[0]
    assert len(column.grid.psi) == 9
    bounds = np.searchsorted(column.grid.psi, values, side="right")
    assert np.bincount(bounds) / len(values) == pytest.approx(0.1, abs=0.01)
    moved = counted(connection, profile, pl.DataFrame({"x": values[:5_000] + 1}))
    figures = drift_figures(profile, moved).filter(pl.col("method") == "psi")
    assert figures["value"][0] > 0.5  # the coarse cells see nothing of it


@pytest.mark.parametrize("reference_rows", [12_000, 2_000])
def test_psi_and_jensen_shannon_count_what_lies_outside_the_range(connection, reference_rows):
    reference = np.random.default_rng(0).uniform(0, 1, reference_rows)
    chunk = np.array([-1.0] * 5 + [0.05] * 10 + [0.95] * 10 + [2.0] * 7 + [np.inf] * 3)
    profile = fitted(connection, pl.DataFrame({"x": reference}), [NUMBER])
    statistics = counted(connection, profile, pl.DataFrame({"x": chunk}))
    found = dict(drift_figures(profile, statistics).select("method", "value").rows())
    psi, edges = profile.columns[0].grid.psi, np.histogram_bin_edges(reference, "doane")
    finite = chunk[np.isfinite(chunk)]
    tenths = [np.bincount(np.searchsorted(psi, side, "right"), minlength=10) for side in (reference, finite)]
    assert found["psi"] == pytest.approx(distances.population_stability_index(*map(np.float64, tenths)))
    inside = [np.histogram(side, edges)[0].astype(float) for side in (reference, chunk)]
    assert found["jensen_shannon"] == pytest.approx(distances.jensen_shannon(*inside, elsewhere=15))


def test_deciles_that_lie_in_one_cell_share_its_upper_edge():
    edges, counts = np.arange(5.0), np.array([40, 40, 11, 9]) * 1_000
    light, heavy = decile_edges(edges, counts)
    assert light == () and heavy == {0: [0.1, 0.2, 0.3, 0.4], 1: [0.5, 0.6, 0.7, 0.8], 2: [0.9]}
    fine = np.full(1_000, 7)
    light, heavy = decile_edges(np.arange(1_001.0), fine)
    assert light == tuple(np.arange(100.0, 1_000, 100)) and heavy == {}
    rare = np.append(np.zeros(899), np.full(101, 90)).astype(int)  # a decile lies in the last cell but one
    light, _ = decile_edges(np.arange(1_001.0), np.where(np.arange(1_000) == 999, 1, rare))
    assert len(light) == 9


def test_psi_of_a_segment_counts_the_cells_that_the_segment_has(connection):
    """Thirty categories of another segment would make its cut-off ten times too lenient."""
    rng = np.random.default_rng(1)

    def drawn(count: int) -> pl.DataFrame:
        few = rng.random(count) < 0.5
        kind = np.where(few, rng.choice(["a", "b"], count), rng.choice([f"k{i}" for i in range(30)], count))
        return pl.DataFrame({"kind": kind.tolist(), "branch": np.where(few, "few", "many").tolist()})

    features = [KIND, Feature(name="branch", type="category")]
    profile = fitted(connection, drawn(8_000), features, segments=[Segment(name="branch", feature="branch")])
    drift = drift_figures(profile, counted(connection, profile, drawn(2_000)))
    read = psi_readings(drift, DriftFigures()).filter(pl.col("feature") == "kind")
    assert dict(read.select("segment", "cells").iter_rows()) == {
        "all": 32, "branch=few": 2, "branch=many": 30
    }  # fmt: skip
    row = read.filter(pl.col("segment") == "branch=few").row(0, named=True)
    assert row["cut_off"] == pytest.approx(3.841 * (1 / row["reference_rows"] + 1 / row["rows"]), rel=1e-3)
    own = drift.filter(pl.col("feature") == "branch", pl.col("segment") == "branch=few", method="psi")
    assert "PSI needs two" in own["reason"].item()


def test_psi_is_read_by_bands_and_beside_a_cut_off(connection):
    reference = rows(20_000, 1)
    profile = fitted(connection, reference)
    drift = drift_figures(profile, counted(connection, profile, rows(4_000, 2, shift=0.4)))
    read = {r["feature"]: r for r in psi_readings(drift, DriftFigures()).to_dicts()}
    assert read["x"]["band"] == "watch" and read["x"]["value"] > read["x"]["cut_off"]
    assert read["cents"]["band"] == "stable" and read["cents"]["value"] < read["cents"]["cut_off"] * 2
    assert read["x"]["cut_off"] == pytest.approx(16.918977604620448 * (1 / 19_600 + 1 / 3_920), rel=0.02)


def test_segments_are_those_of_the_gates_and_come_from_the_same_scan(connection):
    reference, chunk = rows(15_000, 1), rows(6_000, 2, shift=0.3)
    profile = fitted(connection, reference, segments=SEGMENTS, policy=SMALL_SEGMENTS)
    whole = counted(connection, profile, chunk)
    assert profile.segment_labels == [
        "all", "kind=a", "kind=b", "kind=(pooled)", "size=< 3", "size=3–6", "size=(pooled)"
    ]  # fmt: skip
    for segment, value in ((SEGMENTS[0], "a"), (SEGMENTS[1], "3–6")):
        mask = segment_of(chunk, segment) == value
        alone = counted(connection, profile, chunk.filter(mask))
        label = f"{segment.name}={value}"
        one = whole.features.filter(pl.col("segment") == label).drop("segment").sort("feature")
        other = alone.features.filter(pl.col("segment") == "all").drop("segment").sort("feature")
        assert one["rows"][0] == mask.sum() and one.equals(other)


def test_the_smallest_segments_are_pooled_and_say_why(connection):
    profile = fitted(connection, rows(15_000, 1), segments=SEGMENTS, policy=SMALL_SEGMENTS)
    notes = dict(segment_notes(profile).rows())
    assert (
        notes["kind=(pooled)"].startswith("pools 3 values (")
        and "beyond the 2 largest" in notes["kind=(pooled)"]
    )
    chunk = counted(connection, profile, rows(3_000, 2).with_columns(kind=pl.lit("never seen")))
    pooled = chunk.features.filter(pl.col("segment") == "kind=(pooled)")
    assert pooled["rows"].unique().to_list() == [3_000]


def test_chunks_counted_together_are_those_counted_alone_and_add_up_to_the_whole(connection):
    chunk = rows(6_000, 3, shift=0.2)
    calibration = fit_isotonic(chunk["probability"].to_numpy(), chunk["label"].to_numpy())
    profile = fitted(connection, rows(12_000, 1), segments=SEGMENTS, calibration=calibration)
    together = counted(connection, profile, chunk, key="day")
    assert together.chunks == [str(d) for d in range(6)]
    alone = counted(connection, profile, chunk.filter(pl.col("day") == 2), chunk="2")
    by = ["feature", "segment"]
    assert together.of("2").features.sort(by).equals(alone.features.sort(by))
    added = merge(
        [together.of("0"), together.of("1"), *(together.of(str(d)) for d in range(2, 6))], "all of it"
    )
    whole = counted(connection, profile, chunk, chunk="all of it")
    exact = [c for c in whole.features.columns if c not in ("below_gap", "above_gap")]
    assert added.features.sort(by).select(exact).equals(whole.features.sort(by).select(exact))
    one, other = (drift_figures(profile, s).sort("feature", "segment", "method") for s in (added, whole))
    assert one["value"].to_numpy() == pytest.approx(other["value"].to_numpy(), rel=1e-12, nan_ok=True)
    ours, theirs = (expected_performance(profile, s) for s in (added, whole))
    assert ours["value"].to_numpy() == pytest.approx(theirs["value"].to_numpy(), rel=1e-12, nan_ok=True)


@pytest.mark.parametrize("calibrated", [True, False])
def test_score_cells_give_the_metrics_of_the_single_rows(connection, calibrated):
    from selfheal_assets.core.score_groups import groups_of_rows

    reference, chunk = rows(4_000, 1), rows(3_000, 2)
    learnt = fit_isotonic(reference["probability"].to_numpy(), reference["label"].to_numpy())
    calibration = learnt if calibrated else IsotonicMap((0.0, 1.0), (0.0, 1.0))
    profile = fitted(connection, reference, calibration=calibration)
    groups = score_groups(profile, counted(connection, profile, chunk))
    score = chunk["probability"].to_numpy()
    single = groups_of_rows(score, calibration(score), chunk["prediction"].to_numpy() == 1)
    ours, theirs = (
        {m: v for m, v, *_ in expected_metrics(g).iter_rows() if v is not None} for g in (groups, single)
    )
    assert ours.keys() == theirs.keys()
    for metric, value in theirs.items():
        coarse = metric in ("roc_auc", "average_precision", "ks", "gini", "log_loss", "brier")
        tolerance = 1e-7 if coarse else 1e-4 if metric == "expected_calibration_error" else 1e-12
        assert ours[metric] == pytest.approx(value, rel=tolerance), metric


def test_a_profile_is_the_same_after_json(connection):
    reference = rows(12_000, 1)
    profile = fitted(
        connection, reference, segments=SEGMENTS, calibration=IsotonicMap((0.1, 0.9), (0.0, 1.0))
    )
    again = Profile.from_dict(json.loads(json.dumps(profile.to_dict())))
    assert again.columns == profile.columns and again.segments == profile.segments
    assert again.fingerprint == profile.fingerprint
    chunk = counted(connection, profile, rows(2_000, 2))
    assert drift_figures(again, chunk).equals(drift_figures(profile, chunk))


def test_stored_chunks_answer_spans_without_their_rows(connection):
    profile = fitted(connection, rows(12_000, 1), calibration=IsotonicMap((0.0, 1.0), (0.0, 1.0)))
    chunk = rows(5_000, 2)
    store_statistics(connection, profile, counted(connection, profile, chunk, key="day"))
    connection.unregister("chunk_rows")
    assert stored_chunks(connection, profile) == ["0", "1", "2", "3", "4"]
    span = span_statistics(connection, profile, ["1", "2"], "1–2")
    whole = counted(connection, profile, chunk.filter(pl.col("day").is_in([1, 2])), chunk="1–2")
    one, other = (drift_figures(profile, s).sort("feature", "method")["value"] for s in (span, whole))
    assert one.to_numpy() == pytest.approx(other.to_numpy(), rel=1e-12, nan_ok=True)


def test_storing_a_chunk_again_replaces_it_and_leaves_others_and_other_profiles(connection):
    profile = fitted(connection, rows(12_000, 1))
    other = fitted(connection, rows(12_000, 9))
    store_statistics(connection, profile, counted(connection, profile, rows(3_000, 2), key="day"))
    store_statistics(connection, other, counted(connection, other, rows(1_000, 2), chunk="0"))
    store_statistics(connection, profile, counted(connection, profile, rows(500, 2), chunk="0"))
    loaded = load_statistics(connection, profile, ["0", "1", "2"])
    assert dict(loaded.features.select("chunk", "rows").unique().rows()) == {"0": 500, "1": 1000, "2": 1000}
    with pytest.raises(NotCounted, match=r"1 of 2 chunks are not counted .*: 7"):
        load_statistics(connection, profile, ["0", "7"])


def test_an_empty_chunk_is_stored_as_empty_and_says_so_in_every_row(connection):
    calibration = IsotonicMap((0.0, 1.0), (0.0, 1.0))
    profile = fitted(connection, rows(12_000, 1), segments=SEGMENTS, calibration=calibration)
    store_statistics(connection, profile, counted(connection, profile, rows(10, 2).head(0), chunk="empty"))
    loaded = load_statistics(connection, profile, ["empty"])
    figures = drift_figures(profile, loaded)
    assert figures["value"].null_count() == figures.height > 0
    assert figures["reason"].str.contains("the chunk has no rows here").all()
    expected = expected_performance(profile, loaded)
    assert expected["value"].null_count() == expected.height and expected["reason"].null_count() == 0


def figures_of(connection, reference: pl.DataFrame, chunk: pl.DataFrame, features) -> dict[str, tuple]:
    profile = fitted(connection, reference, features)
    found = drift_figures(profile, counted(connection, profile, chunk))
    sound(found)
    return {m: (v, r) for m, v, r in found.select("method", "value", "reason").rows()}


def test_a_constant_reference_has_no_distance_but_leaving_it_is_seen(connection):
    reference = pl.DataFrame({"x": np.full(12_000, 3.0)})
    found = figures_of(connection, reference, pl.DataFrame({"x": [3.0, 3.0, 4.0, 2.0]}), [NUMBER])
    assert found["jensen_shannon"] == (None, "constant in the reference: 3; see outside_range_share")
    assert found["outside_range_share"] == (0.5, None)


def test_a_chunk_of_missing_values_says_so(connection):
    blank = pl.DataFrame({"x": pl.Series([None, float("nan"), None], dtype=pl.Float64)})
    found = figures_of(connection, rows(12_000, 1), blank, [NUMBER])
    assert found["wasserstein"] == (None, "all 3 values are missing in the chunk")
    assert found["missing_share"] == (1.0, None)


def test_a_reference_of_missing_values_says_so(connection):
    blank = pl.DataFrame({"x": pl.Series([None] * 50, dtype=pl.Float64)})
    found = figures_of(connection, blank, rows(100, 1), [NUMBER])
    assert found["psi"] == (None, "the reference holds no value: all are missing or infinite")
    assert found["missing_share"][0] == pytest.approx(0.02, abs=0.05)


def test_infinite_values_of_a_chunk_lie_outside_and_have_no_transport_distance(connection):
    chunk = pl.DataFrame({"x": [0.0, 0.5, float("inf"), float("-inf")]})
    found = figures_of(connection, rows(12_000, 1), chunk, [NUMBER])
    assert found["outside_range_share"] == (0.5, None) and found["jensen_shannon"][0] > 0.5
    assert found["wasserstein"] == (None, "2 infinite values in the chunk: mend them at the source")


def test_infinite_values_of_the_reference_are_named(connection):
    reference = pl.DataFrame({"x": [*np.linspace(0, 1, 12_000), float("inf")]})
    found = figures_of(connection, reference, rows(100, 1), [NUMBER])
    assert found["hellinger"] == (None, "the reference holds 1 infinite values")


def test_a_category_that_is_unseen_in_every_row(connection):
    chunk = pl.DataFrame({"kind": ["new"] * 20})
    found = figures_of(connection, rows(12_000, 1), chunk, [KIND])
    assert found["unseen_share"] == (1.0, None) and found["jensen_shannon"][0] == pytest.approx(1)
    assert found["cardinality"] == (1.0, None) and found["chi2_p_value"][0] < 1e-6


def test_one_row_has_figures(connection):
    found = figures_of(connection, rows(12_000, 1), rows(1, 5), [NUMBER])
    assert found["kolmogorov_smirnov"][0] > 0.3 and found["missing_share"] == (0.0, None)


def test_an_empty_reference_is_refused(connection):
    with pytest.raises(ValueError, match="the reference has no rows"):
        fitted(connection, rows(10, 1).head(0))


def test_scores_that_are_no_numbers_are_left_out_and_counted(connection):
    reference = rows(12_000, 1)
    profile = fitted(connection, reference, calibration=IsotonicMap((0.0, 1.0), (0.0, 1.0)))
    broken = [0.2, 0.9, float("nan"), float("inf"), None]
    chunk = rows(5, 2).with_columns(probability=pl.Series(broken, dtype=pl.Float64), prediction=pl.lit(1))
    statistics = counted(connection, profile, chunk)
    assert score_groups(profile, statistics).total == 2
    score = statistics.features.filter(pl.col("feature") == "probability").row(0, named=True)
    assert (score["missing"], score["infinite"]) == (2, 1)
    sound(expected_performance(profile, statistics))


def test_coarse_counts_hold_both_sides_and_what_lies_elsewhere(connection):
    profile = fitted(connection, rows(12_000, 1), [NUMBER, KIND])
    chunk = counted(connection, profile, rows(2_000, 2, shift=9.0))
    table = coarse_counts(profile, chunk).filter(pl.col("feature") == "x")
    assert table["rows"].sum() == 2_000 - chunk.features["missing"][0]
    assert table.filter("elsewhere")["rows"].sum() > 1_500 and table["reference"].sum() > 11_000


def test_names_and_values_with_quotes_are_no_sql(connection):
    odd = Feature.model_construct(name='we"ird', type=FeatureType.category, min=None, max=None, values=None)
    reference = pl.DataFrame({'we"ird': ["it's", 'a "b"'] * 300})
    connection.register("reference", reference.to_arrow())
    cut = Segment(name="odd", feature='we"ird')
    profile = fit_profile(connection, "reference", [odd], [cut], policy=DriftFigures(min_segment_rows=1))
    assert profile.segment_labels[1:3] == ['odd=a "b"', "odd=it's"]
    assert profile.reference.features["rows"].to_list() == [600, 300, 300]
