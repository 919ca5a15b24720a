"""The challenger family: how each member is fitted, and who is chosen.

A member is one function in ``MEMBERS``, from what a retraining may learn from to a bundle, and its name in the policy
(``training.family``). All are compared on the validation months, which none of them has seen, by the likelihood of
the labels so far: fair to cases that are not mature, as it expects of each only what is due at its age.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime

import numpy as np
import polars as pl

from selfheal_assets.core import fitting, hazard
from selfheal_assets.core.bundle import Bundle, Calibrator, ReferenceWindow
from selfheal_assets.core.encoding import encode, learn_vocabulary
from selfheal_assets.core.fitting import Candidate
from selfheal_assets.core.level import fit_recalibrator
from selfheal_assets.core.material import Material
from selfheal_assets.core.periods import add_months
from selfheal_assets.core.plan import NotEnoughData, TrainingPlan
from selfheal_assets.core.spec import FamilyName

FitCalibrator = Callable[[np.ndarray, np.ndarray, np.ndarray], Calibrator]


def full_history(material: Material) -> Bundle:
    """A booster of all matured cases."""
    return _of_window(material, "full_history", material.rows["event_time"][0])


def recent_window(material: Material) -> Bundle:
    """A booster of the newest matured cases."""
    plan, months = material.plan, material.training.recent_months
    start = add_months(min(plan.validate_from, plan.evaluate_from), -months)
    earliest = material.rows["event_time"][0]
    if start <= earliest and "full_history" in material.training.family:
        raise NotEnoughData(
            f"the history begins on {earliest:%Y-%m-%d}, within training.recent_months = {months}: the same cases as "
            "full_history"
        )
    return _of_window(material, "recent_window", max(start, earliest))


def _of_window(material: Material, name: str, start: datetime) -> Bundle:
    m, newest = material, material.level_rows(material.plan.unlearned(material.rows))
    fresh = newest["label"].sum() >= m.training.min_positives
    window = (m.rows, Candidate(name, start), m.plan, m.features, m.training, m.use_case, m.fingerprint)
    if not (m.level_is_newest and m.calibrated and fresh):
        return fitting.fit_bundle(*window, m.calibrated)
    bundle = fitting.fit_bundle(*window, calibrated=False)
    levelled = _levelled(bundle, newest, m)
    doubtful = m.timing_explains(newest, bundle.score(newest), levelled.score(newest))
    return fitting.fit_bundle(*window) if doubtful else levelled


def _levelled(
    bundle: Bundle,
    rows: pl.DataFrame,
    material: Material,
    fit: FitCalibrator = fitting.fit_partial_calibrator,
) -> Bundle:
    """The bundle with calibrator and threshold of rows that its booster has not seen, by their labels so far."""
    positive, due = material.so_far(rows)
    margin = bundle.margins(rows)
    calibrator = fit(margin, positive, due)
    return replace(
        bundle,
        calibrator=calibrator,
        threshold=fitting.threshold_so_far(calibrator(margin), positive, due),
        trained_until=material.plan.validate_until,
    )


def _levelled_anew(champion: Bundle, rows: pl.DataFrame, material: Material) -> Bundle:
    """The champion at the level of the newest of some rows."""
    newest = material.level_rows(rows)
    levelled = _levelled(champion, newest, material, fit_recalibrator)
    if material.timing_explains(newest, champion.score(newest), levelled.score(newest)):
        raise NotEnoughData(
            "recalibrated: positives so far become known at other ages than the matured ones did, which alone would "
            "move the level as they do (training.max_timing_errors)"
        )
    return levelled


def maturity_aware(material: Material) -> Bundle:
    """A booster of what immature cohorts show too, distilled from a hazard over age bands.

    The hazard says of each case how likely it is positive by the horizon given what is known; one booster learns that
    as a soft label, so that serving is as with any other. The calibrator is fitted out of fold on the labels so far,
    recent cohorts counting more, so that the level follows what they show.
    """
    m, policy = material, material.training.hazard
    since = add_months(m.plan.as_of, -policy.history_months)
    rows = m.plan.learnable(m.rows).filter(pl.col("event_time") >= since)
    lives = m.lives(rows)
    early = int(np.sum(lives.turned < lives.horizon))
    if early < m.training.min_positives:
        raise NotEnoughData(
            f"maturity_aware: {early} positives became known before the horizon among {rows.height} cases from "
            f"{since:%Y-%m-%d}; training.min_positives asks for {m.training.min_positives}"
        )
    fitting.load_learners()
    cases, weight = hazard.draw_cases(lives, policy, m.training.seed)
    lives, drawn = lives.where(cases), rows[cases]
    vocabulary = learn_vocabulary(rows, m.features)
    matrix = encode(drawn, m.features, vocabulary)
    periods = hazard.person_periods(lives, weight, policy, m.training.seed)
    teacher = hazard.fit_hazard(matrix, periods, m.training)
    soft = hazard.soft_labels(hazard.survival(teacher, matrix, policy.bands), lives)
    positive, due = m.so_far(drawn)
    folds = m.training.folds if m.calibrated else 1
    with ThreadPoolExecutor(m.training.parallel_fits) as pool:
        whole = pool.submit(fitting.fit_booster, matrix, soft, m.training, weight)
        held, margin = fitting.held_out_margins(matrix, positive, m.training, pool, folds, soft, weight)
        booster = whole.result()
    positive, due, weight = positive[held], due[held], weight[held]
    calibrator = _calibrator(m, drawn[held], margin, positive, due, weight)
    return Bundle(
        use_case=m.use_case,
        features=m.features,
        vocabulary=vocabulary,
        booster=bytes(booster.save_raw("ubj")),
        calibrator=calibrator,
        threshold=fitting.threshold_so_far(calibrator(margin), positive, due),
        trained_from=max(since, rows["event_time"][0]),
        trained_until=m.plan.validate_until,
        reference=_reference(m.plan),
        training_fingerprint=m.fingerprint,
        candidate="maturity_aware",
        notes=m.plan.noted(rows["label"].to_numpy()),
    )


def _calibrator(
    material: Material,
    rows: pl.DataFrame,
    margin: np.ndarray,
    positive: np.ndarray,
    due: np.ndarray,
    weight: np.ndarray,
) -> Calibrator:
    """Of all rows (by time), or of the newest, where their level is to be followed."""
    whole = fitting.fit_partial_calibrator(margin, positive, due, weight)
    if not material.level_is_newest:
        return whole
    newest = material.level_rows(rows)
    n = len(margin) - newest.height
    recent = fitting.fit_partial_calibrator(margin[n:], positive[n:], due[n:], weight[n:])
    return whole if material.timing_explains(newest, whole(margin[n:]), recent(margin[n:])) else recent


def recalibrated(material: Material) -> Bundle:
    """The champion's booster, with calibrator and threshold fitted anew on cases that it has not seen."""
    m, champion = material, material.champion
    if champion is None:
        raise NotEnoughData("recalibrated: there is no champion yet")
    rows = m.plan.learnable(m.rows).filter(pl.col("event_time") >= champion.trained_until)
    positive, _ = m.so_far(rows)
    if positive.sum() < m.training.min_positives:
        raise NotEnoughData(
            f"recalibrated: {int(positive.sum())} positives among {rows.height} cases from "
            f"{champion.trained_until:%Y-%m-%d}, where the champion's training ends, to "
            f"{m.plan.validate_until:%Y-%m-%d}; training.min_positives asks for {m.training.min_positives}"
        )
    return replace(
        _levelled_anew(champion, rows, m) if m.level_is_newest else _levelled(champion, rows, m),
        reference=_unseen_reference(m.plan, champion),
        training_fingerprint=m.fingerprint,
        candidate="recalibrated",
        notes=m.plan.noted(positive),
    )


def _reference(plan: TrainingPlan) -> ReferenceWindow:
    return ReferenceWindow(plan.evaluate_from, plan.evaluate_until, plan.as_of)


def _unseen_reference(plan: TrainingPlan, champion: Bundle) -> ReferenceWindow:
    """The plan's reference, unless the champion's booster has learned from it: then the champion's own stays."""
    if plan.evaluate_from >= champion.trained_until:
        return _reference(plan)
    return replace(champion.reference, as_of=plan.as_of)


MEMBERS: dict[FamilyName, Callable[[Material], Bundle]] = {
    "full_history": full_history,
    "recent_window": recent_window,
    "maturity_aware": maturity_aware,
    "recalibrated": recalibrated,
}
