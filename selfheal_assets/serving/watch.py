"""What a champion answers, watched while it answers: a failure that needs no label is found with the first rows."""

import statistics
from dataclasses import dataclass

import numpy as np

from selfheal_assets.core.policies import Policy
from selfheal_assets.core.rollback import technical_failure
from selfheal_assets.serving.models import Model
from selfheal_assets.stores.champion_failures import Kind
from selfheal_assets.stores.prediction_log import CaseColumns

_SMALL_GROUP = 256  # rows; a larger group takes its time by right


@dataclass(frozen=True)
class Failure:
    """What is wrong with a champion."""

    kind: Kind
    reason: str


class ChampionWatch:
    """Looks at each group of answers of one champion. Cheap: it stands in the answers' path.

    Scores that are not finite are a failure at once. Whether the scores have collapsed is judged once, on the first
    ``rollback.min_scores`` rows, and only against a model that tells the same cases apart: clients may well ask the
    same thing all day. Time to score is the processor's, so that a busy machine is not held against the model.

    Args:
        champion: who is watched.
        before: who answered before, if it is at hand.
        policy: the limits.
    """

    def __init__(self, champion: Model, before: Model | None, policy: Policy) -> None:
        self._champion, self._before, self._policy = champion, before, policy
        self._seen: list[tuple[CaseColumns, np.ndarray]] | None = [] if before else None
        self._seconds: list[float] = []

    def look(self, cases: CaseColumns, probability: np.ndarray, seconds: float) -> Failure | None:
        """What is wrong, judging by one more group; ``seconds`` of processor time went into scoring it."""
        if not np.isfinite(probability).all():
            return Failure(Kind.scores, technical_failure(probability, self._policy.rollback))
        return self._collapsed(cases, probability) or self._slow(cases.rows, seconds)

    def _collapsed(self, cases: CaseColumns, probability: np.ndarray) -> Failure | None:
        seen, before, policy = self._seen, self._before, self._policy.rollback
        if seen is None or before is None:
            return None
        seen.append((cases, probability))
        if sum(len(p) for _, p in seen) < policy.min_scores:
            return None
        self._seen = None
        failure = technical_failure(np.concatenate([p for _, p in seen]), policy)
        if not failure:
            return None
        theirs = [before.bundle.score_matrix(before.encoder(c.features)) for c, _ in seen]
        if technical_failure(np.concatenate(theirs), policy):
            return None
        return Failure(Kind.scores, f"{failure}; version {before.version} tells these cases apart")

    def _slow(self, rows: int, seconds: float) -> Failure | None:
        if rows > _SMALL_GROUP:
            return None
        self._seconds.append(seconds)
        if len(self._seconds) < self._policy.rollback.min_timings:
            return None
        timed, self._seconds = self._seconds, []
        median, limit = statistics.median(timed) * 1000, self._policy.gates.max_latency_ms
        if median <= limit:
            return None
        return Failure(
            Kind.latency,
            f"it takes {median:.1f} ms to score a group of at most {_SMALL_GROUP} rows (median of {len(timed)}; "
            f"limit {limit:g} ms)",
        )
