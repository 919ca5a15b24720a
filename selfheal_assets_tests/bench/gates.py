"""`make bench-gates`: how often do the gates promote a challenger that is equal, worse, better?

Two models of the product's own code, fitted on two halves of real loans, score later real loans: the population.
Each trial draws its rows anew and asks the product's own gates. 'Equal' are the two models with each loan's scores
swapped by a coin: as different as two real models, and of the very same quality. A quality that is lower by so many
points of AUC is that model's log odds with noise, recalibrated on the population. The same with binormal scores.
Beside the gates, on the same rows: the plain rule 'F1 + 2 %, Brier at most + 0.01, on 200 rows'.
"""

from dataclasses import astuple, dataclass
from datetime import datetime
from typing import Annotated

import numpy as np
import polars as pl
import typer

from selfheal_assets.core import metrics
from selfheal_assets.core.bundle import Bundle
from selfheal_assets.core.evaluation import Comparison, ScoredRows, compare, compare_segments
from selfheal_assets.core.fitting import Candidate, fit_bundle
from selfheal_assets.core.gate_evidence import NEVER, GateInputs, Servability, Verdict
from selfheal_assets.core.gates import evaluate_gates
from selfheal_assets.core.partial_comparison import (
    PartialRows,
    compare_partial,
    compare_partial_segments,
    coverage_so_far,
)
from selfheal_assets.core.plan import TrainingPlan
from selfheal_assets.core.policies import GatePolicy
from selfheal_assets.core.spec import Segment
from selfheal_assets.settings import Settings
from selfheal_assets.stores.sources import Cases, read_cases
from selfheal_assets_tests.bench import report
from selfheal_assets_tests.bench.installation import settings_in
from selfheal_assets_tests.toy import PROJECT

LEARNED = (datetime(2004, 1, 1), datetime(2006, 1, 1))
SCORED = (datetime(2006, 1, 1), datetime(2009, 1, 1))
AS_OF = datetime(2012, 1, 1)
EQUAL, WORSE, BETTER = "equal", "a point worse", "two points better"
# Points of AUC that champion and challenger lose, and the numbers of rows.
CHALLENGERS = (
    (EQUAL, (0.0, 0.0), (1000, 10_000)),
    (WORSE, (0.0, 0.01), (1000, 10_000)),
    (BETTER, (0.02, 0.0), (10_000,)),
)
PROMISED = {
    "promoted_identical": 0.05,
    "promoted_worse": 0.01,
    "promoted_identical_so_far": 0.05,
    "promoted_worse_so_far": 0.01,
}


@dataclass(frozen=True)
class Cell:
    """Promotion rates of one kind of challenger, from so many rows."""

    scores: str
    challenger: str
    rows: int
    promoted: float
    so_far: float
    plain: float


@dataclass(frozen=True)
class Population:
    """What trials draw from: labels, log odds of two models, and the columns that segments are made of."""

    name: str
    label: np.ndarray
    models: tuple[np.ndarray, np.ndarray]
    frame: pl.DataFrame
    segments: tuple[Segment, ...]
    threshold: float

    def pair(self, lost_by_champion: float, lost_by_challenger: float, seed: int) -> ScoredRows:
        """Both models on all rows, so many points of AUC below what the two have in common."""
        rng = np.random.default_rng(seed)
        coin = rng.random(len(self.label)) < 0.5
        a, b = (np.where(coin == side, *self.models) for side in (True, False))
        p, q = (
            self._probability(s, lost, rng) for s, lost in ((a, lost_by_champion), (b, lost_by_challenger))
        )
        return ScoredRows(self.label, p, q, p >= self.threshold, q >= self.threshold)

    def _probability(self, score: np.ndarray, lost: float, rng: np.random.Generator) -> np.ndarray:
        noise = rng.normal(size=len(score))
        wanted = metrics.roc_auc(self.label, score) - lost
        low, high = 0.0, 20.0 * float(score.std())
        for _ in range(25 if lost else 0):
            middle = (low + high) / 2
            above = metrics.roc_auc(self.label, score + middle * noise) > wanted
            low, high = (middle, high) if above else (low, middle)
        return _calibrated(score + low * noise, self.label)


