"""Which member of the family becomes the challenger, and why the others did not."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from selfheal_assets.core.bundle import Bundle
from selfheal_assets.core.family import MEMBERS, Material
from selfheal_assets.core.fitting import load_learners
from selfheal_assets.core.maturity import log_losses_so_far
from selfheal_assets.core.plan import NotEnoughData
from selfheal_assets.core.spec import FamilyName

Say = Callable[[str], None]


@dataclass(frozen=True)
class Trial:
    """A member on the validation months.

    Attributes:
        member: its name.
        loss: mean negative log likelihood of the labels so far, in nats; ``None`` where it could not be measured.
        reason: why it could not be measured, or why it was or was not chosen.
        chosen: whether it is the challenger.
    """

    member: FamilyName
    loss: float | None
    reason: str
    chosen: bool = False


@dataclass(frozen=True)
class Choice:
    """The challenger, and what each member of the family lost; by the order of the policy."""

    bundle: Bundle
    trials: tuple[Trial, ...]


def validate(material: Material, member: FamilyName) -> Trial:
    """Fit a member without the validation months and measure it on them; where it cannot be measured, say why.

    Boosters of matured labels are compared without the calibrators that out-of-fold scores would give them: four
    times as many fits. Where the level is the point, a calibrator is fitted (:class:`family.Material`).
    """
    rows = material.plan.validation(material.rows)
    if rows.is_empty():
        return Trial(member, None, f"{member}: no case in the validation months, {_months(material)}")
    try:
        bundle = MEMBERS[member](material.without_validation)
    except NotEnoughData as error:
        return Trial(member, None, str(error))
    positive, due = material.so_far(rows)
    if not positive.any():
        return Trial(
            member,
            None,
            f"{member}: none of {rows.height} validation cases, {_months(material)}, is positive so far",
        )
    return Trial(member, float(log_losses_so_far(bundle.score(rows), positive, due).mean()), "")


def _months(material: Material) -> str:
    return f"{material.plan.validate_from:%Y-%m-%d} to {material.plan.validate_until:%Y-%m-%d}"


def choose_challenger(material: Material, say: Say = lambda _: None) -> Choice:
    """Try the policy's family and fit the member with the least loss on the validation months.

    Where no member can be measured, the first of the policy's that can be fitted is taken.

    Args:
        material: what may be learned from.
        say: takes a line of progress before and after each fit.

    Raises:
        NotEnoughData: no member can be fitted; says why of each.
    """
    load_learners()
    family = material.training.family

    def tried(member: FamilyName) -> Trial:
        trial = validate(material, member)
        say(f"{member}: {trial.reason if trial.loss is None else f'validation loss {trial.loss:.5f}'}")
        return trial

    with ThreadPoolExecutor(material.training.parallel_fits) as pool:
        trials: dict[FamilyName, Trial] = {t.member: t for t in pool.map(tried, family)}
    failed: dict[FamilyName, str] = {}
    for member in sorted(family, key=lambda m: _rank(trials[m])):
        say(f"fitting {member}")
        try:
            bundle = MEMBERS[member](material)
        except NotEnoughData as error:
            failed[member] = str(error)
            continue
        return Choice(bundle, _explained(trials, member, failed))
    raise NotEnoughData("; ".join(failed.values()))


def _rank(trial: Trial) -> float:
    return float("inf") if trial.loss is None else trial.loss


def _explained(
    trials: dict[FamilyName, Trial], chosen: FamilyName, failed: dict[FamilyName, str]
) -> tuple[Trial, ...]:
    """Each trial with the reason why it was chosen or not."""
    best, found = trials[chosen].loss, []
    for trial in trials.values():
        if trial.member in failed:
            why = f"could not be fitted: {failed[trial.member]}"
        elif trial.loss is None:
            why = trial.reason
        elif trial.member == chosen:
            why = "the least loss on the validation months"
        else:
            why = f"loses {trial.loss - best:.5f} nats a case more than {chosen}" if best is not None else ""
        if trial.member == chosen and trial.loss is None:
            why = f"the first that could be fitted, as none could be measured ({trial.reason})"
        found.append(replace(trial, reason=why, chosen=trial.member == chosen))
    return tuple(found)
