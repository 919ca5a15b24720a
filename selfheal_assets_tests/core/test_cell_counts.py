"""From tidy counts to cells: merging, cells of their own, and counts that cannot be."""

import numpy as np
import polars as pl
import pytest

from selfheal_assets.core.cell_counts import MISSING, OTHER, UNSEEN, reference_cells


def counts(rows: list[tuple[str, str, int, float | None]]) -> pl.DataFrame:
    schema = {"feature": pl.String, "cell": pl.String, "rows": pl.Int64, "position": pl.Float64}
    return pl.DataFrame(rows, schema=schema, orient="row")


NUMBER = counts([("x", f"b{k}", 10 + k, float(k)) for k in range(6)])
KIND = counts([("kind", f"k{k}", 100 - k, None) for k in range(6)])


def test_missing_and_unseen_values_have_cells_of_their_own():
    (cells,) = reference_cells(NUMBER, most=10)
    assert cells.names == ("b0", "b1", "b2", "b3", "b4", "b5", MISSING, UNSEEN)
    assert cells.rows.tolist() == [10, 11, 12, 13, 14, 15, 0, 0]
    chunk = pl.DataFrame({"cell": ["b5", "never", MISSING, "b0"], "rows": [1, 2, 3, 4]})
    assert cells.counted(chunk).tolist() == [4, 0, 0, 0, 0, 1, 3, 2]


def test_neighbours_merge_to_about_equal_rows_and_keep_their_order():
    (cells,) = reference_cells(NUMBER, most=3)
    assert cells.names[:3] == ("b0 … b1", "b2 … b3", "b4 … b5")
    assert cells.rows[:3].tolist() == [21, 25, 29]
    assert cells.positions is not None
    assert cells.positions[0] == pytest.approx(11 / 21)
    assert np.isnan(cells.positions[-2:]).all()


def test_cells_are_ordered_by_position_not_by_row():
    (cells,) = reference_cells(NUMBER.reverse(), most=10)
    assert cells.names[:6] == ("b0", "b1", "b2", "b3", "b4", "b5")


def test_the_rarest_categories_merge():
    (cells,) = reference_cells(KIND.sample(fraction=1, shuffle=True, seed=3), most=3)
    assert sorted(cells.names[:3]) == sorted(("k0", "k1", OTHER))
    assert cells.positions is None
    by_name = dict(zip(cells.names, cells.rows, strict=True))
    assert (by_name["k0"], by_name["k1"], by_name[OTHER]) == (100, 99, 98 + 97 + 96 + 95)
    assert cells.named(pl.Series(["k0", "k4", "never"])).to_list() == ["k0", OTHER, UNSEEN]


def test_a_category_called_like_the_pool_of_rare_ones_is_not_taken_for_it():
    """By its name the alarms would print one for the other, and attribution lose the rows of one."""
    kinds = counts([("kind", k, n, None) for k, n in ((OTHER, 90), ("b", 50), ("c", 3), ("d", 2))])
    (cells,) = reference_cells(kinds, most=3)
    assert cells.names == (f"'{OTHER}'", "b", OTHER, MISSING, UNSEEN)
    assert cells.rows.tolist() == [90, 50, 5, 0, 0]
    chunk = pl.DataFrame({"cell": [OTHER, "d", "never"], "rows": [7, 2, 1]})
    assert cells.counted(chunk).tolist() == [7, 0, 2, 0, 1]
    assert cells.named(pl.Series([OTHER, "c"])).to_list() == [f"'{OTHER}'", OTHER]


@pytest.mark.parametrize(
    ("frame", "said"),
    [
        (NUMBER.with_columns(rows=pl.lit(-1)), "negative"),
        (NUMBER.with_columns(rows=pl.lit(None, pl.Int64)), "no count"),
        (NUMBER.with_columns(cell=pl.lit(None, pl.String)), "without a name"),
        (NUMBER.with_columns(rows=pl.col("rows") + 0.5), "whole numbers"),
        (pl.concat([NUMBER, NUMBER]), "counted twice"),
        (NUMBER.drop("cell"), "no column cell"),
    ],
)
def test_counts_that_cannot_be_are_named(frame, said):
    with pytest.raises(ValueError, match=said):
        reference_cells(frame, most=10)
