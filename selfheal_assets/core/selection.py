"""Which member of the family becomes the challenger, and why the others did not."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np

from selfheal_assets.core.bundle import Bundle
from selfheal_assets.core.family import MEMBERS
from selfheal_assets.core.fitting import load_learners
from selfheal_assets.core.level import level_losses
from selfheal_assets.core.material import Material
from selfheal_assets.core.maturity import log_losses_so_far
from selfheal_assets.core.plan import NotEnoughData
from selfheal_assets.core.spec import FamilyName

Say = Callable[[str], None]
Fit = Callable[[FamilyName, Material], Bundle]


@dataclass(frozen=True)
class Trial:
    """A member on the validation months.

    Attributes:
        member: its name.
        losses: negative log likelihood of each validation case's label so far, in nats; ``None`` where they could
            not be measured.
        reason: why it could not be measured, or why it was or was not chosen.
        chosen: whether it is the challenger.
    """

    member: FamilyName
    losses: np.ndarray | None
    reason: str
    chosen: bool = False

    @property
    def loss(self) -> float | None:
        """The mean of ``losses``."""
        return None if self.losses is None else float(self.losses.mean())


@dataclass(frozen=True)
class Choice:
    """The challenger, and what each member of the family lost; by the order of the policy."""

    bundle: Bundle
    trials: tuple[Trial, ...]


def fitted(member: FamilyName, material: Material) -> Bundle:
    """The member of that name, fitted on what may be learned from."""
    return MEMBERS[member](material)


def validate(material: Material, member: FamilyName, fit: Fit = fitted) -> Trial:
    """Fit a member without the validation months and measure it on them; where it cannot be measured, say why.

    Where the level is that of the newest labels so far (``training.level``), at the level of these months, out of
    fold; the champion that is to be recalibrated as it is, so none of them may be among what it has learned. Else as
    the boosters are: out-of-fold scores for a calibrator would take four times as many fits.
    """
    rows = material.plan.validation(material.rows)
    if rows.is_empty():
        return Trial(member, None, f"{member}: no case in the validation months, {_months(material)}")
    recalibrates = material.champion if member == "recalibrated" and material.level_is_newest else None
    if recalibrates and recalibrates.trained_until > material.plan.validate_from:
        until = f"{recalibrates.trained_until:%Y-%m-%d}"
        why = f"{member}: the champion has learned from cases up to {until}, within the validation months"
        return Trial(member, None, f"{why}, {_months(material)}")
    try:
        bundle = recalibrates or fit(member, material.without_validation)
    except NotEnoughData as error:
        return Trial(member, None, str(error))
    positive, due = material.so_far(rows)
    if not positive.any():
        return Trial(
            member,
            None,
            f"{member}: none of {rows.height} validation cases, {_months(material)}, is positive so far",
        )
    if material.level_is_newest and positive.sum() >= material.training.min_positives:
        return Trial(
            member,
            level_losses(bundle.margins(rows), positive, due, material.training, recalibrates is not None),
            "",
        )
    return Trial(member, log_losses_so_far(bundle.score(rows), positive, due), "")


def _months(material: Material) -> str:
    return f"{material.plan.validate_from:%Y-%m-%d} to {material.plan.validate_until:%Y-%m-%d}"


def choose_challenger(
    material: Material,
    say: Say = lambda _: None,
    preferred: FamilyName | None = None,
    fit: Fit = fitted,
) -> Choice:
    """Try the policy's family and fit the member with the least loss on the validation months.

    Where no member can be measured, the first of the policy's that can be fitted is taken.

    Args:
        material: what may be learned from.
        say: takes a line of progress before and after each fit.
        preferred: a member that is taken where its loss is within a standard error of the least.
        fit: fits a member; a backtest, which lives through many histories alike, fits none twice.

    Raises:
        NotEnoughData: no member can be fitted; says why of each.
    """
    load_learners()
    family = material.training.family

    def tried(member: FamilyName) -> Trial:
        trial = validate(material, member, fit)
        say(f"{member}: {trial.reason if trial.loss is None else f'validation loss {trial.loss:.5f}'}")
        return trial

    with ThreadPoolExecutor(material.training.parallel_fits) as pool:
        trials: dict[FamilyName, Trial] = {t.member: t for t in pool.map(tried, family)}
    failed: dict[FamilyName, str] = {}
    order = sorted(family, key=lambda m: _rank(trials[m]))
    if preferred in order and _within_a_standard_error(trials[preferred], trials[order[0]]):
        order.sort(key=lambda m: m != preferred)
    for member in order:
        say(f"fitting {member}")
        try:
            bundle = fit(member, material)
        except NotEnoughData as error:
            failed[member] = str(error)
            continue
        return Choice(bundle, _explained(trials, member, failed, preferred))
    raise NotEnoughData("; ".join(failed.values()))


def _rank(trial: Trial) -> float:
    return float("inf") if trial.loss is None else trial.loss


def _within_a_standard_error(trial: Trial, best: Trial) -> bool:
    """Whether two losses on the same cases differ by no more than the standard error of their difference."""
    if trial.losses is None or best.losses is None:
        return False
    more = trial.losses - best.losses
    return bool(more.mean() <= more.std() / np.sqrt(len(more)))


def _explained(
    trials: dict[FamilyName, Trial],
    chosen: FamilyName,
    failed: dict[FamilyName, str],
    preferred: FamilyName | None,
) -> tuple[Trial, ...]:
    """Each trial with the reason why it was chosen or not."""
    best, found = trials[chosen].loss, []
    for trial in trials.values():
        if trial.member in failed:
            why = f"could not be fitted: {failed[trial.member]}"
        elif trial.loss is None:
            why = trial.reason
        elif trial.member == chosen:
            least = min(_rank(t) for t in trials.values() if t.member not in failed)
            why = "the least loss on the validation months"
            if preferred == chosen and trial.loss > least:
                why = f"preferred, as the calibration is off: within a standard error of the least loss, {least:.5f}"
        else:
            more = trial.loss - best if best is not None else 0.0
            why = f"loses {more:.5f} nats a case more than {chosen}"
            if more < 0:
                why = f"loses {-more:.5f} nats a case less than {chosen}, which is preferred; within a standard error"
        if trial.member == chosen and trial.loss is None:
            why = f"the first that could be fitted, as none could be measured ({trial.reason})"
        found.append(replace(trial, reason=why, chosen=trial.member == chosen))
    return tuple(found)
