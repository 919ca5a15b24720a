"""`make bench-alarms`: how often unchanged histories alarm, and how soon changed ones do.

Ours, NannyML's and Evidently's defaults judge the same rows. The libraries' alarms follow their definitions, as
their own code would take hours; on some histories both are asked, and where they differ is counted.
"""

import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Annotated

import numpy as np
import typer

from selfheal_assets.core.betting import LossBet, LossSums, error_counts
from selfheal_assets.core.evidence_policy import DriftAlarms, HarmAlarms
from selfheal_assets_tests.bench import report
from selfheal_assets_tests.bench.drift_ours import our_alarms
from selfheal_assets_tests.bench.drift_peers import (
    disagreements,
    evidently_alerts,
    evidently_small_alerts,
    nannyml_alerts,
)
from selfheal_assets_tests.bench.drift_streams import (
    UNCHANGED,
    Shift,
    Stream,
    drawn,
)

MODERATE = Shift("0.1 SD in two features, 5 points in one category", sd=0.1, points=5)
SHIFTS = (
    MODERATE,
    Shift("0.1 SD in one feature", sd=0.1, one_feature=True),
    Shift("0.04 SD in two features, 2 points in one category", sd=0.04, points=2),
)
METHODS = ("warn", "act", "drift", "nannyml", "evidently")
SHOWN = {
    "warn": "selfheal, warns",
    "act": "selfheal, acts",
    "drift": "selfheal, either",
    "nannyml": "NannyML, defaults",
    "evidently": "Evidently, defaults",
}
SMALL = 1_000
ERROR_BEFORE, ERROR_AFTER, LABELS = 0.07, 0.09, 500


@dataclass(frozen=True)
class Sizes:
    """How long a history is, and how many rows its reference and chunks have."""

    chunks: int
    rows: int
    reference: int
    seed: int


def main(
    histories: Annotated[int, typer.Option(min=1, help="Unchanged histories.")] = 400,
    changed: Annotated[int, typer.Option(min=1, help="Histories of each change.")] = 100,
    chunks: Annotated[int, typer.Option(min=4, help="Chunks of an unchanged history.")] = 200,
    rows: Annotated[int, typer.Option(min=10, help="Rows of a chunk.")] = 2_000,
    reference: Annotated[int, typer.Option(min=1_001, help="Rows of the reference.")] = 50_000,
    small: Annotated[int, typer.Option(min=0, help="Histories that Evidently judges by 1,000 rows.")] = 10,
    real: Annotated[int, typer.Option(min=0, help="Histories on which the libraries are asked too.")] = 4,
    seed: Annotated[int, typer.Option(help="Of everything drawn.")] = 7,
) -> None:
    """Judge unchanged and changed histories by our drift and harm alarms, NannyML's and Evidently's."""
    sizes = Sizes(chunks, rows, reference, seed)
    os.environ["OMP_NUM_THREADS"] = "1"
    with ProcessPoolExecutor(max_workers=os.cpu_count()) as pool:
        report.say(f"Judging {histories} unchanged histories of {chunks} chunks of {rows:,} rows")
        unchanged = list(pool.map(partial(_unchanged, sizes), range(histories), chunksize=4))
        delays = {}
        for number, shift in enumerate(SHIFTS, 1):
            report.say(f"Judging {changed} histories with a change: {shift.name}")
            delays[shift.name] = list(pool.map(partial(_delays, sizes, shift, number), range(changed)))
        report.say(f"Betting on the errors of {histories} unchanged and {changed} changed streams of labels")
        harm = list(pool.map(partial(_harm_ever, sizes), range(histories), chunksize=8))
        half = chunks // 2
        harm_delays = {
            at: list(pool.map(partial(_harm_delay, sizes, at), range(changed), chunksize=8))
            for at in (0, half)
        }
        report.say(f"Letting Evidently judge {small} histories by a small reference")
        by_small = list(pool.map(partial(_evidently_small, sizes), range(small)))
        report.say(f"Asking NannyML and Evidently themselves about {real} of the histories")
        compared = list(pool.map(partial(_compared, sizes), range(real)))
    _print_false(unchanged, harm, by_small, sizes)
    _print_delays(delays, harm_delays)
    ever = {m: float(np.mean([u[m].any() for u in unchanged])) for m in METHODS}
    moderate, error = delays[MODERATE.name], (0.05 * 0.95 / histories) ** 0.5
    within = max(ever["drift"], float(np.mean(harm))) <= 0.05 + 2 * error
    report.figures(
        ever_false_alarm_drift=ever["drift"],
        ever_false_alarm_harm=float(np.mean(harm)),
        ever_false_alarm_nannyml=ever["nannyml"],
        ever_false_alarm_evidently=ever["evidently"],
        delay_drift_chunks=_median([d["drift"] for d in moderate]),
        delay_harm_chunks=_median(harm_delays[0]),
        delay_harm_late_chunks=_median(harm_delays[half]),
        histories=histories,
        monte_carlo_error=error,
        ever_false_alarm_warn=ever["warn"],
        ever_false_alarm_act=ever["act"],
        ever_false_alarm_evidently_small=float(np.mean([b.any() for b in by_small])) if by_small else None,
        delay_nannyml_chunks=_median([d["nannyml"] for d in moderate]),
        delay_evidently_chunks=_median([d["evidently"] for d in moderate]),
        asked_themselves={k: sum(c[k] for c in compared) for k in (compared[0] if compared else ())},
    )
    raise typer.Exit(0 if within else 1)


