"""Histories for `make bench-alarms`: rows of ten features, unchanged or shifted from some chunk on."""

from dataclasses import dataclass

import numpy as np

FIVE = np.array([0.40, 0.25, 0.20, 0.10, 0.05])
ZIPF = 1 / np.arange(1, 31)
CATEGORIES = {
    "binary": np.array([0.7, 0.3]),
    "five": FIVE,
    "thirty": ZIPF / ZIPF.sum(),
}
NUMBERS = ("normal", "second", "waiting", "uniform", "third", "skewed", "heavy")
FEATURES = (*NUMBERS, *CATEGORIES)


@dataclass(frozen=True)
class Shift:
    """What changes: the means of ``normal`` and ``waiting`` by ``sd`` standard deviations each (``one_feature``: of
    the first only), and ``points`` of 100 rows from the commonest category of ``five`` to its rarest.
    """

    name: str
    sd: float = 0.0
    points: float = 0.0
    one_feature: bool = False


UNCHANGED = Shift("none")


@dataclass(frozen=True)
class Stream:
    """One history: rows of the reference and of the chunks, one after another, by feature."""

    reference: dict[str, np.ndarray]
    rows: dict[str, np.ndarray]
    chunks: int

    def chunk(self, feature: str, number: int) -> np.ndarray:
        """Rows of one chunk, from 0."""
        size = len(self.rows[feature]) // self.chunks
        return self.rows[feature][number * size : (number + 1) * size]


def drawn(
    seed: tuple[int, ...], reference: int, chunks: int, size: int, shift: Shift = UNCHANGED, at: int = 0
) -> Stream:
    """A history of which the chunks from ``at`` on are shifted."""
    rng = np.random.default_rng(seed)
    changed = np.arange(chunks * size) >= at * size
    rows = _sample(rng, chunks * size)
    if shift.sd:
        rows["normal"][changed] += shift.sd
        if not shift.one_feature:
            rows["waiting"][changed] *= 1 + shift.sd  # an exponential's mean is its standard deviation
    if shift.points:
        moved = FIVE + np.array([-1, 0, 0, 0, 1]) * shift.points / 100
        rows["five"][changed] = _categories(rng, moved, int(changed.sum()))
    return Stream(_sample(rng, reference), rows, chunks)


def _sample(rng: np.random.Generator, n: int) -> dict[str, np.ndarray]:
    numbers = {
        "normal": rng.standard_normal(n),
        "second": rng.standard_normal(n),
        "waiting": rng.standard_exponential(n),
        "uniform": rng.random(n),
        "third": rng.standard_normal(n),
        "skewed": rng.beta(1.5, 3, n),
        "heavy": rng.standard_t(4, n),
    }
    return numbers | {name: _categories(rng, shares, n) for name, shares in CATEGORIES.items()}


def _categories(rng: np.random.Generator, shares: np.ndarray, n: int) -> np.ndarray:
    return np.searchsorted(np.cumsum(shares)[:-1], rng.random(n), side="right")
