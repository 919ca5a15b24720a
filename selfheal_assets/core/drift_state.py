"""What is known of the features after some chunks: counts, and nothing else.

The state takes one chunk at a time, at a cost that does not grow with the chunks behind it, and is the same whether
it was carried along or folded from the stored history.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import reduce

import numpy as np
import polars as pl

from selfheal_assets.core.cell_counts import Cells, checked_counts, reference_cells
from selfheal_assets.core.evidence_policy import DriftAlarms


@dataclass(frozen=True)
class FeatureState:
    """What is known of one feature: counts before each start, and counts of everything.

    ``before`` has shape (S, K): the reference's rows and those of the chunks before each of ``starts``; ``total``
    has shape (K,).
    """

    cells: Cells
    starts: tuple[str, ...]
    before: np.ndarray
    total: np.ndarray

    def merged(self, chunk: str, rows: np.ndarray, most: int) -> "FeatureState":
        """The state with a chunk's counts; of more than ``most`` starts the first and the newest are kept."""
        starts, before = (*self.starts, chunk), np.vstack([self.before, self.total])
        if len(starts) > most:
            starts = (starts[0], *starts[-most + 1 :])
            before = np.vstack([before[:1], before[-most + 1 :]])
        return replace(self, starts=starts, before=before, total=self.total + rows)

    def newest(self, window: int) -> list[tuple[np.ndarray, np.ndarray]]:
        """Counts before and of each of the last ``window`` chunks, the oldest first."""
        after = np.vstack([self.before[1:], self.total])
        return [(b, a - b) for b, a in zip(self.before[-window:], after[-window:], strict=True)]

    @property
    def reference_rows(self) -> int:
        """Rows of the reference."""
        return int(self.cells.rows.sum())


@dataclass(frozen=True)
class DriftState:
    """What is known after some chunks: ``features``, and the number of ``chunks`` merged."""

    features: tuple[FeatureState, ...]
    chunks: int = 0


def begin(reference: pl.DataFrame, policy: DriftAlarms) -> DriftState:
    """The state before any chunk.

    Args:
        reference: ``feature``, ``cell`` (str), ``rows`` (int), ``position`` (f64, may be left out): see
            ``cell_counts.reference_cells``. The scores are a feature like any other.

    Raises:
        ValueError: counts are negative, doubled or missing, or there is no feature.
    """
    cells = reference_cells(reference, policy.cells)
    if not cells:
        raise ValueError("the reference's counts are empty: no feature to watch")
    return DriftState(tuple(FeatureState(c, (), np.empty((0, len(c.names))), c.rows) for c in cells))


def merge(state: DriftState, chunk: str, counts: pl.DataFrame, policy: DriftAlarms) -> DriftState:
    """The state with one more chunk.

    Args:
        chunk: its name.
        counts: ``feature``, ``cell`` (str), ``rows`` (int) of this chunk. A cell that the reference does not have
            counts as unseen, a feature without rows as an empty chunk; features that it does not have are left out.

    Raises:
        ValueError: counts are negative, doubled or missing, or the chunk is in the state already.
    """
    checked_counts(counts, ("feature", "cell"), f"chunk {chunk}")
    if any(chunk in f.starts for f in state.features):
        raise ValueError(f"chunk {chunk} is in the state already: fold the history anew to replace it")
    parts = {str(k[0]): part for k, part in counts.partition_by("feature", as_dict=True).items()}
    none = counts.clear()
    merged = [
        f.merged(chunk, f.cells.counted(parts.get(f.cells.feature, none)), policy.max_starts)
        for f in state.features
    ]
    return DriftState(tuple(merged), state.chunks + 1)


def folded(reference: pl.DataFrame, history: pl.DataFrame, policy: DriftAlarms) -> DriftState:
    """The state after a stored history: ``chunk``, ``feature``, ``cell`` (str), ``rows`` (int), chunks in order.

    Raises:
        ValueError: as ``begin`` and ``merge``.
    """
    return reduce(
        lambda state, part: merge(state, part[0], part[1], policy),
        chunks_of(history),
        begin(reference, policy),
    )


def counts_since(state: DriftState, since: Mapping[str, str]) -> pl.DataFrame:
    """Counts of some features from a chunk on: ``feature``, ``cell`` (as the alarms have merged them), ``rows``.

    Args:
        since: by feature the first chunk that counts, such as an alarm's ``first_chunk``.

    Raises:
        ValueError: a feature is not watched, or its chunk is none of the kept starts.
    """
    watched = {f.cells.feature: f for f in state.features}
    parts = [pl.DataFrame(schema={"feature": pl.String, "cell": pl.String, "rows": pl.Int64})]
    for name, chunk in since.items():
        if name not in watched or chunk not in watched[name].starts:
            raise ValueError(f"chunk {chunk} of {name} is not in the state: fold the history that has it")
        feature = watched[name]
        rows = feature.total - feature.before[feature.starts.index(chunk)]
        columns = {"feature": [name] * len(rows), "cell": feature.cells.names, "rows": rows.astype(np.int64)}
        parts.append(pl.DataFrame(columns))
    return pl.concat(parts)


def chunks_of(history: pl.DataFrame) -> list[tuple[str, pl.DataFrame]]:
    """Name and counts of each chunk of a history, in its order."""
    checked_counts(history, ("chunk", "feature", "cell"), "the history of counts")
    parts = history.partition_by("chunk", maintain_order=True)
    return [(str(part["chunk"][0]), part.drop("chunk")) for part in parts]
