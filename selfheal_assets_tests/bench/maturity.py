"""`make bench-maturity`: what is gained by learning from loans whose labels are not complete.

At the start of 2003, 2005, 2007 and 2009 models are trained, by the product's own code, on what was known that day,
and judged on the loans of the year that follows, with the labels they have in the end. Beside matured labels alone:
one model that was trained at the start of 2002 and never again, and one that sees every label.
"""

import time
from dataclasses import replace
from datetime import datetime
from typing import Annotated, Any

import polars as pl
import typer

from selfheal_assets.core import metrics
from selfheal_assets.core.bundle import Bundle
from selfheal_assets.core.family import maturity_aware
from selfheal_assets.core.material import Material
from selfheal_assets.core.maturity import fit_timing_curve
from selfheal_assets.core.periods import add_months
from selfheal_assets.core.plan import TrainingPlan
from selfheal_assets.core.selection import choose_challenger
from selfheal_assets.core.spec import FamilyName
from selfheal_assets.settings import Settings
from selfheal_assets.stores.sources import Cases, read_cases
from selfheal_assets_tests.bench import report
from selfheal_assets_tests.bench.installation import settings_in
from selfheal_assets_tests.toy import PROJECT

YEARS, STALE = (2003, 2005, 2007, 2009), 2002
MATURED: tuple[FamilyName, ...] = ("full_history", "recent_window")
FIGURES = ("auc", "brier", "expected_over_observed")
MODELS = ("stale", "matured", "maturity_aware", "oracle")
FULL = PROJECT / "data" / "sba_loans.parquet"
WANTED_GAIN, TOLERATED_LOSS = 0.02, 0.01


def main(
    full: Annotated[
        bool,
        typer.Option(
            help="All loans (data/sba_loans.parquet), not the sample; by default if they are there."
        ),
    ] = FULL.is_file(),
    held_out: Annotated[
        bool, typer.Option(help="Hold out what a retraining does: the reference and the gates' months.")
    ] = False,
    year: Annotated[list[int] | None, typer.Option(help="Only this year; may be given again.")] = None,
    seed: Annotated[int, typer.Option(help="Of every fit.")] = 0,
) -> None:
    """Train on what was known at the start of a year, test on the loans of that year."""
    settings = settings_in(PROJECT / "data" / "run").model_copy(update={"full": full})
    cases = read_cases(settings.case, settings)
    report.say(f"{cases.frame.height:,} loans from {cases.path}")
    stale = _matured(_known(settings, cases, datetime(STALE, 1, 1), held_out, seed))
    found = {}
    for tested in year or YEARS:
        found[tested] = _year(settings, cases, tested, stale, held_out, seed)
        report.table(
            f"Loans of {tested}: trained on what was known on {tested}-01-01",
            ["", "ROC AUC", "Brier", "expected/observed"],
            [(m, *(found[tested][f"{k}_{m}"] for k in FIGURES)) for m in MODELS],
        )
    failed = _failed(found)
    for reason in failed:
        report.say(reason)
    report.figures(
        years=list(found),
        **{str(tested): f for tested, f in found.items()},
        failed=failed,
        loans=cases.frame.height,
        source=cases.path.name,
        held_out=held_out,
        seed=seed,
    )
    raise typer.Exit(1 if failed else 0)


def _known(settings: Settings, cases: Cases, as_of: datetime, held_out: bool, seed: int) -> Material:
    """What was known at ``as_of``; without ``held_out`` all of it may be learned from."""
    case = settings.case
    training = case.training.model_copy(update={"seed": seed, "family": MATURED})
    matured_until, newest = add_months(as_of, -case.label.horizon_months), as_of
    reference = matured_until
    if held_out:
        reference = add_months(matured_until, -training.evaluation_months)
        newest = add_months(as_of, -training.gate_months)
    plan = TrainingPlan(
        as_of, add_months(reference, -training.validation_months), reference, matured_until, newest
    )
    known = cases.labels.filter(pl.col("recorded_at") < as_of).select("entity_id", "label", "recorded_at")
    age = (pl.col("recorded_at") - pl.col("event_time")).dt.total_seconds() / 86400.0
    rows = (
        cases.frame.filter(pl.col("event_time") < as_of)
        .join(known, on="entity_id", how="left")
        .with_columns(
            pl.col("label").fill_null(0), positive_age_days=pl.when(pl.col("label") == 1).then(age.clip(0))
        )
        .sort("event_time", "entity_id")
    )
    curve = fit_timing_curve(rows.filter(pl.col("event_time") < matured_until), case.label)
    return Material(
        plan.learnable(rows), plan, case.features, training, case.name, cases.fingerprint, curve, None
    )


def _matured(known: Material) -> Bundle:
    """The best of the members that wait for matured labels, chosen as the product does where only those count."""
    plan = replace(known.plan, immature_until=None)
    return choose_challenger(replace(known, plan=plan), report.say).bundle


def _oracle(settings: Settings, cases: Cases, known: Material) -> Bundle:
    """The same members on every loan from before the day, with the labels they have in the end."""
    as_of = known.plan.as_of
    later = add_months(as_of, settings.case.label.horizon_months)
    all_known = _known(settings, cases, later, held_out=False, seed=known.training.seed)
    return _matured(replace(all_known, training=known.training))


def _year(
    settings: Settings, cases: Cases, year: int, stale: Bundle, held_out: bool, seed: int
) -> dict[str, Any]:
    """The figures of one year by their names in the JSON."""
    known = _known(settings, cases, datetime(year, 1, 1), held_out, seed)
    started = time.process_time()
    aware = maturity_aware(known)
    seconds = time.process_time() - started
    bundles = {
        "stale": stale,
        "matured": _matured(known),
        "maturity_aware": aware,
        "oracle": _oracle(settings, cases, known),
    }
    tested = cases.frame.filter(pl.col("event_time").dt.year() == year)
    label = (
        tested.select("entity_id")
        .join(cases.labels, on="entity_id", how="left", maintain_order="left")["label"]
        .fill_null(0)
        .to_numpy()
    )
    figures: dict[str, Any] = {"loans": tested.height, "defaults": int(label.sum())}
    for name, bundle in bundles.items():
        p = bundle.score(tested)
        figures[f"auc_{name}"] = metrics.roc_auc(label, p)
        figures[f"brier_{name}"] = metrics.brier_score(label, p)
        figures[f"expected_over_observed_{name}"] = metrics.expected_over_observed(label, p)
    matured = bundles["matured"]
    return figures | {"matured_member": matured.candidate, "cpu_s_maturity_aware": seconds}


def _failed(found: dict[int, dict[str, Any]]) -> list[str]:
    """What is short of what is wanted, in words."""
    gain = {y: f["auc_maturity_aware"] - f["auc_matured"] for y, f in found.items()}
    failed = []
    won, wanted = sum(g >= WANTED_GAIN for g in gain.values()), len(gain) - 1
    if won < wanted:
        failed.append(f"maturity-aware gains {WANTED_GAIN} of ROC AUC in {won} years; wanted are {wanted}")
    failed += [
        f"{y}: maturity-aware loses {-g:.4f} of ROC AUC" for y, g in gain.items() if g < -TOLERATED_LOSS
    ]
    for year, f in found.items():
        off = {m: abs(f[f"expected_over_observed_{m}"] - 1) for m in ("maturity_aware", "matured")}
        if off["maturity_aware"] >= off["matured"]:
            failed.append(
                f"{year}: expected/observed of maturity-aware is no nearer to 1 than of matured alone"
            )
    return failed


if __name__ == "__main__":
    report.run(main)
