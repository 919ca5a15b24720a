"""Suspected causes: effects by hand, that they add up, and what has none."""

from itertools import product

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from selfheal_assets.core.attribution import attribute_change, expected_auc, mean_score
from selfheal_assets.core.evidence_policy import Attribution

POLICY = Attribution(min_effective_rows=1)


def since(**counts: dict[str, int]) -> pl.DataFrame:
    rows = [(name, cell, n) for name, cells in counts.items() for cell, n in cells.items()]
    return pl.DataFrame(
        rows, schema={"feature": pl.String, "cell": pl.String, "rows": pl.Int64}, orient="row"
    )


def square(n: int = 100) -> tuple[pl.DataFrame, np.ndarray]:
    """Two independent binary features; the score is 0.1 + 0.2·a + 0.4·b + 0.2·a·b."""
    a, b = np.repeat([0, 0, 1, 1], n), np.tile(np.repeat([0, 1], n), 2)
    cells = pl.DataFrame({"a": a.astype(str), "b": b.astype(str), "still": ["x"] * (4 * n)})
    return cells, 0.1 + 0.2 * a + 0.4 * b + 0.2 * a * b


def test_effects_of_independent_features_by_hand():
    cells, score = square()
    moved = since(a={"0": 20, "1": 80}, b={"0": 50, "1": 50})
    rows = attribute_change(cells, moved, {"mean_score": mean_score(score)}, POLICY)
    effects = dict(rows.select("feature", "effect").iter_rows())
    # Shares of a: 0.5 to 0.8; the effect is 0.3·(0.2 + 0.2·0.5).
    assert effects == pytest.approx({"a": 0.09, "b": 0.0})
    assert rows["feature"].to_list() == ["a", "b"]
    assert rows["rank"].to_list() == [1, 2]
    assert rows["share"].to_list() == pytest.approx([1, 0])


def test_what_two_do_together_is_shared_between_them():
    cells, score = square()
    moved = since(a={"0": 20, "1": 80}, b={"0": 20, "1": 80})
    rows = attribute_change(cells, moved, {"mean_score": mean_score(score)}, POLICY)
    effects = dict(rows.select("feature", "effect").iter_rows())
    joint = 0.2 * (0.8 * 0.8 - 0.5 * 0.5)
    alone = 0.2 * 0.3 * 0.5
    assert effects["a"] == pytest.approx(0.3 * 0.2 + joint / 2)
    assert effects["b"] == pytest.approx(0.3 * 0.4 + joint / 2)
    assert joint / 2 != pytest.approx(alone)  # neither 'alone' nor 'the last to come' is its share
    assert rows["effect"].sum() == pytest.approx(rows["total_change"][0])


def test_the_effects_of_three_add_up():
    a, b, c = (np.array(x) for x in zip(*product((0, 1), repeat=3), strict=True))
    cells = pl.DataFrame({"a": a.astype(str), "b": b.astype(str), "c": c.astype(str)})
    moved = since(a={"0": 2, "1": 8}, b={"0": 3, "1": 7}, c={"0": 1, "1": 9})
    rows = attribute_change(cells, moved, {"m": mean_score(0.1 * a + 0.5 * a * b * c)}, POLICY)
    assert rows["total_change"][0] == pytest.approx(0.1 * 0.3 + 0.5 * (0.8 * 0.7 * 0.9 - 0.5**3))
    assert rows["effect"].sum() == pytest.approx(rows["total_change"][0])


def test_a_change_is_not_counted_twice_where_features_are_one():
    cells, score = square()
    twins = cells.select("a", pl.col("a").alias("twin"))
    one = attribute_change(twins, since(a={"0": 20, "1": 80}), {"m": mean_score(score)}, POLICY)
    moved = since(a={"0": 20, "1": 80}, twin={"0": 20, "1": 80})
    both = attribute_change(twins, moved, {"m": mean_score(score)}, POLICY)
    assert both["total_change"][0] == pytest.approx(one["total_change"][0])
    assert both["share"].to_list() == pytest.approx([0.5, 0.5])


def test_the_expected_auc_is_that_of_drawn_labels():
    rng = np.random.default_rng(0)
    p = rng.beta(1, 3, 300).round(2)
    weights = rng.integers(1, 4, 300).astype(float)
    rows = np.repeat(np.arange(300), 2)
    label, mass = np.tile([1, 0], 300), np.column_stack([p, 1 - p]).ravel() * weights[rows]
    assert expected_auc(p, p)(weights) == pytest.approx(roc_auc_score(label, p[rows], sample_weight=mass))
    assert expected_auc(p, np.zeros(300))(weights) is None


