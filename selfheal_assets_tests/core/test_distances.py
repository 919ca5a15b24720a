"""Distances from counts: against their definitions written out, and against SciPy on the rows themselves."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2, ks_2samp, wasserstein_distance

from selfheal_assets.core import distances
from selfheal_assets.core.metrics import UndefinedMetric

REFERENCE, CHUNK = np.array([10.0, 30, 60, 0]), np.array([20.0, 20, 0, 10])
P, Q = REFERENCE / 100, CHUNK / 50


def test_jensen_shannon_is_the_root_of_the_divergence_in_bits():
    middle = (P + Q) / 2
    bits = sum(np.sum(s[s > 0] * np.log2(s[s > 0] / middle[s > 0])) / 2 for s in (P, Q))
    assert distances.jensen_shannon(REFERENCE, CHUNK) == pytest.approx(np.sqrt(bits), rel=1e-14)


def test_hellinger():
    assert distances.hellinger(REFERENCE, CHUNK) == pytest.approx(
        np.sqrt(1 - np.sum(np.sqrt(P * Q))), rel=1e-14
    )


def test_rows_elsewhere_are_one_more_cell():
    wide = np.append(REFERENCE, 0), np.append(CHUNK, 25)
    for distance in (distances.jensen_shannon, distances.hellinger):
        assert distance(REFERENCE, CHUNK, 25) == pytest.approx(distance(*wide), rel=1e-14)
        assert distance(REFERENCE, CHUNK, 25) > distance(REFERENCE, CHUNK)


@pytest.mark.parametrize("times", [1, 71])
def test_jensen_shannon_of_equal_shares_is_no_nan(times):
    """Rounding makes the divergence of some equal shares a little less than 0."""
    for counts in ([1.0, 2, 1, 1, 1], [2.0, 2, 2, 1, 2, 1, 0, 2], [0.0, 1, 1, 2, 1, 1]):
        assert 0 <= distances.jensen_shannon(np.array(counts), times * np.array(counts)) < 1e-7


def test_rounding_carries_no_distance_beyond_one():
    """A chunk wholly outside the reference's range is the most a distance can tell; a table takes no more than 1."""
    rng, nothing = np.random.default_rng(3), np.zeros(20)
    for _ in range(500):
        reference = rng.integers(1, 1_000_000, 20).astype(float)
        apart = np.concatenate([reference, nothing]), np.concatenate([nothing, reference[::-1]])
        assert distances.kolmogorov_smirnov(reference, nothing, below=7) <= 1
        assert distances.kolmogorov_smirnov(reference, nothing, above=7) <= 1
        assert distances.kolmogorov_smirnov_of_values(np.arange(40), *apart) <= 1
        assert max(distances.hellinger(*apart), distances.jensen_shannon(*apart)) <= 1


def test_nothing_in_common_is_one():
    apart = np.array([5.0, 0]), np.array([0.0, 7])
    assert distances.jensen_shannon(*apart) == pytest.approx(1)
    assert distances.hellinger(*apart) == pytest.approx(1)
    assert distances.l_infinity(*apart) == 1


def test_l_infinity_is_the_largest_difference_of_shares():
    assert distances.l_infinity(REFERENCE, CHUNK) == pytest.approx(0.6)


def test_chi_square_by_its_definition():
    table = np.array([REFERENCE, CHUNK])
    expected = table.sum(0) * table.sum(1, keepdims=True) / table.sum()
    statistic = np.sum((table - expected) ** 2 / expected)
    assert distances.chi_square(REFERENCE, CHUNK) == pytest.approx((statistic, chi2.sf(statistic, 3)))


def test_chi_square_of_two_categories_is_corrected_and_ignores_empty_ones():
    two = distances.chi_square(np.array([30.0, 70]), np.array([20.0, 30]))
    table = np.array([[30.0, 70], [20, 30]])
    expected = table.sum(0) * table.sum(1, keepdims=True) / table.sum()
    assert two[0] == pytest.approx(np.sum((np.abs(table - expected) - 0.5) ** 2 / expected))
    assert distances.chi_square(np.array([30.0, 70, 0]), np.array([20.0, 30, 0])) == two


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(0, 9), min_size=1, max_size=60), st.lists(st.integers(0, 9), min_size=1, max_size=60)
)
def test_distances_of_values_are_scipys(reference, chunk):
    values = np.unique(reference + chunk)
    sides = [np.array([side.count(v) for v in values], dtype=float) for side in (reference, chunk)]
    assert distances.kolmogorov_smirnov_of_values(values, *sides) == pytest.approx(
        ks_2samp(reference, chunk).statistic, abs=1e-15
    )
    assert distances.wasserstein_of_values(values, *sides) == pytest.approx(
        wasserstein_distance(reference, chunk), abs=1e-12
    )


