"""Compiled decoders of the hot path: from a request's bytes to columns, for requests that are plainly valid.

A decoder either returns what the slow path's models (``schemas``) would have let through, or ``None``: then the
slow path judges the request and words the refusal. So it may be stricter than they are, never more lenient.
"""

import json
import math
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from selfheal_assets.core.spec import Feature, FeatureType
from selfheal_assets.serving.schemas import FLOAT32_MAX, INT64_MAX, MAX_ROWS, TEXT_LENGTH, as_moment
from selfheal_assets.stores.prediction_log import CaseColumns, with_ids
from selfheal_assets.use_case import UseCase

_Text = Annotated[str, Meta(min_length=1, max_length=TEXT_LENGTH)]


def _kind(feature: Feature) -> Any:
    kind: Any
    low, high = feature.min, feature.max
    if feature.type is FeatureType.category:
        kind = _Text if feature.values is None else Literal[feature.values]
    elif feature.type is FeatureType.number:
        bounds = Meta(ge=-FLOAT32_MAX if low is None else low, le=FLOAT32_MAX if high is None else high)
        kind = Annotated[float, bounds]
    else:
        bounds = Meta(
            ge=-INT64_MAX if low is None else math.ceil(low),
            le=INT64_MAX if high is None else math.floor(high),
        )
        kind = Annotated[int, bounds]
    return _or_missing(kind) if feature.nullable else kind


def _or_missing(kind: Any) -> Any:
    return kind | None | UnsetType


class CaseDecoder:
    """Decodes the bodies of ``/predict`` and ``/predict/batch`` of one use case."""

    def __init__(self, case: UseCase) -> None:
        self._names = case.feature_names
        texts = (f.name for f in case.features if f.type is FeatureType.category)
        self._texts = {"entity_id", "event_time", *texts}
        self._optional = {"entity_id", "event_time", *(f.name for f in case.features if f.nullable)}
        # Names of fields need not be Python's; their places in the tuple are what counts.
        names = {"_entity_id": "entity_id", "_event_time": "event_time"}
        fields: list[Any] = [(name, _or_missing(_Text), UNSET) for name in names]
        for i, f in enumerate(case.features):
            names[f"_{i}"] = f.name
            fields.append((f"_{i}", _kind(f), UNSET) if f.nullable else (f"_{i}", _kind(f)))
        one = msgspec.defstruct(
            "Case", fields, kw_only=True, rename=names, forbid_unknown_fields=True, gc=False
        )
        # kw_only puts required fields first
        self._order = [names[f.name] for f in msgspec.structs.fields(one)]
        self._single = msgspec.json.Decoder(one)
        many = Annotated[list[one], Meta(min_length=1, max_length=MAX_ROWS)]
        batch = msgspec.defstruct("Batch", [("cases", many)], forbid_unknown_fields=True)
        self._batch = msgspec.json.Decoder(batch)

    def single(self, body: bytes) -> CaseColumns | None:
        """The case of a body."""
        try:
            return self._decoded([self._single.decode(body)], body, 0)
        except (msgspec.DecodeError, ValueError):
            return None

    def batch(self, body: bytes) -> CaseColumns | None:
        """The cases of a batch's body."""
        try:
            batch: Any = self._batch.decode(body)
            return self._decoded(batch.cases, body, 2)
        except (msgspec.DecodeError, ValueError):
            return None

    def _decoded(self, cases: Sequence[Any], body: bytes, quotes: int) -> CaseColumns | None:
        rows = zip(*map(msgspec.structs.astuple, cases), strict=True)
        given = dict(zip(self._order, map(list, rows), strict=True))
        quotes += sum(self._quotes(name, values) for name, values in given.items())
        if b"\\" in body or body.count(b'"') != quotes:
            return None  # a field was given twice, or cannot be told from one that was
        for name in self._optional:
            given[name] = _plain(given[name])
        plain = {n: given[n] for n in ("entity_id", "event_time", *self._names)}
        times = [as_moment(t).isoformat() if t else None for t in plain.pop("event_time")]
        return CaseColumns(with_ids(plain.pop("entity_id")), times, plain)

    def _quotes(self, name: str, values: list[Any]) -> int:
        """Quotation marks that a field takes in JSON: two for its name where it is given, two for its text."""
        is_text, given = name in self._texts, len(values)
        if name not in self._optional:
            return (4 if is_text else 2) * given
        given -= values.count(UNSET)
        return 2 * given + (2 * (given - values.count(None)) if is_text else 0)


def _plain(values: list[Any]) -> list[Any]:
    return [None if v is UNSET else v for v in values] if UNSET in values else values


class _Object(dict[str, Any]):
    """A JSON object that remembers a key it was given twice."""

    twice: str | None = None


def _object(pairs: list[tuple[str, Any]]) -> _Object:
    made = _Object()
    for key, value in pairs:
        if key in made:
            made.twice = key
        made[key] = value
    return made


def duplicate_key(body: bytes) -> list[str | int] | None:
    """Path of a key that an object of the body gives twice, of which a parser would silently take the last."""
    try:
        return _path_of_duplicate(json.loads(body, object_pairs_hook=_object))
    except (ValueError, RecursionError):
        return None  # no JSON: the slow path says so


def _path_of_duplicate(value: Any) -> list[str | int] | None:
    if isinstance(value, _Object) and value.twice is not None:
        return [value.twice]
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in inner:
        if (path := _path_of_duplicate(item)) is not None:
            return [key, *path]
    return None
