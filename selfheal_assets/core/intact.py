"""The check ``inputs_are_intact``: whether a chunk's features broke, which calls for mended data."""

from collections.abc import Sequence

import polars as pl

from selfheal_assets.core.column_faults import column_faults
from selfheal_assets.core.monitoring import Finding, Status, unknown
from selfheal_assets.core.soundness_policy import Soundness
from selfheal_assets.core.spec import Feature

INTACT = "inputs_are_intact"


def intact_finding(
    before: pl.DataFrame, rows: pl.DataFrame, features: Sequence[Feature], policy: Soundness
) -> Finding:
    """Whether the chunk's features broke, against all cases of the chunks before it (both hold the features)."""
    if min(rows.height, before.height) < policy.min_rows:
        return unknown(
            INTACT,
            f"{rows.height} rows, {before.height} before; soundness.min_rows asks for {policy.min_rows}",
        )
    faults = column_faults(before, rows, features, policy)
    said = "; ".join(f.reason for f in faults) or f"none of {len(features)} features broke"
    return Finding(INTACT, Status.failed if faults else Status.passed, said)
