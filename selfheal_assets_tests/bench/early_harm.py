"""`make bench-early-harm`: when do labels so far show harm, and when can matured labels alone?

Real loans with the days on which their defaults became known. Two champions, each made by the product's own
code from what was known on its day, watch the loans of 2006 and 2007 month by month: once with every label known
so far, once with matured cohorts only; same test, same level. Then the same watch over resampled loans of 1999–2001,
among which nothing changes: how many of those histories raise any alarm?
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Any

import numpy as np
import polars as pl
import typer

from selfheal_assets.core.bundle import Bundle
from selfheal_assets.core.evidence_policy import HarmAlarms
from selfheal_assets.core.fitting import Candidate, fit_bundle
from selfheal_assets.core.maturity import DAYS_PER_MONTH, TimingCurve, fit_timing_curve
from selfheal_assets.core.partial_counts import hazard_counts, newest_counts
from selfheal_assets.core.partial_labels import PartialAlarm, partial_alarm
from selfheal_assets.core.periods import add_months
from selfheal_assets.core.plan import TrainingPlan, plan_training
from selfheal_assets.settings import Settings
from selfheal_assets.stores.sources import Cases, read_cases
from selfheal_assets_tests.bench import report
from selfheal_assets_tests.bench.installation import settings_in
from selfheal_assets_tests.toy import PROJECT

LATER = datetime(2006, 1, 1)
HARMED = (datetime(2006, 1, 1), datetime(2008, 1, 1))
CALM = (datetime(1999, 1, 1), datetime(2002, 1, 1))
POLICY = HarmAlarms(horizon_chunks=12)


def main(
    histories: Annotated[int, typer.Option(min=1, help="Unchanged histories to resample.")] = 60,
    full: Annotated[bool, typer.Option(help="All loans (data/sba_loans.parquet), not the sample.")] = False,
    seed: Annotated[int, typer.Option(help="Of the resampling.")] = 7,
) -> None:
    """Watch the loans of 2006–2007 as they grow older, and resampled unchanged ones."""
    settings = settings_in(PROJECT / "data" / "run").model_copy(update={"full": full})
    cases = read_cases(settings.case, settings)
    report.say(f"{cases.frame.height:,} loans from {cases.path}")
    first = _champion(settings, cases, datetime.combine(settings.case.go_live, datetime.min.time()), None)
    later = _champion(settings, cases, LATER, first.bundle)
    found = {name: _both_dates(settings, cases, c) for name, c in (("first", first), ("later", later))}
    report.table(
        "Harm among the loans of 2006–2007, looked at every month",
        ["champion", "reference", "partial labels", "matured labels", "lead, months", "observed/expected"],
        [
            (n, f["reference"], f["alarm_partial"], f["alarm_matured"], f["lead_months"], f["ratio"])
            for n, f in found.items()
        ],
    )
    pool = _loans(settings, cases, first.bundle, *CALM)
    alarmed = []
    for n in range(histories):
        alarmed.append(_unchanged(settings, cases, pool, np.random.default_rng([seed, n])))
        if (n + 1) % 10 == 0:
            report.say(f"{n + 1} unchanged histories: {sum(a is not None for a in alarmed)} with an alarm")
    ever = float(np.mean([a is not None for a in alarmed]))
    real = _real_calm(settings, cases, first)
    report.table(
        "Loans of 1999–2001, looked at every month until all are mature",
        ["", "histories", "with any alarm"],
        [("resampled, unchanged", histories, ever), ("as they were, first champion", 1, real)],
    )
    report.figures(
        alarm_partial=found["first"]["alarm_partial"],
        alarm_matured=found["first"]["alarm_matured"],
        lead_months=found["first"]["lead_months"],
        later_champion=found["later"],
        unchanged_histories=histories,
        ever_false_alarm=ever,
        real_1999_2001=real,
        loans=cases.frame.height,
        seed=seed,
    )
    leads = [f["lead_months"] for f in found.values()]
    raise typer.Exit(0 if all(x is not None and x >= 12 for x in leads) and ever <= POLICY.budget else 1)


@dataclass(frozen=True)
class Champion:
    """A model with what was known of its reference on the day it was made."""

    bundle: Bundle
    curve: TimingCurve
    reference: pl.DataFrame
    plan: TrainingPlan


def _champion(settings: Settings, cases: Cases, as_of: datetime, before: Bundle | None) -> Champion:
    """Train on what was known at ``as_of``; reference and timing curve are frozen on that day."""
    case = settings.case
    plan = plan_training(as_of, case.label, case.training, before, case.reference)
    known = cases.labels.filter(pl.col("recorded_at") < as_of).select("entity_id", "label", "recorded_at")
    rows = cases.frame.join(known, on="entity_id").sort("event_time", "entity_id")
    mature = rows.filter(pl.col("event_time") < add_months(as_of, -case.label.horizon_months))
    everything = Candidate("full_history", rows["event_time"][0])
    bundle = fit_bundle(mature, everything, plan, case.features, case.training, case.name, cases.fingerprint)
    curve = fit_timing_curve(mature, case.label)
    loans = _loans(settings, cases, bundle, plan.evaluate_from, plan.evaluate_until)
    return Champion(bundle, curve, hazard_counts(_seen(loans, as_of), curve, POLICY), plan)


def _loans(settings: Settings, cases: Cases, bundle: Bundle, start: datetime, end: datetime) -> pl.DataFrame:
    """Loans of [start, end): ``event_time``, ``cohort`` (month), ``probability``, ``turned_days`` (null: never)."""
    horizon = settings.case.label.horizon_months * DAYS_PER_MONTH
    rows = cases.frame.filter((pl.col("event_time") >= start) & (pl.col("event_time") < end))
    positives = cases.labels.filter(pl.col("label") == 1).select("entity_id", "recorded_at")
    turned = (pl.col("recorded_at") - pl.col("event_time")).dt.total_seconds() / 86400
    return (
        rows.with_columns(probability=pl.Series(bundle.score(rows)))
        .join(positives, on="entity_id", how="left", maintain_order="left")
        .select(
            "event_time",
            "probability",
            cohort=pl.col("event_time").dt.truncate("1mo"),
            turned_days=pl.when(turned <= horizon).then(turned),
        )
    )


def _seen(loans: pl.DataFrame, as_of: datetime) -> pl.DataFrame:
    """The loans as they were known at ``as_of``."""
    age = (pl.lit(as_of) - pl.col("event_time")).dt.total_seconds() / 86400
    return loans.filter(pl.col("event_time") < as_of).with_columns(
        age_days=age, positive_age_days=pl.when(pl.col("turned_days") < age).then(pl.col("turned_days"))
    )


def _watch(
    loans: pl.DataFrame, curve: TimingCurve, reference: pl.DataFrame, horizon_months: int, matured_only: bool
) -> tuple[datetime, PartialAlarm] | None:
    """The first of the monthly looks that raises an alarm, until all loans are mature."""
    months = loans["cohort"].sort()
    first, last = months[0], add_months(months[-1], horizon_months + 2)
    counts: pl.DataFrame | None = None
    look = add_months(first, horizon_months + 1 if matured_only else 1)
    while look <= last:
        until = add_months(look, -horizon_months - 1) if matured_only else look
        # A cohort that was mature at the last look cannot change any more.
        since = add_months(look, -horizon_months - 2)
        moving = loans.filter((pl.col("cohort") <= until) & (pl.col("cohort") >= since))
        newer = hazard_counts(_seen(moving, look), curve, POLICY)
        counts = newer if counts is None else newest_counts(counts, newer)
        alarm = partial_alarm(counts, reference, POLICY)
        if alarm.harmful:
            return look, alarm
        look = add_months(look, 1)
    return None


def _both_dates(settings: Settings, cases: Cases, champion: Champion) -> dict[str, Any]:
    horizon = settings.case.label.horizon_months
    loans = _loans(settings, cases, champion.bundle, *HARMED)
    dates: dict[bool, datetime | None] = {}
    ratio = None
    for matured_only in (False, True):
        hit = _watch(loans, champion.curve, champion.reference, horizon, matured_only)
        dates[matured_only] = hit[0] if hit else None
        if hit:
            report.say(f"{'matured' if matured_only else 'partial'}: {hit[0]:%Y-%m-%d} {hit[1].reason}")
            ratio = hit[1].ratio if not matured_only else ratio
    partial, matured = dates[False], dates[True]
    lead = None
    if partial and matured:
        lead = (matured.year - partial.year) * 12 + matured.month - partial.month
    return {
        "reference": f"{champion.plan.evaluate_from:%Y-%m} to {champion.plan.evaluate_until:%Y-%m}",
        "alarm_partial": f"{partial:%Y-%m-%d}" if partial else None,
        "alarm_matured": f"{matured:%Y-%m-%d}" if matured else None,
        "lead_months": lead,
        "ratio": ratio,
    }


def _unchanged(
    settings: Settings, cases: Cases, pool: pl.DataFrame, rng: np.random.Generator
) -> datetime | None:
    """The first alarm of a history in which every loan, and the reference, is drawn from one pool.

    Whole loans are drawn with replacement: score, outcome and the age at which it became known stay together. Each
    month has as many loans as it had, each on a day drawn evenly from that month; the reference has as many as
    the first champion's, and its timing curve is that of its own defaults.
    """
    horizon = settings.case.label.horizon_months
    window = settings.case.reference
    size = cases.frame.filter(
        pl.col("event_time").dt.date().is_between(window.start, window.end, closed="left")
    ).height
    drawn = pool[rng.integers(0, pool.height, size)]
    begun = datetime.combine(window.start, datetime.min.time())
    old = drawn.with_columns(event_time=pl.lit(begun), cohort=pl.lit(begun))
    matured = old.filter(pl.col("turned_days").is_not_null()).select(
        "event_time",
        label=pl.lit(1),
        recorded_at=pl.col("event_time") + pl.duration(seconds=pl.col("turned_days") * 86400),
    )
    curve = fit_timing_curve(matured, settings.case.label)
    reference = hazard_counts(_seen(old, add_months(begun, horizon + 1)), curve, POLICY)
    loans = pool[rng.integers(0, pool.height, pool.height)].drop("event_time")
    months = pool["cohort"].sort()
    days = np.array([(add_months(m, 1) - m).days for m in months.unique().sort()])
    length = np.repeat(days, months.value_counts(sort=False).sort("cohort")["count"].to_numpy())
    offset = pl.Series((rng.random(pool.height) * length).astype(int))
    loans = loans.with_columns(
        cohort=months, event_time=months + pl.Series([timedelta(days=int(o)) for o in offset])
    )
    hit = _watch(loans, curve, reference, horizon, matured_only=False)
    return hit[0] if hit else None


def _real_calm(settings: Settings, cases: Cases, champion: Champion) -> str:
    """What the first champion says of the loans of 1999–2001 as they were."""
    loans = _loans(settings, cases, champion.bundle, *CALM)
    horizon = settings.case.label.horizon_months
    hit = _watch(loans, champion.curve, champion.reference, horizon, matured_only=False)
    return f"{hit[0]:%Y-%m-%d}, {hit[1].direction}, {hit[1].ratio:.2f}" if hit else "none"


if __name__ == "__main__":
    report.run(main)
