"""Estimated performance of a chunk's segments, from counted scores: CBPE's values with the interval of their size.

Importance weights are learnt for the chunk as a whole (``core.estimation``); segments come from counts alone.
"""

from typing import Final

import polars as pl

from selfheal_assets.core.chunk_statistics import ALL, ChunkStatistics
from selfheal_assets.core.estimation import ESTIMATE_SCHEMA, insufficient, interval
from selfheal_assets.core.evidence_policy import Estimation
from selfheal_assets.core.expected import expected_metrics
from selfheal_assets.core.monitoring import Status
from selfheal_assets.core.policies import Costs
from selfheal_assets.core.profile import Profile
from selfheal_assets.core.reference_rows import CBPE
from selfheal_assets.core.sampling_error import sampling_errors
from selfheal_assets.core.score_groups import ScoreGroups
from selfheal_assets.core.score_table import score_groups

SEGMENT_SCHEMA: Final = {"segment": pl.String} | ESTIMATE_SCHEMA


def segment_estimates(
    profile: Profile,
    statistics: ChunkStatistics,
    policy: Estimation,
    costs: Costs | None = None,
    seed: int = 0,
) -> pl.DataFrame:
    """Every metric of every segment of one chunk, by CBPE.

    Args:
        profile: fitted with a calibration.
        statistics: of one chunk.
        policy: a segment needs ``min_rows`` scored rows, as a chunk does.
        costs: of the business value.
        seed: of the resamples.

    Returns:
        One row per ``segment`` (not ``all``) and ``metric``, else as :func:`core.estimation.estimate_chunk`.
        ``trusted``, ``own_error`` and ``value_weighted`` are null: no backtest is made for a segment.
    """
    parts = [pl.DataFrame(schema=SEGMENT_SCHEMA)]
    for segment in profile.segment_labels:
        if segment != ALL:
            found = _of_segment(score_groups(profile, statistics, segment), policy, costs, seed)
            parts.append(found.select(pl.lit(segment).alias("segment"), *ESTIMATE_SCHEMA))
    return pl.concat(parts)


def _of_segment(groups: ScoreGroups, policy: Estimation, costs: Costs | None, seed: int) -> pl.DataFrame:
    rows = round(groups.total)
    if rows < policy.min_rows:
        why = f"{rows} scored rows in this segment; estimation.min_rows asks for {policy.min_rows}"
        return insufficient(rows, why).with_columns(trusted=pl.lit(None, pl.Boolean))
    errors = sampling_errors(groups, costs, seed)
    told = []
    for figure in expected_metrics(groups, costs).iter_rows(named=True):
        value, known = figure["value"], {"rows": rows, "estimator": CBPE, "value_cbpe": figure["value"]}
        status = Status.insufficient if value is None else Status.passed
        around = (
            {}
            if value is None
            else interval(value, figure["unit"], errors.get(figure["metric"]), None, policy)
        )
        told.append(figure | known | around | {"status": status.value})
    return pl.DataFrame(told, schema=ESTIMATE_SCHEMA)