def test_kolmogorov_smirnov_counts_what_lies_below():
    assert distances.kolmogorov_smirnov(np.array([50.0, 50]), np.array([0.0, 10]), below=10) == 0
    assert distances.kolmogorov_smirnov(np.array([50.0, 50]), np.array([10.0, 0]), above=30) == 0.75


def test_wasserstein_moves_mass_by_cells_and_outside_by_its_distance():
    reference, there = np.array([100.0, 0, 0]), np.array([0.0, 0, 10])
    assert distances.wasserstein(reference, there, width=2.0) == pytest.approx(4)
    half_above = distances.wasserstein(reference, np.array([5.0, 0, 0]), 2.0, above=(5, 15.0))
    assert half_above == pytest.approx(0.5 * 6 + 15 / 10)


def test_wasserstein_counts_one_row_more_below_the_range_as_nannyml_does():
    reference, chunk = np.array([50.0, 50]), np.array([5.0, 4])
    cumulative = np.cumsum(chunk / 10) + (1 + 1) / 10
    expected = np.sum(np.abs(np.array([0.5, 1.0]) - cumulative)) * 2.0 + 3.0 / 10
    assert distances.wasserstein(reference, chunk, 2.0, below=(1, 3.0)) == pytest.approx(expected)


def test_psi_by_its_definition_with_half_a_row_in_an_empty_cell():
    q = np.array([20, 20, 0.5, 10]) / 50
    p = np.array([10, 30, 60, 0.5]) / 100
    assert distances.population_stability_index(REFERENCE, CHUNK) == pytest.approx(
        np.sum((q - p) * np.log(q / p))
    )


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 1000)), min_size=2, max_size=12))
def test_every_distance_is_a_number_in_its_range_or_says_why_not(both):
    reference, chunk = np.array(both, dtype=float).T
    figures = {
        "jensen_shannon": lambda: distances.jensen_shannon(reference, chunk),
        "hellinger": lambda: distances.hellinger(reference, chunk),
        "l_infinity": lambda: distances.l_infinity(reference, chunk),
        "kolmogorov_smirnov": lambda: distances.kolmogorov_smirnov(reference, chunk),
        "p": lambda: distances.chi_square(reference, chunk)[1],
    }
    for name, figure in figures.items():
        if reference.sum() and chunk.sum():
            assert -1e-9 <= figure() <= 1 + 1e-9, name
        else:
            with pytest.raises(UndefinedMetric):
                figure()


def test_psi_of_unchanged_data_exceeds_its_cut_off_as_often_as_said():
    rng = np.random.default_rng(5)
    share = np.full(10, 0.1)
    drawn = [(rng.multinomial(20_000, share), rng.multinomial(1_000, share)) for _ in range(2_000)]
    psi = np.array([distances.population_stability_index(*map(np.float64, pair)) for pair in drawn])
    beyond = np.mean(psi > distances.psi_cut_off(10, 20_000, 1_000, 0.95))
    assert beyond == pytest.approx(0.05, abs=0.015)  # three standard errors of a share of 2,000


def test_jensen_shannon_of_unchanged_data_is_what_the_docs_say():
    rng, share, rows = np.random.default_rng(5), np.array([0.4, 0.3, 0.2, 0.06, 0.04]), 2_000
    squares = [distances.jensen_shannon(share, rng.multinomial(rows, share)) ** 2 for _ in range(1_000)]
    assert np.mean(squares) == pytest.approx((len(share) - 1) / (8 * rows * np.log(2)), rel=0.1)


def test_a_cut_off_needs_two_cells_and_rows():
    for cells, reference_rows, rows in ((1, 10, 10), (3, 0, 10), (3, 10, 0)):
        with pytest.raises(UndefinedMetric):
            distances.psi_cut_off(cells, reference_rows, rows, 0.95)
