"""Processes of a benchmark: started in a group of their own, waited for, measured through /proc, ended."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
_PARENT, _USER, _SYSTEM = 1, 11, 12  # fields of /proc/PID/stat behind the name


class NotStarted(RuntimeError):
    """A server ended, or did not answer in time; the message holds what it printed."""


def free_port() -> int:
    """A port that nobody listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def running(
    command: Sequence[str], environment: Mapping[str, str], log: Path, cpus: set[int] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A process, pinned to ``cpus`` with all that it starts; everything of it has ended afterwards."""

    def pin() -> None:
        if cpus:
            os.sched_setaffinity(0, cpus)

    with log.open("ab") as output:
        process = subprocess.Popen(
            command,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            preexec_fn=pin,
        )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=15)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def wait_for(
    answers, seconds: float, alive=lambda: True, log: Path | None = None, every_s: float = 0.05
) -> None:
    """Return when ``answers()``.

    Raises:
        NotStarted: not within ``seconds``, or ``alive()`` no longer holds.
    """
    deadline = time.monotonic() + seconds
    while not answers():
        if not alive() or time.monotonic() > deadline:
            printed = log.read_text(errors="replace")[-3000:] if log and log.exists() else ""
            raise NotStarted(f"no answer within {seconds:g} s, or ended:\n{printed}")
        time.sleep(every_s)


def is_alive(pid: int) -> bool:
    """Whether there is such a process, and it is no zombie."""
    fields = _stat(pid)
    return fields is not None and fields[0] not in "ZX"


def family(pid: int) -> list[int]:
    """The process and all its descendants."""
    parents = {
        int(p.name): int(f[_PARENT])
        for p in Path("/proc").iterdir()
        if p.name.isdigit() and (f := _stat(int(p.name)))
    }
    found = [pid]
    for member in found:
        found += [child for child, parent in parents.items() if parent == member]
    return found


def cpu_seconds(pid: int) -> dict[int, float]:
    """User and system time of the process and of its descendants that live."""
    used = {}
    for member in family(pid):
        if (fields := _stat(member)) is not None:
            used[member] = (int(fields[_USER]) + int(fields[_SYSTEM])) / _TICKS
    return used


def _stat(pid: int) -> list[str] | None:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
