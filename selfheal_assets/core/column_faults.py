"""Columns that broke: what no population does by itself, told from rows before and after.

A fault is a break of the pipeline (a stuck sensor, another unit, other codes), not a drift, which is
``drift_alarms``'s. Only marginal distributions are compared here; ``kept_rows`` compares row by row.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np
import polars as pl

from selfheal_assets.core.soundness_policy import Soundness
from selfheal_assets.core.spec import Feature, FeatureType


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong with data: its ``cause`` in a word, the ``reason`` in a sentence, the figures."""

    cause: str
    reason: str
    evidence: dict[str, float | int | str] = field(default_factory=dict)


def column_faults(
    before: pl.DataFrame, after: pl.DataFrame, features: Sequence[Feature], policy: Soundness
) -> list[Fault]:
    """Which features broke between two neighbouring sets of rows.

    Args:
        before: sound rows with the features.
        after: the rows that come next in time, with the same columns.
        features: those of the policy's ``ignored`` are passed over.
        policy: limits; with fewer than ``min_rows`` rows on either side nothing can be told, and nothing is.
    """
    if min(before.height, after.height) < policy.min_rows:
        return []
    watched = [f for f in features if f.name not in policy.ignored]
    found = [fault for f in watched if (fault := _fault(before[f.name], after[f.name], f, policy))]
    return found + _swapped(before, after, [f for f in watched if f.type is not FeatureType.category])


def _fault(before: pl.Series, after: pl.Series, feature: Feature, policy: Soundness) -> Fault | None:
    """The first fault of one column; a later one would only be its consequence."""
    missing = after.null_count() / len(after)
    rise = missing - before.null_count() / len(before)
    if rise > policy.max_missing_rise:
        return Fault(
            "missing",
            f"{feature.name} is missing in {missing:.1%} of the {len(after)} newest rows, "
            f"{rise:.1%} more than before",
            {"column": feature.name, "missing": missing, "rise": rise},
        )
    old, new = before.drop_nulls(), after.drop_nulls()
    if not len(old) or not len(new):
        return None
    return _stuck(old, new, feature.name, policy) or (
        _unseen(old, new, feature.name, policy)
        if feature.type is FeatureType.category
        else _rescaled(old, new, feature.name, policy)
    )


def _stuck(old: pl.Series, new: pl.Series, name: str, policy: Soundness) -> Fault | None:
    """One value only, although it had so small a share before that chance cannot have drawn it each time."""
    if new.n_unique() > 1 or len(new) < policy.min_rows:
        return None
    share = float((old == new[0]).mean() or 0)  # type: ignore[arg-type]
    if share > policy.max_stuck_share or share ** len(new) > (1 - policy.confidence) ** 2:
        return None
    return Fault(
        "stuck",
        f"{name} is stuck: all {len(new)} newest rows hold {new[0]}, which {share:.1%} of the rows before held",
        {"column": name, "value": str(new[0]), "share_before": share},
    )


def _unseen(old: pl.Series, new: pl.Series, name: str, policy: Soundness) -> Fault | None:
    known = old.unique().to_list()
    strange = new.filter(~new.is_in(known))
    share = len(strange) / len(new)
    if share <= policy.max_unseen_share:
        return None
    shown = ", ".join(sorted(map(str, strange.unique().to_list()))[:3])
    return Fault(
        "unseen",
        f"{name} was recoded: {share:.1%} of the {len(new)} newest rows hold values never seen before ({shown})",
        {"column": name, "unseen": share},
    )


def _rescaled(old: pl.Series, new: pl.Series, name: str, policy: Soundness) -> Fault | None:
    negative = float((new < 0).mean() or 0)  # type: ignore[arg-type]
    if old.min() >= 0 and negative > policy.max_implausible_share:  # type: ignore[operator]
        return Fault(
            "negative",
            f"{name} is negative in {negative:.1%} of the {len(new)} newest rows, before in none",
            {"column": name, "negative": negative},
        )
    sizes = [float(s.filter(s != 0).abs().median() or 0) for s in (old, new)]  # type: ignore[arg-type]
    factor = sizes[1] / sizes[0] if sizes[0] and sizes[1] else 1.0
    if max(factor, 1 / factor) > policy.max_scale:
        return Fault(
            "unit",
            f"{name} changed its unit: the median size of its values is {factor:.4g} times that of the rows before",
            {"column": name, "factor": factor},
        )
    low, high = old.min(), old.max()
    outside = float(((new < low) | (new > high)).mean() or 0)  # type: ignore[arg-type]
    if outside > policy.max_unseen_share:
        return Fault(
            "foreign",
            f"{outside:.1%} of the {len(new)} newest rows hold {name} outside {low:.4g} to {high:.4g}, where all "
            "rows before lie: rows of another population were mixed in",
            {"column": name, "outside": outside},
        )
    return None


_FAR, _NEAR = 0.4, 0.1  # Kolmogorov–Smirnov distances: another distribution, and the same one


def _swapped(before: pl.DataFrame, after: pl.DataFrame, numbers: Sequence[Feature]) -> list[Fault]:
    """Pairs of numbers that each look like the other before, and no longer like themselves."""
    old = {f.name: np.sort(before[f.name].drop_nulls().to_numpy()) for f in numbers}
    new = {f.name: np.sort(after[f.name].drop_nulls().to_numpy()) for f in numbers}
    moved = [n for n in old if len(old[n]) and len(new[n]) and distance(old[n], new[n]) > _FAR]
    return [
        Fault(
            "swapped",
            f"{a} and {b} are swapped: in the newest rows each is distributed as the other was before",
            {"column": a, "other": b},
        )
        for a, b in combinations(moved, 2)
        if distance(old[a], new[b]) < _NEAR and distance(old[b], new[a]) < _NEAR
    ]


def distance(first: np.ndarray, second: np.ndarray) -> float:
    """Kolmogorov–Smirnov distance of two sorted samples: the largest gap between their distribution functions."""
    every = np.concatenate([first, second])
    below = [np.searchsorted(s, every, side="right") / len(s) for s in (first, second)]
    return float(np.max(np.abs(below[0] - below[1])))
