"""Rows that were trained on before, held against what they are now: a history that changed behind our back.

Nothing is estimated here: cases and labels are append-only, so a row that was trained on is the same for ever, but
for a label that the ledger corrected. What differs is told by its cause: unit, codes, order, dates, labels.
"""

from collections.abc import Sequence
from datetime import datetime

import numpy as np
import polars as pl

from selfheal_assets.core.column_faults import Fault
from selfheal_assets.core.soundness_policy import Soundness
from selfheal_assets.core.spec import Feature, FeatureType

_KEPT = "__kept"


def kept_faults(
    kept: pl.DataFrame, rows: pl.DataFrame, known_at: datetime, features: Sequence[Feature], policy: Soundness
) -> list[Fault]:
    """What became of the rows that were trained on.

    Args:
        kept: the last accepted training set: ``entity_id`` (str), ``event_time`` (Datetime), the features, ``label``.
        rows: the same columns as known now, with ``recorded_at`` (Datetime; null: no label was recorded).
        known_at: when ``kept`` was known: a label recorded since is a correction.
        features: in any order.
        policy: ``max_changed_share``, ``max_corrected_share``.
    """
    if kept.is_empty():
        return []
    kept = kept.select("entity_id", "event_time", *(f.name for f in features), "label")
    joined = kept.join(rows.unique("entity_id", keep="first"), on="entity_id", suffix=_KEPT)
    columns = [fault for f in features if (fault := _column(joined, kept.height, f, policy))]
    named = _merge_swaps(joined, columns, features)
    return [
        *_gone(kept, rows, policy),
        *_dates(joined, policy),
        *named,
        *_labels(joined, known_at, features, policy),
    ]


def _gone(kept: pl.DataFrame, rows: pl.DataFrame, policy: Soundness) -> list[Fault]:
    gone = kept.join(rows, on="entity_id", how="anti")
    if gone.height <= policy.max_changed_share * kept.height:
        return []
    first, last = gone["event_time"].min(), gone["event_time"].max()
    begins = rows["event_time"].min()
    cut = begins is not None and last < begins  # type: ignore[operator]
    said = (
        f"the history is truncated: it begins {begins:%Y-%m-%d}, and the {gone.height} of {kept.height} rows before "
        f"that, from {first:%Y-%m-%d} on, are gone"
        if cut
        else f"rows are gone: {gone.height} of {kept.height} that were trained on, "
        f"from {first:%Y-%m-%d} to {last:%Y-%m-%d}"
    )
    return [Fault("truncated", said, {"gone": gone.height, "kept": kept.height})]


def _dates(joined: pl.DataFrame, policy: Soundness) -> list[Fault]:
    days = (joined[f"event_time{_KEPT}"] - joined["event_time"]).dt.total_seconds() / 86400.0
    moved = days.filter(days != 0)
    if len(moved) <= policy.max_changed_share * joined.height:
        return []
    shift = float(moved.median())  # type: ignore[arg-type]
    said = (
        f"event dates were shifted: {len(moved)} of {joined.height} rows that were trained on moved, by "
        f"{shift:+.1f} days in the median"
    )
    return [Fault("shifted_dates", said, {"moved": len(moved), "median_days": shift})]


def _column(joined: pl.DataFrame, total: int, feature: Feature, policy: Soundness) -> Fault | None:
    old, new = joined[feature.name], joined[f"{feature.name}{_KEPT}"]
    changed = ~old.eq_missing(new)
    count = int(changed.sum())
    if feature.name in policy.ignored or count <= policy.max_changed_share * total:
        return None
    cause, how = _how(old.filter(changed), new.filter(changed), new, feature)
    said = f"{feature.name} {how}: {count} of {total} rows that were trained on hold another value now"
    return Fault(cause, said, {"column": feature.name, "changed": count, "rows": total})


