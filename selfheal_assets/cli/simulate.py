"""``selfheal simulate``: a history with known truth, as files that the loop can live through."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from selfheal_assets.cli.plainly import told_plainly
from selfheal_assets.settings import Settings, read_settings

if TYPE_CHECKING:
    from selfheal_assets.core.scenario import Scenario
    from selfheal_assets.core.simulation import Simulation
    from selfheal_assets.stores.simulation_files import Written


def simulate(
    out: Annotated[
        Path | None, typer.Option(help="Folder for the files; an earlier simulation in it is replaced.")
    ] = None,
    use_case: Annotated[
        str | None,
        typer.Option(
            help="Whose cases to draw from: a name or a .yaml. Default: SELFHEAL_USE_CASE, else sba_loans."
        ),
    ] = None,
    scenario: Annotated[
        str, typer.Option(help="A name from --list, a .yaml of your own, or random: drawn from the seed.")
    ] = "mixed",
    seed: Annotated[
        int | None,
        typer.Option(min=0, max=2**32 - 1, help="Another seed, another history of the same scenario."),
    ] = None,
    months: Annotated[
        int | None, typer.Option(min=1, max=600, help="Months of traffic, if not the scenario's.")
    ] = None,
    cases_per_month: Annotated[
        int | None, typer.Option(min=1, max=1_000_000, help="Cases a month, if not the scenario's.")
    ] = None,
    list_scenarios: Annotated[bool, typer.Option("--list", help="List the scenarios and end.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print a summary for programs.")] = False,
) -> None:
    """Make up a history whose truth is known, to see what the loop would do in it.

    Cases are drawn from a real use case's, with replacement, at random times.
    A model fitted once on their real outcomes is the truth: it gives each case
    its chance, and the label is drawn with it. Then things happen: inputs move,
    outcomes change, labels come late, wrong or never, columns break. All of it
    is logged.

    A first look, and the loop's answer to it:

        selfheal simulate --list

        selfheal simulate --scenario mixed --seed 7 --out data/sim/mixed_7

        SELFHEAL_USE_CASE=data/sim/mixed_7/use_case.yaml selfheal replay

    In the folder: cases.parquet and use_case.yaml are what the loop reads.
    labels.parquet: what was recorded, and when. truth.parquet: each case's true
    chance and outcome. events.parquet, in_force.parquet: what happened when.
    scenario.yaml: copy it, change it, and give it as --scenario.

    The same seed makes the same history, and another scenario under it the same
    cases, but for what its events change. docs/simulation.md tells how each
    kind of event works.
    """
    from selfheal_assets.core.population import SimulationError
    from selfheal_assets.core.random_scenario import RANDOM
    from selfheal_assets.reports import simulation as shown
    from selfheal_assets.stores import scenarios, simulation_files

    if list_scenarios:
        library = scenarios.shipped()
        counted = [
            {"name": n, "events": len(s.events), "description": s.description} for n, s in library.items()
        ]
        typer.echo(json.dumps(counted) if as_json else shown.scenario_table(library, RANDOM))
        return
    if out is None:
        raise typer.BadParameter(
            "give a folder for the files, or --list to see the scenarios", param_hint="--out"
        )
    with told_plainly(scenarios.ScenarioError, SimulationError, OSError):
        settings = read_settings(**({"use_case": use_case} if use_case else {}))
        declared = _declared(settings, scenario, seed, months, cases_per_month)
        made = _simulated(settings, declared)
        written = simulation_files.write(made, settings.case, out)
    if as_json:
        typer.echo(json.dumps(_summary(made, written)))
        return
    typer.echo(f"{declared.name}, seed {made.scenario.seed}: {declared.description}\n")
    typer.echo(shown.event_table(made))
    typer.echo(shown.chunk_table(made))
    typer.echo(f"{made.cases.height:,} cases, {made.labels.height:,} labels in {written.folder}")
    typer.echo(f"Live through it: SELFHEAL_USE_CASE={written.use_case} selfheal replay")


def _declared(
    settings: Settings, scenario: str, seed: int | None, months: int | None, cases_per_month: int | None
) -> "Scenario":
    """The scenario with what the command line changes, checked again as a whole."""
    from pydantic import ValidationError

    from selfheal_assets.core.scenario import Scenario
    from selfheal_assets.core.spec import FeatureType
    from selfheal_assets.stores.scenarios import ScenarioError, load_scenario

    has_category = any(f.type is FeatureType.category for f in settings.case.features)
    declared = load_scenario(scenario, seed, () if has_category else ("new_category",))
    changed = {"months": months, "cases_per_month": cases_per_month}
    changed = {name: value for name, value in changed.items() if value is not None}
    try:
        return Scenario.model_validate(declared.model_dump() | changed)
    except ValidationError as error:
        what = error.errors()[0]["msg"].removeprefix("Value error, ")
        given = ", ".join(f"--{name.replace('_', '-')} {value}" for name, value in changed.items())
        raise ScenarioError(f"scenario '{scenario}' with {given}: {what}") from error


def _simulated(settings: Settings, scenario: "Scenario") -> "Simulation":
    from selfheal_assets.core.simulation import simulate as simulated
    from selfheal_assets.stores.populations import population_of

    return simulated(population_of(settings), scenario)


def _summary(made: "Simulation", written: "Written") -> dict[str, Any]:
    return {
        "folder": str(written.folder),
        "use_case": str(written.use_case),
        "name": written.name,
        "scenario": made.scenario.name,
        "seed": made.scenario.seed,
        "cases": made.cases.height,
        "labels": made.labels.height,
        "positives": int(made.truth["true_label"].sum()),
        "expected_positives": float(made.truth["true_probability"].sum()),
        "events": [
            row
            | {
                "parameters": json.loads(row["parameters"]),
                "start": str(row["start"]),
                "end": str(row["end"]),
            }
            for row in made.events.iter_rows(named=True)
        ],
    }
