"""Scoring: the champion's probabilities of cases, each logged durably before it is answered.

The one code path that scores and logs, for the service and for ``selfheal replay`` alike, so nothing of HTTP
belongs here. Which version answers is ``champion``'s to know, and what a client asked for by name ``requested``'s.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from time import perf_counter

import numpy as np
import polars as pl

from selfheal_assets.serving.champion import ServedChampion
from selfheal_assets.serving.models import Model
from selfheal_assets.serving.requested import RequestedVersions
from selfheal_assets.settings import Settings
from selfheal_assets.stores.champion_failures import ChampionFailure
from selfheal_assets.stores.model_registry import ModelRegistry
from selfheal_assets.stores.prediction_log import (
    CaseColumns,
    PredictionLog,
    Role,
    Scorer,
    case_columns,
    group_line,
)
from selfheal_assets.stores.segment_writer import Durability
from selfheal_assets.use_case import UseCase


class LogNotDurable(RuntimeError):
    """The prediction log could not be written, so no answer may leave."""


@dataclass(frozen=True)
class Scored:
    """The answers to the cases of one call, in their order, and the model that gave them.

    ``prediction_ids`` are the log's keys; ``probability`` is float64, ``prediction`` int8 (0/1 at the
    model's threshold), both of shape (rows,).
    """

    prediction_ids: list[str]
    probability: np.ndarray
    prediction: np.ndarray
    model: Model

    @property
    def version(self) -> int:
        """Registered version that scored."""
        return self.model.version

    @property
    def threshold(self) -> float:
        """Probability from which a case is predicted positive."""
        return self.model.bundle.threshold


# Makes a group durable: what was scored, and its line of the log.
Write = Callable[[Scored, bytes], None]


class ScoringService:
    """Scores cases with the champion and logs the answers. Safe to share between threads.

    Args:
        registry: says which version is champion, and loads it.
        log: where answers are written before they leave.
        case: the use case; its features are what is scored and logged.
        appended: told how many seconds the log took to make a group durable.
        failed: told of a champion that failed technically: once, when it is refused, or each time it cannot be loaded
            for another reason than before.
    """

    def __init__(
        self,
        registry: ModelRegistry,
        log: PredictionLog,
        case: UseCase,
        appended: Callable[[float], None] = lambda seconds: None,
        failed: Callable[[ChampionFailure], None] = lambda failure: None,
    ) -> None:
        self._log = log
        self._case = case
        self._champion = ServedChampion(registry, case, failed)
        self._requested = RequestedVersions(registry, case)
        self._appended = appended
        # Gets what the champion logged, and its rows.
        self.follower: Callable[[bytes, int], None] | None = None

    @property
    def champion(self) -> Model:
        """The version that answers.

        Raises:
            NoChampion: nothing has been promoted, or the champion could not be loaded.
        """
        return self._champion.model

    @property
    def problem(self) -> str | None:
        """Why the last :meth:`refresh` could not follow the registry, or ``None``."""
        return self._champion.problem

    def refresh(self) -> bool:
        """Follow the registry's champion; returns whether another version answers from now on."""
        return self._champion.refresh()

    @property
    def durability(self) -> str:
        """What an answer waits for, see ``segment_writer.Durability``."""
        return self._log.durability.value

    @property
    def log_problem(self) -> str | None:
        """Why the log cannot be written, or ``None``."""
        return self._log.problem

    def score(self, cases: pl.DataFrame, predicted_at: datetime) -> Scored:
        """Score cases and log the answers; returns when they are on disk.

        Args:
            cases: one case a row: ``entity_id`` (String), ``event_time`` (Datetime, naive UTC) and the
                features in the types of ``core.encoding.polars_type``, validated by the caller.
            predicted_at: when the answer is given, naive UTC.

        Raises:
            NoChampion: there is no model to answer with.
            LogNotDurable: the log could not be written; nothing was answered.
        """
        columns = case_columns(cases, self._case.feature_names)
        model, probability = self._champion.scores(columns, lambda m: m.bundle.score(cases))
        return self._answered(columns, probability, model, predicted_at)

    def score_columns(
        self,
        cases: CaseColumns,
        predicted_at: datetime,
        model: Model | None = None,
        write: Write | None = None,
    ) -> Scored:
        """Like :meth:`score`, for cases that are columns of plain values already: no frame is made of them.

        Args:
            cases: what is asked.
            predicted_at: when the answer is given, naive UTC.
            model: scores in the champion's place, see :meth:`requested`.
            write: makes the answers durable in the log's place; an OSError of it is a ``LogNotDurable``.
        """

        def scored(by: Model) -> np.ndarray:
            return by.bundle.score_matrix(by.encoder(cases.features))

        model, probability = (model, scored(model)) if model else self._champion.scores(cases, scored)
        return self._answered(cases, probability, model, predicted_at, write)

    def unseen(self, cases: CaseColumns) -> dict[int, list[str]]:
        """Of the cases with a category that the champion has never seen, the names of those features."""
        return self.champion.encoder.unseen(cases.features, range(cases.rows))

    def requested(self, version: int) -> Model:
        """A version that a client named, ready to score, see ``RequestedVersions.get``."""
        return self._requested.get(version)

    def _answered(
        self,
        cases: CaseColumns,
        probability: np.ndarray,
        model: Model,
        predicted_at: datetime,
        write: Write | None = None,
    ) -> Scored:
        bundle = model.bundle
        prediction = (probability >= bundle.threshold).astype(np.int8)
        scorer = Scorer(model.version, bundle.fingerprint, bundle.threshold, model.role)
        ids, line = group_line(cases, probability, scorer, predicted_at)
        scored = Scored(ids, probability, prediction, model)
        started = perf_counter()
        try:
            if write is not None:
                write(scored, line)
            elif ids:
                self._log.append_line(line)
        except OSError as error:
            raise LogNotDurable(
                f"the prediction log in {self._log.folder} cannot be written ({error.strerror or error}): "
                "free space, or mend the folder's rights; nothing was answered"
            ) from error
        self._appended(perf_counter() - started)
        if self.follower and ids and model.role is Role.champion:
            self.follower(line, cases.rows)
        return scored


@contextmanager
def scoring_of(settings: Settings) -> Iterator[ScoringService]:
    """The champion as it is now, for a process that scores and ends: its log is handed over at the end."""
    log = PredictionLog(settings.prediction_log, Durability(settings.durability))
    try:
        scoring = ScoringService(ModelRegistry(settings), log, settings.case)
        scoring.refresh()
        yield scoring
    finally:
        log.close()
