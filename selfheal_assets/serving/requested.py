"""Versions that a client named: fetched from the registry when they are first asked for, the last few kept."""

import logging
import threading
from collections import OrderedDict

from selfheal_assets.serving.models import Model, made_ready
from selfheal_assets.stores.model_registry import QUARANTINED, ModelRegistry
from selfheal_assets.stores.prediction_log import Role
from selfheal_assets.use_case import UseCase

KEPT_VERSIONS, SHOWN_VERSIONS = 4, 20
logger = logging.getLogger(__name__)


class UnknownVersion(LookupError):
    """There is no version of that number; the message lists those that there are."""


class QuarantinedVersion(ValueError):
    """The version was taken back for harm, or for failing technically; the message says why."""


class VersionUnavailable(RuntimeError):
    """The registry could not be asked for a version, or the version cannot answer."""


class RequestedVersions:
    """The versions that clients named last, loaded.

    Args:
        registry: has them.
        case: the use case whose cases they answer.
    """

    def __init__(self, registry: ModelRegistry, case: UseCase) -> None:
        self._registry, self._case = registry, case
        self._loaded: OrderedDict[int, Model] = OrderedDict()
        self._loading = threading.Lock()

    def get(self, version: int) -> Model:
        """One of them, ready to score; its answers are logged as ``requested``.

        Asks the registry each time, since a version may be quarantined meanwhile.

        Raises:
            UnknownVersion, QuarantinedVersion: it may not answer.
            VersionUnavailable: the registry or the version fails.
        """
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
        return made_ready(Model(version, self._registry.fetch(version), Role.requested), self._case)

    def _refuse_unfit(self, version: int) -> None:
        known = [v["version"] for v in self._registry.versions()]
        if version not in known:
            shown = ", ".join(map(str, known[-SHOWN_VERSIONS:])) or "none"
            raise UnknownVersion(f"there is no version {version}; the newest that there are: {shown}")
        if reason := self._registry.tags(version).get(QUARANTINED):
            raise QuarantinedVersion(f"version {version} is quarantined: {reason}")
