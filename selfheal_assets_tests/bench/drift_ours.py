"""Our drift alarms on a history for `make bench-alarms`: rows to counts, counts to alarms, chunk after chunk."""

import numpy as np
import polars as pl

from selfheal_assets.core.cell_counts import Cells
from selfheal_assets.core.drift_alarms import alarm_rows, judge_feature
from selfheal_assets.core.drift_state import DriftState, begin
from selfheal_assets.core.evidence_policy import DriftAlarms
from selfheal_assets.core.monitoring import Status
from selfheal_assets_tests.bench.drift_streams import FEATURES, NUMBERS, Stream


def our_alarms(stream: Stream, policy: DriftAlarms) -> dict[str, np.ndarray]:
    """Chunks in which each of our tiers alarms."""
    edges = {n: np.quantile(stream.reference[n], np.linspace(0, 1, policy.cells + 1)[1:-1]) for n in NUMBERS}
    state = begin(_reference_counts(stream, edges), policy)
    places = {f.cells.feature: _places(f.cells) for f in state.features}
    found = {tier: np.zeros(stream.chunks, dtype=bool) for tier in ("warn", "act")}
    for n in range(stream.chunks):
        merged = []
        for feature in state.features:
            name = feature.cells.feature
            cells = places[name][_cell_numbers(stream.chunk(name, n), edges.get(name))]
            rows = np.bincount(cells, minlength=len(feature.cells.names)).astype(float)
            merged.append(feature.merged(f"{n:04d}", rows, policy.max_starts))
        state = DriftState(tuple(merged), n + 1)
        if any([j.beyond for f in merged for j in judge_feature(f, policy, len(merged))]):
            rows = alarm_rows(state, policy).filter(pl.col("status") == Status.failed.value)
            for tier in rows["tier"].unique():
                found[tier][n] = True
    return found


def _cell_numbers(values: np.ndarray, edges: np.ndarray | None) -> np.ndarray:
    """Tenths of the reference for numbers; categories are numbers of cells already."""
    return values if edges is None else np.searchsorted(edges, values)


def _reference_counts(stream: Stream, edges: dict[str, np.ndarray]) -> pl.DataFrame:
    parts = []
    for name in FEATURES:
        counts = np.bincount(_cell_numbers(stream.reference[name], edges.get(name)))
        place = [float(k) if name in NUMBERS else None for k in range(len(counts))]
        columns = {"feature": [name] * len(counts), "cell": [f"{k:02d}" for k in range(len(counts))]}
        parts.append(pl.DataFrame(columns | {"rows": counts, "position": pl.Series(place, dtype=pl.Float64)}))
    return pl.concat(parts)


def _places(cells: Cells) -> np.ndarray:
    """Where the reference's cells, as numbered here, are among those that the alarms have merged them to."""
    return np.array([cells.index.get(f"{k:02d}", len(cells.names) - 1) for k in range(100)])
