"""Named values to the booster's matrix: positions, NaN for what is missing or new, the declared order."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfheal_assets.core.encoding import ColumnEncoder, encode, learn_vocabulary, polars_type
from selfheal_assets.core.spec import Feature

NAN = float("nan")
AMOUNT, COUNT, KIND = (
    Feature(name="amount", type="number", nullable=True),
    Feature(name="count", type="integer", nullable=True),
    Feature(name="kind", type="category", nullable=True),
)
FEATURES = (KIND, COUNT, AMOUNT)
FRAME = pl.DataFrame(
    {"amount": [1.5, None, -2.0], "count": [3, 4, None], "kind": ["b", None, "a"], "more": [1, 2, 3]}
)


def test_each_column_by_hand():
    matrix = encode(FRAME, FEATURES, {"kind": ["a", "b"]})
    np.testing.assert_array_equal(
        matrix, np.array([[1, 3, 1.5], [NAN, 4, NAN], [0, NAN, -2]], dtype=np.float32)
    )
    assert matrix.dtype == np.float32
    assert matrix.flags["C_CONTIGUOUS"]


def test_the_vocabulary_is_sorted_and_holds_no_missing_value():
    frame = pl.DataFrame({"kind": ["b", "ä", None, "b", "a"], "count": [1] * 5, "amount": [1.0] * 5})
    assert learn_vocabulary(frame, FEATURES) == {"kind": ["a", "b", "ä"]}


def test_a_category_never_seen_is_missing():
    frame = FRAME.with_columns(kind=pl.Series(["c", "A", ""]))
    assert np.isnan(encode(frame, FEATURES, {"kind": ["a", "b"]})[:, 0]).all()


@pytest.mark.parametrize("vocabulary", [["a", "b"], []])
def test_a_column_of_missing_values_needs_no_type(vocabulary):
    frame = pl.DataFrame({"amount": [None], "count": [None], "kind": [None]})
    matrix = encode(frame, FEATURES, {"kind": vocabulary})
    assert matrix.shape == (1, 3)
    assert np.isnan(matrix).all()


def test_a_vocabulary_learnt_from_missing_values_only_gives_nan():
    assert learn_vocabulary(FRAME.with_columns(kind=pl.lit(None, dtype=pl.String)), [KIND]) == {"kind": []}
    assert np.isnan(encode(FRAME, [KIND], {"kind": []})).all()


def test_no_rows_give_no_rows():
    assert encode(FRAME.clear(), FEATURES, {"kind": ["a"]}).shape == (0, 3)


def test_nan_and_null_are_the_same():
    given_nan = FRAME.with_columns(amount=pl.Series([1.5, NAN, -2.0]))
    vocabulary = {"kind": ["a", "b"]}
    np.testing.assert_array_equal(
        encode(given_nan, FEATURES, vocabulary), encode(FRAME, FEATURES, vocabulary)
    )


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.lists(st.one_of(st.none(), st.text(max_size=4)), min_size=1, max_size=20))
def test_equal_categories_get_equal_positions_and_others_do_not(kinds):
    frame = pl.DataFrame({"kind": pl.Series(kinds, dtype=pl.String)})
    vocabulary = learn_vocabulary(frame, [KIND])
    column = encode(frame, [KIND], vocabulary)[:, 0]
    decoded = [None if np.isnan(x) else vocabulary["kind"][int(x)] for x in column]
    assert decoded == kinds


def test_unseen_categories_are_named():
    columns = {"amount": [1.0, 1.0, 1.0], "count": [None] * 3, "kind": ["z", "a", None]}
    encoder = ColumnEncoder(FEATURES, {"kind": ["a"]})
    assert encoder.unseen(columns, range(3)) == {0: ["kind"]}
    assert encoder.unseen(columns, range(1, 3)) == {}


@given(
    st.lists(
        st.tuples(
            st.none() | st.floats(-3.4e38, 3.4e38),
            st.none() | st.integers(-(2**63), 2**63 - 1),
            st.none() | st.sampled_from(["a", "b", "never seen"]),
        ),
        min_size=1,
    )
)
def test_columns_of_plain_values_are_encoded_like_a_frame(rows):
    columns = dict(zip(("amount", "count", "kind"), map(list, zip(*rows, strict=True)), strict=True))
    frame = pl.DataFrame({f.name: pl.Series(columns[f.name], dtype=polars_type(f)) for f in FEATURES})
    vocabulary = {"kind": ["a", "b"]}
    np.testing.assert_array_equal(
        ColumnEncoder(FEATURES, vocabulary)(columns), encode(frame, FEATURES, vocabulary)
    )


@pytest.mark.parametrize(("feature", "dtype"), [(AMOUNT, pl.Float64), (COUNT, pl.Int64), (KIND, pl.String)])
def test_a_feature_travels_in_its_type(feature, dtype):
    assert polars_type(feature) == dtype
