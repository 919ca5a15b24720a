"""Scoring: the champion's probabilities of cases, each logged durably before it is answered.

The one code path that scores and logs, for the service and for ``selfheal replay`` alike, so nothing of HTTP
belongs here. Which version is champion is the registry's word; this module only follows it.
"""

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from time import perf_counter, thread_time

import numpy as np
import polars as pl

from selfheal_assets.serving.models import Model, UnusableBundle, made_ready
from selfheal_assets.serving.watch import ChampionWatch, Failure
from selfheal_assets.settings import Settings
from selfheal_assets.stores.champion_failures import ChampionFailure, Kind
from selfheal_assets.stores.model_registry import PREDECESSOR, QUARANTINED, ModelRegistry
from selfheal_assets.stores.prediction_log import (
    CaseColumns,
    PredictionLog,
    Role,
    Scorer,
    case_columns,
    group_line,
)
from selfheal_assets.stores.segments import Durability
from selfheal_assets.use_case import UseCase

KEPT_VERSIONS, SHOWN_VERSIONS = 4, 20
logger = logging.getLogger(__name__)


class NoChampion(LookupError):
    """There is no production model to answer with; the message says how to get one."""


class LogNotDurable(RuntimeError):
    """The prediction log could not be written, so no answer may leave."""


class UnknownVersion(LookupError):
    """There is no version of that number; the message lists those that there are."""


class QuarantinedVersion(ValueError):
    """The version was taken back for harm, or for failing technically; the message says why."""


class VersionUnavailable(RuntimeError):
    """The registry could not be asked for a version, or the version cannot answer."""


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
        self._registry = registry
        self._log = log
        self._case = case
        self._champion: Model | None = None
        self._before: Model | None = None
        self._watch: ChampionWatch | None = None
        self._refused: tuple[int, str] | None = None
        self._failed, self._told = failed, (0, "")
        self._refreshing = threading.Lock()
        self._problem: str | None = None
        self._requested = _Requested(registry, self._ready)
        self._appended = appended
        self.follower: Callable[[bytes, int], None] | None = (
            None  # gets what the champion logged, and its rows
        )

    @property
    def champion(self) -> Model:
        """The version that answers.

        Raises:
            NoChampion: nothing has been promoted, or the champion could not be loaded.
        """
        champion = self._champion
        if champion is None:
            raise NoChampion(
                f"there is no production model for '{self._case.name}'"
                + (f" ({self._problem})" if self._problem else "")
                + ": run `selfheal replay`, or materialize `production_model`; it is served within seconds"
            )
        return champion

    @property
    def durability(self) -> str:
        """What an answer waits for, see ``segments.Durability``."""
        return self._log.durability.value

    @property
    def log_problem(self) -> str | None:
        """Why the log cannot be written, or ``None``."""
        return self._log.problem

    @property
    def problem(self) -> str | None:
        """Why the last :meth:`refresh` could not follow the registry, or ``None``."""
        return self._problem

    def refresh(self) -> bool:
        """Follow the registry's champion; returns whether another version answers from now on.

        The new bundle is loaded and warmed beside the old one, then swapped in one assignment: a call to
        :meth:`score` uses one of the two throughout. Whatever goes wrong is logged and told by
        :attr:`problem`, and the old version goes on answering; the predecessor, where there is no old one.
        """
        with self._refreshing:
            try:
                fresh = self._newer_champion()
            except Exception as error:  # no failure of registry or bundle may stop the answers
                problem = f"cannot follow the registry: {type(error).__name__}: {error}"
                if problem != self._problem:
                    logger.exception("%s; %s", problem, self._still_serving())
                self._problem = problem
                return False
            self._problem = None
            if fresh is None:
                return False
            logger.info("champion is version %d (%s)", fresh.version, fresh.bundle.fingerprint)
            self._take_up(fresh, self._champion)
            return True

    def _take_up(self, fresh: Model, before: Model | None) -> None:
        self._before = before
        self._watch = ChampionWatch(fresh, before, self._case.policy)
        self._champion = fresh

    def _still_serving(self) -> str:
        return f"still serving version {self._champion.version}" if self._champion else "serving nothing"

    def _newer_champion(self) -> Model | None:
        """The registry's champion, ready to score, if it is not the one that answers already."""
        version = self._registry.champion()
        serving = self._champion
        if serving is not None and version is None:
            raise NoChampion(f"the registry names no champion of '{self._case.name}' any more")
        if version is None or (serving is not None and version == serving.version):
            self._refused = None
            return None
        if self._refused and self._refused[0] == version:
            raise UnusableBundle(f"version {version} is refused: {self._refused[1]}")
        self._refused = None
        try:
            return self._ready(Model(version, self._registry.load(version)))
        except Exception as error:
            self._tell(version, Failure(Kind.does_not_load, f"{type(error).__name__}: {error}"))
            if serving is None and (stand_in := self._stand_in(version)):
                self._take_up(stand_in, None)
            raise

    def _stand_in(self, failed: int) -> Model | None:
        """Who answers in the place of a version that failed: who did before, else the registry's predecessor."""
        if self._before and self._before.version != failed:
            return self._before
        try:
            version = self._registry.aliased(PREDECESSOR)
            if version is None or version == failed or QUARANTINED in self._registry.tags(version):
                return None
            return self._ready(Model(version, self._registry.load(version)))
        except Exception:  # there is no second stand-in, and the first problem is told
            logger.exception("the predecessor cannot answer for version %d either", failed)
            return None

    def _refuse(self, champion: Model, failure: Failure) -> Model | None:
        """Tell the loop of a failure, and answer with another version, if there is one, until the alias has moved."""
        logger.error("version %d fails: %s", champion.version, failure.reason)
        self._tell(champion.version, failure)
        stand_in = self._stand_in(champion.version)
        if stand_in is not None:
            self._refused = (champion.version, failure.reason)
            self._take_up(stand_in, None)
        return stand_in

    def _tell(self, version: int, failure: Failure) -> None:
        told = (version, failure.reason)
        if told == self._told:
            return
        self._told = told
        try:
            self._failed(
                ChampionFailure(version, failure.kind, failure.reason, datetime.now(UTC).replace(tzinfo=None))
            )
        except OSError:
            logger.exception("the loop cannot be told that version %d failed", version)

    def _ready(self, model: Model) -> Model:
        return made_ready(model, self._case)

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
        model, probability = self._by_champion(columns, lambda m: m.bundle.score(cases))
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

        model, probability = (model, scored(model)) if model else self._by_champion(cases, scored)
        return self._answered(cases, probability, model, predicted_at, write)

    def _by_champion(
        self, cases: CaseColumns, score: Callable[[Model], np.ndarray]
    ) -> tuple[Model, np.ndarray]:
        """The champion's scores; those of its stand-in if they show that the champion has failed.

        Raises:
            NoChampion: there is no stand-in, and the champion's scores are no probabilities.
        """
        champion, watch = self.champion, self._watch
        began = thread_time()
        probability = score(champion)
        failure = watch.look(cases, probability, thread_time() - began) if watch else None
        if failure is None:
            return champion, probability
        stand_in = self._refuse(champion, failure)
        if stand_in is not None:
            return stand_in, score(stand_in)
        if not np.isfinite(probability).all():
            raise NoChampion(f"version {champion.version} fails, and no other can answer: {failure.reason}")
        return champion, probability

    def unseen(self, cases: CaseColumns) -> dict[int, list[str]]:
        """Of the cases with a category that the champion has never seen, the names of those features."""
        return self.champion.encoder.unseen(cases.features, range(cases.rows))

    def requested(self, version: int) -> Model:
        """A version that a client named, ready to score; its answers are logged as ``requested``.

        Asks the registry each time, since a version may be quarantined meanwhile; the last few stay loaded.

        Raises:
            UnknownVersion, QuarantinedVersion: it may not answer.
            VersionUnavailable: the registry or the version fails.
        """
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


