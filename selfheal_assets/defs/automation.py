"""Automation: jobs, schedules, and the sensor that turns a failed check into one retraining.

The rule is a pure function over Dagster's own records (``next_retraining``), so that the daemon, a shell and a
replay obey the same one: a failing window that is newer than every window a retraining has answered. One that
died before its decision is no answer: it is tried again, as often as the policy allows.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

import dagster as dg

from selfheal_assets.core.monitoring import Status
from selfheal_assets.core.periods import chunk_end
from selfheal_assets.defs.resources import CHECKS_TAG, DECIDED_TAG, WINDOW_TAG
from selfheal_assets.use_case import UseCase

RETRAIN_JOB, MONITOR_JOB, INGEST_JOB = "retrain_job", "monitor_job", "ingest_job"
MAX_RETRIES_TAG = "dagster/max_retries"
CHECK_ASSETS = {
    "drift_within_limits": "drift_alarms",
    "estimated_performance_holds": "estimated_performance",
    "calibration_holds": "partial_label_evidence",
    "realized_performance_holds": "realized_performance",
}
RETRAIN_ASSETS = [
    "applications",
    "training_set",
    "shadow_models",
    "shadow_evaluation",
    "promotion_decision",
    "production_model",
]
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

    @property
    def tags(self) -> dict[str, str]:
        """Run tags by which the retraining is found again; Dagster's own retry would come beside ours."""
        return {WINDOW_TAG: self.window, CHECKS_TAG: ",".join(self.checks), MAX_RETRIES_TAG: "0"}

    @property
    def run_key(self) -> str:
        """By which the daemon starts each attempt once."""
        return f"retrain:{self.window}" + (f":{self.failed_before}" if self.failed_before else "")


def newest_evaluations(instance: dg.DagsterInstance, check: str, limit: int = 50) -> dict[str, str]:
    """Window to status of a check's latest evaluation there, over the last ``limit`` evaluations."""
    key = dg.AssetCheckKey(dg.AssetKey(CHECK_ASSETS[check]), check)
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


def next_retraining(instance: dg.DagsterInstance, case: UseCase) -> Retraining | str:
    """The retraining that is due now, or the reason why none is."""
    failing: dict[str, list[str]] = {}
    for check in case.policy.retrain_on:
        for window, status in newest_evaluations(instance, check).items():
            if status == Status.failed.value:
                failing.setdefault(window, []).append(check)
    if not failing:
        return "no check that starts a retraining has failed"
    window, tried = max(failing), retrained_windows(instance)
    failed = tried.get(window) or 0
    if instance.get_run_records(dg.RunsFilter(job_name=RETRAIN_JOB, statuses=RUNNING), limit=1):
        return f"a retraining is running; {window} waits for it"
    last = max((w for w, failures in tried.items() if failures is None), default=None)
    if last is not None:
        if window <= last:
            return f"the failure of {window} was answered by a retraining for {last}"
        end_now, end_last = (
            chunk_end(datetime.fromisoformat(w), case.monitoring.chunk) for w in (window, last)
        )
        if end_now - end_last < timedelta(days=case.policy.retraining_cooldown_days):
            days = case.policy.retraining_cooldown_days
            return f"cooldown: {window} follows the retraining for {last} within {days} days"
    if failed >= case.policy.retraining_attempts:
        return (
            f"the retraining for {window} failed {failed} times (policy.retraining_attempts): see its runs, and "
            f"start {RETRAIN_JOB} by hand, or wait for the next failing window"
        )
    return Retraining(window, tuple(failing[window]), failed)


def build_jobs() -> list:
    """Ingest, monitor and retrain, selectable by name in the UI and in schedules."""
    groups = dg.AssetSelection.groups
    ingest = groups("ingest")
    return [
        dg.define_asset_job(INGEST_JOB, selection=ingest, description="Bring predictions and labels in."),
        dg.define_asset_job(
            MONITOR_JOB,
            selection=ingest
            | groups("monitor", "report")
            | dg.AssetSelection.assets("reference_data", "rollback_decision"),
            description="Ingest a chunk, compute its evidence, check it, and judge a promotion in probation.",
        ),
        dg.define_asset_job(
            RETRAIN_JOB,
            selection=dg.AssetSelection.assets(*RETRAIN_ASSETS),
            description="Train challengers on what is known, compare, decide; move the champion if all gates pass.",
        ),
    ]


def build_schedules(jobs: list, case: UseCase, partitions: dg.PartitionsDefinition) -> list:
    """Ingest daily, monitor each chunk once it is complete. Off until switched on: history needs no schedule."""
    ingest, monitor = (next(j for j in jobs if j.name == name) for name in (INGEST_JOB, MONITOR_JOB))

    @dg.schedule(
        name="ingest_each_day",
        job=ingest,
        cron_schedule="0 5 * * *",
        description="Brings in what the service logged and which labels arrived, of any chunk.",
        default_status=dg.DefaultScheduleStatus.STOPPED,
    )
    def ingest_each_day():
        newest = partitions.get_last_partition_key()
        return (
            dg.RunRequest(partition_key=newest)
            if newest
            else dg.SkipReason("the first chunk is not over yet")
        )

    return [
        ingest_each_day,
        dg.build_schedule_from_partitioned_job(
            monitor,
            name="monitor_each_chunk",
            description=f"Monitors each {case.monitoring.chunk} of {case.name} when it is complete.",
            default_status=dg.DefaultScheduleStatus.STOPPED,
        ),
    ]


def build_sensors(jobs: list, case: UseCase) -> list[dg.SensorDefinition]:
    """The sensor that heals: one retraining for each newly failing window."""

    @dg.sensor(
        name="retrain_on_failed_check",
        job=next(j for j in jobs if j.name == RETRAIN_JOB),
        minimum_interval_seconds=15,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Starts one retraining when a monitoring check fails: "
        + ", ".join(case.policy.retrain_on),
    )
    def retrain_on_failed_check(context: dg.SensorEvaluationContext):
        due = next_retraining(context.instance, case)
        if isinstance(due, str):
            return dg.SkipReason(due)
        return dg.RunRequest(run_key=due.run_key, tags=due.tags)

    return [retrain_on_failed_check]
