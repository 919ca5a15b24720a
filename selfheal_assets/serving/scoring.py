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
from datetime import datetime
from functools import cached_property
from time import perf_counter

import numpy as np
import polars as pl

from selfheal_assets.core.bundle import Bundle
from selfheal_assets.core.encoding import ColumnEncoder, polars_type
from selfheal_assets.core.explanation import explain
from selfheal_assets.settings import Settings
from selfheal_assets.stores.model_registry import QUARANTINED, ModelRegistry
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


class UnusableBundle(ValueError):
    """A version that loads, but cannot answer this use case's cases."""


class UnknownVersion(LookupError):
    """There is no version of that number; the message lists those that there are."""


class QuarantinedVersion(ValueError):
    """The version was taken back for harm, or for failing technically; the message says why."""


class VersionUnavailable(RuntimeError):
    """The registry could not be asked for a version, or the version cannot answer."""


@dataclass(frozen=True)
class Model:
    """A registered version, ready to score: its bundle, and the role in which it answers."""

    version: int
    bundle: Bundle
    role: Role = Role.champion

    @cached_property
    def encoder(self) -> ColumnEncoder:
        """From columns of plain values to the bundle's matrix."""
        return ColumnEncoder(self.bundle.features, self.bundle.vocabulary)


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


def warmed(model: Model, case: UseCase) -> Model:
    """The model, warmed: one row by each way of scoring, so that the first request finds everything loaded.

    Raises:
        UnusableBundle: it cannot answer this use case's cases.
    """
    bundle, version = model.bundle, model.version
    declared = {f.name: f.type for f in case.features}
    if unknown := [f.name for f in bundle.features if declared.get(f.name) != f.type]:
        raise UnusableBundle(
            f"version {version} reads {', '.join(unknown)}, which '{case.name}' does not declare "
            "with that type: restore the feature in the YAML file, or train a new version"
        )
    blank = pl.DataFrame({f.name: pl.Series([None], dtype=polars_type(f)) for f in bundle.features})
    columns = blank.to_dict(as_series=False)
    matrix = model.encoder(columns)
    for probability in (bundle.score(blank), bundle.score_matrix(matrix)):
        if not np.isfinite(probability).all():
            raise UnusableBundle(f"version {version} answers {probability[0]} instead of a probability")
    explain(bundle, matrix, columns, {})
    return model


class ScoringService:
    """Scores cases with the champion and logs the answers. Safe to share between threads.

    Args:
        registry: says which version is champion, and loads it.
        log: where answers are written before they leave.
        case: the use case; its features are what is scored and logged.
        appended: told how many seconds the log took to make a group durable.
    """

    def __init__(
        self,
        registry: ModelRegistry,
        log: PredictionLog,
        case: UseCase,
        appended: Callable[[float], None] = lambda seconds: None,
    ) -> None:
        self._registry = registry
        self._log = log
        self._case = case
        self._champion: Model | None = None
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
        :attr:`problem`, and the old version goes on answering.
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
            self._champion = fresh
            return True

    def _still_serving(self) -> str:
        return f"still serving version {self._champion.version}" if self._champion else "serving nothing"

    def _newer_champion(self) -> Model | None:
        """The registry's champion, ready to score, if it is not the one that answers already."""
        version = self._registry.champion()
        serving = self._champion
        if serving is not None and version is None:
            raise NoChampion(f"the registry names no champion of '{self._case.name}' any more")
        if version is None or (serving is not None and version == serving.version):
            return None
        return self._ready(Model(version, self._registry.load(version)))

    def _ready(self, model: Model) -> Model:
        """See :func:`warmed`."""
        return warmed(model, self._case)

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
        champion = self.champion
        probability = champion.bundle.score(cases)
        return self._answered(
            case_columns(cases, self._case.feature_names), probability, champion, predicted_at
        )

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
        model = model or self.champion
        probability = model.bundle.score_matrix(model.encoder(cases.features))
        return self._answered(cases, probability, model, predicted_at, write)

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
