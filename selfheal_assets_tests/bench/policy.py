"""`make bench-policy`: over many simulated worlds, which policy serves the chances nearest to the true ones?

Each seed draws a history of two to five events of any kind (``core.random_scenario``) over the real loans, and every
policy lives through it by `selfheal backtest`'s own engine. Regret is the mean Kullback–Leibler divergence of what
was served from the true chances, in nats a case, so no luck of the draw is in it. The policies that watch also live
through years in which nothing happens; there every alarm is a false one.

The policy is not the loans' own, which is made for quarters and labels that take three years, but what a user of
monthly data would have: the defaults, but for what ``POLICY`` and ``TRAINING`` say.
"""

import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Final

import numpy as np
import polars as pl
import typer

from selfheal_assets.backtest.history import simulated_history
from selfheal_assets.backtest.policies import Kind, standard_policies
from selfheal_assets.backtest.run import run_backtest
from selfheal_assets.core.backtest import ON_DRIFT, ORACLE, SELFHEAL
from selfheal_assets.core.policies import Policy
from selfheal_assets.core.population import Population
from selfheal_assets.core.random_scenario import random_scenario
from selfheal_assets.core.scenario import Scenario
from selfheal_assets.core.simulation import simulate
from selfheal_assets.core.spec import Training
from selfheal_assets.settings import prepare_environment
from selfheal_assets.stores.populations import population_of
from selfheal_assets.stores.simulation_files import declaration
from selfheal_assets.use_case import UseCase
from selfheal_assets_tests.bench import report
from selfheal_assets_tests.bench.installation import settings_in
from selfheal_assets_tests.toy import PROJECT

YEAR: Final = 12
UNCHANGED: Final = "unchanged"
# February is a month too. A few hundred positives cannot prove a ranking to be within 0.02 of another, hence 0.05.
# One density ratio, as in the demo, for the time it takes.
POLICY: Final[dict[str, Any]] = {
    "retraining_cooldown_days": 28,
    "gates": {"evidence": "partial", "primary_metric": "roc_auc", "max_ranking_loss": 0.05},
    "estimation": {"ratios": [{"classifier": "boosted"}]},
}
TRAINING: Final[dict[str, Any]] = {
    "family": ["full_history", "recent_window", "maturity_aware", "recalibrated"],
    "parallel_fits": 1,  # the worlds run side by side
}
LOOKED_AT_AFTER: Final = 1  # somebody looks at what holds a training set before the next chunk ends


@dataclass(frozen=True)
class World:
    """One history to live through.

    Attributes:
        seed: of its events and its cases.
        months: of traffic.
        cases_per_month: on average.
        positive_rate: before anything happens.
        changing: whether anything does.
        oracle: whether the oracle lives through it too.
    """

    seed: int
    months: int
    cases_per_month: int
    positive_rate: float
    changing: bool
    oracle: bool = False

    def scenario(self) -> Scenario:
        """What happens in it."""
        drawn = random_scenario(self.seed, months=self.months, cases_per_month=self.cases_per_month)
        drawn = drawn.model_copy(update={"positive_rate": self.positive_rate})
        return drawn if self.changing else drawn.model_copy(update={"name": UNCHANGED, "events": ()})

    def lives(self, kind: Kind) -> bool:
        """Whether a policy of this kind lives through it: where nothing happens, those that watch."""
        if not self.changing:
            return kind in (Kind.gated, Kind.on_drift)
        return self.oracle or kind is not Kind.oracle


@cache
def _population() -> tuple[Population, UseCase]:
    settings = settings_in(PROJECT / "data" / "run")
    mine = {"policy": Policy.model_validate(POLICY), "training": Training.model_validate(TRAINING)}
    return population_of(settings), settings.case.model_copy(update=mine)


def lived(world: World) -> pl.DataFrame:
    """The backtest's ``summary`` of one world, with its seed."""
    prepare_environment()
    population, case = _population()
    made = simulate(population, world.scenario(), world.seed)
    simulated = UseCase.model_validate(declaration(made.scenario, case, Path("simulated.parquet")))
    policies = [
        p for p in standard_policies(simulated, looked_at_after=LOOKED_AT_AFTER) if world.lives(p.kind)
    ]
    found = run_backtest(simulated_history(made), simulated, policies, world.seed, resamples=0)
    return found.summary.with_columns(seed=pl.lit(world.seed), changing=pl.lit(world.changing))


