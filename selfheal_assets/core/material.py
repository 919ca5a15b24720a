"""What one retraining may learn from, and what its labels so far say of the level."""

from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import polars as pl

from selfheal_assets.core.bundle import Bundle
from selfheal_assets.core.hazard import Lives
from selfheal_assets.core.level import timing_shift
from selfheal_assets.core.maturity import TimingCurve
from selfheal_assets.core.periods import add_months
from selfheal_assets.core.plan import TrainingPlan
from selfheal_assets.core.spec import Feature, Training


@dataclass(frozen=True)
class Material:
    """What one retraining may learn from, as it was known on the plan's day.

    Attributes:
        rows: the training set: the features, ``event_time`` (Datetime), ``label`` (0/1; of immature cases whether
            they are positive so far), ``positive_age_days`` (f64: the age at which the positive became known, null
            where there is none), by time.
        plan: the windows; it says which rows may be used for what.
        features: in the order the booster will read them.
        training: parameters and seed.
        use_case: name, kept in the bundle.
        fingerprint: of the training set.
        curve: when positives become known; gives the horizon.
        champion: the production model, if there is one.
        calibrated: whether a fit needs its final calibrator. For a comparison members of matured labels do without,
            which are at their level anyway, and ``maturity_aware`` has one of a single fold.
    """

    rows: pl.DataFrame
    plan: TrainingPlan
    features: tuple[Feature, ...]
    training: Training
    use_case: str
    fingerprint: str
    curve: TimingCurve
    champion: Bundle | None = None
    calibrated: bool = True

    @property
    def without_validation(self) -> Self:
        """The same, with the validation months left out."""
        return replace(self, plan=self.plan.without_validation, calibrated=False)

    @property
    def level_is_newest(self) -> bool:
        """Whether ``training.level`` asks for the newest labels so far; with matured evidence there are none."""
        return self.plan.immature_until is not None and self.training.level == "newest"

    def level_rows(self, rows: pl.DataFrame) -> pl.DataFrame:
        """The newest of some rows (by time), which say how high chances are now.

        Those of the last ``training.validation_months`` that may be learned from; earlier ones too where fewer than
        ``training.level_positives`` are positive so far since then.
        """
        start = add_months(self.plan.validate_until, -self.training.validation_months)
        positives = rows.filter(pl.col("label") == 1)["event_time"]
        if rows.filter(pl.col("event_time") >= start)["label"].sum() < self.training.level_positives:
            start = (
                positives[-min(self.training.level_positives, len(positives))] if len(positives) else start
            )
        return rows.filter(pl.col("event_time") >= start)

    def timing_explains(self, rows: pl.DataFrame, before: np.ndarray, after: np.ndarray) -> bool:
        """Whether a level fell while positives come at other ages than they used to, or rose as they come earlier.

        Then it is not known to have moved: a report that is delayed, or not there yet, looks like a case that does
        well. ``before`` and ``after`` are probabilities.
        """
        lives = self.lives(rows)
        shift = timing_shift(lives.turned[lives.positive], lives.age[lives.positive], self.curve)
        rose = bool(after.mean() > before.mean())
        return max(-shift, 0.0 if rose else shift) > self.training.max_timing_errors

    def so_far(self, rows: pl.DataFrame) -> tuple[np.ndarray, np.ndarray]:
        """Of some rows: whether they are positive so far (0/1), and the share F(age) that is due by now."""
        lives = self.lives(rows)
        return lives.positive.astype(np.int8), self.curve.known_by(lives.age)

    def lives(self, rows: pl.DataFrame) -> Lives:
        """How long the cases of some rows have been watched."""
        return Lives.of(rows, self.plan.as_of, self.curve.horizon_days)
