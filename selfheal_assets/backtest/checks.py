"""The checks of a chunk, as the monitoring assets make them, for a champion and the chunks that it has served so far.

What accumulates over a champion's chunks (counts, books) is a function of those chunks, and is computed once for all
policies under which the same champion has served the same ones.
"""

from dataclasses import dataclass
from datetime import datetime

import numpy as np
import polars as pl

from selfheal_assets.backtest.shared import Shared, policy_name
from selfheal_assets.core import drift_state, fingerprint, harm, maturity, monitoring
from selfheal_assets.core.bundle import Bundle
from selfheal_assets.core.chunk_statistics import ALL
from selfheal_assets.core.drift_alarms import alarm_finding, alarm_rows
from selfheal_assets.core.drift_state import DriftState
from selfheal_assets.core.estimation import ChunkRows, estimate_chunk
from selfheal_assets.core.intact import INTACT, intact_finding
from selfheal_assets.core.monitoring import Finding, Status
from selfheal_assets.core.partial_counts import COUNT_SCHEMA, hazard_counts, newest_counts
from selfheal_assets.core.partial_labels import PartialAlarm, partial_alarm
from selfheal_assets.core.periods import chunk_end, shift_chunks
from selfheal_assets.core.realized_check import (
    LOSS_SCHEMA,
    HeldOut,
    matured_cohort,
    realized_check,
    with_losses,
)
from selfheal_assets.core.score_groups import groups_of_rows
from selfheal_assets.core.watched_counts import watched_history
from selfheal_assets.defs.champion import ChampionProfile
from selfheal_assets.stores.champion_counts import count_rows_of
from selfheal_assets.stores.training_evidence import features_between
from selfheal_assets.use_case import UseCase

DRIFT, ESTIMATED = "drift_within_limits", "estimated_performance_holds"
PARTIAL, REALIZED = "calibration_holds", "realized_performance_holds"
TRUSTED = "label_times_are_plausible"
Served = tuple[datetime, ...]


@dataclass(frozen=True)
class Books:
    """What has accumulated over the chunks that a champion has served: drift's counts, hazards, losses."""

    drift: DriftState | None = None
    hazards: pl.DataFrame | None = None
    losses: pl.DataFrame | None = None