def test_each_metric_is_ranked_by_itself():
    cells, score = square()
    moved = since(a={"0": 20, "1": 80}, b={"0": 30, "1": 70})
    metrics = {"mean_score": mean_score(score), "roc_auc": expected_auc(score, score)}
    rows = attribute_change(cells, moved, metrics, POLICY)
    for _, part in rows.group_by("metric"):
        assert part["effect"].abs().is_sorted(descending=True)
        assert part["effect"].sum() == pytest.approx(part["total_change"][0])
        assert part["share"].sum() == pytest.approx(1)


# What has no effect, and says why.


def test_unseen_cells_are_left_out_and_said():
    cells, score = square()
    rows = attribute_change(cells, since(a={"0": 20, "1": 60, "2": 20}), {"m": mean_score(score)}, POLICY)
    assert "20.0 % of its rows are in cells" in rows["reason"][0]
    assert rows["effect"][0] == pytest.approx((0.75 - 0.5) * 0.3 + 0.0)
    rows = attribute_change(cells, since(a={"2": 20}), {"m": mean_score(score)}, POLICY)
    assert rows["effect"][0] is None
    assert "all of its rows" in rows["reason"][0]


@pytest.mark.parametrize(
    ("moved", "said"),
    [
        (since(a={"0": 0, "1": 0}), "no rows since the change"),
        (since(still={"x": 5}), "leave the metric as it is"),
    ],
)
def test_nothing_to_tell(moved, said):
    cells, score = square()
    rows = attribute_change(cells, moved, {"m": mean_score(score)}, POLICY)
    assert rows["share"].to_list() == [None]
    assert said in rows["reason"][0]


def test_too_few_effective_rows():
    cells, score = square(n=10)
    moved = since(a={"0": 1, "1": 999})
    rows = attribute_change(cells, moved, {"m": mean_score(score)}, Attribution(min_effective_rows=30))
    assert rows["effect"].to_list() == [None]
    assert "leaves 20 effective reference rows; min_effective_rows asks for 30" in rows["reason"][0]


def test_margins_that_exclude_one_another():
    cells = pl.DataFrame({"a": ["0", "1"] * 50, "b": ["0", "1"] * 50})
    moved = since(a={"0": 100}, b={"1": 100})
    rows = attribute_change(cells, moved, {"m": mean_score(np.arange(100.0))}, POLICY)
    assert rows["effect"].to_list() == [None, None]
    assert "at once" in rows["reason"][0]


def test_only_so_many_are_told_apart():
    cells, score = square()
    moved = since(a={"0": 49, "1": 51}, b={"0": 20, "1": 80})
    policy = Attribution(max_features=1, min_effective_rows=1)
    rows = attribute_change(cells, moved, {"m": mean_score(score)}, policy)
    assert rows["feature"].to_list() == ["b", "a"]
    assert rows["rank"].to_list() == [1, None]
    assert "max_features" in rows["reason"][1]


def test_no_drift_has_no_rows_and_no_reference_is_an_error():
    cells, score = square()
    assert attribute_change(cells, since(), {"m": mean_score(score)}, POLICY).is_empty()
    with pytest.raises(ValueError, match="no reference rows"):
        attribute_change(cells.clear(), since(a={"0": 1}), {"m": mean_score(score[:0])}, POLICY)
    with pytest.raises(ValueError, match="no cells of the reference's rows for other"):
        attribute_change(cells, since(other={"0": 1}), {"m": mean_score(score)}, POLICY)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(*[st.sampled_from("012")] * 3, st.floats(0, 1)), min_size=1, max_size=30),
    st.lists(st.integers(0, 20), min_size=9, max_size=9),
)
def test_no_nan_and_no_crash(reference, counts):
    cells = pl.DataFrame([r[:3] for r in reference], schema=["a", "b", "c"], orient="row")
    score = np.array([r[3] for r in reference])
    moved = since(**{n: {c: counts[3 * i + k] for k, c in enumerate("012")} for i, n in enumerate("abc")})
    metrics = {"mean_score": mean_score(score), "roc_auc": expected_auc(score, score)}
    rows = attribute_change(cells, moved, metrics, POLICY)
    assert rows.height == 6
    for name in ("effect", "share", "total_change"):
        assert rows[name].is_finite().fill_null(True).all()
    assert rows.filter(pl.col("effect").is_null())["reason"].is_not_null().all()
