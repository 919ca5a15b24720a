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
import zlib
from contextlib import suppress
from pathlib import Path

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


def seal_line(lines: int, torn_bytes: int) -> bytes:
    """The last line of a segment: how many lines came before it, and the size of the tail that was cut off."""
    return framed(b"%d %d" % (lines, torn_bytes), _SEAL)


def move_to_ready(path: Path) -> None:
    """Hand a sealed segment over to its reader."""
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
        move_to_ready(path)
        return
    hidden = path.parent.parent / READY / f".{path.name}"
    hidden.parent.mkdir(exist_ok=True)
    try:
        with hidden.open("wb") as copy:
            copy.write(whole + end + seal_line(len(lines), len(tail)))
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
