"""Retrain: the training set as it was known, the challenger family, and both models on the same later rows."""

import resource
import time
from datetime import datetime
from typing import Any

import dagster as dg
import polars as pl

from selfheal_assets.core.bundle import Bundle
from selfheal_assets.core.diagnosis import Remedy
from selfheal_assets.core.material import Material
from selfheal_assets.core.plan import TrainingPlan, plan_training
from selfheal_assets.core.selection import Choice, choose_challenger
from selfheal_assets.defs.resources import (
    REMEDY_TAG,
    Context,
    Stores,
    StoresParam,
    as_of_of,
    rows_in,
    table_metadata,
)
from selfheal_assets.defs.soundness import held
from selfheal_assets.serving.servability import TRIALS
from selfheal_assets.stores import cases
from selfheal_assets.stores.applications import load_history

GROUP = "retrain"


def _plan(stores: Stores, as_of: datetime) -> tuple[TrainingPlan, Bundle | None]:
    """The windows of a retraining, and the champion that they depend on."""
    found, case = stores.registry.load_champion(), stores.case
    champion = found[1] if found else None
    partial = case.policy.gates.evidence == "partial"
    newest = cases.gates_from(stores.warehouse, case, as_of) if partial else None
    return plan_training(as_of, case.label, case.training, champion, case.reference, newest), champion


def _material(stores: Stores, plan: TrainingPlan, champion: Bundle | None) -> Material:
    """The frozen training set, with all else that the family learns from."""
    case = stores.case
    rows, name = cases.frozen_training_set(stores.warehouse, case, plan)
    curve = cases.timing_curve(stores.warehouse, case, plan.as_of)
    return Material(rows, plan, case.features, case.training, case.name, name, curve, champion)


@dg.asset(
    group_name=GROUP,
    kinds={"duckdb", "mlflow"},
    deps=["applications", "prediction_log", "labels"],
    output_required=False,
)
def training_set(context: Context, stores: StoresParam, mlflow_run: dg.ResourceParam[Any]):
    """What may be learned from, as it was known on the day of the run: matured, labelled cases from before the
    reference; where labels so far are evidence, the immature ones after it too.

    No label recorded later can be among them. Not materialized where the rows are unsound: they are held (FIX_DATA,
    in the ledger and the run's log), and nothing is trained.
    """
    load_history(stores.warehouse, stores.settings)
    plan, _ = _plan(stores, as_of_of(context, stores))
    if held(context, stores, plan):
        return
    rows, name = cases.freeze_training_set(stores.warehouse, stores.case, plan)
    positives = int(rows["label"].sum())
    mlflow_run.set_tags({"training_set": name, "as_of": plan.as_of.isoformat()})
    mlflow_run.log_metrics({"training_rows": rows.height, "training_positives": positives})
    yield dg.MaterializeResult(
        metadata=rows_in("training_set", rows.height)
        | {
            "positives": positives,
            "as_of": f"{plan.as_of:%Y-%m-%d}",
            "until": f"{plan.evaluate_from:%Y-%m-%d}",
            "immature_until": f"{plan.immature_until:%Y-%m-%d}" if plan.immature_until else "none",
            "fingerprint": name,
        },
        data_version=dg.DataVersion(name),
    )


@dg.asset(group_name=GROUP, kinds={"xgboost", "mlflow"}, deps=[training_set], output_required=False)
def shadow_models(context: Context, stores: StoresParam, mlflow_run: dg.ResourceParam[Any]):
    """The challenger family: each member is measured on the validation months, the best is fitted on all and
    registered in MLflow as the challenger.
    """
    load_history(stores.warehouse, stores.settings)
    as_of = as_of_of(context, stores)
    plan, champion = _plan(stores, as_of)
    if held(context, stores, plan):
        return
    TRIALS.start()  # the gates' process: its imports take seconds, and go on while this one fits
    started = time.perf_counter()
    recalibrate = context.run.tags.get(REMEDY_TAG) == Remedy.recalibrate.value
    preferred = "recalibrated" if recalibrate else None
    choice = choose_challenger(_material(stores, plan, champion), context.log.info, preferred)
    bundle = choice.bundle
    losses = {f"validation_log_loss.{t.member}": t.loss for t in choice.trials if t.loss is not None}
    version = stores.registry.register(bundle, losses, mlflow_run.active_run().info.run_id)
    table = _family_table(choice, as_of, version)
    stores.save_table("shadow_models", table, {"as_of": as_of})
    yield dg.MaterializeResult(
        metadata={
            "version": version,
            "dagster/row_count": table.height,
            "candidates": table_metadata(table),
            "rows": bundle.notes["rows"],
            "positives": bundle.notes["positives"],
            "threshold": bundle.threshold,
            "seconds": round(time.perf_counter() - started, 2),
            "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        },
        data_version=dg.DataVersion(bundle.fingerprint),
    )


def _family_table(choice: Choice, as_of: datetime, version: int) -> pl.DataFrame:
    """The members in rows: what each lost on the validation months or why that could not be measured, and why it was
    chosen or not."""
    rows = [(t.member, t.loss, t.reason, t.chosen) for t in choice.trials]
    schema = {
        "candidate": pl.String,
        "validation_log_loss": pl.Float64,
        "reason": pl.String,
        "chosen": pl.Boolean,
    }
    return pl.DataFrame(rows, schema=schema, orient="row").with_columns(
        as_of=pl.lit(as_of).cast(pl.Datetime("us")), version=pl.lit(version, dtype=pl.Int64)
    )
