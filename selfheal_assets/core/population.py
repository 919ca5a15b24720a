"""The world that histories are simulated over: real cases, and a known model of their outcomes.

The model is fitted once on the population's own outcomes and is the truth from then on: labels are drawn from its
probabilities, so that what nobody can know of a real history is known of a simulated one.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np
import polars as pl

from selfheal_assets.core.encoding import Vocabulary, encode, learn_vocabulary
from selfheal_assets.core.fitting import fit_booster
from selfheal_assets.core.spec import Feature, FeatureType, LabelSpec, Training

ROLES = "@number, @category (that matter most), @number2 (the second), or @feature of either kind"
_ROLE = re.compile(r"@(number|category|feature)(\d*)")
# Shallow and short: a truth that overfits would be one nobody could learn.
TRUTH: Final = Training(
    rounds=60, max_depth=3, learning_rate=0.15, min_child_weight=20, subsample=1, colsample_bytree=1
)
_FEWEST_POSITIVES = 30


class SimulationError(ValueError):
    """The history cannot be simulated; the message says why and what to change."""


@dataclass(frozen=True)
class Truth:
    """The known model: log odds as a sum of what each feature contributes (TreeSHAP of a boosted model).

    That sum is the definition of the truth; a concept drift multiplies terms of it.
    """

    features: tuple[Feature, ...]
    vocabulary: Vocabulary
    booster: bytes

    @cached_property
    def _model(self) -> Any:
        import xgboost

        return xgboost.Booster({"nthread": 1}, model_file=bytearray(self.booster))

    def contributions(self, frame: pl.DataFrame) -> np.ndarray:
        """What each feature adds to the log odds of each case.

        Args:
            frame: the features by name.

        Returns:
            float64, shape (rows, features + 1); the last column is the constant.
        """
        import xgboost

        if frame.is_empty():
            return np.empty((0, len(self.features) + 1))
        data = xgboost.DMatrix(encode(frame, self.features, self.vocabulary), nthread=1)
        return self._model.predict(data, pred_contribs=True).astype(np.float64)


@dataclass(frozen=True)
class Population:
    """Real cases to draw from.

    Attributes:
        frame: the features (``core.encoding.polars_type``), one row per case.
        truth: gives each case its log odds.
        ages: ages at which positives became known, as shares of the horizon, ascending, in [0, 1].
        observed_rate: share of positives among the population's own labels.
    """

    frame: pl.DataFrame
    truth: Truth
    ages: np.ndarray
    observed_rate: float

    @property
    def features(self) -> tuple[Feature, ...]:
        """The model's inputs, in its order."""
        return self.truth.features

    @cached_property
    def contributions(self) -> np.ndarray:
        """:meth:`Truth.contributions` of the population itself."""
        return self.truth.contributions(self.frame)

    @cached_property
    def log_odds(self) -> np.ndarray:
        """True log odds of each case (f64)."""
        return self.contributions.sum(axis=1)

    def spread(self, feature: str) -> float:
        """Standard deviation of a number in the population."""
        return float(self.frame[feature].std() or 0.0)  # type: ignore[arg-type]

    @cached_property
    def by_importance(self) -> list[Feature]:
        """Features, those first that move the true log odds most (standard deviation of their contribution)."""
        moved = self.contributions[:, :-1].std(axis=0)
        return [self.features[i] for i in np.argsort(-moved, kind="stable")]

    def named(self, name: str) -> Feature:
        """The feature of a name or a role: ``@number2`` is the number that matters second most (the last, if there
        are fewer).

        Raises:
            SimulationError: there is none.
        """
        if match := _ROLE.fullmatch(name):
            kind, rank = match[1], int(match[2] or 1)
            fits = [
                f for f in self.by_importance if kind == "feature" or is_category(f) == (kind == "category")
            ]
            if not fits:
                raise SimulationError(f"'{name}': the use case has no {kind}; name a feature of another kind")
            return fits[min(max(rank, 1), len(fits)) - 1]
        found = next((f for f in self.features if f.name == name), None)
        if found is None:
            known = ", ".join(f.name for f in self.features)
            raise SimulationError(f"'{name}' is no feature; use one of {known}, or a role: {ROLES}")
        return found


def is_category(feature: Feature) -> bool:
    """Whether the feature is a category, not a number."""
    return feature.type is FeatureType.category


def fit_population(
    cases: pl.DataFrame,
    labels: pl.DataFrame,
    features: Sequence[Feature],
    label: LabelSpec,
    seed: int = 0,
    max_rows: int = 50_000,
) -> Population:
    """A population of a use case's labelled cases, and the model of their outcomes.

    Args:
        cases: ``entity_id``, ``event_time``, the features.
        labels: ``entity_id``, ``label`` (0/1), ``occurred_at``.
        features: the model's inputs.
        label: gives the horizon.
        seed: of the fit, and of the cases that are kept.
        max_rows: the model is fitted on all cases; at most so many are kept to draw from, chosen at random.

    Raises:
        SimulationError: too few labelled positives to fit a truth.
    """
    rows = cases.join(labels.select("entity_id", "label", "occurred_at"), on="entity_id").sort("entity_id")
    outcome = rows["label"].to_numpy()
    positives = int(outcome.sum())
    if positives < _FEWEST_POSITIVES or positives > len(outcome) - _FEWEST_POSITIVES:
        raise SimulationError(
            f"{positives} positives among {len(outcome)} labelled cases: a known model of outcomes needs at least "
            f"{_FEWEST_POSITIVES} of each outcome; give a larger population"
        )
    frame = rows.select(f.name for f in features)
    vocabulary = learn_vocabulary(frame, features)
    settings = TRUTH.model_copy(update={"seed": seed})
    booster = fit_booster(encode(frame, features, vocabulary), outcome, settings)
    due = pl.col("event_time").dt.offset_by(f"{label.horizon_months}mo")
    age = (pl.col("occurred_at") - pl.col("event_time")).dt.total_microseconds() / (
        due - pl.col("event_time")
    ).dt.total_microseconds()
    ages = rows.filter(pl.col("label") == 1).select(age.clip(0, 1)).to_series().sort().to_numpy()
    truth = Truth(tuple(features), vocabulary, bytes(booster.save_raw("ubj")))
    kept = frame.sample(max_rows, seed=seed) if frame.height > max_rows else frame
    return Population(kept, truth, ages, positives / len(outcome))
