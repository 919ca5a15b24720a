"""From the push-down engine's statistics to counts and alarms, with rows counted by DuckDB in memory."""

import math

import duckdb
import numpy as np
import polars as pl
import pytest

from selfheal_assets.core.cell_counts import MISSING, UNSEEN
from selfheal_assets.core.drift_alarms import drift_alarms
from selfheal_assets.core.evidence_policy import DriftAlarms
from selfheal_assets.core.monitoring import Status
from selfheal_assets.core.profile import Profile, segment_profile
from selfheal_assets.core.spec import Feature, Segment
from selfheal_assets.core.watched_counts import watched_cells, watched_history, watched_reference
from selfheal_assets.stores.pushdown import statistics_of
from selfheal_assets.stores.reference_profile import fit_profile

FEATURES = (
    Feature(name="amount", type="number"),
    Feature(name="kind", type="category"),
    Feature(name="fixed", type="number"),
    Feature(name="void", type="number"),
)


def rows(seed: int, n: int, mean: float = 0.0, kinds: str = "aaabbc") -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    amount = pl.Series("amount", rng.normal(mean, 1, n))
    return pl.DataFrame(
        {
            "amount": amount.scatter(range(0, n, 20), None),
            "kind": rng.choice(list(kinds), n),
            "fixed": np.full(n, 3.0),
            "void": pl.Series([None] * n, dtype=pl.Float64),
        }
    )


@pytest.fixture
def connection():
    with duckdb.connect() as connection:
        yield connection


def profile_of(connection, frame: pl.DataFrame) -> Profile:
    connection.register("reference_rows", frame.to_arrow())
    return fit_profile(connection, "reference_rows", FEATURES)


def history_of(connection, profile: Profile, *chunks: pl.DataFrame) -> pl.DataFrame:
    named = pl.concat([c.with_columns(month=pl.lit(f"2007-{n:02d}")) for n, c in enumerate(chunks, 1)])
    connection.register("chunk_rows", named.to_arrow())
    return watched_history(profile, statistics_of(connection, "chunk_rows", profile, key="month"))


@pytest.mark.parametrize("n", [2_000, 20_000])
def test_the_reference_is_counted_in_tenths_and_by_category(connection, n):
    profile = profile_of(connection, rows(1, n))
    reference = watched_reference(profile)
    amount = reference.filter(feature="amount")
    cells = amount.filter(pl.col("position").is_not_null())
    assert cells.height == 10
    assert cells["rows"].to_list() == pytest.approx([n * 0.095] * 10, rel=0.02)
    assert cells["position"].is_sorted()
    assert dict(amount.select("cell", "rows").iter_rows())[MISSING] == n / 20
    assert set(reference.filter(feature="kind")["cell"]) == {"a", "b", "c", MISSING, UNSEEN}
    assert reference.filter(feature="fixed").select("cell", "rows").rows()[0] == ("cell 01", n)


@pytest.mark.parametrize("n", [2_000, 20_000])
def test_counts_are_those_of_the_rows(connection, n):
    frame = rows(1, n)
    profile = profile_of(connection, frame)
    chunk = pl.DataFrame(
        {
            "amount": [None, -99.0, 99.0, 0.01, float("inf")],
            "kind": ["a", "z", None, "z", "c"],
            "fixed": [3.0, 3.0, 4.0, 2.0, None],
            "void": [None, 1.0, None, None, None],
        }
    )
    found = history_of(connection, profile, chunk).filter(pl.col("rows") > 0)
    counted = {f: dict(p.select("cell", "rows").iter_rows()) for (f,), p in found.group_by("feature")}
    assert counted["amount"] == {MISSING: 1, UNSEEN: 1, "cell 01": 1, "cell 10": 1, counted_cell(frame): 1}
    assert counted["kind"] == {"a": 1, "z": 2, MISSING: 1, "c": 1}
    assert counted["fixed"] == {"cell 01": 2, UNSEEN: 2, MISSING: 1}
    assert counted["void"] == {MISSING: 4, UNSEEN: 1}


ODD = pl.DataFrame(
    {
        "amount": [None, -99.0, 99.0, 0.01, math.inf, -math.inf, math.nan],
        "kind": ["a", "z", None, "z", "c", "", MISSING],
        "fixed": [3.0, 3.0, 4.0, 2.0, None, math.inf, math.nan],
        "void": [None, 1.0, None, -math.inf, math.nan, 0.0, None],
    }
)