class Checks:
    """The checks of chunks, shared by all policies of a backtest."""

    def __init__(self, shared: Shared) -> None:
        self.shared, self.known = shared, shared.known
        self._books: dict[tuple[str, str, str, Served], Books] = {}
        self._found: dict[tuple[str, str, str, Served], Finding] = {}

    def of_data(self, case: UseCase, start: datetime) -> list[Finding]:
        """What the data themselves say: ``inputs_are_intact``, ``label_times_are_plausible``; no champion matters."""
        period, policy = case.monitoring.chunk, case.policy.soundness
        end = chunk_end(start, period)
        first = shift_chunks(start, period, -case.monitoring.lookback)
        before = features_between(self.known.warehouse, case, first, start)
        rows = self.known.traffic[self.known.answered(start, end)]
        early = self.known.labels_before_their_case(end) > policy.max_implausible_share
        status = Status.failed if early else Status.passed
        return [intact_finding(before, rows, case.features, policy), Finding(TRUSTED, status, "label times")]

    def finding(self, check: str, bundle: Bundle, case: UseCase, served: Served) -> Finding:
        """What a check says of the newest of the chunks that a model has served."""
        key = check, bundle.fingerprint, policy_name(case), served
        if key not in self._found:
            name = fingerprint.of_value([*key[:3], [str(s) for s in served], self._data])
            saved = self.shared.kept.get("findings", name)
            if saved:
                found = Finding(**saved | {"status": Status(saved["status"])})
            else:
                found = self._judged(check, bundle, case, served)
                self.shared.kept.put("findings", name, vars(found))
            self._found[key] = found
        return self._found[key]

    @property
    def _data(self) -> str:
        return self.shared.known.fingerprint

    def _judged(self, check: str, bundle: Bundle, case: UseCase, served: Served) -> Finding:
        profile = self.shared.profile(bundle, case)
        rows = self._rows(profile, served[-1])
        books = self._book(check, profile, served)
        positives = None if check == DRIFT else profile.positives
        why = monitoring.chunk_shortage(case.policy.alarms, rows.height, profile.reference.height, positives)
        if check == REALIZED:
            return self._realized(profile, served, books)
        if why:
            return monitoring.unknown(check, why)
        if check == DRIFT:
            assert books.drift is not None
            return alarm_finding(alarm_rows(books.drift, case.drift_alarms), check)
        if check == ESTIMATED:
            return _estimated(profile, rows)
        alarm = self._partial(profile, books)
        return harm.partial_harm_finding(alarm)

    def _rows(self, profile: ChampionProfile, start: datetime) -> pl.DataFrame:
        """The chunk's cases as the model answered them."""
        probability = self.shared.scores(profile.bundle, start)
        return self.known.traffic[self.known.of_chunk(start)].with_columns(
            probability=pl.Series(probability),
            prediction=pl.Series((probability >= profile.bundle.threshold).astype("int8")),
        )

    def _book(self, check: str, profile: ChampionProfile, served: Served) -> Books:
        """The books after these chunks; carried along from the longest beginning that is known."""
        if check == ESTIMATED:
            return Books()
        name = check, profile.bundle.fingerprint, policy_name(profile.case)
        done = len(served)
        while done and (*name, served[:done]) not in self._books:
            done -= 1
        books = self._books[(*name, served[:done])] if done else Books()
        for upto in range(done + 1, len(served) + 1):
            books = self._books[(*name, served[:upto])] = self._carried(
                check, profile, books, served[upto - 1]
            )
        return books

    def _carried(self, check: str, profile: ChampionProfile, books: Books, start: datetime) -> Books:
        case = profile.case
        if check == DRIFT:
            before = books.drift or drift_state.begin(profile.watched, case.drift_alarms)
            name, cells = f"{start:%Y-%m-%d}", profile.cells.whole
            counted = count_rows_of(self.known.warehouse, cells, self._rows(profile, start), name)
            counts = watched_history(cells, counted).drop("chunk")
            return Books(drift=drift_state.merge(before, name, counts, case.drift_alarms))
        if check == PARTIAL:
            return Books(hazards=self._hazards(profile, books.hazards, start))
        label, probability = self._matured(profile, start)
        before = books.losses if books.losses is not None else pl.DataFrame(schema=LOSS_SCHEMA)
        return Books(losses=with_losses(before, start, label, probability))

    def _hazards(
        self, profile: ChampionProfile, before: pl.DataFrame | None, start: datetime
    ) -> pl.DataFrame:
        case, empty = profile.case, pl.DataFrame(schema=COUNT_SCHEMA)
        period, end = case.monitoring.chunk, chunk_end(start, case.monitoring.chunk)
        looked_back = shift_chunks(start, period, 1 - case.monitoring.lookback)
        rows = self.known.labelled(max(looked_back, profile.bundle.reference.end), end)
        earlier = empty if before is None else before
        if rows.is_empty():
            return earlier
        scored = maturity.aged_cases(rows, profile.bundle.score(rows))
        return newest_counts(earlier, hazard_counts(scored, profile.timing, case.harm_alarms))

    @staticmethod
    def _partial(profile: ChampionProfile, books: Books) -> PartialAlarm:
        assert books.hazards is not None
        return partial_alarm(books.hazards, profile.hazards, profile.case.harm_alarms)

    def _matured(self, profile: ChampionProfile, start: datetime) -> tuple[np.ndarray, np.ndarray]:
        """Labels and the champion's probabilities of the cohort that matures in the chunk."""
        case = profile.case
        begin, end = matured_cohort(start, case.monitoring.chunk, case.label)
        rows = self.known.known(begin, end, chunk_end(start, case.monitoring.chunk))
        rows = rows.filter(pl.col("is_mature") & pl.col("label").is_not_null())
        return rows["label"].to_numpy().astype(np.int8), profile.bundle.score(rows)

    def _realized(self, profile: ChampionProfile, served: Served, books: Books) -> Finding:
        assert books.losses is not None
        reference, case = profile.reference, profile.case
        held_out = HeldOut(
            reference["label"].to_numpy(), reference["probability"].to_numpy(), profile.reference_auc
        )
        label, probability = self._matured(profile, served[-1])
        return realized_check(
            label, probability, books.losses, held_out, case.policy.alarms, case.harm_alarms
        )[0]


def _estimated(profile: ChampionProfile, rows: pl.DataFrame) -> Finding:
    case, flagged = profile.case, rows["prediction"].to_numpy() == 1
    if profile.reference_auc is None:
        return monitoring.unknown(ESTIMATED, "the champion's reference holds one class only")
    scored = rows.filter(pl.col("probability").is_finite())
    score, decided = scored["probability"].to_numpy(), scored["prediction"].to_numpy() == 1
    figures = estimate_chunk(
        profile.labelled,
        ChunkRows(profile.inputs(rows), flagged),
        case.policy.estimation,
        case.policy.costs,
        case.training.seed,
        plain=profile.cells.calibration,
        regroup=lambda m: groups_of_rows(score, m(score), decided),
    )
    whole = figures.with_columns(segment=pl.lit(ALL))
    return monitoring.estimate_finding(whole, profile.reference_auc, case.policy.alarms)


__all__ = ["DRIFT", "ESTIMATED", "INTACT", "PARTIAL", "REALIZED", "TRUSTED", "Checks"]
