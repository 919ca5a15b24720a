"""Training of challengers: which rows, which candidates, one fitted bundle.

A window is a span of training data; it ends where the evaluation rows begin, so that both models of a
comparison are scored on cases later than anything either has seen. Within a window, out-of-fold scores fit
the calibrator and the threshold, and the final booster uses every row.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import polars as pl

from selfheal_assets.core import metrics
from selfheal_assets.core.bundle import Bundle, Calibrator, ReferenceWindow
from selfheal_assets.core.encoding import encode, learn_vocabulary
from selfheal_assets.core.periods import add_months
from selfheal_assets.core.spec import Feature, LabelSpec, Period, Training


class NotEnoughData(ValueError):
    """The known labels do not suffice to train or to compare; says what is missing."""


@dataclass(frozen=True)
class TrainingPlan:
    """Windows of event time for one retraining, all known at ``as_of``; half-open intervals.

    ``fit_from``..``evaluate_from`` is trained on (its last months, from ``validate_from``, choose among the
    candidates); ``evaluate_from``..``evaluate_until`` is held out for the gates and becomes the reference.
    """

    as_of: datetime
    validate_from: datetime
    evaluate_from: datetime
    evaluate_until: datetime


def plan_training(
    as_of: datetime,
    label: LabelSpec,
    training: Training,
    champion: Bundle | None,
    first_reference: Period,
) -> TrainingPlan:
    """Windows of a retraining at ``as_of``: evaluate on the newest matured cases, train on what lies before.

    The first model is evaluated on the use case's reference period. Later evaluation rows never reach back
    before the end of what the champion was trained on.
    """
    matured_until = add_months(as_of, -label.horizon_months)
    if champion is None:
        start, end = (
            datetime.combine(d, datetime.min.time()) for d in (first_reference.start, first_reference.end)
        )
        if end > matured_until:
            raise NotEnoughData(
                f"the reference period ends {end:%Y-%m-%d}, but at {as_of:%Y-%m-%d} only cases before "
                f"{matured_until:%Y-%m-%d} are mature: move reference.end back or wait"
            )
    else:
        start = max(add_months(matured_until, -training.evaluation_months), champion.trained_until)
        end = matured_until
        if start >= end:
            raise NotEnoughData(
                f"no case is mature that the champion has not seen: it was trained on cases before "
                f"{champion.trained_until:%Y-%m-%d}, and at {as_of:%Y-%m-%d} only cases before "
                f"{matured_until:%Y-%m-%d} are mature"
            )
    return TrainingPlan(as_of, add_months(start, -training.validation_months), start, end)


@dataclass(frozen=True)
class Candidate:
    """A member of the challenger family: a name and the start of its training window."""

    name: str
    fit_from: datetime


def candidates(plan: TrainingPlan, training: Training, earliest: datetime) -> list[Candidate]:
    """The family tried at each retraining: a recent window and the full history (one, if they coincide)."""
    recent = add_months(plan.validate_from, -training.recent_months)
    family = [Candidate("full_history", earliest)]
    if recent > earliest:
        family.append(Candidate("recent_window", recent))
    return family


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


def fit_booster(matrix: np.ndarray, label: np.ndarray, training: Training):
    """One XGBoost booster on an encoded matrix (rows, features) and 0/1 labels.

    It uses one thread: the fits of a retraining run side by side instead (``training.parallel_fits``). XGBoost's
    own threads wait for each other by spinning, which on a busy machine takes twenty times as long.
    """
    import xgboost

    data = xgboost.QuantileDMatrix(matrix, label, nthread=1)
    return xgboost.train(_parameters(training), data, num_boost_round=training.rounds)


def _margins(booster, matrix: np.ndarray) -> np.ndarray:
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


def out_of_fold_margins(
    matrix: np.ndarray, label: np.ndarray, training: Training, pool: ThreadPoolExecutor
) -> np.ndarray:
    """Margin of each row from a booster that has not seen it (stratified folds, seeded, fitted in ``pool``)."""
    from sklearn.model_selection import StratifiedKFold

    folds = StratifiedKFold(training.folds, shuffle=True, random_state=training.seed).split(matrix, label)
    margins = np.empty(len(label), dtype=np.float64)

    def hold_out(fold: tuple[np.ndarray, np.ndarray]) -> None:
        fit_rows, held_out = fold
        margins[held_out] = _margins(
            fit_booster(matrix[fit_rows], label[fit_rows], training), matrix[held_out]
        )

    list(pool.map(hold_out, folds))
    return margins


def training_window(rows: pl.DataFrame, candidate: Candidate, plan: TrainingPlan) -> pl.DataFrame:
    """The candidate's rows; none from the evaluation window on, whatever ``rows`` holds."""
    time = pl.col("event_time")
    return rows.filter((time >= candidate.fit_from) & (time < plan.evaluate_from))


