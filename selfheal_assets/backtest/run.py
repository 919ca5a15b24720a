"""Run a backtest: live through a history under each policy and put the outcomes side by side."""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from selfheal_assets.backtest.checks import Checks
from selfheal_assets.backtest.history import History, Known
from selfheal_assets.backtest.kept import Kept
from selfheal_assets.backtest.life import Life
from selfheal_assets.backtest.outcome import Outcome, backtest_of
from selfheal_assets.backtest.policies import BacktestPolicy
from selfheal_assets.backtest.shared import Shared
from selfheal_assets.core.backtest import SELFHEAL, Backtest
from selfheal_assets.core.periods import chunk_end
from selfheal_assets.use_case import UseCase

Told = Callable[[str, int, int], None]


class NothingToLiveThrough(ValueError):
    """The history has no chunk of traffic in the given time; says what to change."""


@dataclass(frozen=True)
class Bounds:
    """Which cases are judged (all of the traffic, if omitted), and where living through it ends."""

    judged_from: datetime | None = None
    until: datetime | None = None


def run_backtest(
    history: History,
    use_case: UseCase,
    policies: Sequence[BacktestPolicy],
    seed: int = 0,
    *,
    bounds: Bounds | None = None,
    folder: Path | None = None,
    against: str = SELFHEAL,
    resamples: int = 500,
    confidence: float = 0.95,
    told: Told = lambda policy, number, of: None,
) -> Backtest:
    """Live through a history under each policy; deterministic.

    Args:
        history: cases, labels and known events.
        use_case: of the history; each policy has its own variant of it.
        policies: what to compare (``policies.standard_policies``).
        seed: of the bootstrap.
        bounds: which part of the history.
        folder: where what was computed is kept, so that an interrupted backtest goes on; nowhere, if omitted.
        against: the policy that differences are taken from; without it in ``policies``, the first.
        resamples: of the bootstrap; 0 leaves the differences out.
        confidence: of the intervals.
        told: of progress: the policy, the number of its chunks that are done, of how many.

    Raises:
        NothingToLiveThrough: there is no chunk.
        core.plan.NotEnoughData: there cannot be a first model.
    """
    bounds = bounds or Bounds()
    with tempfile.TemporaryDirectory(prefix="selfheal_backtest_") as scratch:
        known = Known(history, use_case, Path(scratch) / "warehouse.duckdb")
        starts = known.chunks(bounds.until) if not known.traffic.is_empty() else []
        if not starts:
            raise NothingToLiveThrough(
                f"no {use_case.monitoring.chunk} of traffic from go_live {use_case.go_live} on lies before --until "
                "and monitoring.until: move them back"
            )
        with known.warehouse.kept_open():
            shared = Shared(known, Kept(folder))
            checks = Checks(shared)
            lives = {p.name: _lived(p, shared, checks, starts, told) for p in policies}
            end = chunk_end(starts[-1], use_case.monitoring.chunk)
            judged_from = max(bounds.judged_from or known.go_live, known.go_live)
            outcome = Outcome(known, lives, starts, judged_from, end)
            chosen = against if against in lives else policies[0].name
            return backtest_of(outcome, use_case, chosen, seed, resamples, confidence)


def _lived(
    policy: BacktestPolicy, shared: Shared, checks: Checks, starts: list[datetime], told: Told
) -> Life:
    life = Life(shared, checks, policy)
    life.begin(max(starts[0], shared.known.go_live))
    for number, start in enumerate(starts, 1):
        life.live_through(number, start)
        told(policy.name, number, len(starts))
    return life
