"""The isotonic map: scikit-learn's to the last bit, NannyML's rule of when, storable, and never for one class."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfheal_assets.core.calibration import (
    IDENTITY,
    CannotCalibrate,
    IsotonicMap,
    fit_isotonic,
    needs_calibration,
    plain_map,
)
from selfheal_assets_tests.core.generated import sigmoid


def scored(rows: int, seed: int, slope: float = 1.0, shift: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Scores and labels; the truth is ``sigmoid(slope * logit(score) + shift)``."""
    rng = np.random.default_rng(seed)
    margin = rng.normal(size=rows)
    label = (rng.uniform(size=rows) < sigmoid(slope * margin + shift)).astype(int)
    return np.round(sigmoid(margin), 4), label


@pytest.mark.parametrize("weighted", [False, True])
def test_equal_to_scikit_learn_everywhere(weighted):
    from sklearn.isotonic import IsotonicRegression

    score, label = scored(3000, 1, slope=2.0)
    weight = np.random.default_rng(2).gamma(1.0, size=3000) if weighted else None
    theirs = IsotonicRegression(out_of_bounds="clip").fit(score, label, sample_weight=weight)
    at = np.concatenate([[0.0, 1.0, -0.5, 2.0], score, np.random.default_rng(3).uniform(size=5000)])
    assert np.array_equal(fit_isotonic(score, label, weight)(at), theirs.predict(at))


def test_a_map_by_hand_pools_and_clips():
    fitted = fit_isotonic(np.array([0.1, 0.2, 0.3, 0.4]), np.array([0, 1, 0, 1]))
    assert fitted(np.array([0.0, 0.1, 0.15, 0.25, 0.35, 0.9])).tolist() == pytest.approx(
        [0, 0, 0.25, 0.5, 0.75, 1]
    )


def test_weights_count_rows_so_many_times():
    score, label = scored(400, 4)
    weight = np.random.default_rng(5).integers(1, 4, 400)
    repeated = fit_isotonic(np.repeat(score, weight), np.repeat(label, weight))
    at = np.linspace(0, 1, 201)
    assert fit_isotonic(score, label, weight.astype(float))(at) == pytest.approx(repeated(at), abs=1e-12)


@pytest.mark.integration
@pytest.mark.parametrize(("slope", "shift"), [(1.0, 0.0), (2.0, 0.0), (1.0, 0.4), (0.9, 0.05), (1.05, 0.0)])
@pytest.mark.parametrize("rows", [503, 2000])
def test_the_rule_of_when_is_nannymls(rows, slope, shift):
    from selfheal_assets.settings import prepare_environment

    prepare_environment()
    from nannyml import calibration as theirs

    for seed in range(4):
        score, label = scored(rows, seed, slope, shift)
        wanted = theirs.needs_calibration(label, score, theirs.IsotonicCalibrator())
        assert needs_calibration(score, label) == wanted


def test_a_calibrated_score_is_taken_as_it_is_and_a_wrong_one_is_not():
    rng, kept = np.random.default_rng(6), []
    for _ in range(5):
        calibrated = rng.uniform(size=4000)
        label = (rng.uniform(size=4000) < calibrated).astype(int)
        kept.append(plain_map(calibrated, label) is IDENTITY)
        assert plain_map(calibrated**2, label) is not IDENTITY
        assert np.array_equal(IDENTITY(calibrated), calibrated)
    assert any(kept)  # by chance, a map improves on a calibrated score too


def test_perfect_separation_needs_no_map():
    label = np.repeat([0, 1], 50)
    assert plain_map(np.linspace(0.3, 0.6, 100), label) is IDENTITY


@pytest.mark.parametrize(
    ("score", "label", "says"),
    [
        ([0.1, 0.2, 0.3], [0, 0, 0], "0 positives among 3"),
        ([0.1, 0.2, 0.3], [1, 1, 0], "2 positives among 3"),
        ([], [], "0 positives among 0"),
        ([0.1, np.nan, 0.3, 0.4], [0, 0, 1, 1], "1 of 4 reference scores are not finite"),
        ([0.1, np.inf, 0.3, 0.4], [0, 0, 1, 1], "1 of 4 reference scores are not finite"),
    ],
)
@pytest.mark.parametrize("fit", [plain_map, fit_isotonic])
def test_what_cannot_be_calibrated_says_why(fit, score, label, says):
    with pytest.raises(CannotCalibrate, match=says):
        fit(np.array(score), np.array(label))


def test_a_constant_score_is_the_rate_of_positives():
    fitted = fit_isotonic(np.full(10, 0.4), np.array([1, 1, 1, 0, 0, 0, 0, 0, 0, 0]))
    assert fitted(np.array([0.0, 0.4, 1.0])).tolist() == pytest.approx([0.3, 0.3, 0.3])


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=4, max_size=40))
def test_stored_and_read_back_it_is_the_same_rising_map(rows):
    score, label = np.array([r[0] for r in rows]), np.array([int(r[1]) for r in rows])
    if not 2 <= label.sum() <= len(label) - 2:
        return
    fitted = fit_isotonic(score, label)
    assert IsotonicMap.from_dict(json.loads(json.dumps(fitted.to_dict()))) == fitted
    values = fitted(np.linspace(-0.1, 1.1, 97))
    assert np.isfinite(values).all()
    assert (np.diff(values) >= 0).all() and values[0] >= 0 and values[-1] <= 1
