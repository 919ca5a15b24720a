"""YAML text as plain JSON-like data, with the line of every key, for files that people write by hand.

Stricter than YAML where its freedom hides mistakes: only text, numbers, booleans, dates, lists and mappings,
each key once and a text, no value that means something else than it shows. What the keys mean belongs elsewhere.
"""

import json
import re
from typing import Any

import yaml

Location = tuple[str | int, ...]
_TAG = "tag:yaml.org,2002:"
_KINDS = {
    "null": "null",
    "bool": "a truth value",
    "int": "an integer",
    "float": "a number",
    "timestamp": "a date",
}
_TAGS = {_TAG + kind for kind in (*_KINDS, "str", "map", "seq")}
_LARGEST, _MOST_NODES = 2**63, 100_000


class YamlProblem(ValueError):
    """The text cannot be used: ``line`` (from 1, or None), ``key`` (dotted, may be empty), and what is wrong."""

    def __init__(self, line: int | None, location: Location, what: str) -> None:
        super().__init__(what)
        self.line, self.key = line, ".".join(map(str, location))


class _Loader(yaml.SafeLoader):
    """YAML 1.1, but ``1e6`` is a number, as in YAML 1.2 and as everybody means it."""


_Loader.add_implicit_resolver(
    _TAG + "float", re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


class YamlText:
    """A parsed document.

    Args:
        text: of one YAML document whose top is a mapping.

    Raises:
        YamlProblem: the text is not such a document; the first problem in it.
    """

    def __init__(self, text: str) -> None:
        loader = _Loader("")
        try:
            self._node = yaml.compose(text, Loader=_Loader)
            if not isinstance(self._node, yaml.MappingNode):
                raise YamlProblem(1, (), "must be a mapping of keys")
            _Checker(loader).check(self._node)
            self.document: dict[str, Any] = loader.construct_document(self._node)
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            what = getattr(error, "problem", None) or str(error).splitlines()[0]
            raise YamlProblem(mark.line + 1 if mark else None, (), f"not valid YAML: {what}") from error
        except RecursionError:
            raise YamlProblem(None, (), "lists or mappings are nested too deeply") from None

    def line_of(self, location: Location) -> int:
        """Line of the innermost node on ``location`` that exists in the document."""
        line, node = 1, self._node
        for key in location:
            found = _child(node, key)
            if found is None:
                return line
            line, node = found
        return line

    def as_json(self) -> str:
        """The document as JSON; dates are ISO 8601 text."""
        return json.dumps(self.document, default=str)


def _child(node: yaml.Node | None, key: str | int) -> tuple[int, yaml.Node] | None:
    """Line and node of one entry of a mapping or list."""
    if isinstance(node, yaml.MappingNode):
        pairs = ((k.start_mark.line + 1, v) for k, v in node.value if k.value == str(key))
        return next(pairs, None)
    if isinstance(node, yaml.SequenceNode) and isinstance(key, int) and key < len(node.value):
        return node.value[key].start_mark.line + 1, node.value[key]
    return None


class _Checker:
    """Raises the first problem of a document's nodes, and counts them: aliases of aliases can be billions."""

    def __init__(self, loader: yaml.SafeLoader) -> None:
        self.loader, self.seen = loader, 0

    def check(self, node: yaml.Node, location: Location = (), above: tuple[int, ...] = ()) -> None:
        """Check ``node``, which is at ``location`` inside the nodes ``above`` (by id)."""
        self.seen += 1
        if self.seen > _MOST_NODES:
            raise _problem(
                node, location, f"the file holds more than {_MOST_NODES:,} values, its aliases resolved"
            )
        if id(node) in above:
            raise _problem(node, location, "an alias (*) stands inside its own anchor (&)")
        if node.tag not in _TAGS:
            raise _problem(node, location, f"the tag {node.tag.replace(_TAG, '!!')} is not supported")
        above = (*above, id(node))
        if isinstance(node, yaml.MappingNode):
            _check_keys(node, location)
            for key, value in node.value:
                self.check(value, (*location, key.value), above)
        elif isinstance(node, yaml.SequenceNode):
            for number, value in enumerate(node.value):
                self.check(value, (*location, number), above)
        elif isinstance(node, yaml.ScalarNode):
            _check_scalar(node, location, self.loader)


def _check_keys(node: yaml.MappingNode, location: Location) -> None:
    """Each key is a text, given once: YAML keeps the last of two, so a limit would be lost."""
    seen = set()
    for key, _ in node.value:
        if not isinstance(key, yaml.ScalarNode):
            raise _problem(key, location, "a key must be a text, not a list or a mapping")
        where = (*location, key.value)
        if key.tag not in (_TAG + "str", _TAG + "merge"):
            kind = _KINDS.get(key.tag.replace(_TAG, ""), "something else")
            raise _problem(key, where, f"a key must be a text, but YAML reads {kind}: quote it")
        if key.value in seen:
            raise _problem(key, where, "given twice; keep one")
        _check_text(key, where)
        seen.add(key.value)


def _check_scalar(node: yaml.ScalarNode, location: Location, loader: yaml.SafeLoader) -> None:
    kind = node.tag.replace(_TAG, "")
    if kind == "str":
        return _check_text(node, location)
    if kind in ("int", "float") and ":" in node.value:
        what = f"YAML reads {node.value} as a number to the base 60: quote it if it is a text"
        raise _problem(node, location, what)
    try:
        value = loader.construct_object(node)
    except (ValueError, KeyError, AttributeError, OverflowError) as error:
        what = f"{_shown(node.value)} is not {_KINDS[kind]}{_cause(error)}"
        raise _problem(node, location, what) from error
    if isinstance(value, int) and abs(value) >= _LARGEST:
        raise _problem(node, location, f"{_shown(node.value)} is too large a number (below 2^63)")


def _check_text(node: yaml.ScalarNode, location: Location) -> None:
    """Refuse what no file, database or page could show: NUL and its like, and halves of characters."""
    bad = next((c for c in node.value if (c < " " and c not in "\t\n\r") or "\ud800" <= c <= "\udfff"), None)
    if bad is not None:
        raise _problem(node, location, f"holds the control character U+{ord(bad):04X}: remove it")


def _problem(node: yaml.Node, location: Location, what: str) -> YamlProblem:
    return YamlProblem(node.start_mark.line + 1, location, what)


def _shown(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:37]}…"


def _cause(error: Exception) -> str:
    """The error's own words where they tell a reader more: which part of a date is wrong."""
    text = str(error)
    return f": {text}" if isinstance(error, ValueError) and ("range" in text or "must be" in text) else ""
