"""What a change is: size, direction, cells, against hand calculation."""

import numpy as np
import polars as pl
import pytest

from selfheal_assets.core.cell_counts import MISSING, UNSEEN, Cells, reference_cells
from selfheal_assets.core.change_description import describe_change, mass_moved


def cells_of(rows: list[int], positions: list[float] | None) -> Cells:
    columns = {
        "feature": ["x"] * len(rows),
        "cell": [f"b{k}" for k in range(len(rows))],
        "rows": rows,
        "position": pl.Series(positions or [None] * len(rows), dtype=pl.Float64),
    }
    return reference_cells(pl.DataFrame(columns), most=20)[0]


NUMBER = cells_of([250] * 4, [0.0, 1.0, 2.0, 3.0])
KIND = cells_of([400, 400, 200], None)


def test_sizes_by_hand():
    before, since = np.array([250.0, 250, 250, 250, 0, 0]), np.array([200.0, 250, 250, 300, 0, 0])
    change = describe_change(NUMBER, before, since, 0.9)
    assert change is not None
    assert change.mass_moved == pytest.approx(0.05)
    assert change.effect_size == pytest.approx((0.05**2 / 0.225 + 0.05**2 / 0.275) ** 0.5)
    assert change.shift_sd == pytest.approx(0.15 / 1.25**0.5)
    assert change.direction == "up"
    assert change.grown == "b3 5.0"
    assert change.shrunk == "b0 5.0"


@pytest.mark.parametrize(
    ("since", "direction"),
    [
        ([300, 250, 250, 200, 0, 0], "down"),
        ([350, 150, 150, 350, 0, 0], "wider"),
        ([150, 350, 350, 150, 0, 0], "narrower"),
        ([225, 225, 225, 225, 100, 0], "more missing"),
        ([225, 225, 225, 225, 0, 100], "unseen values"),
    ],
)
def test_directions(since, direction):
    change = describe_change(NUMBER, np.array([250.0] * 4 + [0, 0]), np.array(since, float), 0.9)
    assert change is not None
    assert change.direction == direction


def test_fewer_missing():
    before, since = np.array([225.0] * 4 + [100, 0]), np.array([250.0] * 4 + [0, 0])
    change = describe_change(NUMBER, before, since, 0.9)
    assert change is not None
    assert (change.direction, change.shrunk) == ("fewer missing", f"{MISSING} 10.0")


def test_categories_say_which_grew():
    change = describe_change(KIND, np.array([400.0, 400, 200, 0, 0]), np.array([300.0, 400, 290, 0, 10]), 0.9)
    assert change is not None
    assert change.direction == "mix"
    assert change.shift_sd is None
    assert change.grown == f"b2 9.0, {UNSEEN} 1.0"
    assert change.shrunk == "b0 10.0"


def test_what_may_be_chance_is_not_named():
    # The first cell gained two standard errors: of one cell that would be clear, of the likeliest of five it is not.
    change = describe_change(KIND, np.array([400.0, 400, 200, 0, 0]), np.array([444.0, 378, 178, 0, 0]), 0.9)
    assert change is not None
    assert (change.grown, change.shrunk) == (None, None)


def test_no_rows_have_no_change():
    assert describe_change(KIND, np.zeros(5), np.ones(5), 0.9) is None
    assert describe_change(KIND, np.ones(5), np.zeros(5), 0.9) is None


def test_mass_moved_is_symmetric_and_at_most_one():
    one, other = np.array([5.0, 0.0]), np.array([0.0, 3.0])
    assert mass_moved(one, other) == mass_moved(other, one) == 1.0


def test_nothing_in_common_moves_all_rows_and_no_more():
    """Rounding made it 1 + 2e-16 of some counts, which no table takes."""
    rng = np.random.default_rng(0)
    for _ in range(500):
        before, since = rng.integers(1, 1_000_000, 8), rng.integers(1, 100_000, 3)
        moved = mass_moved(np.append(before, np.zeros(3)), np.append(np.zeros(8), since))
        assert 1 - 1e-12 < moved <= 1
