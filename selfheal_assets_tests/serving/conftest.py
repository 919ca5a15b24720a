"""A small installation: a generated use case, two bundles of it, and a registry on SQLite with both."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from fastapi.testclient import TestClient

from selfheal_assets.core.bundle import Bundle
from selfheal_assets.core.fitting import Candidate, fit_bundle
from selfheal_assets.core.plan import TrainingPlan
from selfheal_assets.serving.app import create_app
from selfheal_assets.settings import Settings
from selfheal_assets.stores.model_registry import ModelRegistry
from selfheal_assets.use_case import UseCase

YAML = """
name: subscriptions
title: Subscriptions that end
description: Will a subscriber leave within three months?
source: {reader: table, paths: [subscriptions.parquet]}
entity_id: subscriber
event_time: signed_on
go_live: 2021-01-01
features:
  - {name: monthly_fee, type: number, min: 0, max: 500, description: Fee (EUR)}
  - {name: visits, type: integer, min: 0, nullable: true}
  - {name: plan, type: category, values: [basic, family]}
  - {name: city, type: category, nullable: true}
  - {name: balance, type: number, nullable: true}
  - {name: age, type: integer}
label: {name: left, positive_at: left_on, horizon_months: 3}
reference: {start: 2020-06-01, end: 2020-10-01}
training: {rounds: 10, max_depth: 3}
"""

GOOD = {"monthly_fee": 49.5, "visits": 3, "plan": "basic", "city": "Oslo", "balance": -12.25, "age": 41}


def generate(rows: int, seed: int) -> pl.DataFrame:
    """Labelled cases of the generated use case."""
    rng = np.random.default_rng(seed)
    fee, visits = rng.uniform(0, 500, rows), rng.integers(0, 30, rows)
    chance = 1 / (1 + np.exp(-(fee / 100 - visits / 5 - 0.5)))
    return pl.DataFrame(
        {
            "entity_id": [f"s{i}" for i in range(rows)],
            "event_time": pl.Series([datetime(2020, 1, 1)] * rows, dtype=pl.Datetime("us")),
            "monthly_fee": fee,
            "visits": visits,
            "plan": rng.choice(["basic", "family"], rows).tolist(),
            "city": rng.choice(["Oslo", "Bergen", "Turku"], rows).tolist(),
            "balance": rng.normal(0, 100, rows),
            "age": rng.integers(18, 90, rows),
            "label": (rng.uniform(size=rows) < chance).astype(np.int8),
        }
    )


def fit(case: UseCase, seed: int) -> Bundle:
    """A bundle trained on generated cases; another seed gives another model."""
    day = datetime(2020, 6, 1)
    plan = TrainingPlan(as_of=datetime(2021, 1, 1), validate_from=day, evaluate_from=day, evaluate_until=day)
    return fit_bundle(
        generate(400, seed),
        Candidate(f"seed_{seed}", datetime(2020, 1, 1)),
        plan,
        case.features,
        case.training,
        case.name,
        f"generated-{seed}",
    )


@dataclass(frozen=True)
class Installation:
    """Settings of a registry that holds two versions, neither of them champion yet."""

    settings: Settings
    registry: ModelRegistry
    versions: tuple[int, int]
    bundles: tuple[Bundle, Bundle]

    @property
    def case(self) -> UseCase:
        return self.settings.case


def settings_in(folder: Path) -> Settings:
    """Settings of the generated use case with everything it writes under ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    use_case = folder / "subscriptions.yaml"
    use_case.write_text(YAML)
    return Settings(use_case=str(use_case), home=folder / "home", project=folder, mlflow_tracking_uri=None)


def register(registry: ModelRegistry, settings: Settings, bundle: Bundle) -> int:
    """Register a bundle under a run of its own."""
    from mlflow import MlflowClient

    run = MlflowClient(settings.tracking_uri).create_run(registry.experiment())
    return registry.register(bundle, {"auc": 0.7}, run.info.run_id)


@pytest.fixture(scope="session")
def registered(tmp_path_factory: pytest.TempPathFactory) -> Installation:
    """Made once: MLflow's SQLite store costs seconds."""
    settings = settings_in(tmp_path_factory.mktemp("registry"))
    registry = ModelRegistry(settings)
    bundles = fit(settings.case, 1), fit(settings.case, 2)
    versions = register(registry, settings, bundles[0]), register(registry, settings, bundles[1])
    return Installation(settings, registry, versions, bundles)


@pytest.fixture
def installation(registered: Installation, tmp_path: Path) -> Installation:
    """The shared registry with the first version as champion; log, labels and snapshots of one test."""
    registered.registry.move_champion(registered.versions[0])
    use_case, uri = registered.settings.use_case, registered.settings.tracking_uri
    own = Settings(use_case=use_case, home=tmp_path / "home", project=tmp_path, mlflow_tracking_uri=uri)
    return Installation(own, ModelRegistry(own), registered.versions, registered.bundles)


@pytest.fixture
def client(installation: Installation) -> Iterator[TestClient]:
    """A client of a running service with the first version as champion."""
    with TestClient(create_app(installation.settings, refresh_s=0.05)) as running:
        yield running
