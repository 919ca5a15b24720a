"""Automation: jobs, schedules, and the sensor that turns a failed check into one retraining.

When a retraining is due is ``retraining_rule``'s.
"""

import dagster as dg

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
    def retrain_on_failed_check(context: dg.SensorEvaluationContext, stores: StoresParam):
        for run_id in settle_orphans(context.instance, RETRAIN_JOB):
            context.log.warning(f"{run_id} was killed with its code server: it counts as failed")
        try:
            due = due_retraining(context.instance, stores)
        except WarehouseBusy as busy:  # nothing is lost: the next tick asks again
            return dg.SkipReason(str(busy))
        if isinstance(due, str):
            return dg.SkipReason(due)
        return dg.RunRequest(run_key=due.run_key, tags=due.tags)

    return [retrain_on_failed_check]
