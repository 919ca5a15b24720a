"""When a retraining is due: the rule that the daemon, a shell and a replay obey alike.

A function over Dagster's own records (``next_retraining``): a failing window that is newer than every window a
retraining has answered, and that the policy's hysteresis, cooldown and budget do not let wait. A retraining that died
before its decision is no answer: it is tried again, as often as the policy allows.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

import dagster as dg

from selfheal_assets.core.decision import Action, Decision
from selfheal_assets.core.diagnosis import Remedy, diagnose
from selfheal_assets.core.monitoring import Status
from selfheal_assets.core.periods import chunk_end
from selfheal_assets.defs.resources import (
    CHECKS_TAG,
    DECIDED_TAG,
    HELD_TAG,
    REMEDY_TAG,
    WINDOW_TAG,
    Stores,
)
from selfheal_assets.stores import decision_ledger
from selfheal_assets.use_case import UseCase

RETRAIN_JOB = "retrain_job"
MAX_RETRIES_TAG = "dagster/max_retries"
CHECK_ASSETS = {
    "drift_within_limits": "drift_alarms",
    "estimated_performance_holds": "estimated_performance",
    "calibration_holds": "partial_label_evidence",
    "realized_performance_holds": "realized_performance",
}
# Not what starts a retraining, but what forbids it: see core.diagnosis.
DATA_CHECKS = {
    "schema_is_valid": "prediction_log",
    "event_times_are_plausible": "prediction_log",
    "label_times_are_plausible": "labels",
    "inputs_are_intact": "proxy_metrics",
}
RUNNING = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]


@dataclass(frozen=True)
class Retraining:
    """A retraining that is due: for which window, because of which checks, after how many that failed."""

    window: str
    checks: tuple[str, ...]
    failed_before: int = 0
    remedy: Remedy = Remedy.retrain

    @property
    def tags(self) -> dict[str, str]:
        """Run tags by which the retraining is found again; Dagster's own retry would come beside ours."""
        return {
            WINDOW_TAG: self.window,
            CHECKS_TAG: ",".join(self.checks),
            REMEDY_TAG: self.remedy.value,
            MAX_RETRIES_TAG: "0",
        }

    @property
    def run_key(self) -> str:
        """By which the daemon starts each attempt once."""
        return f"retrain:{self.window}" + (f":{self.failed_before}" if self.failed_before else "")

    def said(self, attempts: int) -> str:
        """Why it is started, in words; ``attempts`` is the policy's limit."""
        return (
            f"{self.remedy.value} for the window {self.window}: {', '.join(self.checks)} failed; attempt "
            f"{self.failed_before + 1} of {attempts} (policy.retraining_attempts)"
        )


@dataclass(frozen=True)
class Withheld:
    """A retraining that a failing window asks for and does not get; recorded once for each window and cause."""

    window: str
    action: Action
    cause: str
    reason: str


def newest_evaluations(instance: dg.DagsterInstance, check: str, limit: int = 50) -> dict[str, str]:
    """Window to status of a check's latest evaluation there, over the last ``limit`` evaluations."""
    key = dg.AssetCheckKey(dg.AssetKey((CHECK_ASSETS | DATA_CHECKS)[check]), check)
    found: dict[str, str] = {}
    for record in instance.event_log_storage.get_asset_check_execution_history(key, limit=limit):
        event = record.event.dagster_event if record.event else None
        if event is None or event.event_type != dg.DagsterEventType.ASSET_CHECK_EVALUATION:
            continue
        metadata = event.asset_check_evaluation_data.metadata
        window, status = metadata.get("window"), metadata.get("status")
        if window is not None and status is not None:
            found.setdefault(str(window.value), str(status.value))
    return found


def retrained_windows(instance: dg.DagsterInstance) -> dict[str, int | None]:
    """Each window that a retraining was started for, with how many failed; ``None``: one of them did not."""
    windows: dict[str, int | None] = {}
    for run in instance.get_runs(dg.RunsFilter(job_name=RETRAIN_JOB), limit=200):
        window = run.tags.get(WINDOW_TAG)
        if window is None:
            continue
        failed, seen = run.status == dg.DagsterRunStatus.FAILURE, windows.get(window, 0)
        windows[window] = seen + 1 if failed and DECIDED_TAG not in run.tags and seen is not None else None
    return windows


def held_windows(instance: dg.DagsterInstance) -> set[str]:
    """Windows whose retraining found its training set unsound: nothing was trained, so no cooldown begins."""
    runs = instance.get_runs(dg.RunsFilter(job_name=RETRAIN_JOB, tags={HELD_TAG: "true"}), limit=200)
    return {run.tags[WINDOW_TAG] for run in runs if WINDOW_TAG in run.tags}


