"""Fingerprints: blind to order where order means nothing, and to nothing else."""

import hashlib
from datetime import date, datetime

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfheal_assets.core import fingerprint

FRAME = pl.DataFrame(
    {
        "id": ["a", "b", "c"],
        "x": [0.1, None, 1e-12],
        "n": [1, None, 3],
        "text": ["", None, "p,q"],
        "at": [datetime(2020, 1, 1), None, datetime(2020, 1, 1, 0, 0, 0, 1)],
    }
)


def of(frame: pl.DataFrame) -> str:
    return fingerprint.of_frame(frame, ["id"])


@settings(max_examples=20, deadline=None, derandomize=True)
@given(st.permutations([0, 1, 2]), st.permutations(FRAME.columns))
def test_the_order_of_rows_and_columns_does_not_matter(rows, columns):
    assert of(FRAME[rows].select(columns)) == of(FRAME)


CHANGES = [
    ("x", 0, float(np.nextafter(0.1, 1))),
    ("x", 0, None),
    ("x", 1, 0.0),
    ("x", 1, float("nan")),
    ("x", 2, 2e-12),
    ("x", 2, 0.0),
    ("n", 0, 2),
    ("n", 1, 0),
    ("text", 0, None),
    ("text", 0, " "),
    ("text", 1, ""),
    ("text", 1, "null"),
    ("text", 2, 'p","q'),
    ("at", 0, datetime(2020, 1, 1, 0, 0, 0, 2)),
    ("at", 1, datetime(2020, 1, 1)),
    ("id", 2, "d"),
]


@pytest.mark.parametrize(("column", "row", "value"), CHANGES)
def test_one_cell_changes_it(column, row, value):
    cells = FRAME[column].to_list()
    cells[row] = value
    changed = FRAME.with_columns(pl.Series(column, cells, dtype=FRAME[column].dtype))
    assert of(changed) != of(FRAME)


@pytest.mark.parametrize(
    "changed",
    [
        FRAME.head(2),
        pl.concat([FRAME, FRAME.tail(1)]),
        FRAME.rename({"x": "y"}),
        FRAME.drop("n"),
        FRAME.with_columns(pl.col("n").cast(pl.Int32)),
        FRAME.rename({"x": "n", "n": "x"}),
        FRAME.clear(),
    ],
    ids=["fewer rows", "a row twice", "renamed", "fewer columns", "another type", "swapped names", "no rows"],
)
def test_another_shape_changes_it(changed):
    assert of(changed) != of(FRAME)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.floats(allow_nan=False), st.floats(allow_nan=False))
def test_floats_are_told_apart_to_the_last_bit(a, b):
    prints = {of(pl.DataFrame({"id": [1], "x": [x]})) for x in (a, b)}
    assert len(prints) == len({np.float64(a).tobytes(), np.float64(b).tobytes()})


def test_parts_are_not_just_joined():
    assert fingerprint.of_bytes(b"ab", b"c") != fingerprint.of_bytes(b"a", b"bc")
    assert fingerprint.of_bytes(b"ab") != fingerprint.of_bytes(b"ab", b"")


def test_values_are_named_whatever_the_order_of_their_keys():
    assert fingerprint.of_value({"a": 1, "b": [1, 2]}) == fingerprint.of_value({"b": [1, 2], "a": 1})
    assert fingerprint.of_value({"a": 1}) != fingerprint.of_value({"a": "1"})
    assert fingerprint.of_value([1, 2]) != fingerprint.of_value([2, 1])
    assert fingerprint.of_value(date(2020, 1, 1)) == fingerprint.of_value("2020-01-01")


def test_fingerprints_are_short_and_stable():
    """Written down once: a change of the recipe renames all that is stored, and must be meant."""
    sha = hashlib.sha256(bytes([0, 0, 0, 0, 0, 0, 0, 7]) + b'{"a":1}').hexdigest()
    assert fingerprint.of_value({"a": 1}) == sha[:16] == "37b3e6066c98ad57"
    types = b'{"id": "String", "x": "Float64"}'
    assert of(pl.DataFrame({"x": [0.1], "id": ["a"]})) == fingerprint.of_bytes(types, b"id,x\na,0.1\n")
