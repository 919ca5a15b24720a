"""When a retraining is due, by Dagster's own records: the rule itself is ``core.retraining_rule``'s."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

import dagster as dg

from selfheal_assets.core.decision import Action, Decision
from selfheal_assets.core.monitoring import Status
from selfheal_assets.core.retraining_rule import Due, Records, Withheld, next_due, window_end
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
    "label_ids_agree": "labels",
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
class Retraining(Due):
    """A retraining that is due, with the tags and the key of its run."""

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
    checks = (*case.policy.retrain_on, *DATA_CHECKS)
    found = {
        check: {w: Status(status) for w, status in newest_evaluations(instance, check).items()}
        for check in checks
    }
    running = bool(instance.get_run_records(dg.RunsFilter(job_name=RETRAIN_JOB, statuses=RUNNING), limit=1))
    records = Records(found, retrained_windows(instance), held_windows(instance), running)
    due = next_due(records, case.policy, case.monitoring.chunk, rolled_back)
    return Retraining(**vars(due)) if isinstance(due, Due) else due


def due_retraining(instance: dg.DagsterInstance, stores: Stores) -> Retraining | str:
    """:func:`next_retraining`, with what is withheld recorded in the ledger, once for each window and cause."""

    def rolled_back(at: datetime) -> bool:
        return decision_ledger.was_decided(stores.warehouse, Action.roll_back, at)

    due = next_retraining(instance, stores.case, rolled_back)
    if not isinstance(due, Withheld):
        return due
    evidence, end = (
        {"window": due.window, "cause": due.cause},
        window_end(due.window, stores.case.monitoring.chunk),
    )
    decision = Decision(due.action, end, due.reason, None, None, evidence, {})
    decision_ledger.record_once(stores.warehouse, decision, "window", "cause")
    return due.reason
