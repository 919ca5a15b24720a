"""The first chunk of a change: by hand, by simulation, and where there is none."""

import numpy as np
import pytest

from selfheal_assets.core.change_point import change_point, split_log_likelihood

P = np.array([0.4, 0.3, 0.2, 0.1])
CLEAR = np.array([0.34, 0.3, 0.2, 0.16])
FAINT = np.array([0.38, 0.3, 0.2, 0.12])


def stream(
    seed: int, at: int, changed: np.ndarray = CLEAR, chunks: int = 20, rows: int = 500
) -> tuple[list[str], np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    parts = [rng.multinomial(5000, P)]
    parts += [rng.multinomial(rows, P if t < at else changed) for t in range(chunks)]
    cumulated = np.cumsum(parts, axis=0).astype(float)
    return [f"c{t:02d}" for t in range(chunks)], cumulated[:-1], cumulated[-1]


def test_the_ratio_is_half_of_g_squared():
    before, since = np.array([60.0, 40.0]), np.array([30.0, 70.0])
    expected = np.outer([100, 100], (before + since) / 200)
    g2 = 2 * (np.array([before, since]) * np.log(np.array([before, since]) / expected)).sum()
    assert split_log_likelihood(before[None], before + since)[0] == pytest.approx(g2 / 2)


def test_it_finds_the_chunk_and_its_interval_covers():
    exact, covered, narrow = 0, 0, []
    for seed in range(100):
        point = change_point(*stream(seed, at=12), confidence=0.9)
        assert point is not None
        exact += point.first == "c12"
        covered += point.earliest <= "c12" <= point.latest
        narrow.append(int(point.latest[1:]) - int(point.earliest[1:]))
    assert exact >= 60
    assert covered >= 85
    assert np.median(narrow) <= 4


def test_the_interval_of_a_faint_change_is_wide_enough():
    points = [change_point(*stream(seed, at=12, changed=FAINT), confidence=0.9) for seed in range(100)]
    assert sum(p is not None and p.first == "c12" for p in points) <= 75
    assert sum(p is not None and p.earliest <= "c12" <= p.latest for p in points) >= 85


def test_without_rows_on_both_sides_there_is_none():
    empty = np.zeros((2, 3))
    assert change_point(["a", "b"], empty, np.zeros(3), 0.9) is None
    full = np.ones((1, 3))
    assert change_point(["a"], full, np.ones(3), 0.9) is None


def test_an_empty_chunk_before_the_change_is_not_its_beginning():
    before = np.array([[900.0, 100.0], [900.0, 100.0]])
    point = change_point(["empty", "changed"], before, np.array([950.0, 250.0]), 0.9)
    assert point is not None
    assert point.first == "changed"
