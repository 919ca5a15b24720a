"""When a retraining is due: the rule that the daemon, a shell, a replay and a backtest obey alike.

A failing window that is newer than every window a retraining has answered, and that the policy's hysteresis, cooldown
and budget do not let wait. A retraining that died before its decision is no answer: it is tried again, as often as
the policy allows. Who keeps the records is not this module's business (``defs.retraining_rule``: Dagster does).
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from selfheal_assets.core.decision import Action
from selfheal_assets.core.diagnosis import Remedy, diagnose
from selfheal_assets.core.monitoring import Status
from selfheal_assets.core.periods import chunk_end
from selfheal_assets.core.policies import Policy
from selfheal_assets.core.spec import ChunkPeriod


@dataclass(frozen=True)
class Due:
    """A retraining that is due: for which window, because of which checks, after how many that failed."""

    window: str
    checks: tuple[str, ...]
    failed_before: int = 0
    remedy: Remedy = Remedy.retrain


@dataclass(frozen=True)
class Withheld:
    """A retraining that a failing window asks for and does not get; recorded once for each window and cause."""

    window: str
    action: Action
    cause: str
    reason: str


@dataclass(frozen=True)
class Records:
    """What is known of checks and retrainings. A window is named by its first day, so that names sort by time.

    Attributes:
        statuses: by check and window, the newest status.
        tried: each window that a retraining was started for, with how many failed; ``None``: one of them did not.
        held: windows whose retraining found its training set unsound: nothing was trained, so no cooldown begins.
        running: whether a retraining is running.
    """

    statuses: Mapping[str, Mapping[str, Status]]
    tried: Mapping[str, int | None] = field(default_factory=dict)
    held: Collection[str] = ()
    running: bool = False


def next_due(
    records: Records,
    policy: Policy,
    period: ChunkPeriod,
    rolled_back: Callable[[datetime], bool] = lambda _: False,
) -> Due | Withheld | str:
    """The retraining that is due now, why a failing window gets none, or that nothing is to be decided.

    Args:
        records: of checks and retrainings.
        policy: of the use case.
        period: the length of a window.
        rolled_back: whether the champion was taken back at the end of a window; asked only where it matters.
    """
    found, tried = records.statuses, records.tried
    by_window = {w: _statuses(found, w) for statuses in found.values() for w in statuses}
    called_for = {w: diagnose(checks, policy.retrain_on) for w, checks in by_window.items()}
    failing = [w for w, diagnosis in called_for.items() if diagnosis.remedy is not Remedy.none]
    if not failing:
        return "no check that starts a retraining has failed"
    window = max(failing)
    diagnosis, failed = called_for[window], tried.get(window) or 0
    if records.running:
        return f"a retraining is running; {window} waits for it"
    answered = {w for w, failures in tried.items() if failures is None}
    if answered and window <= max(answered):
        return f"the failure of {window} was answered by a retraining for {max(answered)}"
    if diagnosis.remedy in (Remedy.fix_data, Remedy.hold):
        return Withheld(window, Action(diagnosis.remedy.value), ", ".join(diagnosis.checks), diagnosis.reason)
    trained, last = answered - set(records.held), max(answered, default="")
    if why := _restrained(window, trained, last, found, policy, period):
        return Withheld(window, Action.suppress, *why)
    if failed >= policy.retraining_attempts:
        return Withheld(
            window,
            Action.hold,
            "retraining_attempts",
            f"the retraining for {window} failed {failed} times (policy.retraining_attempts): see its runs, and "
            f"start retrain_job by hand, or wait for the next failing window",
        )
    if rolled_back(window_end(window, period)):
        diagnosis = diagnose(by_window[window], policy.retrain_on, rolled_back=True)
        return f"{diagnosis.remedy.value}: {diagnosis.reason}"
    return Due(window, diagnosis.checks, failed, diagnosis.remedy)


def window_end(window: str, period: ChunkPeriod) -> datetime:
    """The end of the window of that name."""
    return chunk_end(datetime.fromisoformat(window), period)


def _statuses(found: Mapping[str, Mapping[str, Status]], window: str) -> dict[str, Status]:
    return {check: statuses[window] for check, statuses in found.items() if window in statuses}


def _restrained(
    window: str,
    trained: set[str],
    last: str,
    found: Mapping[str, Mapping[str, Status]],
    policy: Policy,
    period: ChunkPeriod,
) -> tuple[str, str] | None:
    """Cause and reason why the policy lets this window wait (hysteresis, cooldown, budget), or ``None``."""
    end = window_end(window, period)
    counts = {
        check: [w for w in sorted(statuses) if last < w <= window and statuses[w] is not Status.insufficient]
        for check, statuses in found.items()
        if check in policy.retrain_on
    }
    most = max(
        sum(found[check][w] is Status.failed for w in known[-policy.among_windows :])
        for check, known in counts.items()
    )
    if most < policy.failing_windows:
        return "hysteresis", (
            f"hysteresis: no check failed in {policy.failing_windows} of the newest {policy.among_windows} windows "
            f"up to {window} (policy.failing_windows, policy.among_windows), but in {most}"
        )
    days = policy.retraining_cooldown_days
    if trained and end - window_end(max(trained), period) < timedelta(days=days):
        return "cooldown", f"cooldown: {window} follows the retraining for {max(trained)} within {days} days"
    spent = [w for w in trained if end - window_end(w, period) < timedelta(days=365)]
    if len(spent) >= policy.max_retrainings_per_year:
        return "budget", (
            f"budget: {len(spent)} retrainings in the 365 days up to the end of {window} "
            f"(policy.max_retrainings_per_year {policy.max_retrainings_per_year}), the last for {max(spent)}"
        )
    return None
