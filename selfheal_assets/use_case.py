"""A use case: one YAML file that describes a model in production. Everything else follows from it.

Only reading and validating the declaration belongs here; what the declaration may hold is
``core.spec``. An error names the file, the line and the key.
"""

from datetime import date
from pathlib import Path
from typing import Annotated, Any, Self

import yaml
from pydantic import Field, ValidationError, model_validator

from selfheal_assets.core import fingerprint
from selfheal_assets.core.spec import (
    Feature,
    FeatureType,
    LabelSpec,
    Monitoring,
    Period,
    Policy,
    Segment,
    Serving,
    Spec,
    Training,
)

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
    paths: Annotated[tuple[str, ...], Field(min_length=1)]
    full_paths: tuple[str, ...] = ()
    columns: dict[str, str] = Field(default_factory=dict)
    help: str = ""


class UseCase(Spec):
    """A tabular classifier in production. See docs/use_cases.md for every key."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
    title: str
    description: str = ""
    source: Source
    entity_id: str
    event_time: str
    go_live: date
    features: Annotated[tuple[Feature, ...], Field(min_length=1)]
    label: LabelSpec
    segments: tuple[Segment, ...] = ()
    reference: Period
    monitoring: Monitoring = Monitoring()
    compared: Period | None = None
    policy: Policy = Policy()
    serving: Serving = Serving()
    training: Training = Training()

    @model_validator(mode="after")
    def _is_sound(self) -> Self:
        names = [f.name for f in self.features]
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
        for s in self.segments:
            if s.feature not in names:
                raise ValueError(f"segments: '{s.name}' uses '{s.feature}', which is not a feature")
            if self.feature(s.feature).type is not FeatureType.category and not s.cuts:
                raise ValueError(f"segments: '{s.name}' is over a number: give 'cuts'")
        if self.reference.end > self.go_live:
            raise ValueError(
                f"reference: ends {self.reference.end}, after go_live {self.go_live}; the first model is "
                "judged on cases before it goes live"
            )
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


def _line_of(node: yaml.Node | None, location: tuple[Any, ...]) -> int:
    """Line of the innermost node on ``location`` that exists in the document."""
    line = 1
    for key in location:
        if isinstance(node, yaml.MappingNode):
            found = next(((k, v) for k, v in node.value if k.value == str(key)), None)
            if found is None:
                return line
            line, node = found[0].start_mark.line + 1, found[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(key, int) and key < len(node.value):
            child: Any = node.value[key]
            line, node = child.start_mark.line + 1, child
        else:
            return line
    return line


def _repeated_key(node: yaml.Node | None) -> tuple[str, int] | None:
    """A key given twice in one mapping, and its line: YAML keeps the last, so a limit would be lost."""
    pairs = node.value if isinstance(node, yaml.MappingNode) else []
    seen = set()
    for key, _ in pairs:
        if key.value in seen:
            return key.value, key.start_mark.line + 1
        seen.add(key.value)
    children = [v for _, v in pairs] or (node.value if isinstance(node, yaml.SequenceNode) else [])
    return next((found for child in children if (found := _repeated_key(child))), None)


def _location_of(error: Any) -> tuple[Any, ...]:
    """Where an error is: pydantic's location, or the key that a whole-model rule names first."""
    if error["loc"]:
        return error["loc"]
    return (error["msg"].removeprefix("Value error, ").split(":")[0],)


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
        text = path.read_text(encoding="utf-8")
        document = yaml.safe_load(text)
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except UnicodeDecodeError as error:
        raise UseCaseError(f"{path}: not UTF-8 text: {error}") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}, line {mark.line + 1}" if mark else str(path)
        raise UseCaseError(f"{where}: not valid YAML: {getattr(error, 'problem', error)}") from error
    if not isinstance(document, dict):
        raise UseCaseError(f"{path}, line 1: a use case is a mapping of keys; see docs/use_cases.md")
    if twice := _repeated_key(node):
        raise UseCaseError(f"{path}, line {twice[1]}: {twice[0]}: given twice; keep one")
    for dotted, value in (policy_overrides or {}).items():
        if value is not None:
            _override(document, dotted.split("."), value)
    try:
        return UseCase.model_validate(document)
    except ValidationError as error:
        problems = []
        for problem in error.errors():
            location = _location_of(problem)
            key = ".".join(map(str, problem["loc"])) or str(location[0])
            message = problem["msg"].removeprefix("Value error, ").removeprefix(f"{key}: ")
            problems.append(f"{path}, line {_line_of(node, location)}: {key}: {message}")
        raise UseCaseError("\n".join(problems)) from error


def _override(document: dict[str, Any], keys: list[str], value: Any) -> None:
    for key in keys[:-1]:
        if not isinstance(document.setdefault(key, {}), dict):
            return  # malformed: the validation that follows says so, and where
        document = document[key]
    document[keys[-1]] = value