def _calibrated(score: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Platt's scaling by Newton's method: the score gains no calibration error with its noise."""
    design = np.column_stack([score, np.ones(len(score))])
    weights = np.zeros(2)
    for _ in range(30):
        p = 1 / (1 + np.exp(-design @ weights))
        hessian = design.T @ (design * (p * (1 - p))[:, None])
        weights += np.linalg.solve(hessian, design.T @ (label - p))
    return 1 / (1 + np.exp(-design @ weights))


def main(
    trials: Annotated[int, typer.Option(min=20, help="Of each cell of the table.")] = 600,
    full: Annotated[bool, typer.Option(help="All loans (data/sba_loans.parquet), not the sample.")] = False,
    seed: Annotated[int, typer.Option(help="Of everything that is drawn.")] = 7,
) -> None:
    """Promotion rates of equal, worse and better challengers."""
    settings = settings_in(PROJECT / "data" / "run").model_copy(update={"full": full})
    policy, so_far = (
        settings.case.policy.gates.model_copy(update={"evidence": e}) for e in ("matured", "partial")
    )
    cells: list[Cell] = []
    for population in (_loans(settings), _binormal(seed)):
        report.say(
            f"{population.name}: {len(population.label):,} rows, {population.label.mean():.1%} positive"
        )
        for what, lost, sizes in CHALLENGERS:
            pair = population.pair(*lost, seed)
            for rows in sizes:
                ours, plain = _rates(population, pair, policy, rows, trials, seed)
                partial = _partial_rate(population, pair, so_far, rows, trials, seed)
                cells.append(Cell(population.name, what, rows, ours, partial, plain))
    columns = [
        "scores",
        "challenger is",
        "rows",
        "promoted",
        "on labels so far",
        "by the plain rule (200 rows)",
    ]
    report.table(f"Promotion rates, {trials} trials each", columns, map(astuple, cells))
    figures = _figures(cells)
    report.figures(**figures, trials=trials, seed=seed)
    within = {
        name: figures[name] <= share + 3 * np.sqrt(share * (1 - share) / trials)
        for name, share in PROMISED.items()
    }
    raise typer.Exit(0 if all(within.values()) and figures["power_plus_two"] >= 0.80 else 1)


def _figures(cells: list[Cell]) -> dict[str, float]:
    """The worst of each kind of challenger, over populations and numbers of rows."""

    def rates(what: str, column: str) -> list[float]:
        return [getattr(c, column) for c in cells if c.challenger == what]

    return {
        "promoted_identical": max(rates(EQUAL, "promoted")),
        "promoted_worse": max(rates(WORSE, "promoted")),
        "power_plus_two": min(rates(BETTER, "promoted")),
        "plain_promoted_identical": max(rates(EQUAL, "plain")),
        "plain_promoted_worse": max(rates(WORSE, "plain")),
        "promoted_identical_so_far": max(rates(EQUAL, "so_far")),
        "promoted_worse_so_far": max(rates(WORSE, "so_far")),
        "power_plus_two_so_far": min(rates(BETTER, "so_far")),
    }


def _rates(
    population: Population, pair: ScoredRows, policy: GatePolicy, rows: int, trials: int, seed: int
) -> tuple[float, float]:
    """Shares of the trials in which the gates, and the plain rule on the first 200 rows, promote."""
    ours = plain = 0
    for trial in range(trials):
        picks = np.random.default_rng([seed, rows, trial]).integers(0, len(population.label), rows)
        drawn = pair.where(picks)
        ours += _promoted(drawn, population.frame[picks], population.segments, policy, trial)
        plain += _plain(drawn.where(np.arange(200)))
    return ours / trials, plain / trials


def _promoted(
    rows: ScoredRows, frame: pl.DataFrame, segments: tuple[Segment, ...], policy: GatePolicy, seed: int
) -> bool:
    """The product's gates on these rows; what is no comparison is in order."""
    by_segment = compare_segments(frame, rows, segments, policy, seed)
    return _pass({c.metric: c for c in compare(rows, policy, seed)}, by_segment, 1.0, policy)


def _promoted_so_far(
    rows: PartialRows, frame: pl.DataFrame, segments: tuple[Segment, ...], policy: GatePolicy
) -> bool:
    """The product's gates on labels so far."""
    by_segment = compare_partial_segments(frame, rows, segments, policy)
    overall = {c.metric: c for c in compare_partial(rows, policy)}
    return _pass(overall, by_segment, coverage_so_far(overall["expected_over_observed"]), policy)


def _pass(
    overall: dict[str, Comparison], by_segment: list[Comparison], coverage: float, policy: GatePolicy
) -> bool:
    served = Servability(True, 0.0, 1.0, 1.0)
    inputs = GateInputs(AS_OF, overall, by_segment, coverage, NEVER, served, {}, True)
    return all(r.verdict is Verdict.passed for r in evaluate_gates(inputs, policy))


def _plain(rows: ScoredRows) -> bool:
    before, after = (
        metrics.f1_score(rows.label, f) for f in (rows.champion_flagged, rows.challenger_flagged)
    )
    brier = [metrics.brier_score(rows.label, p) for p in (rows.champion, rows.challenger)]
    return after > before and after >= 1.02 * before and brier[1] - brier[0] <= 0.01


def _partial_rate(
    population: Population, pair: ScoredRows, policy: GatePolicy, rows: int, trials: int, seed: int
) -> float:
    """Share of promotions on cases of 0 to 24 months, when a positive shows within 36 months at an even pace."""
    promoted = 0
    for trial in range(trials):
        rng = np.random.default_rng([seed, rows, trial])
        picks = rng.integers(0, len(population.label), rows)
        drawn, month = pair.where(picks), rng.integers(0, 24, rows)
        due = (month + 0.5) / 36
        seen = drawn.label * (rng.random(rows) < due)
        so_far = PartialRows(seen, due, month, drawn.champion, drawn.challenger)
        promoted += _promoted_so_far(so_far, population.frame[picks], population.segments, policy)
    return promoted / trials


def _loans(settings: Settings) -> Population:
    """Loans of 2006-2008 under two models, each of one half of the loans of 2004 and 2005."""
    case, cases = settings.case, read_cases(settings.case, settings)
    labels = cases.labels.select("entity_id", "label")
    known = cases.frame.join(labels, on="entity_id").sort("event_time", "entity_id")
    time = pl.col("event_time")
    learned = known.filter((time >= LEARNED[0]) & (time < LEARNED[1]))
    rows = known.filter((time >= SCORED[0]) & (time < SCORED[1]))
    first, second = (_model(settings, cases, learned[side::2]) for side in (0, 1))
    scores = [np.log(p / (1 - p)) for p in (first.score(rows), second.score(rows))]
    label = rows["label"].to_numpy().astype(np.int8)
    return Population("loans", label, (scores[0], scores[1]), rows, case.segments, float(1.5 * label.mean()))


def _model(settings: Settings, cases: Cases, rows: pl.DataFrame) -> Bundle:
    case = settings.case
    plan = TrainingPlan(AS_OF, datetime(2005, 7, 1), *SCORED)
    window = Candidate("half", LEARNED[0])
    return fit_bundle(rows, window, plan, case.features, case.training, case.name, cases.fingerprint)


def _binormal(seed: int, rows: int = 60_000, share: float = 0.10, apart: float = 0.95) -> Population:
    """Two normal scores that correlate at 0.9 within each class, of AUC 0.75."""
    rng = np.random.default_rng(seed)
    label = (rng.random(rows) < share).astype(np.int8)
    common = np.sqrt(0.9) * rng.normal(size=rows) + apart * label
    a, b = (common + np.sqrt(0.1) * rng.normal(size=rows) for _ in range(2))
    frame = pl.DataFrame({"kind": rng.choice(["a", "b", "c"], rows)})
    return Population("binormal", label, (a, b), frame, (Segment(name="kind", feature="kind"),), 1.5 * share)


if __name__ == "__main__":
    report.run(main)
