"""An installation with a champion, made as fast as can be: the shipped loans, one fit, one promotion."""

import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import polars as pl

from selfheal_assets.core.fitting import Candidate, fit_bundle
from selfheal_assets.core.plan import plan_training
from selfheal_assets.settings import Settings
from selfheal_assets.stores.model_registry import ModelRegistry
from selfheal_assets.stores.sources import Cases, read_cases
from selfheal_assets_tests.conftest import environment
from selfheal_assets_tests.toy import PROJECT

USE_CASE = "sba_loans"


@contextmanager
def scratch_folder(folder: Path | None, prefix: str) -> Iterator[Path]:
    """A temporary folder in ``folder``; by default on the checkout's disk, as /tmp may be memory."""
    parent = folder or PROJECT / "data" / "run"
    parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=parent, prefix=prefix) as scratch:
        yield Path(scratch).resolve()


def settings_in(home: Path) -> Settings:
    """Settings of the shipped use case that keep everything under ``home``, whatever the environment says."""
    return Settings(
        use_case=USE_CASE, home=home, project=PROJECT, as_of=None, full=False, mlflow_tracking_uri=None
    )


def cases_of(settings: Settings) -> Cases:
    """The shipped sample."""
    return read_cases(settings.case, settings)


def install(home: Path, cases: Cases) -> tuple[Settings, int]:
    """Train a model on the cases that were mature at go-live, register and promote it; and another, as challenger.

    Returns:
        The installation's settings and the champion's version.
    """
    warnings.simplefilter("ignore")
    for name in ("mlflow", "alembic"):  # how MLflow makes its database
        logging.getLogger(name).setLevel(logging.WARNING)
    settings = settings_in(home)
    case = settings.case
    as_of = datetime.combine(case.go_live, datetime.min.time())
    plan = plan_training(as_of, case.label, case.training, None, case.reference)
    known = cases.labels.filter(pl.col("recorded_at") < as_of).select("entity_id", "label")
    rows = cases.frame.join(known, on="entity_id").sort("event_time", "entity_id")
    everything = Candidate("full_history", rows["event_time"][0])
    registry = ModelRegistry(settings)
    versions = []
    for seed in (case.training.seed, case.training.seed + 1):
        training = case.training.model_copy(update={"seed": seed})
        bundle = fit_bundle(rows, everything, plan, case.features, training, case.name, cases.fingerprint)
        versions.append(registry.register(bundle, {}, registry.new_run("benchmark")))
    registry.move_champion(versions[0])
    return settings, versions[0]


def served_cases(settings: Settings, cases: Cases, count: int) -> list[dict[str, Any]]:
    """Bodies of requests: ``count`` real cases from after go-live, as a client writes them."""
    live = cases.frame.filter(pl.col("event_time") >= settings.case.go_live)
    chosen = live.gather_every(max(1, live.height // count)).head(count)
    return [_body(row) for row in chosen.select("entity_id", *settings.case.feature_names).to_dicts()]


def _body(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if value is not None}


def process_environment(settings: Settings, **values: str) -> dict[str, str]:
    """Environment of a process that belongs to the installation, and runs the same code as this one."""
    ours = {
        "SELFHEAL_USE_CASE": settings.use_case,
        "SELFHEAL_HOME": str(settings.home),
        "LOG_LEVEL": "WARNING",
        "PYTHONWARNINGS": "ignore",
    }
    own = environment(**ours, **values)
    own["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), own["PATH"]])
    return own
