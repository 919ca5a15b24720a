"""The only wiring: settings in, Dagster definitions out.

``dagster`` finds ``defs`` here: ``dagster dev -w workspace.yaml``, ``dagster asset materialize -m
selfheal_assets.definitions --select reference_data``.
"""

import warnings

import dagster as dg

from selfheal_assets.defs import automation, mlflow_run
from selfheal_assets.defs.cards import model_card
from selfheal_assets.defs.catalogue import described
from selfheal_assets.defs.dbt import build_dbt_assets
from selfheal_assets.defs.drift import build_drift_assets
from selfheal_assets.defs.estimate import build_estimate_assets
from selfheal_assets.defs.evaluate import shadow_evaluation
from selfheal_assets.defs.health import build_health_assets
from selfheal_assets.defs.ingest import build_ingest_assets
from selfheal_assets.defs.monitor import build_monitor_assets
from selfheal_assets.defs.notify import build_notify_sensor
from selfheal_assets.defs.outcomes import build_outcome_assets
from selfheal_assets.defs.promote import production_model, promotion_decision
from selfheal_assets.defs.reference import applications, reference_data
from selfheal_assets.defs.resources import Stores, chunk_partitions
from selfheal_assets.defs.retrain import shadow_models, training_set
from selfheal_assets.defs.rollback import build_champion_guard, build_rollback_assets
from selfheal_assets.defs.table_schemas import table_schemas
from selfheal_assets.settings import Settings, prepare_environment

ONE_CHUNK_A_RUN = dg.BackfillPolicy.multi_run(1)  # each chunk stands at its own time


def build_definitions(settings: Settings, stores: Stores | None = None) -> dg.Definitions:
    """Everything Dagster knows of one use case.

    Args:
        settings: of this installation. Tests pass their own, with a ``home`` under a temporary folder.
        stores: shared with the caller's own; made from the settings if omitted.
    """
    prepare_environment()
    case = settings.case
    partitions = chunk_partitions(case)
    jobs = automation.build_jobs()
    by_chunk = [
        *build_ingest_assets(partitions),
        *build_monitor_assets(partitions),
        *build_drift_assets(partitions),
        *build_estimate_assets(partitions),
        *build_outcome_assets(partitions),
        *build_health_assets(partitions),
        *build_rollback_assets(partitions),
    ]
    assets = [
        applications,
        reference_data,
        *(a.with_attributes(backfill_policy=ONE_CHUNK_A_RUN) for a in by_chunk),
        build_dbt_assets(settings, partitions),
        training_set,
        shadow_models,
        shadow_evaluation,
        promotion_decision,
        production_model,
        model_card,
    ]
    owners, columns = settings.owners.split(","), table_schemas(case)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.BetaWarning)  # owners of schedules and sensors
        schedules = automation.build_schedules(jobs, case, partitions, owners)
        sensors = [
            *automation.build_sensors(jobs, case, owners),
            build_champion_guard(owners),
            build_notify_sensor(owners),
        ]
    return dg.Definitions(
        assets=[asset.map_asset_specs(lambda spec: described(spec, owners, columns)) for asset in assets],
        jobs=jobs,
        schedules=schedules,
        sensors=sensors,
        resources={"stores": stores or Stores(settings), "mlflow_run": mlflow_run.build_resource(settings)},
        executor=dg.in_process_executor,
    )


@dg.definitions
def defs() -> dg.Definitions:
    """What ``dagster -m selfheal_assets.definitions`` loads; built when Dagster asks, not at import."""
    return build_definitions(Settings())
