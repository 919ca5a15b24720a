"""The writer of a segment: how long a line waits, and when a segment is done with. The format is ``segments``'."""

import fcntl
import logging
import os
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from enum import StrEnum
from pathlib import Path
from typing import Any

from selfheal_assets.stores.durable import sync_folder
from selfheal_assets.stores.segments import OPEN, framed, move_to_ready, seal_line

_LARGEST_PROBE = 1 << 20
logger = logging.getLogger(__name__)


class Durability(StrEnum):
    """What has happened to a line when ``append`` returns.

    ``fsync``: it is on disk and survives a power cut. ``os``: the operating system has it, so it survives the
    death of the process. ``none``: it waits in the process's memory.
    """

    fsync = "fsync"
    os = "os"
    none = "none"


class SegmentWriter:
    """Appends lines to segments of its own. Safe to share between threads of one process.

    Args:
        folder: holds ``open/`` and ``ready/``.
        durability: what ``append`` waits for.
        max_bytes: a segment that has reached this size is sealed.
        max_age_s: so is one of this age, when it is next written to or :meth:`tend` is called.
    """

    def __init__(
        self, folder: Path, durability: Durability, max_bytes: int = 64_000_000, max_age_s: float = 5.0
    ) -> None:
        self.folder = folder
        self.durability = durability
        self._max_bytes = max_bytes
        self._max_age_s = max_age_s
        self._mutex = threading.Lock()
        self._file: Any = None
        self._path = folder
        self._lines = 0
        self._opened_at = 0.0
        self._problem: str | None = None
        self._failed_bytes = 1

    @property
    def problem(self) -> str | None:
        """Why the last line or :meth:`probe` could not be written; ``None`` when it could."""
        return self._problem

    def append(self, content: bytes) -> None:
        """Write one line: the whole of it, or nothing at all.

        Raises:
            OSError: it could not be written; the segment is as it was before.
        """
        line = framed(content)
        with self._mutex, self._noting(len(line)):
            if self._file is None:
                self._file = self._open()
            self._write(line)
            self._lines += 1
            if self._file.tell() >= self._max_bytes or self._is_old():
                self._seal()

    def tend(self) -> None:
        """Hand over a segment that has its age; after a failure see whether lines can be written again."""
        with self._mutex:
            if self._file is not None and self._is_old():
                self._seal()
        if self.problem:
            self.probe()

    def probe(self) -> None:
        """See whether as much could be written as failed last; tells by :attr:`problem`, raises nothing."""
        place = self.folder / "open" / f".probe-{os.getpid()}-{threading.get_ident()}"
        with suppress(OSError), self._mutex, self._noting(self._failed_bytes):
            try:
                place.parent.mkdir(parents=True, exist_ok=True)
                with place.open("wb") as file:
                    file.write(bytes(min(self._failed_bytes, _LARGEST_PROBE)))
                    file.flush()
                    os.fsync(file.fileno())
            finally:
                place.unlink(missing_ok=True)

    def close(self) -> None:
        """Seal the open segment, if there is one."""
        with self._mutex:
            if self._file is not None:
                self._seal()

    @contextmanager
    def _noting(self, size: int) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self._problem, self._failed_bytes = error.strerror or str(error), size
            raise
        self._problem = None

    def _is_old(self) -> bool:
        return time.monotonic() - self._opened_at > self._max_age_s

    def _write(self, line: bytes) -> None:
        before = self._file.tell()
        try:
            rest = memoryview(line)
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError:
            self._take_back(before)
            raise
        if self.durability is Durability.fsync:
            try:
                os.fdatasync(self._file.fileno())
            except OSError:
                # What the kernel has of this file is unknown from now on, and a second flush may claim success.
                self._take_back(before)
                self._abandon()
                raise

    def _take_back(self, before: int) -> None:
        """Leave nothing of a line on a full disk: half of it would spoil the next one."""
        try:
            os.ftruncate(self._file.fileno(), before)
            self._file.seek(before)
        except OSError:
            self._abandon()

    def _open(self) -> Any:
        opened = self.folder / OPEN
        opened.mkdir(parents=True, exist_ok=True)
        name = f"{time.time_ns():020d}-{uuid.uuid4().hex[:8]}.jsonl"
        hidden = opened / f".{name}"
        segment = hidden.open("wb", buffering=1 << 20 if self.durability is Durability.none else 0)
        # Before it can be seen: a visible unlocked segment is a dead writer's.
        fcntl.flock(segment, fcntl.LOCK_EX)
        self._path = opened / name
        os.rename(hidden, self._path)
        sync_folder(opened)
        self._lines, self._opened_at = 0, time.monotonic()
        return segment

    def _seal(self) -> None:
        """Hand the segment over. Where that fails it stays in ``open/``, abandoned: its lines are safe there."""
        try:
            self._write(seal_line(self._lines, 0))
            self._file.flush()
            move_to_ready(self._path)
        except OSError:
            logger.exception("%s could not be handed over; the next ingestion adopts it", self._path)
        finally:
            self._abandon()

    def _abandon(self) -> None:
        """Write no more to this segment; without its lock the next ingestion adopts it."""
        if self._file is not None:
            file, self._file = self._file, None
            with suppress(OSError):
                file.close()