def next_retraining(
    instance: dg.DagsterInstance, case: UseCase, rolled_back: Callable[[datetime], bool] = lambda _: False
) -> Retraining | Withheld | str:
    """The retraining that is due now, why a failing window gets none, or that nothing is to be decided.

    Args:
        instance: whose records of checks and runs are read.
        case: names the checks and the policy.
        rolled_back: whether the champion was taken back at the end of a window; asked only where it matters.
    """
    policy = case.policy
    found = {check: newest_evaluations(instance, check) for check in (*policy.retrain_on, *DATA_CHECKS)}
    by_window = {w: _statuses(found, w) for statuses in found.values() for w in statuses}
    called_for = {w: diagnose(checks, policy.retrain_on) for w, checks in by_window.items()}
    failing = [w for w, diagnosis in called_for.items() if diagnosis.remedy is not Remedy.none]
    if not failing:
        judged = (
            f"{len(by_window)} windows judged, the newest {max(by_window)}"
            if by_window
            else "no window judged yet"
        )
        return f"no check that starts a retraining has failed ({', '.join(policy.retrain_on)}): {judged}"
    window, tried = max(failing), retrained_windows(instance)
    diagnosis, failed = called_for[window], tried.get(window) or 0
    if instance.get_run_records(dg.RunsFilter(job_name=RETRAIN_JOB, statuses=RUNNING), limit=1):
        return f"a retraining is running; {window} waits for it"
    answered = {w for w, failures in tried.items() if failures is None}
    if answered and window <= max(answered):
        return f"the failure of {window} was answered by a retraining for {max(answered)}"
    if diagnosis.remedy in (Remedy.fix_data, Remedy.hold):
        return Withheld(window, Action(diagnosis.remedy.value), ", ".join(diagnosis.checks), diagnosis.reason)
    if why := _restrained(window, answered - held_windows(instance), max(answered, default=""), found, case):
        return Withheld(window, Action.suppress, *why)
    if failed >= policy.retraining_attempts:
        return Withheld(
            window,
            Action.hold,
            "retraining_attempts",
            f"the retraining for {window} failed {failed} times (policy.retraining_attempts): see its runs, and "
            f"start {RETRAIN_JOB} by hand, or wait for the next failing window",
        )
    if rolled_back(_end(window, case)):
        diagnosis = diagnose(by_window[window], policy.retrain_on, rolled_back=True)
        return f"{diagnosis.remedy.value}: {diagnosis.reason}"
    return Retraining(window, diagnosis.checks, failed, diagnosis.remedy)


def _statuses(found: dict[str, dict[str, str]], window: str) -> dict[str, Status]:
    return {check: Status(statuses[window]) for check, statuses in found.items() if window in statuses}


def _end(window: str, case: UseCase) -> datetime:
    return chunk_end(datetime.fromisoformat(window), case.monitoring.chunk)


def _restrained(
    window: str, trained: set[str], last: str, found: dict[str, dict[str, str]], case: UseCase
) -> tuple[str, str] | None:
    """Cause and reason why the policy lets this window wait (hysteresis, cooldown, budget), or ``None``."""
    policy, end = case.policy, _end(window, case)
    counts = {
        check: [
            w for w in sorted(statuses) if last < w <= window and statuses[w] != Status.insufficient.value
        ]
        for check, statuses in found.items()
        if check in policy.retrain_on
    }
    most = max(
        sum(found[check][w] == Status.failed.value for w in known[-policy.among_windows :])
        for check, known in counts.items()
    )
    if most < policy.failing_windows:
        return "hysteresis", (
            f"hysteresis: no check failed in {policy.failing_windows} of the newest {policy.among_windows} windows "
            f"up to {window} (policy.failing_windows, policy.among_windows), but in {most}"
        )
    days = policy.retraining_cooldown_days
    if trained and end - _end(max(trained), case) < timedelta(days=days):
        return "cooldown", f"cooldown: {window} follows the retraining for {max(trained)} within {days} days"
    spent = [w for w in trained if end - _end(w, case) < timedelta(days=365)]
    if len(spent) >= policy.max_retrainings_per_year:
        return "budget", (
            f"budget: {len(spent)} retrainings in the 365 days up to the end of {window} "
            f"(policy.max_retrainings_per_year {policy.max_retrainings_per_year}), the last for {max(spent)}"
        )
    return None


def due_retraining(instance: dg.DagsterInstance, stores: Stores) -> Retraining | str:
    """:func:`next_retraining`, with what is withheld recorded in the ledger, once for each window and cause."""

    def rolled_back(at: datetime) -> bool:
        return decision_ledger.was_decided(stores.warehouse, Action.roll_back, at)

    due = next_retraining(instance, stores.case, rolled_back)
    if not isinstance(due, Withheld):
        return due
    evidence = {"window": due.window, "cause": due.cause}
    decision = Decision(due.action, _end(due.window, stores.case), due.reason, None, None, evidence, {})
    decision_ledger.record_once(stores.warehouse, decision, "window", "cause")
    return due.reason
