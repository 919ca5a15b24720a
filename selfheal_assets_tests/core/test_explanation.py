"""Reasons add up to the score, name what raised it most, and nothing that lowered it."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import polars as pl
import pytest

from selfheal_assets.core.bundle import Bundle, Calibrator
from selfheal_assets.core.encoding import encode
from selfheal_assets.core.explanation import MAX_REASONS, explain, reason_texts
from selfheal_assets.core.fitting import Candidate, fit_bundle
from selfheal_assets.core.spec import Feature, Training
from selfheal_assets_tests.core.generated import PLAN, START, cases

WIDE = (
    *(Feature(name=f"x{i}", type="number", nullable=True, reason=f"x{i} is high") for i in range(7)),
    Feature(name="kind", type="category", nullable=True, description="What kind it is"),
    Feature(name="size", type="integer"),
)
TEXTS = reason_texts(WIDE)


def wide(rows: int, seed: int) -> pl.DataFrame:
    """Cases in which seven numbers and a category matter, with gaps and with categories never seen."""
    rng = np.random.default_rng(seed)
    numbers = rng.normal(size=(rows, 7))
    chance = 1 / (1 + np.exp(-(numbers @ np.linspace(0.2, 1.2, 7) - 1)))
    numbers[rng.random(numbers.shape) < 0.05] = np.nan
    columns = {f"x{i}": pl.Series(numbers[:, i]).fill_nan(None) for i in range(7)}
    return cases(rows, seed).with_columns(
        **columns,
        kind=pl.Series(rng.choice(["a", "b", "c", f"new-{seed}"], rows).tolist()),
        label=pl.Series((rng.random(rows) < chance).astype(np.int8)),
    )


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    training = Training(rounds=60, max_depth=4, learning_rate=0.3, seed=7)
    return fit_bundle(wide(3000, 1), Candidate("full_history", START), PLAN, WIDE, training, "wide", "abc")


def explained(bundle: Bundle, rows: pl.DataFrame):
    columns = {f.name: rows[f.name].to_list() for f in WIDE}
    return explain(bundle, encode(rows, bundle.features, bundle.vocabulary), columns, TEXTS)


@pytest.mark.parametrize("calibrator", [None, Calibrator(-0.7, 1.3)], ids=["fitted", "upside-down"])
def test_ten_thousand_explanations_add_up_to_their_scores(bundle, calibrator):
    bundle = bundle if calibrator is None else replace(bundle, calibrator=calibrator)
    rows = wide(10_000, 2)
    found, probability = explained(bundle, rows), bundle.score(rows)
    sums = np.array([e.base + sum(r.contribution for r in e.reasons) + e.rest for e in found])
    np.testing.assert_allclose(sums, np.log(probability / (1 - probability)), rtol=0, atol=1e-6)
    np.testing.assert_allclose(1 / (1 + np.exp(-sums)), probability, rtol=0, atol=1e-6)
    assert max(len(e.reasons) for e in found) == MAX_REASONS


def test_rest_is_the_other_features_and_no_more(bundle):
    rows = wide(2000, 3)
    shares = bundle.contributions(encode(rows, bundle.features, bundle.vocabulary))
    names = [f.name for f in bundle.features]
    for each, found in zip(shares, explained(bundle, rows), strict=True):
        reasons = {r.feature for r in found.reasons}
        others = sum(each[i] for i, name in enumerate(names) if name not in reasons)
        assert found.rest == pytest.approx(others, abs=1e-4), "what float32 rounds, and nothing else"


def test_reasons_raise_the_score_and_the_strongest_come_first(bundle):
    rows = wide(500, 4)
    shares = bundle.contributions(encode(rows, bundle.features, bundle.vocabulary))[:, :-1]
    for each, found in zip(shares, explained(bundle, rows), strict=True):
        given = [r.contribution for r in found.reasons]
        assert given == sorted(each[each > 0], reverse=True)[:MAX_REASONS]
        assert all(a >= b for a, b in pairwise(given))


def test_a_reason_names_the_value_as_it_was_given(bundle):
    rows = wide(300, 5)
    for row, found in zip(rows.iter_rows(named=True), explained(bundle, rows), strict=True):
        for reason in found.reasons:
            assert reason.value == row[reason.feature]
            assert reason.text == TEXTS[reason.feature]


def test_texts_fall_back_to_description_and_name():
    assert (TEXTS["x3"], TEXTS["kind"], TEXTS["size"]) == ("x3 is high", "What kind it is", "size")
