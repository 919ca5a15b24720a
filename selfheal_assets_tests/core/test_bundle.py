"""A bundle is its files: they score the same to the last bit, and its name changes with its contents."""

from dataclasses import replace
from datetime import datetime

import numpy as np
import polars as pl
import pytest

from selfheal_assets.core.bundle import BOOSTER_FILE, SPEC_FILE, Bundle, Calibrator
from selfheal_assets.core.fitting import Candidate, fit_bundle
from selfheal_assets_tests.core.generated import FEATURES, PLAN, QUICK, START, cases


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return fit_bundle(
        cases(900, 1), Candidate("full_history", START), PLAN, FEATURES, QUICK, "generated", "abc"
    )


def test_the_files_give_the_bundle_back(bundle):
    again = Bundle.from_files(bundle.to_files())
    assert again == bundle
    assert again.fingerprint == bundle.fingerprint
    assert again.to_files() == bundle.to_files()


def test_scores_survive_the_files_bit_by_bit(bundle):
    rows = cases(500, 2)
    again = Bundle.from_files({name: bytes(content) for name, content in bundle.to_files().items()})
    assert np.array_equal(again.score(rows), bundle.score(rows))
    assert len(np.unique(bundle.score(rows))) > 50


def test_one_row_scores_as_it_does_among_many(bundle):
    rows = cases(200, 3)
    alone = np.concatenate([bundle.score(rows.slice(i, 1)) for i in range(rows.height)])
    assert np.array_equal(alone, bundle.score(rows))


@pytest.mark.parametrize(
    "change",
    [
        {"threshold": 0.123456789},
        {"calibrator": Calibrator(1.0, 1e-15)},
        {"vocabulary": {"kind": ["a", "c", "b"]}},
        {"features": tuple(reversed(FEATURES))},
        {"trained_until": datetime(2020, 1, 2)},
        {"training_fingerprint": "abd"},
        {"candidate": "recent_window"},
        {"use_case": "other"},
        {"notes": {"rows": 1}},
    ],
    ids=lambda change: next(iter(change)),
)
def test_the_fingerprint_changes_with_each_part(bundle, change):
    changed = replace(bundle, **change)
    assert changed.fingerprint != bundle.fingerprint
    assert Bundle.from_files(changed.to_files()) == changed


def test_the_fingerprint_changes_with_one_bit_of_the_booster(bundle):
    spoiled = bytearray(bundle.booster)
    spoiled[len(spoiled) // 2] ^= 1
    assert replace(bundle, booster=bytes(spoiled)).fingerprint != bundle.fingerprint


def test_the_fingerprint_changes_with_the_last_bit_of_the_threshold(bundle):
    next_float = float(np.nextafter(bundle.threshold, 1))
    assert replace(bundle, threshold=next_float).fingerprint != bundle.fingerprint


def test_an_unseen_category_is_scored_as_a_missing_one(bundle):
    rows = cases(100, 4)
    unseen = bundle.score(rows.with_columns(kind=pl.lit("from nowhere")))
    missing = bundle.score(rows.with_columns(kind=pl.lit(None, dtype=pl.String)))
    assert np.array_equal(unseen, missing)
    assert not np.array_equal(unseen, bundle.score(rows))


@pytest.mark.parametrize("dtype", [pl.Float64, pl.Null], ids=str)
def test_missing_numbers_give_finite_probabilities(bundle, dtype):
    p = bundle.score(cases(100, 5).with_columns(signal=pl.lit(None, dtype=dtype), kind=pl.lit(None)))
    assert np.isfinite(p).all()
    assert ((p > 0) & (p < 1)).all()


def test_an_empty_frame_has_no_scores(bundle):
    p = bundle.score(cases(10, 6).clear())
    assert p.shape == (0,)
    assert p.dtype == np.float64


def test_the_order_of_the_columns_does_not_matter(bundle):
    rows = cases(100, 7)
    turned = rows.select(reversed(rows.columns))
    assert np.array_equal(bundle.score(turned), bundle.score(rows))


def test_a_missing_column_is_an_error(bundle):
    with pytest.raises(pl.exceptions.ColumnNotFoundError, match="kind"):
        bundle.score(cases(3, 8).drop("kind"))


def test_calibration_is_of_the_margin():
    margin = np.array([-2.0, 0.0, 3.0], dtype=np.float32)
    expected = 1 / (1 + np.exp(-(0.5 * margin.astype(float) + 0.25)))
    assert Calibrator(0.5, 0.25)(margin) == pytest.approx(expected, abs=1e-15)


def test_scores_are_the_calibrated_margins(bundle):
    rows = cases(100, 9)
    steeper = replace(bundle, calibrator=Calibrator(2.0, -1.0))
    plain = replace(bundle, calibrator=Calibrator())
    odds = plain.score(rows) / (1 - plain.score(rows))
    assert steeper.score(rows) == pytest.approx(1 / (1 + np.exp(-(2 * np.log(odds) - 1))), rel=1e-9)


def test_the_files_are_two_and_named(bundle):
    assert set(bundle.to_files()) == {BOOSTER_FILE, SPEC_FILE}
