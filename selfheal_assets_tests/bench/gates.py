"""`make bench-gates`: how often do the gates promote a challenger that is equal, worse, better?

Two models of the product's own code, fitted on two halves of real loans, score later real loans: the population.
Each trial draws its rows anew and asks the product's own gates. 'Equal' are the two models with each loan's scores
swapped by a coin: as different as two real models, and of the very same quality. A quality that is lower by so many
points of AUC is that model's log odds with noise, recalibrated on the population. The same with binormal scores.
Beside the gates, on the same rows: the plain rule 'F1 + 2 %, Brier at most + 0.01, on 200 rows'.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated

import numpy as np
import polars as pl
import typer

from selfheal_assets.core import metrics
from selfheal_assets.core.bundle import Bundle
from selfheal_assets.core.evaluation import ScoredRows, compare, compare_segments
from selfheal_assets.core.gate_evidence import NEVER, GateInputs, Servability, Verdict
from selfheal_assets.core.gates import evaluate_gates
from selfheal_assets.core.partial_comparison import PartialRows, compare_partial
from selfheal_assets.core.policies import GatePolicy
from selfheal_assets.core.spec import Segment
from selfheal_assets.core.training import Candidate, TrainingPlan, fit_bundle
from selfheal_assets.settings import Settings
from selfheal_assets.stores.sources import Cases, read_cases
from selfheal_assets_tests.bench import report
from selfheal_assets_tests.bench.installation import settings_in
from selfheal_assets_tests.toy import PROJECT

LEARNED = (datetime(2004, 1, 1), datetime(2006, 1, 1))
SCORED = (datetime(2006, 1, 1), datetime(2009, 1, 1))
AS_OF = datetime(2012, 1, 1)


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
    trials: Annotated[int, typer.Option(min=20, help="Of each cell of the table.")] = 400,
    full: Annotated[bool, typer.Option(help="All loans (data/sba_loans.parquet), not the sample.")] = False,
    seed: Annotated[int, typer.Option(help="Of everything that is drawn.")] = 7,
) -> None:
    """Promotion rates of equal, worse and better challengers."""
    settings = settings_in(PROJECT / "data" / "run").model_copy(update={"full": full})
    policy = settings.case.policy.gates
    cells, partial = [], {}
    for population in (_loans(settings), _binormal(seed)):
        report.say(
            f"{population.name}: {len(population.label):,} rows, {population.label.mean():.1%} positive"
        )
        for what, lost, sizes in (
            ("equal", (0.0, 0.0), (1000, 10_000)),
            ("a point worse", (0.0, 0.01), (1000, 10_000)),
            ("two points better", (0.02, 0.0), (10_000,)),
        ):
            pair = population.pair(*lost, seed)
            for rows in sizes:
                ours, plain = _rates(population, pair, policy, rows, trials, seed)
                cells.append((population.name, what, rows, ours, plain))
        partial[population.name] = _partial_rate(population, policy, trials, seed)
        cells.append((population.name, "equal, partial labels", 5000, partial[population.name], None))
    columns = ["scores", "challenger is", "rows", "promoted by the gates", "by the plain rule (200 rows)"]
    report.table(f"Promotion rates, {trials} trials each", columns, cells)
    found = {
        what: [c for c in cells if c[1] == what] for what in ("equal", "a point worse", "two points better")
    }
    worst: Callable[[str, int], float] = lambda what, at: max(c[at] for c in found[what])  # noqa: E731
    power = min(c[3] for c in found["two points better"])
    figures = {
        "promoted_identical": worst("equal", 3),
        "promoted_worse": worst("a point worse", 3),
        "power_plus_two": power,
        "plain_promoted_identical": worst("equal", 4),
        "plain_promoted_worse": worst("a point worse", 4),
        "promoted_identical_partial": max(partial.values()),
    }
    report.figures(**figures, trials=trials, seed=seed)
    bound = [a + 3 * np.sqrt(a * (1 - a) / trials) for a in (0.05, 0.01)]
    identical = max(figures["promoted_identical"], figures["promoted_identical_partial"])
    held = identical <= bound[0] and figures["promoted_worse"] <= 0.01 and power >= 0.80
    raise typer.Exit(0 if held else 1)


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
    return _pass({c.metric: c for c in compare(rows, policy, seed)}, by_segment, policy)


def _pass(overall, by_segment, policy: GatePolicy) -> bool:
    inputs = GateInputs(AS_OF, overall, by_segment, 1.0, NEVER, Servability(True, 0.0, 1.0, 1.0), {}, True)
    return all(r.verdict is Verdict.passed for r in evaluate_gates(inputs, policy))


def _plain(rows: ScoredRows) -> bool:
    before, after = (
        metrics.f1_score(rows.label, f) for f in (rows.champion_flagged, rows.challenger_flagged)
    )
    brier = [metrics.brier_score(rows.label, p) for p in (rows.champion, rows.challenger)]
    return after > before and after >= 1.02 * before and brier[1] - brier[0] <= 0.01


def _partial_rate(
    population: Population, policy: GatePolicy, trials: int, seed: int, rows: int = 5000
) -> float:
    """Promotions of an equal challenger on cases of all ages: a positive shows with probability F(age)."""
    pair, promoted = population.pair(0.0, 0.0, seed), 0
    for trial in range(trials):
        rng = np.random.default_rng([seed, trial])
        drawn = pair.where(rng.integers(0, len(population.label), rows))
        due = rng.uniform(policy.min_due, 1.0, rows)
        seen = drawn.label * (rng.random(rows) < due)
        compared = compare_partial(PartialRows.of(drawn, seen, due), policy)
        promoted += _pass({c.metric: c for c in compared}, [], policy)
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
