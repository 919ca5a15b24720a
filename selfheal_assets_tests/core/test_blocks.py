"""Block by block XGBoost sees the rows that were asked for, in their order, with their labels."""

import tracemalloc

import numpy as np
import pytest
import xgboost

from selfheal_assets.core.blocks import quantised

PARAMETERS = {"objective": "binary:logistic", "nthread": 1, "seed": 0, "max_depth": 4}


def data(size: int = 5000) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(size, 4)).astype(np.float32)
    return matrix, rng.uniform(size=size), rng.uniform(0.5, 2, size)


def raw(matrix: xgboost.QuantileDMatrix) -> bytes:
    return bytes(xgboost.train(PARAMETERS, matrix, 5).save_raw("ubj"))


def test_one_block_is_the_matrix_itself():
    matrix, label, weight = data()
    whole = xgboost.QuantileDMatrix(matrix, label, weight=weight, nthread=1)
    assert raw(quantised(matrix, label, weight)) == raw(whole)


def test_rows_and_a_further_column_are_those_of_a_copy():
    matrix, label, weight = data()
    rows = np.random.default_rng(1).integers(0, len(matrix), 3000)
    column = np.arange(3000, dtype=np.float32) % 7
    copied = np.column_stack([matrix[rows], column])
    label, weight = label[rows] * (column > 3), weight[rows]
    whole = xgboost.QuantileDMatrix(copied, label, weight=weight, nthread=1)
    assert raw(quantised(matrix, label, weight, rows, column)) == raw(whole)


@pytest.mark.parametrize("block", [777, 1000, 5000])
def test_blocks_are_in_order_and_complete(block):
    matrix, label, weight = data()
    found = quantised(matrix, label, weight, block=block)
    assert found.num_row() == len(label) and found.num_col() == 4
    assert found.get_label() == pytest.approx(label.astype(np.float32))
    assert found.get_weight() == pytest.approx(weight.astype(np.float32))


def test_blocks_rank_as_the_whole_does():
    """Quantiles of blocks are merged, so cuts differ in the last places, and a model hardly does."""
    matrix, _, _ = data(20_000)
    label = (matrix[:, 0] + matrix[:, 1] > 0).astype(np.int8)
    boosters = [xgboost.train(PARAMETERS, quantised(matrix, label, block=b), 10) for b in (20_000, 777)]
    scores = [b.inplace_predict(matrix) for b in boosters]
    assert np.corrcoef(*scores)[0, 1] > 0.99


def test_no_second_copy_of_the_rows_is_made():
    matrix = np.zeros((400_000, 8), dtype=np.float32)
    rows, label = np.arange(400_000), np.zeros(400_000)
    tracemalloc.start()
    quantised(matrix, label, rows=rows, block=20_000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < matrix.nbytes / 4
