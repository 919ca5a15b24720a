"""The outcomes of one set of cases, and every metric that is computed of them, each with its interval.

A metric is a name, a unit, a method of the interval and a function; a new one is one entry in ``METRICS``. How few
rows are too few, and what is said then, is in ``realized``.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.stats import norm

from selfheal_assets.core import metrics
from selfheal_assets.core.confusion import Confusion, confusion_of
from selfheal_assets.core.intervals import Resampled, resample, score_groups, wilson
from selfheal_assets.core.metrics import Interval, UndefinedMetric
from selfheal_assets.core.policies import Costs, RealizedFigures


@dataclass(frozen=True)
class Outcomes:
    """Matured cases scored by one model, arrays of equal length, and what several metrics share."""

    label: np.ndarray
    probability: np.ndarray
    flagged: np.ndarray
    figures: RealizedFigures
    seed: int

    @property
    def rows(self) -> int:
        """All cases."""
        return len(self.label)

    @cached_property
    def positives(self) -> int:
        """Positive cases."""
        return int(self.label.sum())

    @cached_property
    def confusion(self) -> Confusion:
        """The four counts."""
        return confusion_of(self.label, self.flagged)

    @cached_property
    def resampled(self) -> Resampled:
        """Metrics of resampled cases."""
        groups = score_groups(self.label, self.probability, self.figures.calibration_bins)
        return resample(groups, self.figures.resamples, self.seed)

    @cached_property
    def auc(self) -> Interval:
        """ROC AUC with DeLong's interval."""
        return metrics.roc_auc_interval(self.label, self.probability, self.figures.confidence)

    def measurable(self) -> None:
        """Raise where a score is no probability."""
        p = self.probability
        if wrong := int(np.sum(~((p >= 0) & (p <= 1)))):
            raise UndefinedMetric(
                f"{wrong} of {self.rows} scores are no probabilities (missing, or not in 0..1)"
            )

    def within(self, draws: np.ndarray, value: float) -> Interval:
        """The draws' percentiles as the value's interval."""
        tail = 0.5 - self.figures.confidence / 2
        lower, upper = np.quantile(draws, [tail, 1 - tail])
        return Interval(value, min(float(lower), value), max(float(upper), value))

    def around(self, shifts: np.ndarray, value: float, least: float = 0.0) -> Interval:
        """The value and all that lies within the shifts' quantile of it.

        For a norm of sample means: no such norm is further from the truth than the norm of the means' own error, so
        these bounds hold even where the true value is 0, at which percentiles fail.
        """
        reach = float(np.quantile(shifts, self.figures.confidence))
        return Interval(value, max(least, value - reach), min(1.0, value + reach))


def _average_precision(o: Outcomes) -> Interval:
    """On the logit scale, with the bootstrap's standard error. Source of the scale: Boyd, Eng and Page, ECML 2013."""
    value = metrics.average_precision(o.label, o.probability)
    error = float(norm.ppf(0.5 + o.figures.confidence / 2)) * float(
        np.std(_logit(o.resampled.average_precision))
    )
    lower, upper = (1 / (1 + np.exp(-(_logit(np.array(value)) + side * error))) for side in (-1, 1))
    return Interval(value, min(float(lower), value), max(float(upper), value))


def _logit(share: np.ndarray) -> np.ndarray:
    inside = np.clip(share, 1e-6, 1 - 1e-6)
    return np.log(inside) - np.log1p(-inside)


def _gini(o: Outcomes) -> Interval:
    return Interval(*(2 * x - 1 for x in (o.auc.value, o.auc.lower, o.auc.upper)))


def _expected_over_observed(o: Outcomes) -> Interval:
    """The scores as they are over the share of positives, with Wilson's bounds of that share."""
    value = metrics.expected_over_observed(o.label, o.probability)
    share = wilson(o.positives, o.rows, o.figures.confidence)
    mean = float(o.probability.mean())
    return Interval(value, min(mean / share.upper, value), max(mean / share.lower, value))


def _calibration_error(o: Outcomes) -> Interval:
    value = metrics.expected_calibration_error(o.label, o.probability, o.figures.calibration_bins)
    return o.around(o.resampled.calibration_shift, value)


@dataclass(frozen=True)
class Metric:
    """How one metric is computed. ``scored``: from scores, not from decisions alone; ``bounded``: on a scale of 1."""

    name: str
    unit: str
    method: str
    compute: Callable[[Outcomes], Interval]
    scored: bool = True
    bounded: bool = True


METRICS = (
    Metric("roc_auc", "probability", "delong", lambda o: o.auc),
    Metric("gini", "share", "delong", _gini),
    Metric("average_precision", "share", "bootstrap", _average_precision),
    Metric(
        "ks",
        "share",
        "bootstrap",
        lambda o: o.around(o.resampled.gap_shift, metrics.kolmogorov_smirnov(o.label, o.probability)),
    ),
    Metric("f1", "share", "wilson", lambda o: o.confusion.f1(o.figures.confidence), scored=False),
    Metric(
        "precision", "share", "wilson", lambda o: o.confusion.precision(o.figures.confidence), scored=False
    ),
    Metric("recall", "share", "wilson", lambda o: o.confusion.recall(o.figures.confidence), scored=False),
    Metric(
        "specificity",
        "share",
        "wilson",
        lambda o: o.confusion.specificity(o.figures.confidence),
        scored=False,
    ),
    Metric("accuracy", "share", "wilson", lambda o: o.confusion.accuracy(o.figures.confidence), scored=False),
    Metric(
        "brier",
        "squared probability",
        "bootstrap",
        lambda o: o.within(o.resampled.brier, metrics.brier_score(o.label, o.probability)),
    ),
    Metric(
        "log_loss",
        "nats",
        "bootstrap",
        lambda o: o.within(o.resampled.log_loss, metrics.log_loss(o.label, o.probability)),
        bounded=False,
    ),
    Metric("expected_over_observed", "ratio", "wilson", _expected_over_observed, bounded=False),
    Metric("expected_calibration_error", "probability", "bootstrap", _calibration_error),
)
CELLS = ("true_positives", "false_positives", "false_negatives", "true_negatives")


def business_value(costs: Costs | None) -> Metric:
    """The metric of what decisions were worth; undefined where the policy names no costs."""

    def compute(o: Outcomes) -> Interval:
        if costs is None:
            raise UndefinedMetric(
                "no costs in the policy: say what a missed positive and a refused good case cost"
            )
        return o.confusion.value_per_case(costs, o.figures.confidence, o.figures.resamples, o.seed)

    unit = f"{costs.currency} per case" if costs else "per case"
    return Metric("business_value", unit, "bootstrap", compute, scored=False, bounded=False)
