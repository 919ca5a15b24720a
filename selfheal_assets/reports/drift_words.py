"""What changed, in words and feature by feature: the alarms' story, and PSI beside what chance alone would give."""

from collections.abc import Mapping
from typing import Any

import polars as pl

from selfheal_assets.reports.drift_figures import with_ratio
from selfheal_assets.reports.page import Badge, Cell, Column, Table, Tone
from selfheal_assets.reports.text import UNKNOWN, count, is_known, listing, number, percent, statistic

CATEGORIES = ("mix", "unseen values", "fewer unseen values")
_BANDS: dict[str, tuple[str, str, Tone]] = {
    "stable": ("✓", "stable", "good"),
    "watch": ("●", "watch", "unknown"),
    "moved": ("▲", "moved", "bad"),
}
_METRICS = {"mean_score": "the mean score", "estimated_roc_auc": "the estimated ROC AUC"}


def in_words(drift: pl.DataFrame, cohorts: pl.DataFrame, outcome: str) -> list[str]:
    """What drift and partial labels say, in a sentence each; as ``drift.DriftPage`` holds them."""
    said = []
    if not drift.is_empty():
        ranked = with_ratio(drift)
        drifted = ranked.filter(pl.col("alert"))["feature"].unique(maintain_order=True).to_list()
        measured = set(drift.drop_nulls("value")["feature"])
        unmeasured = [f for f in drift["feature"].unique(maintain_order=True) if f not in measured]
        names = f": {listing(drifted)}" if drifted else ""
        rest = f"; {listing(unmeasured)} could not be measured" if unmeasured else ""
        said.append(f"{len(drifted)} of {len(measured)} measured features drifted{names}{rest}.")
    if not cohorts.is_empty():
        expected, observed = cohorts.drop_nulls("expected").select(pl.sum("expected", "observed")).row(0)
        ratio = f", {observed / expected:.2f} times as many" if expected else ""
        so_far = f"{count(observed)} {outcome} so far where {number(expected, 1)} were expected"
        said += [f"{so_far}{ratio}."] if max(expected, observed) >= 1 else []
    return [" ".join(said)] if said else []


def change_words(alarm: Mapping[str, Any]) -> str:
    """One alarm's change in a sentence; empty where there is none.

    Args:
        alarm: a row of ``core.drift_alarms``.
    """
    direction, moved = alarm.get("direction"), alarm.get("mass_moved")
    if not direction or moved is None:
        return ""
    said = f"{_ways(direction)}: {percent(moved)} of rows moved"
    if is_known(alarm.get("shift_sd")):
        said += f", the mean by {alarm['shift_sd']:+.2f} standard deviations"
    if direction in CATEGORIES or "missing" in direction:
        told = [
            f"{word} of {alarm[name]}"
            for name, word in (("grown", "more"), ("shrunk", "fewer"))
            if alarm[name]
        ]
        said += f" ({'; '.join(told)} points)" if told else ""
    return f"{said}. Since {alarm['first_chunk']}."


def _ways(direction: str) -> str:
    words = {
        "up": "Shifted up",
        "down": "Shifted down",
        "wider": "Spread wider",
        "narrower": "Spread narrower",
        "mix": "Another mix",
        "more missing": "More missing",
        "fewer missing": "Fewer missing",
        "unseen values": "Values never seen before",
        "fewer unseen values": "Fewer unseen values",
    }
    return words.get(direction, direction)


def psi_badge(row: Mapping[str, Any]) -> Badge:
    """PSI's band as credit reads it, unless the value is below what chance alone gives for so few rows."""
    band, cut_off = row.get("band"), row.get("cut_off")
    if band is None:
        return Badge("?", "not known", "unknown")
    if band != "stable" and is_known(cut_off) and row["value"] <= cut_off:
        return Badge("·", f"{band}, but may be chance", "neutral")
    if band == "stable" and is_known(cut_off) and row["value"] > cut_off:
        return Badge("✓", "small, but beyond chance", "neutral")
    return Badge(*_BANDS[band])


def strongest(alarms: pl.DataFrame) -> dict[str, dict[str, Any]]:
    """The alarm of each feature that alarms, of the acting tier before the warning one; where most moved first."""
    if alarms.is_empty():
        return {}
    failed = alarms.filter(pl.col("status") == "FAIL").sort("tier", descending=True)
    told = {row["feature"]: row for row in failed.iter_rows(named=True)}
    return dict(sorted(told.items(), key=lambda item: -(item[1]["mass_moved"] or 0)))


def changes_table(drift: pl.DataFrame, alarms: pl.DataFrame, psi: pl.DataFrame) -> Table:
    """One row per feature: whether it alarms, what changed, and PSI with its cut-off.

    Args:
        drift: a chunk's univariate drift, which names the features.
        alarms: rows of ``core.drift_alarms`` of the chunk.
        psi: rows of ``core.drift.psi_readings``.
    """
    told = strongest(alarms)
    readings = {row["feature"]: row for row in psi.iter_rows(named=True)}
    names = list(dict.fromkeys([*told, *readings, *drift["feature"].to_list()]))
    columns = [
        Column("Feature", False), Column("Alarm", False), Column("What changed", False), Column("PSI"),
        Column("By chance up to"), Column("Rows"), Column("PSI reads", False),
    ]  # fmt: skip
    rows = [_feature(name, told.get(name), readings.get(name, {})) for name in names]
    caption = (
        "Feature by feature. Alarms share an error budget and ask whether anything changed; PSI says how much, and a "
        "band reached below its cut-off for so few rows says nothing."
    )
    return Table(caption, columns, rows)


def _feature(name: str, alarm: Mapping[str, Any] | None, reading: Mapping[str, Any]) -> list[Cell]:
    badge = Badge("·", "quiet", "neutral")
    if alarm:
        badge = Badge("▲", "changed", "bad") if alarm["tier"] == "act" else Badge("●", "warns", "unknown")
    sizes = (reading.get("reference_rows"), reading.get("rows"))
    return [
        name,
        badge,
        change_words(alarm) if alarm else "",
        statistic(reading.get("value")),
        statistic(reading.get("cut_off")),
        " → ".join(number(n, 0) for n in sizes) if reading else UNKNOWN,
        psi_badge(reading),
    ]


def causes_words(causes: pl.DataFrame) -> list[str]:
    """The suspected causes in sentences, the largest first; or why none is suspected."""
    if causes.is_empty():
        return []
    known, said = causes.filter(pl.col("effect").is_not_null()), []
    for (metric,), rows in known.sort("rank").group_by("metric", maintain_order=True):
        parts = [f"{r['feature']} {r['effect']:+.3f}" for r in rows.iter_rows(named=True)]
        total = rows["total_change"][0]
        whole = f" of {total:+.3f} that the drifted features explain together" if is_known(total) else ""
        what = _METRICS.get(str(metric), metric)
        said.append(f"Suspected causes of the change of {what}: {listing(parts, 5)}{whole}.")
    if said:
        return said
    reason = (
        causes.filter(pl.col("reason").is_not_null())["reason"].unique(maintain_order=True).head(1).to_list()
    )
    return [f"No cause can be told apart: {reason[0].rstrip('.')}."] if reason else []
