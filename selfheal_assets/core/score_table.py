"""From counted scores to the groups that expected performance is computed from."""

from typing import Final

import numpy as np
import polars as pl

from selfheal_assets.core.chunk_statistics import ALL, ChunkStatistics
from selfheal_assets.core.expected import EXPECTED_SCHEMA, expected_metrics
from selfheal_assets.core.policies import Costs
from selfheal_assets.core.profile import Profile
from selfheal_assets.core.score_groups import ScoreGroups

ESTIMATES_SCHEMA: Final = {"chunk": pl.String, "segment": pl.String, "rows": pl.Int64} | EXPECTED_SCHEMA


def score_groups(profile: Profile, statistics: ChunkStatistics, segment: str = ALL) -> ScoreGroups:
    """Groups of one chunk's rows, by cell of the score.

    Where the calibration is flat they are what single rows would give. In a cell where it rises, of width 1/16,384
    of the calibration's range at most, rows count as ties with their mean probability: confusion cells stay exact,
    and a ranking metric moves by some 1e-9.

    Raises:
        ValueError: the profile does not monitor scores, or ``statistics`` holds several chunks.
    """
    if profile.score_cells is None:
        raise ValueError("this profile monitors no scores: fit it with a calibration")
    found = statistics.scores.filter(pl.col("segment") == segment)
    if found.height > 1:
        raise ValueError(f"{found.height} chunks: choose one, or merge them")
    lists = found.row(0, named=True) if found.height else {key: [] for key in found.columns}
    cells, rows = np.array(lists["cells"], dtype=np.int64), np.array(lists["rows"], dtype=np.float64)
    sums = {k: np.array(lists[k], dtype=np.float64) for k in found.columns if k.endswith("_sum")}
    probability = profile.score_cells.mean_probability(cells, rows, sums["score_sum"])
    return ScoreGroups(
        probability=probability, rows=rows, flagged=np.array(lists["flagged"], dtype=bool), rank=cells, **sums
    )


def expected_performance(
    profile: Profile, statistics: ChunkStatistics, costs: Costs | None = None
) -> pl.DataFrame:
    """CBPE's estimates of every chunk and segment.

    Returns:
        One row per ``chunk``, ``segment`` and ``metric``: ``rows`` scored, and the columns of
        :func:`core.expected.expected_metrics`: ``value`` (null where ``reason`` says why), ``unit``.
    """
    parts = []
    for chunk in statistics.chunks:
        one = statistics.of(chunk)
        for segment in profile.segment_labels:
            groups = score_groups(profile, one, segment)
            estimates = expected_metrics(groups, costs)
            named = (pl.lit(v).alias(k) for k, v in (("chunk", chunk), ("segment", segment)))
            parts.append(estimates.select(*named, pl.lit(int(groups.total)).alias("rows"), pl.all()))
    return pl.concat([pl.DataFrame(schema=ESTIMATES_SCHEMA), *parts], how="vertical_relaxed")
