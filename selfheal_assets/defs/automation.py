"""Automation: jobs, schedules, and the sensor that turns a failed check into one retraining.

When a retraining is due is ``retraining_rule``'s.
"""

import dagster as dg

from selfheal_assets.defs.catalogue import explained
from selfheal_assets.defs.orphans import settle_orphans
from selfheal_assets.defs.resources import StoresParam
from selfheal_assets.defs.retraining_rule import RETRAIN_JOB, due_retraining
from selfheal_assets.stores.warehouse import WarehouseBusy
from selfheal_assets.use_case import UseCase

MONITOR_JOB, INGEST_JOB = "monitor_job", "ingest_job"
RETRAIN_ASSETS = [
    "applications",
    "training_set",
    "shadow_models",
    "shadow_evaluation",
    "promotion_decision",
    "production_model",
    "model_card",
]


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


def build_schedules(
    jobs: list, case: UseCase, partitions: dg.TimeWindowPartitionsDefinition, owners: list[str]
) -> list[dg.ScheduleDefinition]:
    """Ingest daily, monitor each chunk once it is complete. Off until switched on: history needs no schedule."""
    ingest, monitor = (next(j for j in jobs if j.name == name) for name in (INGEST_JOB, MONITOR_JOB))

    @dg.schedule(
        name="ingest_each_day",
        job=ingest,
        cron_schedule="0 5 * * *",
        description=explained(
            "Each day at 05:00 UTC, brings in what the service logged and which labels arrived, of any chunk.",
            "a day's rows wait on disk (`RUN/prediction_log/ready`, `RUN/labels`); none is lost",
            "read the failed run's step, mend it and start ingest_job again, or wait for tomorrow's tick",
        ),
        default_status=dg.DefaultScheduleStatus.STOPPED,
        owners=owners,
    )
    def ingest_each_day(context: dg.ScheduleEvaluationContext):
        return _asked_for_newest(context, partitions)

    @dg.schedule(
        name="monitor_each_chunk",
        job=monitor,
        cron_schedule=partitions.get_cron_schedule(),
        description=explained(
            f"Monitors each {case.monitoring.chunk} of {case.name} when it is complete.",
            "a chunk was not monitored, so nothing is known of it and no retraining can follow",
            "read the failed run's step, mend it, and materialize monitor_job for the chunk's partition",
        ),
        default_status=dg.DefaultScheduleStatus.STOPPED,
        owners=owners,
    )
    def monitor_each_chunk(context: dg.ScheduleEvaluationContext):
        return _asked_for_newest(context, partitions, once=True)

    return [ingest_each_day, monitor_each_chunk]


def _asked_for_newest(
    context: dg.ScheduleEvaluationContext, partitions: dg.TimeWindowPartitionsDefinition, once: bool = False
) -> dg.RunRequest | dg.SkipReason:
    """A run for the newest chunk that was over at the tick, or why there is none; ``once`` for each chunk."""
    at = context.scheduled_execution_time
    with dg.partition_loading_context(effective_dt=at):
        newest = partitions.get_last_partition_key()
    if newest is None:
        return dg.SkipReason(
            f"the first chunk, which begins {partitions.start:%Y-%m-%d}, is not over at {at:%Y-%m-%d %H:%M}"
        )
    context.log.info(
        f"one run for the chunk that begins {newest}, the newest that is over at {at:%Y-%m-%d %H:%M}"
    )
    return dg.RunRequest(run_key=newest if once else None, partition_key=newest)


def build_sensors(jobs: list, case: UseCase, owners: list[str]) -> list[dg.SensorDefinition]:
    """The sensor that heals: one retraining for each newly failing window."""

    @dg.sensor(
        name="retrain_on_failed_check",
        job=next(j for j in jobs if j.name == RETRAIN_JOB),
        minimum_interval_seconds=15,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=explained(
            f"Starts one retraining when a monitoring check fails: {', '.join(case.policy.retrain_on)}.",
            "no retraining starts by itself; the champion goes on answering, and monitoring goes on",
            "read the tick's error, mend it, and switch the sensor on again; until then start retrain_job by hand",
        ),
        owners=owners,
    )
    def retrain_on_failed_check(context: dg.SensorEvaluationContext, stores: StoresParam):
        for run_id in settle_orphans(context.instance, RETRAIN_JOB):
            context.log.warning(f"{run_id} was killed with its code server: it counts as failed")
        try:
            due = due_retraining(context.instance, stores)
        except WarehouseBusy as busy:  # nothing is lost: the next tick asks again
            return dg.SkipReason(str(busy))
        if isinstance(due, str):
            return dg.SkipReason(due)
        context.log.info(due.said(case.policy.retraining_attempts))
        return dg.RunRequest(run_key=due.run_key, tags=due.tags)

    return [retrain_on_failed_check]
