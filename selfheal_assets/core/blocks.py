"""An encoded matrix, handed to XGBoost block by block.

XGBoost keeps a byte or two per value of what it has seen; with blocks, a fit on a part of the rows (a fold, the
person-periods of a hazard) never makes a second whole copy of theirs. Every pass must see the same rows in the same
order, or labels would be misaligned: blocks are slices of arrays that do not change meanwhile.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

ROWS = 2**18


def quantised(
    matrix: np.ndarray,
    label: np.ndarray,
    weight: np.ndarray | None = None,
    rows: np.ndarray | None = None,
    column: np.ndarray | None = None,
    block: int = ROWS,
) -> Any:
    """A ``QuantileDMatrix`` of some rows of an encoded matrix, filled block by block.

    Args:
        matrix: float32, shape (cases, features).
        label: of each row taken.
        weight: of each row taken.
        rows: the cases to take, with repetitions; all in order without it.
        column: one more feature, the last, of each row taken.
        block: rows a block.
    """
    import xgboost

    size = len(label)

    class Blocks(xgboost.DataIter):
        """Hands out the blocks, as often as XGBoost passes over them."""

        def __init__(self) -> None:
            self._start = 0
            super().__init__()

        def reset(self) -> None:
            self._start = 0

        def next(self, input_data: Callable[..., None]) -> bool:
            if self._start >= size:
                return False
            part = slice(self._start, self._start + block)
            self._start += block
            data = matrix[part] if rows is None else matrix[rows[part]]
            if column is not None:
                data = np.column_stack([data, column[part]])
            input_data(data=data, label=label[part], weight=None if weight is None else weight[part])
            return True

    return xgboost.QuantileDMatrix(Blocks(), nthread=1)
