"""What a window's checks call for: nothing, mended data, recalibration, retraining, a rollback, or to hold.

Only what the checks say is weighed here; whether a retraining is due by cooldown, budget and persistence is
``defs.automation``'s.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from selfheal_assets.core.monitoring import OUTCOME_CHECKS, Status

BREAKS: Final = ("schema_is_valid", "inputs_are_intact")  # data that no model should learn from
# Without them no evidence is.
TRUST: Final = ("event_times_are_plausible", "label_times_are_plausible", "label_ids_agree")
CALIBRATION, RANKING = "calibration_holds", "realized_performance_holds"


class Remedy(StrEnum):
    """What is called for."""

    none = "NONE"
    fix_data = "FIX_DATA"
    recalibrate = "RECALIBRATE"
    retrain = "RETRAIN"
    roll_back = "ROLL_BACK"
    hold = "HOLD"


@dataclass(frozen=True)
class Diagnosis:
    """The remedy, the reason in a sentence, and the failed checks that it rests on."""

    remedy: Remedy
    reason: str
    checks: tuple[str, ...] = ()


def diagnose(checks: Mapping[str, Status], retrain_on: Iterable[str], rolled_back: bool = False) -> Diagnosis:
    """What the checks of one window call for. The first that applies, from what undermines the rest downwards.

    Args:
        checks: status by check; a check that is not there was not evaluated, and is no evidence of health.
        retrain_on: the checks whose failure may start a retraining (``policy.retrain_on``).
        rolled_back: whether the window's champion was taken back at the window's end.
    """
    failed = {name for name, status in checks.items() if status is Status.failed}
    if broken := tuple(name for name in BREAKS if name in failed):
        return Diagnosis(
            Remedy.fix_data,
            f"the data are broken ({', '.join(broken)}): no model is to learn from them",
            broken,
        )
    failing = tuple(name for name in retrain_on if name in failed)
    if not failing:
        return Diagnosis(Remedy.none, "no check that starts a retraining has failed")
    said = ", ".join(failing)
    if rolled_back:
        return Diagnosis(Remedy.roll_back, f"the champion that {said} speaks of was taken back", failing)
    doubtful = tuple(n for n in TRUST if n in failed and (n == TRUST[0] or set(failing) <= OUTCOME_CHECKS))
    if doubtful:
        return Diagnosis(
            Remedy.hold, f"{said} failed, but {', '.join(doubtful)} failed too: not to be trusted", doubtful
        )
    if OUTCOME_CHECKS & set(failing) == {CALIBRATION} and checks.get(RANKING) is Status.passed:
        return Diagnosis(
            Remedy.recalibrate,
            f"{said} failed, and {RANKING}: the ranking is intact, its level is off",
            failing,
        )
    return Diagnosis(Remedy.retrain, f"{said} failed", failing)