def lived_all(worlds: list[World], workers: int, failed: list[str]) -> Iterator[pl.DataFrame]:
    """Every world's summary, in order, so many at a time; one that cannot be lived through is told in ``failed``."""
    with ProcessPoolExecutor(workers) as pool:
        running = [pool.submit(lived, world) for world in worlds]
        for done, (world, one) in enumerate(zip(worlds, running, strict=True), 1):
            try:
                yield one.result()
            except Exception as error:  # noqa: BLE001 - half an hour of other worlds is not to be lost
                failed.append(f"seed {world.seed}{'' if world.changing else ', unchanged'}: {error!r}")
            report.say(f"{done} of {len(worlds)} histories")


def main(
    seeds: Annotated[int, typer.Option(help="Changing worlds.", min=1)] = 50,
    unchanged: Annotated[int, typer.Option(help="Worlds without a change.", min=1)] = 100,
    months: Annotated[int, typer.Option(help="Of traffic in a changing world.", min=6)] = 24,
    cases_per_month: Annotated[int, typer.Option(help="Cases a month, on average.", min=100)] = 1000,
    positive_rate: Annotated[float, typer.Option(help="Before anything happens.", min=0.01, max=0.9)] = 0.2,
    first_seed: Annotated[int, typer.Option(help="Another one draws other worlds.", min=0)] = 0,
    oracle: Annotated[
        bool, typer.Option("--oracle", help="Add the oracle, at several times the time.")
    ] = False,
    workers: Annotated[int, typer.Option(help="Processes side by side.", min=1)] = os.cpu_count() or 1,
) -> None:
    """Regret of each policy over simulated worlds, and false alarms where nothing happens."""
    given = (cases_per_month, positive_rate)
    worlds = [World(first_seed + n, months, *given, changing=True, oracle=oracle) for n in range(seeds)]
    worlds += [World(first_seed + n, YEAR, *given, changing=False) for n in range(unchanged)]
    failed: list[str] = []
    summaries = pl.concat(lived_all(worlds, workers, failed), how="vertical_relaxed")
    by_policy = {name: _figures(summaries, name) for name in summaries["policy"].unique(maintain_order=True)}
    _print(by_policy, seeds, unchanged)
    report.figures(
        seeds=seeds, unchanged=unchanged, months=months, cases_per_month=cases_per_month,
        positive_rate=positive_rate, first_seed=first_seed, looked_at_after=LOOKED_AT_AFTER, policies=by_policy,
        failed=failed,
    )  # fmt: skip
    if failed:
        raise typer.Exit(1)


def _figures(summaries: pl.DataFrame, policy: str) -> dict[str, Any]:
    """Of one policy: its mean regret, how it compares with the loop's in the same worlds, and its false alarms."""
    of = {
        name: summaries.filter(pl.col("policy") == name, pl.col("changing")).sort("seed")
        for name in (policy, SELFHEAL)
    }
    regret = of[policy]["regret_log_loss"].to_numpy()
    more = regret - of[SELFHEAL]["regret_log_loss"].to_numpy()
    still = summaries.filter(pl.col("policy") == policy, ~pl.col("changing"))
    return {
        "mean_regret": float(regret.mean()),
        "mean_regret_brier": float(of[policy]["regret_brier"].mean()),  # type: ignore[arg-type]
        "more_than_selfheal": float(more.mean()),
        "standard_error": float(more.std(ddof=1) / np.sqrt(len(more))) if len(more) > 1 else None,
        "ever_false_alarm": float((still["false_alarms"] > 0).mean())  # type: ignore[arg-type]
        if policy in (SELFHEAL, ON_DRIFT)
        else None,
        "seeds": len(regret),
        "promotions": float(of[policy]["promotions"].mean()),  # type: ignore[arg-type]
        "regretted_promotions": float(of[policy]["regretted_promotions"].mean()),  # type: ignore[arg-type]
    }


def _print(by_policy: dict[str, dict[str, Any]], seeds: int, unchanged: int) -> None:
    columns = (
        "policy", "mean regret", "more than selfheal", "± standard error", "promotions", "regretted",
        "ever false alarm",
    )  # fmt: skip
    keys = (
        "mean_regret", "more_than_selfheal", "standard_error", "promotions", "regretted_promotions",
        "ever_false_alarm",
    )  # fmt: skip
    rows = [(name, *(figures[k] for k in keys)) for name, figures in by_policy.items()]
    report.table(
        f"{seeds} changing worlds (regret in nats a case), {unchanged} unchanged years", columns, rows
    )
    if ORACLE in by_policy:
        report.say(f"The oracle, which sees every label at once: {by_policy[ORACLE]['mean_regret']:.3g}.")


if __name__ == "__main__":
    report.run(main)
