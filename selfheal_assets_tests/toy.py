"""A use case small enough to live through in seconds: three years, and after go-live the world turns round."""

import shutil
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl

from selfheal_assets.settings import Settings
from selfheal_assets.stores.dbt_project import DbtProject

PROJECT = Path(__file__).resolve().parent.parent
CASES, FIRST_DAY, DAYS = 4500, datetime(2018, 1, 1), 1096
GO_LIVE, CHANGE, END = datetime(2019, 7, 1), datetime(2019, 10, 1), datetime(2021, 1, 1)
CHUNKS = 6  # quarters from go-live to the end

YAML = """
name: toy
title: Members who leave
source: {{reader: table, paths: ["{source}"]}}
entity_id: member
event_time: joined_on
go_live: 2019-07-01
features:
  - {{name: distance, type: number, min: -10, max: 10}}
  - {{name: age, type: number, min: -10, max: 10}}
  - {{name: plan, type: category, values: [basic, family]}}
label: {{name: left, positive_at: left_on, horizon_months: 6, outcome: leavers}}
segments: [{{name: plan, feature: plan}}]
reference: {{start: 2018-10-01, end: 2019-01-01}}
monitoring: {{chunk: quarter, lookback: 4, until: 2021-07-01}}
compared: {{start: 2020-10-01, end: 2021-01-01}}
policy:
  retraining_cooldown_days: 80
  gates: {{primary_metric: roc_auc, min_rows: 150, min_positives: 30}}
  alarms: {{min_rows: 150}}
  drift: {{min_reference_rows: 150}}
  drift_figures: {{min_segment_rows: 100}}
  harm: {{min_rows: 150}}
  soundness: {{min_rows: 100}}
  estimation: {{min_rows: 100, min_effective_rows: 30, ratios: [{{classifier: logistic}}]}}
training:
  {{recent_months: 1, evaluation_months: 3, validation_months: 3, rounds: 20, max_depth: 3}}
"""


def generate() -> pl.DataFrame:
    """Cases as a source holds them. From ``CHANGE`` on, who lives far away stays instead of leaving."""
    rng = np.random.default_rng(7)
    at = np.sort(rng.uniform(0, DAYS, CASES))
    joined = [FIRST_DAY + timedelta(days=float(d)) for d in np.floor(at)]
    distance, age = rng.normal(size=CASES), rng.normal(size=CASES)
    plan = rng.choice(["basic", "family"], CASES)
    sign = np.where(at < (CHANGE - FIRST_DAY).days, 1.0, -1.0)
    margin = 1.6 * sign * distance + 0.5 * age + 0.3 * (plan == "family") - 1.0
    leaves = rng.uniform(size=CASES) < 1 / (1 + np.exp(-margin))
    after = rng.integers(1, 180, CASES)
    left = [j + timedelta(days=int(d)) if y else None for j, d, y in zip(joined, after, leaves, strict=True)]
    return pl.DataFrame(
        {
            "member": [f"m{i:04d}" for i in range(CASES)],
            "joined_on": pl.Series(joined, dtype=pl.Datetime("us")),
            "distance": np.clip(distance, -10, 10),
            "age": np.clip(age, -10, 10),
            "plan": plan.tolist(),
            "left_on": pl.Series(left, dtype=pl.Datetime("us")),
        }
    )


def make(folder: Path) -> Path:
    """Write the toy's source and its use case into ``folder``; returns the use case's path.

    Its home, ``folder / "home"``, begins with the dbt project parsed, which would take each test seconds.
    """
    folder.mkdir(parents=True, exist_ok=True)
    parsed = PROJECT / ".pytest_cache" / "dbt"
    DbtProject(PROJECT / "dbt_project", parsed, Path("warehouse.duckdb")).manifest()
    shutil.copytree(parsed, folder / "home" / "toy" / "dbt", dirs_exist_ok=True)
    source, use_case = folder / "toy.parquet", folder / "toy.yaml"
    generate().write_parquet(source)
    use_case.write_text(YAML.format(source=source))
    return use_case


def settings(folder: Path, as_of: datetime | None = None) -> Settings:
    """Settings of a toy installation that keeps everything under ``folder``."""
    return Settings(
        use_case=str(make(folder)),
        home=folder / "home",
        project=PROJECT,
        as_of=as_of,
        mlflow_tracking_uri=None,
    )
