"""What four counts say: the confusion matrix at the model's threshold, its rates, and what decisions were worth."""

from dataclasses import dataclass

import numpy as np

from selfheal_assets.core.intervals import wilson
from selfheal_assets.core.metrics import Interval, UndefinedMetric
from selfheal_assets.core.policies import Costs


@dataclass(frozen=True)
class Confusion:
    """Counts of cases by what was decided (flagged or not) and what happened (positive or not)."""

    true_positives: int
    false_positives: int
    false_negatives: int
    true_negatives: int

    @property
    def rows(self) -> int:
        """All cases."""
        return self.true_positives + self.false_positives + self.false_negatives + self.true_negatives

    @property
    def cells(self) -> np.ndarray:
        """The four counts in the order of the fields, shape (4,)."""
        return np.array(
            [self.true_positives, self.false_positives, self.false_negatives, self.true_negatives]
        )

    def precision(self, confidence: float) -> Interval:
        """Share of positives among the flagged, with Wilson's interval.

        Raises:
            UndefinedMetric: nothing is flagged.
        """
        flagged = self.true_positives + self.false_positives
        return self._share("precision", self.true_positives, flagged, "flagged", confidence)

    def recall(self, confidence: float) -> Interval:
        """Share of flagged among the positives, with Wilson's interval.

        Raises:
            UndefinedMetric: there is no positive.
        """
        positives = self.true_positives + self.false_negatives
        return self._share("recall", self.true_positives, positives, "positive", confidence)

    def specificity(self, confidence: float) -> Interval:
        """Share of not flagged among the negatives, with Wilson's interval.

        Raises:
            UndefinedMetric: there is no negative.
        """
        negatives = self.true_negatives + self.false_positives
        return self._share("specificity", self.true_negatives, negatives, "negative", confidence)

    def accuracy(self, confidence: float) -> Interval:
        """Share of right decisions, with Wilson's interval.

        Raises:
            UndefinedMetric: there are no rows.
        """
        right = self.true_positives + self.true_negatives
        return self._share("accuracy", right, self.rows, "labelled", confidence)

    def f1(self, confidence: float) -> Interval:
        """F1 = 2 TP / (2 TP + FP + FN), with the indirect Wilson interval.

        F* = TP / (TP + FP + FN) is a proportion, and F1 = 2 F* / (1 + F*) rises with it, so Wilson's bounds of F*
        become bounds of F1. Unlike resampling, this does not shrink to a point where F1 is 0 or 1.

        Source: Lam, Gopal and Qian, arXiv 2309.14621, 2023; F* by Hand, Christen and Kirielle, Machine Learning
        110, 2021.

        Raises:
            UndefinedMetric: nothing is flagged and nothing is positive.
        """
        concerned = self.rows - self.true_negatives
        star = self._share("F1", self.true_positives, concerned, "flagged or positive", confidence)
        return Interval(*(2 * x / (1 + x) for x in (star.value, star.lower, star.upper)))

    def value_per_case(self, costs: Costs, confidence: float, resamples: int, seed: int) -> Interval:
        """Mean worth of a decision in the costs' currency, with a Bayesian bootstrap's interval.

        The shares of the four cells are drawn from Dirichlet(counts + 1/2), Jeffreys' prior: for many cases the
        multinomial bootstrap, but a cell that nothing has fallen into yet is not taken to be impossible.

        Raises:
            UndefinedMetric: there are no rows.
        """
        if self.rows == 0:
            raise UndefinedMetric("business value needs at least one labelled row")
        worth = np.array(costs.worth)
        value = float(self.cells @ worth / self.rows)
        draws = np.random.default_rng(seed).dirichlet(self.cells + 0.5, size=resamples) @ worth
        lower, upper = np.quantile(draws, [0.5 - confidence / 2, 0.5 + confidence / 2])
        return Interval(value, min(float(lower), value), max(float(upper), value))

    @staticmethod
    def _share(metric: str, hits: int, among: int, what: str, confidence: float) -> Interval:
        if among == 0:
            raise UndefinedMetric(f"{metric} needs at least one {what} case: there is none")
        return wilson(hits, among, confidence)


def confusion_of(label: np.ndarray, flagged: np.ndarray) -> Confusion:
    """Count the four cells: ``label`` (0/1) and ``flagged`` (bool), of equal length."""
    hits, alarms, positives = int(np.sum(flagged & (label == 1))), int(np.sum(flagged)), int(np.sum(label))
    return Confusion(hits, alarms - hits, positives - hits, len(label) - alarms - positives + hits)
