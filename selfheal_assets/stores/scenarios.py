"""Scenario files: YAML shipped with the package, or the user's own, as typed scenarios.

Only finding and reading them belongs here; what a scenario may hold is ``core.scenario``.
"""

from collections.abc import Collection
from pathlib import Path

from selfheal_assets.core.declared import Misdeclared, as_model, read_yaml
from selfheal_assets.core.random_scenario import RANDOM, random_scenario
from selfheal_assets.core.scenario import Scenario

SHIPPED = Path(__file__).parent.parent / "scenarios"


class ScenarioError(ValueError):
    """The scenario cannot be used; the message says where and what to change."""


def shipped() -> dict[str, Scenario]:
    """The scenarios of the library, by name."""
    return {path.stem: _read(path) for path in sorted(SHIPPED.glob("*.yaml"))}


def load_scenario(name_or_path: str, seed: int | None = None, without: Collection[str] = ()) -> Scenario:
    """A scenario of the library, of a file, or, for ``random``, drawn from the seed.

    Args:
        name_or_path: a name such as ``mixed``, a path that ends in ``.yaml``, or ``random``.
        seed: in place of the scenario's own.
        without: kinds of events that ``random`` must not draw.

    Raises:
        ScenarioError: there is no such scenario, or the file is malformed; names file, line and key.
    """
    if name_or_path == RANDOM:
        return random_scenario(seed or 0, without)
    is_path = name_or_path.endswith((".yaml", ".yml"))
    path = Path(name_or_path) if is_path else SHIPPED / f"{name_or_path}.yaml"
    if not path.is_file():
        known = ", ".join([*sorted(p.stem for p in SHIPPED.glob("*.yaml")), RANDOM])
        what = f"{path} does not exist" if is_path else "it is not in the library"
        raise ScenarioError(
            f"no scenario '{name_or_path}': {what}. There are {known}; or give a path that ends in .yaml"
        )
    scenario = _read(path)
    return scenario if seed is None else scenario.model_copy(update={"seed": seed})


def _read(path: Path) -> Scenario:
    try:
        text = read_yaml(path.read_text(encoding="utf-8"), str(path), "docs/simulation.md")
        return as_model(text, Scenario, str(path))
    except UnicodeDecodeError as error:
        raise ScenarioError(f"{path}: not UTF-8 text: {error}") from error
    except Misdeclared as error:
        raise ScenarioError(str(error)) from error
