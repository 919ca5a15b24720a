"""Fingerprints: short, stable names for contents, so that a rerun with the same inputs can say so."""

import hashlib
import json
from typing import Any

import polars as pl

LENGTH = 16


def of_bytes(*parts: bytes) -> str:
    """Fingerprint of the concatenation of ``parts``, each prefixed with its length."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return digest.hexdigest()[:LENGTH]


def of_value(value: Any) -> str:
    """Fingerprint of a JSON-like value; keys are sorted, dates and paths written as text."""
    return of_bytes(json.dumps(value, sort_keys=True, default=str, separators=(",", ":")).encode())


def of_frame(frame: pl.DataFrame, by: list[str]) -> str:
    """Fingerprint of a frame's columns, types and rows; rows are ordered by ``by`` first (a unique key)."""
    ordered = frame.select(sorted(frame.columns)).sort(by)
    types = {name: str(dtype) for name, dtype in ordered.schema.items()}
    return of_bytes(json.dumps(types).encode(), ordered.write_csv().encode())
