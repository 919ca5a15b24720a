"""How high a ranking's chances are now: calibrators of the newest labels so far, and what they leave to lose.

The calibrators of a fit itself are ``fitting``'s, which cases set a level ``family``'s.
"""

import numpy as np

from selfheal_assets.core.bundle import Calibrator
from selfheal_assets.core.fitting import fit_partial_calibrator
from selfheal_assets.core.maturity import TimingCurve, log_losses_so_far
from selfheal_assets.core.spec import Training

_FLAT = 0.05  # slope of a calibrator that leaves nothing of the scores but their order and their mean level


def timing_shift(turned: np.ndarray, age: np.ndarray, curve: TimingCurve) -> float:
    """By how many standard errors positives so far became known later (above 0) or earlier than the curve says.

    Of a case that is positive by its age a, F(t) / F(a) is uniform, t being when it became known: whatever the level
    is, and whoever scores high.

    Args:
        turned: ages in days at which positives became known, at most ``age``.
        age: of the same cases.
        curve: F.
    """
    due = curve.known_by(age)
    place = curve.known_by(turned)[due > 0] / due[due > 0]
    return float((place.mean() - 0.5) * np.sqrt(12 * len(place))) if len(place) else 0.0


def fit_recalibrator(margin: np.ndarray, positive_so_far: np.ndarray, due: np.ndarray) -> Calibrator:
    """:func:`fit_partial_calibrator` for a ranking that is in use already: it is flattened, never turned round.

    Of scores that rank the rows backwards, or not at all, the level is all that holds: they are drawn together about
    it, in their order.
    """
    found = fit_partial_calibrator(margin, positive_so_far, due)
    if found.slope >= _FLAT:
        return found
    level = fit_partial_calibrator(np.zeros(len(margin)), positive_so_far, due).intercept
    return Calibrator(_FLAT, float(level - _FLAT * margin.mean()))


def level_losses(
    margin: np.ndarray, positive_so_far: np.ndarray, due: np.ndarray, training: Training, in_use: bool
) -> np.ndarray:
    """Log loss so far of each row, shape (rows,), by a calibrator that was fitted on the other folds' rows.

    A member's level is set by the newest rows that may be learned from; so it is when members are compared on them.
    ``in_use``: it is the champion, recalibrated.
    """
    fit = fit_recalibrator if in_use else fit_partial_calibrator
    fold = np.random.default_rng(training.seed).permutation(len(margin)) % training.folds
    found = np.empty(len(margin))
    for held in range(training.folds):
        out, rest = fold == held, fold != held
        calibrator = fit(margin[rest], positive_so_far[rest], due[rest])
        if (
            not calibrator.keeps_the_ranking
        ):  # what ranks backwards has learned nothing, and is not to gain by it
            calibrator = Calibrator()
        found[out] = log_losses_so_far(calibrator(margin[out]), positive_so_far[out], due[out])
    return found