@pytest.mark.parametrize("n", [2_000, 20_000])
def test_rows_are_put_into_the_cells_that_they_are_counted_in(connection, n):
    """Odd values, ordinary ones, and each edge between two cells with its neighbours on either side."""
    profile = profile_of(connection, rows(1, n))
    grid = next(c.grid for c in profile.columns if c.name == "amount")
    assert grid is not None
    ends = np.array([grid.low, *grid.psi, grid.high])
    edges = np.concatenate([ends, np.nextafter(ends, -math.inf), np.nextafter(ends, math.inf)])
    at_edges = rows(3, len(edges)).with_columns(amount=edges)
    chunk = pl.concat([ODD, rows(2, 500, mean=0.4, kinds="abcz"), at_edges])
    names = [f.name for f in FEATURES]
    placed = watched_cells(profile, chunk, names)
    assert placed.schema == dict.fromkeys(names, pl.String)
    assert placed.height == chunk.height
    history = history_of(connection, profile, chunk).filter(pl.col("rows") > 0)
    for name in names:
        counted = dict(history.filter(feature=name).select("cell", "rows").iter_rows())
        assert dict(placed[name].value_counts().iter_rows()) == counted
    first = placed.row(0, named=True)
    assert first == {"amount": MISSING, "kind": "a", "fixed": "cell 01", "void": MISSING}
    assert placed["amount"][4:7].to_list() == [UNSEEN, UNSEEN, MISSING]
    assert placed["fixed"][2] == placed["void"][1] == UNSEEN


def test_rows_are_placed_in_the_columns_that_are_asked_for(connection):
    profile = profile_of(connection, rows(1, 2_000))
    assert watched_cells(profile, ODD, ["kind", "fixed"]).columns == ["kind", "fixed"]
    assert watched_cells(profile, ODD.clear(), ["amount", "fixed"]).rows() == []


def counted_cell(frame: pl.DataFrame) -> str:
    """The tenth of the reference in which 0.01 lies."""
    below = float((frame["amount"].drop_nulls() <= 0.01).mean())  # type: ignore[arg-type]
    return f"cell {int(below * 10) + 1:02d}"


def test_from_rows_to_alarms(connection):
    profile = profile_of(connection, rows(1, 20_000))
    same = [rows(10 + n, 2_000) for n in range(4)]
    changed = [rows(20 + n, 2_000, mean=0.3, kinds="aaabbd") for n in range(2)]
    history = history_of(connection, profile, *same, *changed)
    found = drift_alarms(watched_reference(profile), history, DriftAlarms(chunks_per_year=12), score=None)
    alarms = found.filter(pl.col("status") == Status.failed.value, tier="act")
    assert alarms["chunk"].unique().sort().to_list() == ["2007-05", "2007-06"]
    last = {r["feature"]: r for r in alarms.filter(chunk="2007-06").iter_rows(named=True)}
    assert set(last) == {"amount", "kind"}
    assert last["amount"]["direction"] == "up"
    assert last["amount"]["shift_sd"] == pytest.approx(0.3, abs=0.05)
    assert last["kind"]["grown"].startswith(f"{UNSEEN} ")
    assert last["kind"]["shrunk"].startswith("c ")
    assert {r["first_chunk"] for r in last.values()} == {"2007-05"}


def test_categories_called_like_our_own_cells_stay_themselves(connection):
    kinds = ["a"] * 50 + [MISSING] * 30 + [UNSEEN] * 15 + [None] * 5
    void = pl.Series([None] * len(kinds), dtype=pl.Float64)
    frame = pl.DataFrame({"amount": 1.0, "kind": kinds, "fixed": 3.0, "void": void})
    profile = profile_of(connection, frame)
    counted = watched_reference(profile).filter(feature="kind")
    by_cell = {"a": 50, f"'{MISSING}'": 30, f"'{UNSEEN}'": 15, MISSING: 5, UNSEEN: 0}
    assert dict(counted.select("cell", "rows").iter_rows()) == by_cell
    of_rows = watched_cells(profile, frame, ["kind"])["kind"].value_counts()
    assert dict(of_rows.iter_rows()) == {c: n for c, n in by_cell.items() if n}


def test_a_segment_value_called_like_the_pool_is_not_taken_for_it():
    profile = segment_profile(Segment(name="kind", feature="kind"), {"(pooled)": 90, "a": 80, "b": 2}, 50, 10)
    assert profile.labels == ["kind=(pooled)", "kind=a", "kind=((pooled))"]
