"""From rows to a bundle: booster, calibrator, threshold.

Within a window, out-of-fold scores fit the calibrator and the threshold, and the final booster uses every row.
Which rows belong to a window is ``plan``'s business, which windows are tried ``family``'s.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import polars as pl

from selfheal_assets.core import metrics
from selfheal_assets.core.blocks import quantised
from selfheal_assets.core.bundle import Bundle, Calibrator, ReferenceWindow
from selfheal_assets.core.encoding import encode, learn_vocabulary
from selfheal_assets.core.plan import NotEnoughData, TrainingPlan
from selfheal_assets.core.spec import Feature, Training


@dataclass(frozen=True)
class Candidate:
    """A window of matured rows to learn from: the member's name and the window's start."""

    name: str
    fit_from: datetime


def load_learners() -> None:
    """Import scikit-learn and XGBoost before threads start: two that import at once can meet a half-made module."""
    import sklearn.linear_model
    import sklearn.model_selection  # noqa: F401
    import xgboost  # noqa: F401


def _parameters(training: Training) -> dict[str, object]:
    return {
        "objective": "binary:logistic",
        "tree_method": "hist",
        "max_depth": training.max_depth,
        "eta": training.learning_rate,
        "min_child_weight": training.min_child_weight,
        "subsample": training.subsample,
        "colsample_bytree": training.colsample_bytree,
        "seed": training.seed,
        "nthread": 1,
    }


def fit_booster(
    matrix: np.ndarray,
    label: np.ndarray,
    training: Training,
    weight: np.ndarray | None = None,
    rows: np.ndarray | None = None,
    column: np.ndarray | None = None,
):
    """One XGBoost booster on an encoded matrix (cases, features) and labels in [0, 1], fractions allowed.

    ``rows``, ``column`` and ``weight`` are as in :func:`blocks.quantised`. It uses one thread: the fits of a
    retraining run side by side instead (``training.parallel_fits``). XGBoost's own threads wait for each other by
    spinning, which on a busy machine takes twenty times as long.
    """
    import xgboost

    data = quantised(matrix, label, weight, rows, column)
    return xgboost.train(_parameters(training), data, num_boost_round=training.rounds)


def margins(booster, matrix: np.ndarray) -> np.ndarray:
    """Log odds (float64) that a booster gives an encoded matrix, before calibration."""
    return booster.inplace_predict(matrix, predict_type="margin").astype(np.float64)


def fit_calibrator(margin: np.ndarray, label: np.ndarray) -> Calibrator:
    """Platt scaling with Platt's smoothed targets, which keep few positives from saturating it.

    Source: Platt, Probabilistic Outputs for Support Vector Machines, 1999.
    """
    from sklearn.linear_model import LogisticRegression

    positives, negatives = float(label.sum()), float((1 - label).sum())
    high, low = (positives + 1) / (positives + 2), 1 / (negatives + 2)
    target = np.where(label == 1, high, low)
    rows = np.concatenate([margin, margin]).reshape(-1, 1)
    classes = np.concatenate([np.ones(len(margin)), np.zeros(len(margin))])
    weights = np.concatenate([target, 1 - target])
    fitted = LogisticRegression(C=np.inf).fit(rows, classes, sample_weight=weights)
    return Calibrator(float(fitted.coef_[0, 0]), float(fitted.intercept_[0]))


def fit_partial_calibrator(
    margin: np.ndarray, positive_so_far: np.ndarray, due: np.ndarray, weight: np.ndarray | None = None
) -> Calibrator:
    """Platt scaling by the likelihood of labels so far: a case is positive so far with probability p·F(age).

    The likelihood alone, without Platt's smoothing: rows that are not due yet have no certain negatives to smooth.

    Args:
        margin: log odds of a model that has not seen the rows.
        positive_so_far: 0/1, as known.
        due: F(age), the share of the eventual positives that shows by the row's age, in [0, 1].
        weight: of each row; all count alike without it.
    """
    from scipy.optimize import minimize

    share = np.full(len(margin), 1 / len(margin)) if weight is None else weight / weight.sum()

    def loss(x: np.ndarray) -> tuple[float, np.ndarray]:
        z = x[0] * margin + x[1]
        p = 1 / (1 + np.exp(-z))
        none_yet = np.maximum(1 - p * due, 1e-12)
        terms = np.where(positive_so_far == 1, np.logaddexp(0, -z), -np.log(none_yet))
        slope = np.where(positive_so_far == 1, p - 1, due * p * (1 - p) / none_yet)
        return float(share @ terms), np.array([share @ (slope * margin), share @ slope])

    found = minimize(loss, np.array([1.0, 0.0]), jac=True, method="BFGS", options={"gtol": 1e-9})
    return Calibrator(float(found.x[0]), float(found.x[1]))


def threshold_so_far(probability: np.ndarray, positive_so_far: np.ndarray, due: np.ndarray) -> float:
    """The threshold with the highest expected F1, where who is not positive so far still may be.

    A case that is negative at age a is positive in the end with chance p (1 - F) / (1 - p F).
    """
    later = probability * (1 - due) / np.maximum(1 - probability * due, 1e-12)
    return metrics.best_f1_threshold(np.where(positive_so_far == 1, 1.0, later), probability)


def held_out_margins(
    matrix: np.ndarray,
    label: np.ndarray,
    training: Training,
    pool: ThreadPoolExecutor,
    folds: int,
    learned: np.ndarray | None = None,
    weight: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of the rows of some folds, ascending, and the margin of each from a booster that has not seen it.

    Args:
        matrix: encoded rows.
        label: 0/1, by which the folds are stratified.
        training: parameters, number of folds and seed.
        pool: where the folds are fitted.
        folds: how many of them are held out in turn; all of them make every row's margin known.
        learned: labels in [0, 1] to learn instead of ``label``.
        weight: of each row.
    """
    from sklearn.model_selection import StratifiedKFold

    learned = label if learned is None else learned
    splits = StratifiedKFold(training.folds, shuffle=True, random_state=training.seed).split(matrix, label)

    def hold_out(fold: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
        fit_rows, held_out = fold
        shares = None if weight is None else weight[fit_rows]
        booster = fit_booster(matrix, learned[fit_rows], training, shares, fit_rows)
        return margins(booster, matrix[held_out])

    chosen = list(splits)[:folds]
    found = np.concatenate(list(pool.map(hold_out, chosen)))
    rows = np.concatenate([held_out for _, held_out in chosen])
    order = np.argsort(rows)
    return rows[order], found[order]


def fit_bundle(
    rows: pl.DataFrame,
    candidate: Candidate,
    plan: TrainingPlan,
    features: Sequence[Feature],
    training: Training,
    use_case: str,
    training_fingerprint: str,
    calibrated: bool = True,
) -> Bundle:
    """Fit one window of matured rows.

    Args:
        rows: training rows: the features, ``event_time`` (Datetime), ``label`` (0/1).
        candidate: names the window; none of the rows from the evaluation window on is used, whatever ``rows`` holds.
        plan: the windows; its evaluation window becomes the bundle's reference.
        features: in the order the booster will read them.
        training: parameters and seed.
        use_case: name, kept in the bundle.
        training_fingerprint: of the frozen training set.
        calibrated: without it there are no out-of-fold scores, so no calibrator and a threshold of 0.5: for a
            comparison on the validation months.

    Raises:
        NotEnoughData: fewer positives than ``training.min_positives``.
    """
    window = plan.matured(rows, since=candidate.fit_from)
    label = window["label"].to_numpy().astype(np.int8)
    if label.sum() < training.min_positives:
        raise NotEnoughData(
            f"candidate {candidate.name}: {int(label.sum())} positives among {len(label)} matured rows from "
            f"{candidate.fit_from:%Y-%m-%d}; training.min_positives asks for {training.min_positives}"
        )
    load_learners()
    vocabulary = learn_vocabulary(window, features)
    matrix = encode(window, features, vocabulary)
    calibrator, threshold = Calibrator(), 0.5
    with ThreadPoolExecutor(training.parallel_fits) as pool:
        whole = pool.submit(fit_booster, matrix, label, training)
        if calibrated:
            _, held_out = held_out_margins(matrix, label, training, pool, training.folds)
            calibrator = fit_calibrator(held_out, label)
            threshold = metrics.best_f1_threshold(label, calibrator(held_out))
        booster = whole.result()
    return Bundle(
        use_case=use_case,
        features=tuple(features),
        vocabulary=vocabulary,
        booster=bytes(booster.save_raw("ubj")),
        calibrator=calibrator,
        threshold=threshold,
        trained_from=candidate.fit_from,
        trained_until=plan.evaluate_from,
        reference=ReferenceWindow(plan.evaluate_from, plan.evaluate_until, plan.as_of),
        training_fingerprint=training_fingerprint,
        candidate=candidate.name,
        notes=plan.noted(label),
    )