def validation_loss(
    rows: pl.DataFrame,
    candidate: Candidate,
    plan: TrainingPlan,
    features: Sequence[Feature],
    training: Training,
) -> float:
    """Log loss on the validation months of a booster fitted on the candidate's rows before them."""
    window = training_window(rows, candidate, plan)
    earlier = window.filter(pl.col("event_time") < plan.validate_from)
    later = window.filter(pl.col("event_time") >= plan.validate_from)
    if earlier["label"].sum() < training.folds or later.is_empty():
        return float("inf")
    vocabulary = learn_vocabulary(earlier, features)
    booster = fit_booster(encode(earlier, features, vocabulary), earlier["label"].to_numpy(), training)
    margin = _margins(booster, encode(later, features, vocabulary))
    return metrics.log_loss(later["label"].to_numpy(), Calibrator()(margin))


def validation_losses(
    rows: pl.DataFrame,
    family: Sequence[Candidate],
    plan: TrainingPlan,
    features: Sequence[Feature],
    training: Training,
) -> dict[str, float]:
    """:func:`validation_loss` of each candidate, by name."""
    import xgboost  # noqa: F401 - before the threads start, see fit_bundle

    with ThreadPoolExecutor(training.parallel_fits) as pool:
        losses = pool.map(lambda c: validation_loss(rows, c, plan, features, training), family)
        return dict(zip((c.name for c in family), losses, strict=True))


def fit_bundle(
    rows: pl.DataFrame,
    candidate: Candidate,
    plan: TrainingPlan,
    features: Sequence[Feature],
    training: Training,
    use_case: str,
    training_fingerprint: str,
) -> Bundle:
    """Fit one candidate.

    Args:
        rows: matured training rows: the features, ``event_time`` (Datetime), ``label`` (0/1).
        candidate: names the window.
        plan: the windows; its evaluation window becomes the bundle's reference.
        features: in the order the booster will read them.
        training: parameters and seed.
        use_case: name, kept in the bundle.
        training_fingerprint: of the frozen training set.

    Raises:
        NotEnoughData: fewer positives than ``training.min_positives``.
    """
    window = training_window(rows, candidate, plan)
    label = window["label"].to_numpy().astype(np.int8)
    if label.sum() < training.min_positives:
        raise NotEnoughData(
            f"candidate {candidate.name}: {int(label.sum())} positives among {len(label)} matured rows from "
            f"{candidate.fit_from:%Y-%m-%d}; training.min_positives asks for {training.min_positives}"
        )
    # Before the threads start: two that import scikit-learn at once can meet a half-made module.
    import sklearn.linear_model
    import sklearn.model_selection  # noqa: F401
    import xgboost  # noqa: F401

    vocabulary = learn_vocabulary(window, features)
    matrix = encode(window, features, vocabulary)
    with ThreadPoolExecutor(training.parallel_fits) as pool:
        whole = pool.submit(fit_booster, matrix, label, training)
        held_out = out_of_fold_margins(matrix, label, training, pool)
        booster = whole.result()
    calibrator = fit_calibrator(held_out, label)
    return Bundle(
        use_case=use_case,
        features=tuple(features),
        vocabulary=vocabulary,
        booster=bytes(booster.save_raw("ubj")),
        calibrator=calibrator,
        threshold=metrics.best_f1_threshold(label, calibrator(held_out)),
        trained_from=candidate.fit_from,
        trained_until=plan.evaluate_from,
        reference=ReferenceWindow(plan.evaluate_from, plan.evaluate_until, plan.as_of),
        training_fingerprint=training_fingerprint,
        candidate=candidate.name,
        notes={"rows": len(label), "positives": int(label.sum())},
    )
