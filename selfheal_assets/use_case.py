"""A use case: one YAML file that describes a model in production. Everything else follows from it.

Only reading and validating the declaration belongs here; what the declaration may hold is
``core.spec`` and ``core.policies``. An error names the file, the line and the key.
"""

from pathlib import Path
from typing import Annotated, Any, Self, TypeVar

from pydantic import Field, model_validator

from selfheal_assets.core import fingerprint
from selfheal_assets.core.declared import Misdeclared, as_model, read_yaml
from selfheal_assets.core.evidence_policy import DriftAlarms, HarmAlarms
from selfheal_assets.core.periods import add_months, chunk_end, chunk_start, midnight
from selfheal_assets.core.policies import Policy
from selfheal_assets.core.spec import (
    ChunkPeriod,
    Day,
    Feature,
    FeatureType,
    LabelSpec,
    Monitoring,
    Name,
    Period,
    Segment,
    Serving,
    Spec,
    Text,
    Training,
)

_CHUNKS_PER_YEAR = {"day": 365, "week": 52, "month": 12, "quarter": 4}
SHIPPED = Path(__file__).parent / "use_cases"


class UseCaseError(ValueError):
    """The use case cannot be used; the message says where and what to change."""


class Source(Spec):
    """Where the cases come from.

    ``reader`` is ``table`` (CSV or Parquet with one row per case) or the name of a module in
    ``stores.sources``. ``paths`` are tried in order, relative to the project; ``full_paths`` replace them
    under ``--full``. ``columns`` renames: our name to the file's. ``help`` is printed when no file is there.
    """

    reader: str = "table"
    paths: Annotated[tuple[Text, ...], Field(min_length=1)]
    full_paths: tuple[Text, ...] = ()
    columns: dict[str, str] = Field(default_factory=dict)
    help: str = ""


AnyAlarms = TypeVar("AnyAlarms", DriftAlarms, HarmAlarms)


def _per_year(alarms: AnyAlarms, key: str, chunk: ChunkPeriod) -> AnyAlarms:
    given = key in alarms.model_fields_set
    return alarms if given else alarms.model_copy(update={key: _CHUNKS_PER_YEAR[chunk]})


