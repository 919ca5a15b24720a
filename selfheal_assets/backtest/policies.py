"""The policies that a backtest compares: what each is allowed to see and when it trains and deploys."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from selfheal_assets.core.backtest import NEVER, ON_DRIFT, ORACLE, SELFHEAL
from selfheal_assets.use_case import UseCase


class PolicyError(ValueError):
    """A policy file cannot be used; says which key is wrong and how to mend it."""


class Kind(StrEnum):
    """How a policy decides.

    ``never`` keeps the first model. ``every`` retrains at fixed intervals, ``on_drift`` at the end of each chunk with
    a drift alarm; both deploy what they train, without a gate. ``gated`` is the loop. ``oracle`` retrains at the end
    of each chunk on the labels that were known in the end.
    """

    never = "never"
    every = "every"
    on_drift = "on_drift"
    gated = "gated"
    oracle = "oracle"


@dataclass(frozen=True)
class BacktestPolicy:
    """One policy.

    Attributes:
        name: in the tables.
        kind: how it decides.
        case: its variant of the use case.
        every: chunks between trainings, of ``Kind.every``.
        looked_at_after: so many chunks after a fault first held a training set, somebody has looked at it and finds
            that it is how things are; ``None``: nobody ever looks. Of ``Kind.gated``, the only one that holds any.
    """

    name: str
    kind: Kind
    case: UseCase
    every: int = 0
    looked_at_after: int | None = None


def standard_policies(
    case: UseCase, every: int = 4, looked_at_after: int | None = None
) -> tuple[BacktestPolicy, ...]:
    """The five that are always compared: never, every so many chunks, on drift, the use case's own, the oracle."""
    return (
        BacktestPolicy(NEVER, Kind.never, case),
        BacktestPolicy(f"every {every} {case.monitoring.chunk}s", Kind.every, case, every),
        BacktestPolicy(ON_DRIFT, Kind.on_drift, case),
        BacktestPolicy(SELFHEAL, Kind.gated, case, looked_at_after=looked_at_after),
        BacktestPolicy(ORACLE, Kind.oracle, case),
    )


def policies_from(
    case: UseCase, files: Iterable[Path], looked_at_after: int | None = None
) -> tuple[BacktestPolicy, ...]:
    """Policies of files: YAML with ``policy`` and ``training`` as in a use case, over those of the use case.

    Raises:
        PolicyError: a file cannot be read, what it says does not fit the use case, or its name is taken.
    """
    files = list(files)
    names = [p.name for p in standard_policies(case)] + [f.stem for f in files]
    if taken := next((f for f in files if names.count(f.stem) > 1), None):
        raise PolicyError(
            f"{taken}: there is another policy called '{taken.stem}': give the file another name"
        )
    return tuple(
        BacktestPolicy(file.stem, Kind.gated, varied(case, file), looked_at_after=looked_at_after)
        for file in files
    )


def varied(case: UseCase, file: Path) -> UseCase:
    """The use case with a file's keys of ``policy`` and ``training`` in place of its own.

    Raises:
        PolicyError: see :func:`policies_from`.
    """
    try:
        given = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    except (OSError, yaml.YAMLError) as error:
        raise PolicyError(f"{file}: cannot be read as YAML: {error}") from error
    if not isinstance(given, dict) or not given or set(given) - {"policy", "training"}:
        raise PolicyError(f"{file}: give 'policy' and 'training' as in a use case, and nothing else")
    try:
        return UseCase.model_validate(_merged(case.model_dump(mode="json", exclude_unset=True), given))
    except ValidationError as error:
        first = error.errors()[0]
        raise PolicyError(f"{file}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error


def _merged(ours: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """``given`` over ``ours``, key by key."""
    merged = dict(ours)
    for key, value in given.items():
        both = isinstance(value, dict) and isinstance(ours.get(key), dict)
        merged[key] = _merged(ours[key], value) if both else value
    return merged