def _how(old: pl.Series, new: pl.Series, whole: pl.Series, feature: Feature) -> tuple[str, str]:
    """What happened to the values that changed: cause and words."""
    if not new.null_count() < len(new):
        return "missing", "is missing"
    if whole.drop_nulls().n_unique() == 1:
        return "stuck", f"is stuck at {new.drop_nulls()[0]}"
    if feature.type is not FeatureType.category:
        a, b = old.cast(pl.Float64), new.cast(pl.Float64)
        ratio = (b / a).filter((a != 0) & b.is_not_null())
        if len(ratio) and np.allclose(ratio.to_numpy(), ratio[0], rtol=1e-3):
            factor = ratio[0]
            if factor == -1:
                return "negative", "became negative where it was positive and the other way round"
            return "unit", f"changed its unit, by a factor of {factor:.4g}"
        if (a.min() or 0) >= 0 and (b.min() or 0) < 0:  # type: ignore[operator]
            return "negative", "became negative"
    if old.sort().equals(new.sort(), check_names=False):
        return "shuffled", "was shuffled: the same values stand in other rows"
    mapping = pl.DataFrame({"old": old, "new": new}).unique()
    if (
        feature.type is FeatureType.category
        and mapping["old"].n_unique() == mapping.height == mapping["new"].n_unique()
    ):
        shown = ", ".join(
            f"{r['old']} → {r['new']}" for r in mapping.sort("old").head(2).iter_rows(named=True)
        )
        return "recoded", f"was recoded ({shown})"
    return "changed", "changed"


def _merge_swaps(joined: pl.DataFrame, found: list[Fault], features: Sequence[Feature]) -> list[Fault]:
    """Two columns that hold each other's old values are one fault."""
    names = [str(f.evidence["column"]) for f in found]
    for a in names:
        for b in names:
            if a < b and _holds(joined, a, b) and _holds(joined, b, a):
                rest = [f for f in found if f.evidence["column"] not in (a, b)]
                said = (
                    f"{a} and {b} are swapped: in {joined.height} rows that were trained on each holds the other's "
                    "value"
                )
                return [Fault("swapped", said, {"column": a, "other": b, "rows": joined.height}), *rest]
    return found


def _holds(joined: pl.DataFrame, column: str, other: str) -> bool:
    now, then = joined[f"{column}{_KEPT}"], joined[other]
    return now.dtype == then.dtype and bool(now.eq_missing(then).all())


def _labels(
    joined: pl.DataFrame, known_at: datetime, features: Sequence[Feature], policy: Soundness
) -> list[Fault]:
    changed = joined.filter(pl.col("label") != pl.col(f"label{_KEPT}"))
    corrected = changed.filter(pl.col("recorded_at") >= known_at)
    silent = changed.height - corrected.height
    found, total = [], joined.height
    if silent > policy.max_changed_share * total:
        said = (
            f"labels contradict the ledger: {silent} of {total} labels that were trained on are others now, and no "
            f"correction was recorded since {known_at:%Y-%m-%d}{_where(changed, joined, features)}"
        )
        found.append(Fault("label_changed", said, {"changed": silent, "rows": total}))
    if corrected.height > policy.max_corrected_share * total:
        said = (
            f"labels were flipped: {corrected.height} of {total} labels that were trained on were turned by records "
            f"since {known_at:%Y-%m-%d}, more than {policy.max_corrected_share:.1%}"
            f"{_where(corrected, joined, features)}"
        )
        found.append(Fault("label_flipped", said, {"corrected": corrected.height, "rows": total}))
    return found


def _where(changed: pl.DataFrame, every: pl.DataFrame, features: Sequence[Feature]) -> str:
    """The category that holds nearly all changed rows and not nearly all rows, in words; empty if none does."""
    for feature in features:
        if feature.type is FeatureType.category and changed.height:
            value = changed[feature.name].mode()[0]
            inside, overall = (float((f[feature.name] == value).mean() or 0) for f in (changed, every))  # type: ignore[arg-type]
            if inside > 0.95 and overall < 0.8:
                return f", nearly all where {feature.name} is {value}"
    return ""