class UseCase(Spec):
    """A tabular classifier in production. See docs/use_cases.md for every key."""

    name: Name
    title: Text
    description: str = ""
    source: Source
    entity_id: Text
    event_time: Text
    go_live: Day
    features: Annotated[tuple[Feature, ...], Field(min_length=1)]
    label: LabelSpec
    segments: tuple[Segment, ...] = ()
    reference: Period
    monitoring: Monitoring = Monitoring()
    compared: Period | None = None
    policy: Policy = Policy()
    serving: Serving = Serving()
    training: Training = Training()

    @property
    def drift_alarms(self) -> DriftAlarms:
        """The policy's drift alarms, a year having as many chunks as their length says, unless the policy does."""
        return _per_year(self.policy.drift, "chunks_per_year", self.monitoring.chunk)

    @property
    def harm_alarms(self) -> HarmAlarms:
        """The policy's alarms of harm, likewise."""
        return _per_year(self.policy.harm, "horizon_chunks", self.monitoring.chunk)

    @model_validator(mode="after")
    def _columns_are_sound(self) -> Self:
        keys = {"entity_id": self.entity_id, "event_time": self.event_time}
        keys |= {"label": self.label.positive_at or self.label.column or ""}
        keys |= {"label.recorded_at": self.label.recorded_at} if self.label.recorded_at else {}
        for key, column in keys.items():
            if list(keys.values()).count(column) > 1:
                same = " and ".join(k for k, c in keys.items() if c == column)
                raise ValueError(f"{key}: '{column}' cannot be {same} at once")
        ours = [*keys.values(), *self.feature_names]
        if unknown := sorted(set(self.source.columns) - set(ours)):
            raise ValueError(
                f"source.columns: '{unknown[0]}' is no column of this use case (our name: the file's); ours are "
                f"{', '.join(ours)}"
            )
        return self

    @model_validator(mode="after")
    def _features_are_sound(self) -> Self:
        names = self.feature_names
        if twice := sorted({n for n in names if names.count(n) > 1}):
            raise ValueError(f"features: declared twice: {', '.join(twice)}")
        # Under our names and under the file's: renaming must not smuggle the outcome in as a feature.
        outcome = self.label.outcome_columns
        outcome |= {self.source.columns.get(c, c) for c in outcome}
        for f in self.features:
            column = self.source.columns.get(f.name, f.name)
            if f.known_at == "outcome" or {f.name, column} & outcome:
                raise ValueError(
                    f"features: '{f.name}' is only known after the outcome, so a model that uses it would "
                    "see the future: remove it from 'features'"
                )
            if f.name in (self.entity_id, self.event_time):
                raise ValueError(f"features: '{f.name}' is the entity id or the event time, not a feature")
        return self

    @model_validator(mode="after")
    def _segments_are_sound(self) -> Self:
        names = [s.name for s in self.segments]
        if twice := sorted({n for n in names if names.count(n) > 1}):
            raise ValueError(f"segments: declared twice: {', '.join(twice)}")
        for s in self.segments:
            if s.feature not in self.feature_names:
                raise ValueError(f"segments: '{s.name}' uses '{s.feature}', which is not a feature")
            is_category = self.feature(s.feature).type is FeatureType.category
            if is_category and s.cuts is not None:
                raise ValueError(f"segments: '{s.name}' is over a category: 'cuts' are for numbers")
            if not is_category and not s.cuts:
                raise ValueError(f"segments: '{s.name}' is over a number: give 'cuts'")
        return self

    @model_validator(mode="after")
    def _reference_is_sound(self) -> Self:
        start, end, live = (midnight(d) for d in (self.reference.start, self.reference.end, self.go_live))
        if end > live:
            raise ValueError(
                f"reference.end: {self.reference.end} is after go_live {self.go_live}; the first model is judged "
                "on cases before it goes live"
            )
        months, latest = self.label.horizon_months, add_months(live, -self.label.horizon_months)
        if end > latest:
            raise ValueError(
                f"reference.end: {self.reference.end} is too late: the first model is judged on the reference, "
                f"whose labels take label.horizon_months = {months}, and it goes live on {self.go_live}: at most "
                f"{latest:%Y-%m-%d}"
            )
        if end < chunk_end(start, self.monitoring.chunk):
            raise ValueError(
                f"reference.end: the reference is shorter than one {self.monitoring.chunk} "
                "(monitoring.chunk); a chunk cannot be judged by less than it holds itself"
            )
        return self

    @model_validator(mode="after")
    def _family_fits_the_evidence(self) -> Self:
        if "maturity_aware" not in self.training.family:
            return self
        if self.policy.gates.evidence == "matured":
            raise ValueError(
                "training.family: 'maturity_aware' learns from cases that are not mature, so gates that wait for "
                "matured labels have no later ones to judge it on: say 'evidence: partial' in policy.gates, or "
                "remove it here"
            )
        months, horizon = self.training.gate_months, self.label.horizon_months
        if months >= horizon:
            raise ValueError(
                f"training.gate_months: the newest {months} months are the gates', and what is older than "
                f"label.horizon_months = {horizon} is mature: nothing is left for 'maturity_aware' to learn from; "
                f"at most {horizon - 1}"
            )
        return self

    @model_validator(mode="after")
    def _later_periods_are_sound(self) -> Self:
        until, chunk = self.monitoring.until, self.monitoring.chunk
        first = chunk_start(midnight(self.go_live), chunk)
        if until and midnight(until) < chunk_end(first, chunk):
            raise ValueError(
                f"monitoring.until: {until} is before the end of the first {chunk} from go_live {self.go_live} on, "
                f"so nothing would be monitored: at least {chunk_end(first, chunk):%Y-%m-%d}"
            )
        if self.compared and self.compared.start < self.go_live:
            raise ValueError(
                f"compared.start: {self.compared.start} is before go_live {self.go_live}; only what was answered "
                "in production can be compared"
            )
        if self.compared and until and self.compared.end > until:
            raise ValueError(f"compared.end: {self.compared.end} is after monitoring.until {until}")
        return self

    def feature(self, name: str) -> Feature:
        """The feature of that name."""
        return next(f for f in self.features if f.name == name)

    @property
    def feature_names(self) -> list[str]:
        """Feature names in the declared order, which is the model's."""
        return [f.name for f in self.features]

    @property
    def fingerprint(self) -> str:
        """Names the declaration's contents."""
        return fingerprint.of_value(self.model_dump(mode="json"))


def _find(name_or_path: str) -> Path:
    is_path = name_or_path.endswith((".yaml", ".yml"))
    path = Path(name_or_path) if is_path else SHIPPED / f"{name_or_path}.yaml"
    if not path.is_file():
        shipped = ", ".join(sorted(p.stem for p in SHIPPED.glob("*.yaml")))
        raise UseCaseError(
            f"no use case '{name_or_path}': {path} does not exist. Shipped: {shipped}; or set "
            "SELFHEAL_USE_CASE to the path of a .yaml file"
        )
    return path


def load_use_case(name_or_path: str, policy_overrides: dict[str, Any] | None = None) -> UseCase:
    """Read a use case by its shipped name or by path.

    Args:
        name_or_path: ``sba_loans``, or a path that ends in ``.yaml``.
        policy_overrides: values by dotted key (``policy.gates.min_rows``) that replace the file's; ``None``
            values are ignored.

    Raises:
        UseCaseError: the file is missing or malformed; names file, line and key.
    """
    path = _find(name_or_path)
    try:
        text = read_yaml(path.read_text(encoding="utf-8"), str(path), "docs/use_cases.md")
        for dotted, value in (policy_overrides or {}).items():
            if value is not None:
                _override(text.document, dotted.split("."), value)
        return as_model(text, UseCase, str(path))
    except UnicodeDecodeError as error:
        raise UseCaseError(f"{path}: not UTF-8 text: {error}") from error
    except Misdeclared as error:
        raise UseCaseError(str(error)) from error


def _override(document: dict[str, Any], keys: list[str], value: Any) -> None:
    for key in keys[:-1]:
        if not isinstance(document.setdefault(key, {}), dict):
            return  # malformed: the validation that follows says so, and where
        document = document[key]
    document[keys[-1]] = value
