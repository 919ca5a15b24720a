"""The model registry: MLflow's, behind the few operations that the loop needs.

A bundle is one registered model version that ``mlflow.pyfunc.load_model`` loads. ``move_champion`` is the only
place that moves the champion's alias.
"""

import logging
import tempfile
from functools import cached_property
from pathlib import Path
from typing import Any

from selfheal_assets.core.bundle import Bundle
from selfheal_assets.core.spec import FeatureType
from selfheal_assets.settings import Settings, prepare_environment

CHAMPION, CHALLENGER, PREDECESSOR = "champion", "challenger", "previous_champion"
QUARANTINED = "quarantined"  # tag of a version that was taken back; its value is the reason
_FOLDER, _FILES = "model", "bundle"  # MLflow puts the data folder, by its name, under model/data
_PYFUNC_TYPE = {FeatureType.number: "double", FeatureType.integer: "long", FeatureType.category: "string"}


class NoSuchVersion(LookupError):
    """The registry has no such version or alias."""


class ModelRegistry:
    """The registered versions of one use case's model.

    Args:
        settings: gives the tracking store and the model's name.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.model = settings.case.name
        self._bundles: dict[int, Bundle] = {}

    @cached_property
    def _client(self) -> Any:
        prepare_environment()
        for chatty in ("alembic", "mlflow"):
            logging.getLogger(chatty).setLevel(logging.WARNING)
        from mlflow import MlflowClient

        self._settings.root.mkdir(parents=True, exist_ok=True)
        uri = self._settings.tracking_uri
        return MlflowClient(tracking_uri=uri, registry_uri=uri)

    def experiment(self) -> str:
        """Id of the use case's experiment; made, with its artifact folder beside the warehouse, if missing."""
        found = self._client.get_experiment_by_name(self.model)
        if found:
            return found.experiment_id
        remote = self._settings.mlflow_tracking_uri
        location = None if remote else self._settings.artifact_root.as_uri()
        return self._client.create_experiment(self.model, artifact_location=location)

    def new_run(self, name: str) -> str:
        """Id of a new MLflow run, for registering outside a Dagster run."""
        return self._client.create_run(self.experiment(), run_name=name).info.run_id

    def register(self, bundle: Bundle, metrics: dict[str, float], run_id: str) -> int:
        """Register a bundle as a new version with the challenger's alias.

        A bundle that is registered already (same fingerprint) keeps its version.

        Args:
            bundle: what to register.
            metrics: logged on the run.
            run_id: the MLflow run that trained it.
        """
        if (known := self.find(bundle.fingerprint)) is not None:
            self._client.set_registered_model_alias(self.model, CHALLENGER, str(known))
            return known
        self._log(run_id, bundle, metrics)
        source = self._save(run_id, bundle)
        self._ensure_model()
        version = self._client.create_model_version(
            self.model, source, run_id=run_id, tags={"fingerprint": bundle.fingerprint}
        )
        self._client.set_registered_model_alias(self.model, CHALLENGER, version.version)
        return int(version.version)

    def _log(self, run_id: str, bundle: Bundle, metrics: dict[str, float]) -> None:
        from mlflow.entities import Metric, Param

        values = [Metric(name, value, 0, 0) for name, value in metrics.items()]
        facts = {
            "candidate": bundle.candidate,
            "trained_from": f"{bundle.trained_from:%Y-%m-%d}",
            "trained_until": f"{bundle.trained_until:%Y-%m-%d}",
            "training_fingerprint": bundle.training_fingerprint,
            "bundle_fingerprint": bundle.fingerprint,
            "threshold": f"{bundle.threshold:.6f}",
        }
        self._client.log_batch(run_id, metrics=values, params=[Param(k, v) for k, v in facts.items()])

    def _save(self, run_id: str, bundle: Bundle) -> str:
        """Write the bundle as an MLflow model among the run's artifacts; returns its address."""
        import mlflow.pyfunc
        from mlflow.models import ModelSignature
        from mlflow.types import ColSpec, Schema
        from mlflow.types.schema import AnyType

        # pandas turns integers with gaps into floats; MLflow lets no float into 'long', and no int64 into 'double'.
        inputs: list[Any] = [
            ColSpec(
                AnyType() if f.nullable and f.type is FeatureType.integer else _PYFUNC_TYPE[f.type],
                f.name,
                required=not f.nullable,
            )
            for f in bundle.features
        ]
        outputs: list[Any] = [ColSpec("double", "probability"), ColSpec("long", "prediction")]
        with tempfile.TemporaryDirectory() as scratch:
            data = Path(scratch) / _FILES
            data.mkdir()
            for name, content in bundle.to_files().items():
                (data / name).write_bytes(content)
            target = Path(scratch) / _FOLDER
            mlflow.pyfunc.save_model(
                target,
                loader_module="selfheal_assets.stores.bundle_flavor",
                data_path=str(data),
                signature=ModelSignature(Schema(inputs), Schema(outputs)),
                pip_requirements=["selfheal"],
            )
            self._client.log_artifacts(run_id, str(target), _FOLDER)
        return f"{self._client.get_run(run_id).info.artifact_uri}/{_FOLDER}"

    def _ensure_model(self) -> None:
        from mlflow.exceptions import MlflowException

        try:
            self._client.create_registered_model(self.model, description=self._settings.case.title)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise

    def find(self, bundle_fingerprint: str) -> int | None:
        """Version of the bundle with this fingerprint, or ``None``."""
        found = self._client.search_model_versions(
            f"name = '{self.model}' and tags.fingerprint = '{bundle_fingerprint}'"
        )
        return min((int(v.version) for v in found), default=None)

    def aliased(self, alias: str) -> int | None:
        """Version that carries the alias, or ``None``."""
        from mlflow.exceptions import MlflowException

        try:
            return int(self._client.get_model_version_by_alias(self.model, alias).version)
        except MlflowException as error:
            if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                return None
            raise

    def champion(self) -> int | None:
        """Version of the production model, or ``None`` before the first promotion."""
        return self.aliased(CHAMPION)

    def load(self, version: int) -> Bundle:
        """The bundle of a version (kept in memory: a version never changes).

        Raises:
            NoSuchVersion: the registry does not have it.
        """
        if version not in self._bundles:
            self._bundles[version] = self.fetch(version)
        return self._bundles[version]

    def fetch(self, version: int) -> Bundle:
        """Like :meth:`load`, but always from the store."""
        import mlflow.artifacts

        from selfheal_assets.stores.bundle_flavor import read_bundle

        folder = mlflow.artifacts.download_artifacts(
            artifact_uri=self._source(version), tracking_uri=self._settings.tracking_uri
        )
        return read_bundle(Path(folder) / "data" / _FILES)

    def _source(self, version: int) -> str:
        """Where a version's bundle lies."""
        from mlflow.exceptions import MlflowException

        try:
            return self._client.get_model_version(self.model, str(version)).source
        except MlflowException as error:
            raise NoSuchVersion(f"model '{self.model}' has no version {version}: {error.message}") from error

    def load_champion(self) -> tuple[int, Bundle] | None:
        """Version and bundle of the production model, or ``None``."""
        version = self.champion()
        return None if version is None else (version, self.load(version))

    def tag(self, version: int, key: str, value: str) -> None:
        """Set a tag of a version."""
        self._client.set_model_version_tag(self.model, str(version), key, value)

    def tags(self, version: int) -> dict[str, str]:
        """All tags of a version."""
        return dict(self._client.get_model_version(self.model, str(version)).tags)

    def fingerprint(self, version: int) -> str:
        """Fingerprint of a version's bundle as it was registered: also of one that does not load."""
        return self.tags(version)["fingerprint"]

    def versions(self) -> list[dict[str, Any]]:
        """All versions, oldest first: ``version``, ``aliases``, ``fingerprint``, ``created_at`` (ms)."""
        found = self._client.search_model_versions(f"name = '{self.model}'")
        aliases = self._client.get_registered_model(self.model).aliases if found else {}
        return [
            {
                "version": int(v.version),
                "aliases": sorted(a for a, at in aliases.items() if int(at) == int(v.version)),
                "fingerprint": v.tags.get("fingerprint", ""),
                "created_at": v.creation_timestamp,
            }
            for v in sorted(found, key=lambda v: int(v.version))
        ]

    def name_predecessor(self, version: int) -> None:
        """Give ``version`` the predecessor's alias: who would come back if the champion were taken back."""
        self._client.set_registered_model_alias(self.model, PREDECESSOR, str(version))

    def move_champion(self, version: int) -> int | None:
        """Make ``version`` the production model; the one before keeps the predecessor's alias.

        The only place that moves the alias. Idempotent: moving to the champion changes nothing.

        Returns:
            The version that was champion before, or ``None``.

        Raises:
            NoSuchVersion: the registry does not have it; no alias was moved.
        """
        before = self.champion()
        if before == version:
            return before
        self.require(version)  # raises before the predecessor's alias, which goes first, has moved
        if before is not None:
            self.name_predecessor(before)
        self._client.set_registered_model_alias(self.model, CHAMPION, str(version))
        return before

    def require(self, version: int) -> None:
        """See that the registry has a version.

        Raises:
            NoSuchVersion: it does not.
        """
        self._source(version)
