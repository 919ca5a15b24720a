"""Dead letters: what was refused of a request whose rest was taken, kept with its reason for whoever mends it."""

import json
import math
import os
import threading
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from selfheal_assets.stores.durable import sync_folder

MAX_BYTES = 64_000_000
_MAX_DEPTH = 20


class DeadLetters:
    """Appends refused rows to JSON Lines in a folder. Safe to share between threads; processes write files each.

    Args:
        folder: is made with the first letter.
        max_bytes: a file that has reached this size is followed by another.
    """

    def __init__(self, folder: Path, max_bytes: int = MAX_BYTES) -> None:
        self.folder = folder
        self._max_bytes = max_bytes
        self._mutex = threading.Lock()
        self._path: Path | None = None

    def append(self, letters: Sequence[dict[str, Any]]) -> None:
        """Write letters; they are on disk when this returns.

        Raises:
            OSError: they cannot be written; nothing was.
        """
        text = "".join(json.dumps(_writable(letter)) + "\n" for letter in letters).encode()
        with self._mutex:
            if self._path is None or _size(self._path) >= self._max_bytes:
                self.folder.mkdir(parents=True, exist_ok=True)
                self._path = self.folder / f"{time.time_ns():020d}-{uuid.uuid4().hex[:8]}.jsonl"
            _append(self._path, text)


def prune(folder: Path, days: float, now: float) -> int:
    """Remove what was set aside in the folder more than ``days`` ago; returns how many files.

    Counted from the day the file came here (its ``ctime``): one that is moved here brings its own date of change.

    Args:
        folder: of dead letters; need not exist.
        days: to keep them.
        now: in seconds since 1970.
    """
    found = [p for p in folder.glob("*") if p.is_file()] if folder.is_dir() else []
    old = [p for p in found if now - p.stat().st_ctime > days * 86400]
    for path in old:
        path.unlink(missing_ok=True)
    return len(old)


def _append(path: Path, content: bytes) -> None:
    new = not path.exists()
    with path.open("ab", buffering=0) as file:
        before = file.tell()
        try:
            rest = memoryview(content)
            while rest:
                rest = rest[file.write(rest) :]
            os.fsync(file.fileno())
        except OSError:
            os.ftruncate(file.fileno(), before)
            raise
    if new:
        sync_folder(path.parent)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _writable(value: Any, depth: int = 0) -> Any:
    """What JSON cannot hold (NaN, infinity) as text; what is nested without end is cut."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict | list | tuple) and depth > _MAX_DEPTH:
        return "…"
    if isinstance(value, dict):
        return {key: _writable(item, depth + 1) for key, item in value.items()}
    return [_writable(item, depth + 1) for item in value] if isinstance(value, list | tuple) else value