class _Requested:
    """The versions that clients named last, loaded.

    Args:
        registry: has them.
        ready: warms one that was loaded.
    """

    def __init__(self, registry: ModelRegistry, ready: Callable[[Model], Model]) -> None:
        self._registry, self._ready = registry, ready
        self._loaded: OrderedDict[int, Model] = OrderedDict()
        self._loading = threading.Lock()

    def get(self, version: int) -> Model:
        """See :meth:`ScoringService.requested`."""
        with self._loading:
            try:
                self._refuse_unfit(version)
                model = self._loaded.get(version) or self._load(version)
            except (UnknownVersion, QuarantinedVersion):
                raise
            except Exception as error:
                logger.exception("version %d was requested and cannot be had", version)
                raise VersionUnavailable(
                    f"version {version} cannot be had from the registry ({type(error).__name__}: {error}): try "
                    "again, or leave model_version out"
                ) from error
            self._loaded[version] = model
            self._loaded.move_to_end(version)
            while len(self._loaded) > KEPT_VERSIONS:
                self._loaded.popitem(last=False)
            return model

    def _load(self, version: int) -> Model:
        return self._ready(Model(version, self._registry.fetch(version), Role.requested))

    def _refuse_unfit(self, version: int) -> None:
        known = [v["version"] for v in self._registry.versions()]
        if version not in known:
            shown = ", ".join(map(str, known[-SHOWN_VERSIONS:])) or "none"
            raise UnknownVersion(f"there is no version {version}; the newest that there are: {shown}")
        if reason := self._registry.tags(version).get(QUARANTINED):
            raise QuarantinedVersion(f"version {version} is quarantined: {reason}")
