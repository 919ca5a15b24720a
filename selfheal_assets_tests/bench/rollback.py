"""`make bench-rollback`: how often is an equally good champion taken back, and how soon a bad one?

Real loans of 2006 and 2007, with the days on which their defaults became known. Two models learn from two halves of
the older loans, those that are mature at the start of 2009, so both are equally good, and both are wrong about what
comes. In each simulated probation loans are drawn with replacement, and a coin decides for each whose score is the
champion's: no more equal pair can be had. Every two months of two years the same loans are looked at again as they
age. Then the same with a champion whose scores are those of other loans. Beside it the plain rule: the likelihood
ratio of the predecessor against the champion reaches 1/alpha.
"""

from datetime import datetime
from typing import Annotated

import numpy as np
import polars as pl
import typer

from selfheal_assets.core.bundle import Bundle
from selfheal_assets.core.fitting import Candidate, fit_bundle
from selfheal_assets.core.maturity import DAYS_PER_MONTH, TimingCurve, fit_timing_curve, log_likelihood_ratios
from selfheal_assets.core.periods import add_months
from selfheal_assets.core.plan import TrainingPlan
from selfheal_assets.core.policies import RollbackPolicy
from selfheal_assets.core.rollback import judge_promotion
from selfheal_assets.settings import Settings
from selfheal_assets.stores.sources import Cases, read_cases
from selfheal_assets_tests.bench import report
from selfheal_assets_tests.bench.installation import settings_in
from selfheal_assets_tests.toy import PROJECT

TRAINED = datetime(2009, 1, 1)
SINCE, UNTIL = datetime(2006, 1, 1), datetime(2008, 1, 1)
PROBATION, LOOK_EVERY = 730, 61  # days: in the first year hardly a default of these loans becomes known
POLICY = RollbackPolicy()


def main(
    simulations: Annotated[int, typer.Option(min=1, help="Probations of an equally good champion.")] = 1000,
    bad: Annotated[int, typer.Option(min=1, help="Probations of a bad one.")] = 100,
    loans: Annotated[int, typer.Option(min=100, help="Loans in the two years of a probation.")] = 20_000,
    seed: Annotated[int, typer.Option(help="Of the drawing.")] = 7,
) -> None:
    """Live through probations."""
    settings = settings_in(PROJECT / "data" / "run")
    cases = read_cases(settings.case, settings)
    pool, curve = _pool(settings, cases)
    ratio = pool["first"].mean() / pool["turned_days"].is_not_null().mean()  # type: ignore[operator]
    report.say(f"{pool.height:,} loans of 2006 and 2007; expected over observed defaults {ratio:.2f}")
    found: dict[str, list[tuple[int | None, int | None]]] = {}
    for name, count in (("equal", simulations), ("bad", bad)):
        found[name] = [
            _probation(pool, curve, name, loans, np.random.default_rng([seed, n])) for n in range(count)
        ]
        report.say(f"{name}: {sum(day is not None for day, _ in found[name])} of {count} taken back")
    rows = []
    for name, days in found.items():
        for rule, at in (("bets", [d for d, _ in days]), ("plain likelihood ratio", [d for _, d in days])):
            hit = [d for d in at if d is not None]
            rows.append((f"{name}, {rule}", len(days), len(hit), len(hit) / len(days), report.median(hit)))
    report.table(
        f"Two years of probation on {loans:,} loans, looked at every {LOOK_EVERY} days",
        ["champion, rule", "probations", "taken back", "share", "median day"],
        rows,
    )
    false, missed = rows[0][2], bad - rows[2][2]
    report.figures(
        false_rollbacks=false,
        simulations=simulations,
        delay=rows[2][4],
        bad_taken_back=rows[2][2],
        bad_probations=bad,
        plain_false_rollbacks=rows[1][2],
        plain_delay=rows[3][4],
        expected_over_observed=ratio,
        loans=loans,
        seed=seed,
    )
    raise typer.Exit(0 if false <= POLICY.alpha * simulations and missed <= 0.1 * bad else 1)


def _pool(settings: Settings, cases: Cases) -> tuple[pl.DataFrame, TimingCurve]:
    """The loans with the scores of both models, ``first`` and ``second``, and ``turned_days`` (null: never)."""
    case = settings.case
    known = cases.labels.filter(pl.col("recorded_at") < TRAINED).select("entity_id", "label", "recorded_at")
    rows = cases.frame.join(known, on="entity_id").sort("event_time", "entity_id")
    mature = rows.filter(pl.col("event_time") < add_months(TRAINED, -case.label.horizon_months))
    loans = cases.frame.filter((pl.col("event_time") >= SINCE) & (pl.col("event_time") < UNTIL))
    halves = [_model(settings, cases, mature.filter(pl.int_range(pl.len()) % 2 == n)) for n in range(2)]
    positives = cases.labels.filter(pl.col("label") == 1).select("entity_id", "recorded_at")
    turned = (pl.col("recorded_at") - pl.col("event_time")).dt.total_seconds() / 86400
    horizon = case.label.horizon_months * DAYS_PER_MONTH
    scored = loans.with_columns(
        first=pl.Series(halves[0].score(loans)), second=pl.Series(halves[1].score(loans))
    )
    pool = scored.join(positives, on="entity_id", how="left", maintain_order="left").select(
        "first", "second", turned_days=pl.when(turned <= horizon).then(turned)
    )
    return pool, fit_timing_curve(mature, case.label)


def _model(settings: Settings, cases: Cases, rows: pl.DataFrame) -> Bundle:
    case = settings.case
    plan = TrainingPlan(TRAINED, validate_from=SINCE, evaluate_from=SINCE, evaluate_until=SINCE)
    everything = Candidate("full_history", rows["event_time"][0])
    return fit_bundle(rows, everything, plan, case.features, case.training, case.name, cases.fingerprint)


def _probation(
    pool: pl.DataFrame, curve: TimingCurve, kind: str, loans: int, rng: np.random.Generator
) -> tuple[int | None, int | None]:
    """Day at which our rule, and the plain one, takes the champion back; ``None`` if never."""
    drawn = pool[rng.integers(0, pool.height, loans)]
    first, second = drawn["first"].to_numpy(), drawn["second"].to_numpy()
    coin = rng.uniform(size=loans) < 0.5
    champion, predecessor = np.where(coin, first, second), np.where(coin, second, first)
    if kind == "bad":
        champion = rng.permutation(champion)
    opened, turned = np.sort(rng.uniform(0, PROBATION, loans)), drawn["turned_days"].to_numpy()
    ours = plain = None
    for day in range(LOOK_EVERY, PROBATION, LOOK_EVERY):
        seen = opened < day
        age = day - opened[seen]
        known = np.where(turned[seen] <= age, turned[seen], np.nan)
        frame = pl.DataFrame(
            {
                "cohort": (opened[seen] // LOOK_EVERY).astype(int),
                "champion": champion[seen],
                "predecessor": predecessor[seen],
                "age_days": age,
                "positive_age_days": pl.Series(known, nan_to_null=True),
            }
        )
        if ours is None and judge_promotion(frame, curve, POLICY, PROBATION).roll_back:
            ours = day
        if plain is None:
            so_far = (~np.isnan(known)).astype(int)
            ratios = log_likelihood_ratios(champion[seen], predecessor[seen], so_far, curve.known_by(age))
            plain = day if ratios.sum() >= -np.log(POLICY.alpha) else None
    return ours, plain


if __name__ == "__main__":
    report.run(main)
