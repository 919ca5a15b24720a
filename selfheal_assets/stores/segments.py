"""Segment files: lines appended durably by one writer, read by another process once they are done with.

A writer owns one segment in ``open/``, held by a file lock, and moves it to ``ready/`` when it is full, old or
closed; a segment in ``open/`` that nobody holds is a dead writer's. What a line means belongs to its user.

What is detected. Each line carries a CRC-32, so any flip of up to 32 neighbouring bits in it is found, and of any
other damage all but one in 2^32. A segment in ``ready/`` ends with a seal that counts its lines, so any cut, a lost
or doubled line, and bytes after the end are found too. A segment in ``open/`` has no seal yet: a line without its
end is its *torn tail*, reported and skipped (a writer that died, or a file cut short, cannot be told apart), and a
file cut exactly between two lines looks whole. Under ``Durability.fsync`` the death of a writer or a power cut can
take only lines whose ``append`` had not returned.
"""

import fcntl
import logging
import os
import threading
import time
import uuid
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from enum import StrEnum
from pathlib import Path
from typing import Any

from selfheal_assets.stores.durable import sync_folder

_VISIBLE = "[!.]*.jsonl"  # pathlib's '*' matches hidden files too
_CHECKSUM_DIGITS = 8
_LARGEST_PROBE = 1 << 20
_LINE, _SEAL = b" ", b"="  # the kinds of lines
OPEN, READY = "open", "ready"
_NO_SEAL = (
    "the seal at its end is missing, so lines may be lost; to take what is left, move the file into open/"
)
logger = logging.getLogger(__name__)


class Durability(StrEnum):
    """What has happened to a line when ``append`` returns.

    ``fsync``: it is on disk and survives a power cut. ``os``: the operating system has it, so it survives the
    death of the process. ``none``: it waits in the process's memory.
    """

    fsync = "fsync"
    os = "os"
    none = "none"


class DamagedSegment(ValueError):
    """A segment is not as its writer left it."""


def framed(content: bytes, kind: bytes = _LINE) -> bytes:
    """A line that carries ``content``, which holds no line break, behind its CRC-32."""
    told = kind + content
    return b"%08x%b\n" % (zlib.crc32(told), told)


def unframed(line: bytes, kind: bytes = _LINE) -> bytes:
    """Contents of a line of this kind, given without its line break.

    Raises:
        ValueError: it is not a line of this kind, or not as it was written.
    """
    checksum, told = line[:_CHECKSUM_DIGITS], line[_CHECKSUM_DIGITS:]
    if checksum != b"%08x" % zlib.crc32(told):
        raise ValueError("its checksum does not match")
    if told[:1] != kind:
        raise ValueError(f"it is of another kind than {kind!r}")
    return told[1:]


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
            self._write(_seal(self._lines, 0))
            self._file.flush()
            _move_to_ready(self._path)
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


def _seal(lines: int, torn_bytes: int) -> bytes:
    return framed(b"%d %d" % (lines, torn_bytes), _SEAL)


def _move_to_ready(path: Path) -> None:
    ready = path.parent.parent / READY
    ready.mkdir(exist_ok=True)
    os.rename(path, ready / path.name)
    sync_folder(ready)


def adopt_abandoned(folder: Path) -> None:
    """Seal the segments whose writer died (nobody holds their lock) and move them to ``ready/``.

    On a full disk they stay where they are, and can be read there.
    """
    for path in segments(folder, OPEN):
        # Held: its writer lives. Gone: its writer has just moved it to ready/ itself.
        with suppress(BlockingIOError, FileNotFoundError), path.open("rb") as segment:
            fcntl.flock(segment, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(segment.fileno()).st_nlink:  # else another process has just adopted it
                with suppress(OSError):
                    _adopt(path, segment.read())


def _adopt(path: Path, content: bytes) -> None:
    """Nothing is written to the segment itself: a kill half-way leaves it as it was."""
    whole, end, tail = content.rpartition(b"\n")
    lines = whole.split(b"\n") if end else []
    if lines and not tail and _is_seal(lines[-1]):
        _move_to_ready(path)
        return
    hidden = path.parent.parent / READY / f".{path.name}"
    hidden.parent.mkdir(exist_ok=True)
    try:
        with hidden.open("wb") as copy:
            copy.write(whole + end + _seal(len(lines), len(tail)))
            copy.flush()
            os.fsync(copy.fileno())
        os.rename(hidden, hidden.with_name(path.name))
    except OSError:
        hidden.unlink(missing_ok=True)
        raise
    sync_folder(hidden.parent)
    path.unlink()


def _is_seal(line: bytes) -> bool:
    try:
        return bool(unframed(line, _SEAL))
    except ValueError:
        return False


def segments(folder: Path, place: str) -> list[Path]:
    """Segments in ``open`` or ``ready``, oldest first."""
    return sorted((folder / place).glob(_VISIBLE))


def read_lines(path: Path) -> tuple[list[bytes], int]:
    """Contents of a segment's lines, in their order, and the size of its torn tail in bytes.

    Raises:
        DamagedSegment: it is not as its writer left it; the message names the line.
        FileNotFoundError: its writer has moved it in the meantime.
    """
    lines = path.read_bytes().split(b"\n")
    tail = lines.pop()  # of a segment that ends with a line, nothing
    count, sealed = len(lines), bool(lines) and _is_seal(lines[-1])
    seal = lines.pop() if sealed else b""
    for number, line in enumerate(lines, 1):
        try:
            lines[number - 1] = unframed(line)  # in place: a segment is large
        except ValueError as error:
            raise damaged(path, number, str(error)) from error
    if not sealed:
        if path.parent.name == READY:
            raise damaged(path, count + 1, _NO_SEAL)
        return lines, len(tail)
    told, torn = map(int, unframed(seal, _SEAL).split())
    if tail or told != len(lines):
        raise damaged(path, count, f"its seal counts {told} lines before it, and nothing after")
    return lines, torn


def damaged(path: Path, line: int, what: str) -> DamagedSegment:
    """The error for a segment that its user cannot take, with the mend."""
    return DamagedSegment(
        f"{path}, line {line}: not as it was written ({what}); nothing of it was ingested. Restore the file, or "
        "move the file out of the folder, then ingest again"
    )
