"""How far a distance scatters between chunks of the reference itself: the limit that NannyML draws beside it.

It is shown, and says 'look'; with ten chunks behind it, it bounds no error (docs/decisions/0016). What alarms is
``core.drift_alarms``.
"""

from typing import Final

import polars as pl

from selfheal_assets.core.chunk_statistics import ALL, ChunkStatistics
from selfheal_assets.core.drift import drift_figures
from selfheal_assets.core.profile import Profile

METHOD: Final = "jensen_shannon"
DEVIATIONS: Final = 3  # NannyML 0.13.1's default, StandardDeviationThreshold


def scatter_limits(profile: Profile, reference_chunks: ChunkStatistics) -> pl.DataFrame:
    """Mean plus three standard deviations (of the population) of the reference chunks' Jensen–Shannon distances.

    Returns:
        ``feature``, ``segment`` (``all``), ``method``, ``threshold`` (at most 1), where there are distances.
    """
    figures = drift_figures(profile, reference_chunks).filter(
        pl.col("method") == METHOD, pl.col("segment") == ALL, pl.col("value").is_not_null()
    )
    limit = pl.col("value").mean() + DEVIATIONS * pl.col("value").std(ddof=0)
    by = ["feature", "segment", "method"]
    return figures.group_by(by, maintain_order=True).agg(threshold=limit.clip(0, 1))


def with_limits(figures: pl.DataFrame, limits: pl.DataFrame) -> pl.DataFrame:
    """Drift figures with ``threshold`` and ``alert`` (beyond it) where there is a limit; else both are null."""
    joined = figures.join(limits, on=["feature", "segment", "method"], how="left", maintain_order="left")
    return joined.with_columns(alert=pl.col("value") > pl.col("threshold"))
