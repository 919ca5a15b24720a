"""A declaration that somebody wrote as YAML text, as its typed model; an error names text, line and key.

Reading the file belongs to the caller; what may be declared is in ``spec`` and the modules that build on it.
"""

import re
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from selfheal_assets.core.yaml_text import YamlProblem, YamlText

# Pydantic speaks of JSON; the reader looks at YAML.
_WORDS = {
    "Input should be an object": "must be a mapping of keys",
    "Input should be a valid array": "must be a list",
    "Tuple should have": "the list should have",
    "Extra inputs are not permitted": "is not permitted: no such key",
}
_KEYS = re.compile(r"\w+(\.\w+)*")
Declared = TypeVar("Declared", bound=BaseModel)


class Misdeclared(ValueError):
    """The text is no such declaration; the message has a line for each problem."""


def read_yaml(text: str, where: str, help_page: str) -> YamlText:
    """The text as YAML.

    Args:
        text: of one YAML document.
        where: names it in errors, such as its path.
        help_page: where a reader finds what may be declared.

    Raises:
        Misdeclared: it is not valid YAML, or not a mapping.
    """
    try:
        return YamlText(text)
    except YamlProblem as error:
        place = f"{where}, line {error.line}" if error.line else where
        what = f"{error.key}: {error}" if error.key else f"{error}; see {help_page}"
        raise Misdeclared(f"{place}: {what}") from error


def as_model(text: YamlText, model: type[Declared], where: str) -> Declared:
    """The document as a model.

    Raises:
        Misdeclared: a key is unknown or missing, or a value cannot be used.
    """
    try:
        # As JSON, strict: '600' and true are no numbers, 0 is no boolean.
        return model.model_validate_json(text.as_json(), strict=True)
    except ValidationError as error:
        told = [_told(where, text, problem) for problem in error.errors()]
        raise Misdeclared("\n".join(told)) from error


def _told(where: str, text: YamlText, problem: Any) -> str:
    """One of pydantic's errors as ``file, line, key: what``."""
    message = problem["msg"].removeprefix("Value error, ")
    location, node = _location(problem["loc"], text.document)
    named, _, rest = message.partition(": ")
    # A rule over a whole model has no key of its own: it is the dotted one that its message begins with.
    if problem["type"] == "value_error" and isinstance(node, dict) and rest and _KEYS.fullmatch(named):
        message = rest
        if location[-1:] != [named]:
            location += [int(part) if part.isdigit() else part for part in named.split(".")]
    if problem["input"] is None:
        message = "is empty: give it a value, or remove the key"
    for theirs, ours in _WORDS.items():
        message = message.replace(theirs, ours)
    return f"{where}, line {text.line_of(tuple(location))}: {'.'.join(map(str, location))}: {message}"


def _location(parts: tuple[Any, ...], document: Any) -> tuple[list[Any], Any]:
    """Where an error is, and what is there: pydantic's location without the names of a union's members."""
    location, node = [], document
    for part in parts:
        if isinstance(node, dict) and part not in node and node.get("kind") == part:
            continue
        location.append(part)
        if isinstance(node, dict):
            node = node.get(part)
        elif isinstance(node, list):
            node = node[part] if part < len(node) else None
    return location, node
