"""One MLflow run per Dagster run, through dagster-mlflow's resource.

dagster-mlflow is imported when a run first needs it: it pulls MLflow in, which takes seconds. What of it is
legacy, and why aliases go through ``stores.model_registry`` instead, is told in docs/decisions.
"""

import warnings
from collections.abc import Iterator
from typing import Any

import dagster as dg

from selfheal_assets.settings import Settings, prepare_environment
from selfheal_assets.stores.model_registry import ModelRegistry


def build_resource(settings: Settings) -> dg.ResourceDefinition:
    """The ``mlflow_run`` resource: MLflow's tracking functions, bound to this Dagster run's MLflow run."""

    config = {
        "experiment_name": dg.Field(str, default_value=settings.case.name),
        "mlflow_tracking_uri": dg.Field(str, default_value=settings.tracking_uri),
        "env": dg.Field(dg.Permissive(), default_value={}),
        "extra_tags": dg.Field(dg.Permissive(), default_value={}),
    }

    @dg.resource(
        config_schema=config, description="MLflow's tracking API, bound to one run (dagster-mlflow)."
    )
    def mlflow_run(context: dg.InitResourceContext) -> Iterator[Any]:
        prepare_environment()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # dagster-mlflow marks all it has as beta
            import mlflow
            from dagster_mlflow import mlflow_tracking

            ModelRegistry(settings).experiment()
            try:
                yield from mlflow_tracking.resource_fn(context)  # pyright: ignore[reportCallIssue]
            finally:
                mlflow.end_run()  # else the next Dagster run of this process would log into this one

    return mlflow_run
