"""The champion as it is served: which version answers, and who stands in for one that fails.

Which version is champion is the registry's word; this module follows it, watches what the champion answers, and
tells the loop of a failure. Scoring for the log is ``scoring``'s.
"""

import logging
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from time import thread_time

import numpy as np

from selfheal_assets.serving.models import Model, UnusableBundle, made_ready
from selfheal_assets.serving.watch import ChampionWatch, Failure
from selfheal_assets.stores.champion_failures import ChampionFailure, Kind
from selfheal_assets.stores.model_registry import PREDECESSOR, QUARANTINED, ModelRegistry
from selfheal_assets.stores.prediction_log import CaseColumns
from selfheal_assets.use_case import UseCase

logger = logging.getLogger(__name__)


class NoChampion(LookupError):
    """There is no production model to answer with; the message says how to get one."""


class ServedChampion:
    """Follows the registry's champion. Safe to share between threads.

    Args:
        registry: says which version is champion, and loads it.
        case: the use case whose cases it answers.
        failed: told of a champion that failed technically: once, when it is refused, or each time it cannot be loaded
            for another reason than before.
    """

    def __init__(
        self, registry: ModelRegistry, case: UseCase, failed: Callable[[ChampionFailure], None]
    ) -> None:
        self._registry, self._case = registry, case
        self._champion: Model | None = None
        self._before: Model | None = None
        self._watch: ChampionWatch | None = None
        self._refused: tuple[int, str] | None = None
        self._failed, self._told = failed, (0, "")
        self._refreshing = threading.Lock()
        self._problem: str | None = None

    @property
    def model(self) -> Model:
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
    def problem(self) -> str | None:
        """Why the last :meth:`refresh` could not follow the registry, or ``None``."""
        return self._problem

    def refresh(self) -> bool:
        """Follow the registry's champion; returns whether another version answers from now on.

        The new bundle is loaded and warmed beside the old one, then swapped in one assignment: a call
        uses one of the two throughout. Whatever goes wrong is logged and told by
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

    def scores(self, cases: CaseColumns, score: Callable[[Model], np.ndarray]) -> tuple[Model, np.ndarray]:
        """The champion's scores; those of its stand-in if they show that the champion has failed.

        Args:
            cases: what is asked, for the watch.
            score: what a model says of them.

        Raises:
            NoChampion: there is no stand-in, and the champion's scores are no probabilities.
        """
        champion, watch = self.model, self._watch
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
            return self._load(version)
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
            return self._load(version)
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

    def _load(self, version: int) -> Model:
        return made_ready(Model(version, self._registry.load(version)), self._case)
