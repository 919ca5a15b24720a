"""Which rows a retraining may use for what: windows of event time, all known on one day.

A window is a span of training data. Both models of a comparison are scored on cases later than anything either has
seen, and the months that choose among the family are seen by no member that is compared on them.
"""

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Self

import numpy as np
import polars as pl

from selfheal_assets.core.bundle import Bundle
from selfheal_assets.core.periods import add_months, midnight
from selfheal_assets.core.spec import LabelSpec, Period, Training


class NotEnoughData(ValueError):
    """The known labels do not suffice to train or to compare; says what is missing."""


_ENDS = ("evaluate_from", "evaluate_until", "immature_until")


@dataclass(frozen=True)
class TrainingPlan:
    """Windows of event time for one retraining, all known at ``as_of``; half-open intervals.

    Attributes:
        as_of: the day.
        validate_from: start of the validation months, which choose among the family.
        evaluate_from: end of what is mature and may be learned from.
        evaluate_until: end of the reference, ``evaluate_from``..``evaluate_until``, which no member learns from.
        immature_until: end of what may be learned from, and of the validation months, where labels so far are
            evidence: cases of ``evaluate_until``..``immature_until`` are learned from too, the later ones are the
            gates'. ``None``: only matured labels are evidence; the reference is the gates'.
    """

    as_of: datetime
    validate_from: datetime
    evaluate_from: datetime
    evaluate_until: datetime
    immature_until: datetime | None = None

    @property
    def validate_until(self) -> datetime:
        """End of the validation months."""
        return self.immature_until or self.evaluate_from

    @property
    def without_validation(self) -> Self:
        """The same plan, but that the validation months and later cases are not learned from."""
        if self.immature_until is None:
            return replace(self, evaluate_from=self.validate_from)
        return replace(
            self,
            immature_until=self.validate_from,
            evaluate_from=min(self.evaluate_from, self.validate_from),
        )

    def matured(self, rows: pl.DataFrame, since: datetime | None = None) -> pl.DataFrame:
        """The mature rows that may be learned from, from ``since`` on."""
        time = pl.col("event_time")
        return rows.filter(time < self.evaluate_from, time >= since if since else pl.lit(True))

    def learnable(self, rows: pl.DataFrame) -> pl.DataFrame:
        """All rows that may be learned from, immature ones included where the plan has any."""
        time, until = pl.col("event_time"), self.immature_until or self.evaluate_from
        return rows.filter((time < self.evaluate_from) | ((time >= self.evaluate_until) & (time < until)))

    def unlearned(self, rows: pl.DataFrame) -> pl.DataFrame:
        """The immature rows that may be learned from, which boosters of matured labels have not seen; may be none."""
        time, until = pl.col("event_time"), self.immature_until or self.evaluate_until
        return rows.filter((time >= self.evaluate_until) & (time < until))

    def validation(self, rows: pl.DataFrame) -> pl.DataFrame:
        """The rows of the validation months; none of the reference."""
        time = pl.col("event_time")
        held_out = (time >= self.evaluate_from) & (time < self.evaluate_until)
        return rows.filter((time >= self.validate_from) & (time < self.validate_until), ~held_out)

    def noted(self, label: np.ndarray) -> dict[str, Any]:
        """What a bundle keeps of its rows: their number, positives, and the plan's ends where labels so far count.

        With them the training set can be put together anew (:func:`plan_of`).
        """
        notes: dict[str, Any] = {"rows": len(label), "positives": int(label.sum())}
        if self.immature_until is None:
            return notes
        ends = {name: getattr(self, name).isoformat() for name in _ENDS}
        return notes | ends


def plan_of(bundle: Bundle) -> TrainingPlan:
    """The plan whose training set a bundle was fitted on; the validation months, which chose it, are not kept."""
    window = bundle.reference
    if "immature_until" not in bundle.notes:
        return TrainingPlan(window.as_of, window.start, window.start, window.end)
    start, end, until = (datetime.fromisoformat(bundle.notes[name]) for name in _ENDS)
    return TrainingPlan(window.as_of, start, start, end, until)


def plan_training(
    as_of: datetime,
    label: LabelSpec,
    training: Training,
    champion: Bundle | None,
    first_reference: Period,
    gates_from: datetime | None = None,
) -> TrainingPlan:
    """Windows of a retraining at ``as_of``: the newest matured cases are the reference, what lies before is learned.

    The first model's reference is the use case's. With matured evidence later references, which are the gates' rows
    too, never reach back before the end of what the champion was trained on.

    Args:
        as_of: the day; nothing later is used.
        label: gives the horizon.
        training: lengths of the windows.
        champion: the production model, or ``None`` before there is one.
        first_reference: the use case's.
        gates_from: where labels so far are evidence (``gates.evidence: partial``), from when on the newest cases are
            the gates' (``stores.cases.gates_from``).

    Raises:
        NotEnoughData: what the windows need is not mature yet; says from when on.
    """
    matured_until = add_months(as_of, -label.horizon_months)
    if champion is None:
        start, end = midnight(first_reference.start), midnight(first_reference.end)
        if end > matured_until:
            raise NotEnoughData(
                f"the reference period ends {end:%Y-%m-%d}, but at {as_of:%Y-%m-%d} only cases before "
                f"{matured_until:%Y-%m-%d} are mature: move reference.end back or wait"
            )
    else:
        start, end = add_months(matured_until, -training.evaluation_months), matured_until
        if gates_from is None:
            start = max(start, champion.trained_until)
        if start >= end:
            raise NotEnoughData(
                f"no case is mature that the champion has not seen: it was trained on cases before "
                f"{champion.trained_until:%Y-%m-%d}, and at {as_of:%Y-%m-%d} only cases before "
                f"{matured_until:%Y-%m-%d} are mature"
            )
    immature_until = max(gates_from, end) if gates_from else None
    validate_from = add_months(immature_until or start, -training.validation_months)
    return TrainingPlan(as_of, validate_from, start, end, immature_until)
