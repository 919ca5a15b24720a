"""The tables of a model card: every number behind its plots."""

import polars as pl

from selfheal_assets.core.model_card import CardFigures, ModelCard
from selfheal_assets.reports.decisions import version
from selfheal_assets.reports.page import Badge, Column, Table
from selfheal_assets.reports.statuses import finding_badge
from selfheal_assets.reports.text import UNKNOWN, count, interval, metric_name, moment, number, percent


def facts_table(card: ModelCard) -> Table:
    """What the version was made from."""
    b, notes = card.bundle, card.bundle.notes
    last = next((d for d in reversed(card.trail) if d["challenger"] == card.version), None)
    prints = (last["payload"].get("fingerprints") or {}) if last else {}
    rows = [
        ("Member of the family", b.candidate),
        ("Learned from cases of", f"{moment(b.trained_from)} to {moment(b.trained_until)}"),
        ("Rows", count(notes.get("rows"))),
        ("Positives", count(notes.get("positives"))),
        ("Reference, not learned from", f"{moment(b.reference.start)} to {moment(b.reference.end)}"),
        ("Trained on what was known on", moment(b.reference.as_of)),
        ("Features", f"{len(b.features)}: {', '.join(f.name for f in b.features)}"),
        ("Threshold", number(b.threshold, 4)),
        ("Calibrator (Platt)", f"slope {b.calibrator.slope:.4g}, intercept {b.calibrator.intercept:.4g}"),
        ("Fingerprint of the bundle", b.fingerprint),
        ("Fingerprint of the training set", b.training_fingerprint),
        ("Fingerprint of the use case", prints.get("use_case") or UNKNOWN),
    ]
    others = (
        (k, str(v).removesuffix("T00:00:00")) for k, v in notes.items() if k not in ("rows", "positives")
    )
    more = [(f"Its plan: {name.replace('_', ' ')}", value) for name, value in others]
    return Table("Facts", [Column("What", False), Column("Value", False)], [list(r) for r in [*rows, *more]])


def family_table(candidates: pl.DataFrame) -> Table:
    """The family that the version was chosen from, and why it was chosen."""
    columns = [
        Column("Candidate", False),
        Column("Validation log loss"),
        Column("Choice", False),
        Column("Why", False),
    ]
    rows = [
        [
            r["candidate"],
            number(r["validation_log_loss"], 5),
            Badge("✓", "chosen", "good") if r["chosen"] else Badge("·", "not chosen", "neutral"),
            r["reason"] or "",
        ]
        for r in candidates.iter_rows(named=True)
    ]
    return Table(
        "Chosen from this family, on validation months that none of its members had seen", columns, rows
    )


def metrics_table(reference: pl.DataFrame, served: pl.DataFrame) -> Table:
    """Every metric on the reference, and on what the version answered as far as that is mature."""
    later = {r["metric"]: r for r in served.iter_rows(named=True)}
    columns = [
        Column("Metric", False), Column("Reference"), Column("Interval"), Column("Rows"), Column("Positives"),
        Column("As served"), Column("Interval"), Column("Rows"), Column("Positives"),
    ]  # fmt: skip
    rows = [
        [metric_name(r["metric"]), *_measured(r), *_measured(later.get(r["metric"]))]
        for r in reference.filter(pl.col("value").is_not_null()).iter_rows(named=True)
    ]
    return Table(
        "On its reference, and on the matured cases that it answered, with 95 % intervals", columns, rows
    )


def _measured(row: dict | None) -> list[str]:
    if row is None:
        return [UNKNOWN] * 4
    digits = 0 if row["unit"] == "rows" else 4 if row["metric"] in ("brier", "log_loss") else 3
    shown = [number(row["value"], digits), interval(row["lower"], row["upper"], digits)]
    return [*shown, count(row["rows"]), count(row["positives"])]


def comparison_table(comparison: pl.DataFrame) -> Table:
    """Champion and challenger on the same cases, as the gates read it."""
    columns = [
        Column("Cases", False), Column("Metric", False), Column("Champion then"), Column("This version"),
        Column("Difference"), Column("Bounds"), Column("Rows"), Column("Positives"),
    ]  # fmt: skip
    rows = [
        [
            r["segment"],
            metric_name(r["metric"]),
            number(r["champion_value"], 4),
            number(r["challenger_value"], 4),
            f"{r['challenger_value'] - r['champion_value']:+.4f}",
            f"{r['lower']:+.4f} to {r['upper']:+.4f}",
            count(r["rows"]),
            count(r["positives"]),
        ]
        for r in comparison.iter_rows(named=True)
    ]
    against = comparison["champion"][0]
    who = (
        f"the champion of that day, {version(against)}"
        if against is not None
        else "nobody: it was the first model"
    )
    return Table(f"Against {who}, on the gates' cases; one-sided bounds of the difference", columns, rows)


def segments_table(segments: pl.DataFrame) -> Table:
    """Every segment's figures."""
    columns = [
        Column("Segment", False), Column("Metric", False), Column("Value"), Column("Interval"), Column("Rows"),
        Column("Positives"), Column("Status", False),
    ]  # fmt: skip
    rows = [
        [
            r["segment"],
            metric_name(r["metric"]),
            number(r["value"]),
            interval(r["lower"], r["upper"]),
            count(r["rows"]),
            count(r["positives"]),
            "measured" if r["value"] is not None else finding_badge("INSUFFICIENT_DATA", r["reason"] or ""),
        ]
        for r in segments.iter_rows(named=True)
    ]
    return Table("Figures by segment, on its reference", columns, rows, folded=True)


def calibration_table(curve: pl.DataFrame, outcome: str, where: str) -> Table:
    """The calibration curve in numbers."""
    columns = [
        Column("Band of the score"), Column("Rows"), Column("Expected"), Column("Observed"), Column("Interval"),
        Column("Expectation", False),
    ]  # fmt: skip
    rows = [
        [
            str(r["bin"] + 1),
            count(r["rows"]),
            percent(r["expected"], 2),
            percent(r["observed"], 2),
            f"{percent(r['lower'], 2)} – {percent(r['upper'], 2)}",
            _level(r),
        ]
        for r in curve.iter_rows(named=True)
    ]
    return Table(
        f"Share of {outcome}, expected and observed {where}, by bands of equally many cases",
        columns,
        rows,
        folded=True,
    )


def _level(row: dict) -> Badge:
    if row["expected"] > row["upper"]:
        return Badge("▲", "too high", "bad")
    return Badge("▼", "too low", "bad") if row["expected"] < row["lower"] else Badge("✓", "within", "good")


def effects_table(found: CardFigures) -> Table:
    """The effects in numbers."""
    columns = [
        Column("Feature", False), Column("Values", False), Column("Rows"), Column("Mean contribution"),
        Column("Tenth to ninetieth percentile"),
    ]  # fmt: skip
    rows = [
        [
            r["feature"],
            r["cell"],
            count(r["rows"]),
            f"{r['effect']:+.3f}",
            f"{r['least']:+.3f} to {r['most']:+.3f}",
        ]
        for r in found.effects.iter_rows(named=True)
    ]
    return Table(
        "Effects of the strongest features, in log odds; +0.69 doubles the odds", columns, rows, folded=True
    )