def policies(sizes: Sizes) -> tuple[DriftAlarms, HarmAlarms]:
    """The defaults, with a budget for one history: its chunks are the year.

    All labels here are realized, so the whole of the harm alarm's budget is theirs.
    """
    harm = HarmAlarms(horizon_chunks=sizes.chunks, partial_share=0)
    return DriftAlarms(chunks_per_year=sizes.chunks), harm


def _unchanged(sizes: Sizes, number: int) -> dict[str, np.ndarray]:
    """Which chunks of an unchanged history each method alarms in."""
    stream = drawn((sizes.seed, 0, number), sizes.reference, sizes.chunks, sizes.rows, UNCHANGED)
    return _alarms(stream, policies(sizes)[0])


def _delays(sizes: Sizes, shift: Shift, kind: int, number: int) -> dict[str, float | None]:
    """Chunks from the change, at half of a history a quarter as long, to each method's first alarm after it."""
    chunks = max(sizes.chunks // 4, 4)
    at = chunks // 2
    stream = drawn((sizes.seed, kind, number), sizes.reference, chunks, sizes.rows, shift, at)
    return {m: _first(alarms[at:]) for m, alarms in _alarms(stream, policies(sizes)[0]).items()}


def _first(alarms: np.ndarray) -> float | None:
    return float(np.argmax(alarms) + 1) if alarms.any() else None


def _alarms(stream: Stream, policy: DriftAlarms) -> dict[str, np.ndarray]:
    ours = our_alarms(stream, policy)
    return ours | {
        "drift": ours["warn"] | ours["act"],
        "nannyml": nannyml_alerts(stream).any(axis=1),
        "evidently": evidently_alerts(stream).any(axis=1),
    }


def _labels(rng: np.random.Generator, rate: float, rows: int = LABELS) -> LossSums:
    return error_counts(rows, int(rng.binomial(rows, rate)))


def _harm_alarm(sizes: Sizes, at: int, chunks: int, kind: int, number: int) -> int | None:
    """First chunk in which the bet calls harm, where the error is higher from chunk ``at`` on."""
    rng = np.random.default_rng((sizes.seed, kind, number))
    bet = LossBet(_labels(rng, ERROR_BEFORE, sizes.reference), policies(sizes)[1])
    for n in range(chunks):
        bet = bet.observe(_labels(rng, ERROR_BEFORE if n < at else ERROR_AFTER))
        if bet.harmful:
            return n
    return None


def _harm_ever(sizes: Sizes, number: int) -> bool:
    """Whether the bet on an unchanged error ever calls it harm."""
    return _harm_alarm(sizes, sizes.chunks, sizes.chunks, 10, number) is not None


def _harm_delay(sizes: Sizes, at: int, number: int) -> float | None:
    """Chunks from the rise of the error to the alarm; one that came before it has found nothing."""
    alarm = _harm_alarm(sizes, at, at + sizes.chunks, 11, number)
    return float(alarm - at + 1) if alarm is not None and alarm >= at else None


def _evidently_small(sizes: Sizes, number: int) -> np.ndarray:
    """Chunks of an unchanged history in which Evidently finds any column drifted, by ``SMALL`` reference rows."""
    stream = drawn((sizes.seed, 0, number), sizes.reference, sizes.chunks, sizes.rows, UNCHANGED)
    return evidently_small_alerts(stream, SMALL).any(axis=1)


def _compared(sizes: Sizes, number: int) -> dict[str, int]:
    stream = drawn((sizes.seed, 0, number), sizes.reference, sizes.chunks, sizes.rows, UNCHANGED)
    return disagreements(stream, evidently_chunks=min(5, sizes.chunks))


def _median(delays: list[float | None]) -> float | None:
    """Median in which what was never found comes last; None if that is the median."""
    middle = float(np.median([np.inf if d is None else d for d in delays]))
    return middle if np.isfinite(middle) else None


def _print_false(
    unchanged: list[dict[str, np.ndarray]], harm: list[bool], by_small: list[np.ndarray], sizes: Sizes
) -> None:
    judged = {SHOWN[m]: np.array([u[m] for u in unchanged]) for m in METHODS}
    if by_small:
        judged |= {f"Evidently, defaults for {SMALL:,} reference rows": np.array(by_small)}
    rows = [(m, 100 * a.any(axis=1).mean(), 100 * a.mean(), len(a)) for m, a in judged.items()]
    rows.append(("selfheal, harm", 100 * float(np.mean(harm)), None, len(harm)))
    report.table(
        f"Unchanged histories of {sizes.chunks} chunks of {sizes.rows:,} rows, reference {sizes.reference:,}",
        ["alarm", "histories with any, %", "chunks with one, %", "histories"],
        rows,
    )


def _print_delays(
    delays: dict[str, list[dict[str, float | None]]], harm: dict[int, list[float | None]]
) -> None:
    rows = []
    for name, found in delays.items():
        for method in METHODS:
            rows.append((f"{name}: {SHOWN[method]}", *_spread([d[method] for d in found])))
    for at, found in harm.items():
        name = f"error {ERROR_BEFORE:g} to {ERROR_AFTER:g} from chunk {at + 1} on: selfheal, harm"
        rows.append((name, *_spread(found)))
    report.table(
        "Chunks from a change to the alarm", ["change and alarm", "median", "90th", "found, %"], rows
    )


def _spread(delays: list[float | None]) -> tuple[float | None, float | None, float]:
    known = [np.inf if d is None else d for d in delays]
    ninth = float(np.quantile(known, 0.9, method="higher"))
    return _median(delays), ninth if np.isfinite(ninth) else None, 100 * float(np.mean(np.isfinite(known)))


if __name__ == "__main__":
    report.run(main)
