"""One installation's settings: the only reader of the environment.

Where things are, which use case runs, and the overrides that operators know. What the model is and which
limits apply belongs to the use case.
"""

import getpass
import os
import re
import shutil
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from selfheal_assets.core.periods import in_utc
from selfheal_assets.core.spec import ChunkPeriod
from selfheal_assets.use_case import UseCase, load_use_case

ENVIRONMENT = {
    "DO_NOT_TRACK": "1",
    "DBT_SEND_ANONYMOUS_USAGE_STATS": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "NML_DISABLE_USAGE_LOGGING": "1",
    "DAGSTER_DISABLE_TELEMETRY": "yes",
    # XGBoost's idle threads would spin and starve whatever else runs on a small machine.
    "OMP_WAIT_POLICY": "passive",
}


_EMAIL = re.compile(r"[\w.+-]+@[\w-]+(\.[\w-]+)*\.[A-Za-z]{2,}")


def prepare_environment() -> None:
    """Keep Dagster, dbt, MLflow and NannyML from calling anybody, and XGBoost from busy waiting.

    What an operator has set is kept. Must run before those libraries are imported; every entry point does so.
    """
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)


def share_metrics(folder: Path) -> None:
    """Let the worker processes that are started from now on share their metrics through ``folder``, emptied first.

    Must run before ``prometheus_client`` is imported in the process that is to share.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(folder)


def _project_root() -> Path:
    """The checkout that holds the package, or the working directory for an installed package."""
    root = Path(__file__).resolve().parent.parent
    return root if (root / "pyproject.toml").is_file() else Path.cwd()


class SettingsError(ValueError):
    """The environment cannot be used; the message names the variable and what to change."""


def read_settings(**values: Any) -> "Settings":
    """The settings, with ``values`` in place of the environment's.

    Raises:
        SettingsError: a variable's value cannot be used.
    """
    try:
        return Settings(**values)
    except ValidationError as error:
        wrong = []
        for problem in error.errors():
            field = str(problem["loc"][0])
            name = field if field.isupper() else f"SELFHEAL_{field.upper()}"
            wrong.append(f"{name}={problem['input']}: {problem['msg'].removeprefix('Value error, ')}")
        raise SettingsError("; ".join(wrong)) from error


def _require_writable(variable: str, folder: Path) -> None:
    """Make the folder where it is missing, and try to write into it."""
    probe = folder / f".writable.{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise SettingsError(
            f"{variable}: cannot write into {folder} ({error.strerror or error}): set {variable} to a folder that "
            "you may write to"
        ) from error


class Settings(BaseSettings):
    """Read from ``SELFHEAL_*`` and a few names that operators know from MLflow and monitoring tools."""

    model_config = SettingsConfigDict(
        env_prefix="SELFHEAL_", frozen=True, extra="ignore", populate_by_name=True, env_ignore_empty=True
    )

    use_case: str = "sba_loans"
    home: Path | None = None
    project: Path = Field(default_factory=_project_root)
    as_of: datetime | None = None
    full: bool = False
    lock_timeout_s: float = 120.0
    idempotency_hours: Annotated[float, Field(gt=0, le=24 * 3660)] = 24.0
    dead_letter_days: Annotated[float, Field(gt=0)] = 365.0
    mlflow_tracking_uri: str | None = Field(default=None, validation_alias="MLFLOW_TRACKING_URI")
    monitoring_interval: ChunkPeriod | None = Field(default=None, validation_alias="MONITORING_INTERVAL")
    monitoring_lookback: int | None = Field(default=None, validation_alias="MONITORING_LOOKBACK")
    min_f1_improvement_pct: float | None = Field(default=None, validation_alias="MIN_F1_IMPROVEMENT_PCT")
    max_brier_degradation: float | None = Field(default=None, validation_alias="MAX_BRIER_DEGRADATION")
    min_samples_for_decision: int | None = Field(default=None, validation_alias="MIN_SAMPLES_FOR_DECISION")
    durability: Literal["fsync", "os", "none"] = "fsync"
    api_keys: Path | None = None
    rate_limit: str | None = None
    metrics_open: bool = False
    docs_open: bool = False
    metrics_folder: Path | None = Field(default=None, validation_alias="PROMETHEUS_MULTIPROC_DIR")
    log_format: Literal["json", "text"] = "json"
    access_log: Literal["all", "quiet", "off"] = "quiet"
    slow_request_s: float = Field(default=1.0, gt=0)
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        default="INFO", validation_alias="LOG_LEVEL"
    )

    owners: str = "team:ml-platform"
    notify_webhook: str | None = None
    notify_slack: str | None = None
    notify_email: str | None = None
    notify_from: str = "selfheal@localhost"
    smtp_url: str = "smtp://localhost:25"

    @field_validator("notify_webhook", "notify_slack")
    @classmethod
    def _is_http(cls, value: str | None) -> str | None:
        if value is not None and not value.startswith(("http://", "https://")):
            raise ValueError("give a URL that begins with https:// or http://")
        return value

    @field_validator("smtp_url")
    @classmethod
    def _is_smtp(cls, value: str) -> str:
        if not value.startswith(("smtp://", "smtps://")):
            raise ValueError(
                "give smtp://user:password@host:port, or smtps:// where the server speaks TLS at once"
            )
        return value

    @field_validator("owners")
    @classmethod
    def _are_owners(cls, value: str) -> str:
        names = [name.strip() for name in value.split(",")]
        if wrong := [
            n for n in names if not (n.startswith("team:") and len(n) > 5) and not _EMAIL.fullmatch(n)
        ]:
            raise ValueError(
                f"'{wrong[0]}' owns nothing: give team:NAME or an e-mail address, parted by commas"
            )
        return ",".join(names)

    @field_validator("rate_limit")
    @classmethod
    def _is_a_rate(cls, value: str | None) -> str | None:
        from limits import parse

        try:
            fits = value is None or parse(value).amount > 0
        except ValueError:
            fits = False
        if not fits:
            raise ValueError(
                f"'{value}' is no rate: give a number per second, minute, hour or day, as 600/minute"
            )
        return value

    @cached_property
    def case(self) -> UseCase:
        """The use case with the operators' overrides applied."""
        return load_use_case(
            self.use_case,
            {
                "monitoring.chunk": self.monitoring_interval,
                "monitoring.lookback": self.monitoring_lookback,
                "policy.gates.min_improvement_pct": self.min_f1_improvement_pct,
                "policy.gates.max_brier_degradation": self.max_brier_degradation,
                "policy.gates.min_rows": self.min_samples_for_decision,
            },
        )

    @property
    def use_case_folder(self) -> Path | None:
        """Where the use case's file is, unless it is one of those that are shipped."""
        path = Path(self.use_case)
        return path.parent if path.suffix in (".yaml", ".yml") else None

    @cached_property
    def root(self) -> Path:
        """Folder that holds everything this use case's runs write."""
        return self._base / (f"{self.case.name}_full" if self.full else self.case.name)

    @property
    def backtests(self) -> Path:
        """Folder of the backtests, beside those of the use cases."""
        return self._base / "backtests"

    @property
    def _base(self) -> Path:
        return (self.home or self.project / "data" / "run").resolve()

    def require_home(self) -> None:
        """See that runs can write, before they do half of their work.

        Raises:
            SettingsError: ``root`` cannot be made or written to; names SELFHEAL_HOME.
        """
        _require_writable("SELFHEAL_HOME", self.root)

    def require_dagster_home(self) -> None:
        """As :meth:`require_home`, for Dagster's storage too; names DAGSTER_HOME where that is another folder."""
        self.require_home()
        _require_writable("DAGSTER_HOME", self.dagster_home)

    @property
    def warehouse_path(self) -> Path:
        """The DuckDB file. One process writes it at a time."""
        return self.root / "warehouse.duckdb"

    @property
    def published(self) -> Path:
        """Snapshots that the API, reports and dashboards read."""
        return self.root / "published"

    @property
    def prediction_log(self) -> Path:
        """Segments that the API appends and Dagster ingests."""
        return self.root / "prediction_log"

    @property
    def api_keys_path(self) -> Path:
        """The file of the API keys; without one, the service is open."""
        return self.api_keys or self.root / "api_keys.json"

    @property
    def label_landing(self) -> Path:
        """Folder into which label files are dropped."""
        return self.root / "labels"

    @property
    def champion_failures(self) -> Path:
        """What services found wrong with a champion that they took up; the loop reads it."""
        return self.root / "champion_failures"

    @property
    def reports(self) -> Path:
        """HTML reports."""
        return self.root / "reports"

    @property
    def replay_state(self) -> Path:
        """What a replay remembers between its legs."""
        return self.root / "replay_state.json"

    @property
    def dagster_home(self) -> Path:
        """Dagster's own storage for ``selfheal replay`` and ``selfheal dev``."""
        return Path(os.environ.get("DAGSTER_HOME") or self.root / "dagster")

    @property
    def tracking_uri(self) -> str:
        """MLflow's tracking and registry store: a server if one is named, else SQLite beside the warehouse."""
        return self.mlflow_tracking_uri or f"sqlite:///{self.root / 'mlflow.db'}"

    @property
    def artifact_root(self) -> Path:
        """Where MLflow keeps bundles when it runs on SQLite."""
        return self.root / "mlflow_artifacts"

    @staticmethod
    def wall_clock() -> datetime:
        """The time it is, naive UTC."""
        return datetime.now(UTC).replace(tzinfo=None)

    @property
    def user(self) -> str:
        """Who acts: the account that this process runs under."""
        try:
            return getpass.getuser()
        except (KeyError, OSError):  # an account without a name, as in a container
            return f"uid {os.getuid()}"

    def now(self) -> datetime:
        """The time that decisions are taken at, naive UTC.

        ``SELFHEAL_AS_OF`` if set, else the wall clock; a use case whose history is over stands at its end.
        """
        if self.as_of:
            return in_utc(self.as_of)
        until = self.case.monitoring.until
        over = datetime.combine(until, datetime.min.time()) if until else None
        return min(over, self.wall_clock()) if over else self.wall_clock()
