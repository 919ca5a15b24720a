"""A simulated history as files, with a use case of its own, so that everything that runs on real data runs on it.

Only formats and the generated declaration belong here; ``core.simulation`` makes the history.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import yaml

from selfheal_assets.core.periods import add_months
from selfheal_assets.core.scenario import Scenario
from selfheal_assets.core.simulation import Simulation
from selfheal_assets.core.spec import Feature
from selfheal_assets.use_case import UseCase, load_use_case

_CHUNK_MONTHS = {"day": 1 / 31, "week": 7 / 31, "month": 1, "quarter": 3}
_NAME_LENGTH = 64


@dataclass(frozen=True)
class Written:
    """Where the files are. ``use_case`` is what ``SELFHEAL_USE_CASE`` takes; ``name`` is the use case's."""

    folder: Path
    use_case: Path
    name: str


def write(simulation: Simulation, case: UseCase, folder: Path) -> Written:
    """Write the history into a folder; an earlier one in it is replaced.

    ``cases.parquet`` is what a source is, ``labels.parquet`` what the ledger takes; ``truth``, ``events`` and
    ``in_force.parquet`` are for whoever judges the loop, which must not see them. ``use_case.yaml`` declares the
    first, ``scenario.yaml`` is the scenario with its seed and resolved features.

    Raises:
        OSError: the folder cannot be written to.
    """
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    use_case = folder / "use_case.yaml"
    use_case.unlink(missing_ok=True)  # an old declaration must not read new cases, should this be cut off
    frames = {
        "cases": source_table(simulation),
        "labels": simulation.labels,
        "truth": simulation.truth,
        "events": simulation.events,
        "in_force": simulation.in_force(),
    }
    for name, frame in frames.items():
        hidden = folder / f".{name}.parquet"
        frame.write_parquet(hidden)
        os.replace(hidden, folder / f"{name}.parquet")
    scenario = simulation.scenario.model_dump(mode="json", exclude_none=True)
    (folder / "scenario.yaml").write_text(_yaml(scenario), encoding="utf-8")
    declared = declaration(simulation.scenario, case, folder / "cases.parquet")
    use_case.write_text(_yaml(declared), encoding="utf-8")
    load_use_case(str(use_case))
    return Written(folder, use_case, declared["name"])


def read_truth(folder: Path) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame] | None:
    """``events``, ``in_force`` and ``truth`` of a history that :func:`write` wrote there; ``None`` if it is none."""
    paths = [folder / f"{name}.parquet" for name in ("events", "in_force", "truth")]
    if not all(p.exists() for p in (folder / "scenario.yaml", *paths)):
        return None
    events, in_force, truth = (pl.read_parquet(p) for p in paths)
    return events, in_force, truth


def source_table(simulation: Simulation) -> pl.DataFrame:
    """One row per case as a source has it.

    Returns:
        ``Simulation.cases`` with ``occurred_at`` (of a recorded positive, else null) and ``recorded_at`` (null where
        the outcome was never recorded).
    """
    labels = simulation.labels.select(
        "entity_id",
        pl.when(pl.col("label") == 1).then("occurred_at").alias("occurred_at"),
        "recorded_at",
    )
    return simulation.cases.join(labels, on="entity_id", how="left", maintain_order="left")


def declaration(scenario: Scenario, case: UseCase, source: Path) -> dict[str, Any]:
    """The use case of a simulated history: the population's, over the simulated file and its calendar.

    Features are widened as far as the scenario's schema breaks need, so that the loop meets them as data.
    """
    given = case.model_dump(mode="json", exclude_unset=True)
    kept = {key: given[key] for key in ("segments", "policy", "serving", "training") if key in given}
    reference_end = -scenario.horizon_months
    reference_start = reference_end - scenario.reference_months
    until = add_months(scenario.ends, scenario.horizon_months + 1)
    chunks = int(scenario.horizon_months / _CHUNK_MONTHS[scenario.chunk]) + 2
    return {
        "name": f"sim_{scenario.name}_{scenario.seed}"[:_NAME_LENGTH],
        "title": f"Simulated over {case.title}: {scenario.name}, seed {scenario.seed}"[:200],
        "description": scenario.description,
        "source": {
            "reader": "table",
            "paths": [str(source)],
            "help": f"`selfheal simulate --scenario {scenario.name} --seed {scenario.seed}` writes it again",
        },
        "entity_id": "entity_id",
        "event_time": "event_time",
        "go_live": scenario.go_live.isoformat(),
        "features": [widened(f, scenario).model_dump(mode="json", exclude_unset=True) for f in case.features],
        "label": {
            "name": case.label.name,
            "positive_at": "occurred_at",
            "recorded_at": "recorded_at",
            "horizon_months": scenario.horizon_months,
            "implicit_negatives": False,
            "outcome": case.label.outcome,
        },
        "reference": {
            "start": scenario.moment(reference_start).date().isoformat(),
            "end": scenario.moment(reference_end).date().isoformat(),
        },
        "monitoring": {"chunk": scenario.chunk, "lookback": chunks, "until": until.date().isoformat()},
        **kept,
        "training": kept.get("training", {})
        | {
            "recent_months": max(1, (scenario.history_months + reference_start) // 2),
            "evaluation_months": scenario.reference_months,
            "validation_months": max(1, scenario.reference_months // 2),
            # What lies between the gates' months and the horizon is what 'maturity_aware' learns from.
            "gate_months": max(1, min(case.training.gate_months, scenario.horizon_months // 2)),
        },
    }


def widened(feature: Feature, scenario: Scenario) -> Feature:
    """The feature as it must be declared for the record that the scenario's schema breaks leave."""
    changed: dict[str, Any] = {}
    for event in scenario.events:
        if event.named_features != (feature.name,):
            continue
        if event.kind == "missing_column":
            changed["nullable"] = True
        elif event.kind == "new_category" and feature.values:
            changed["values"] = (*changed.get("values", feature.values), event.value)
        elif event.kind == "unit_change":
            for name, ends in (("min", min), ("max", max)):
                bound = changed.get(name, getattr(feature, name))
                if bound is not None:
                    changed[name] = ends(bound, bound * event.factor)
    return feature.model_copy(update=changed)


def _yaml(value: dict[str, Any]) -> str:
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=118)
