"""Messages on their way: kept on disk until their receiver has them, however often it is away in between.

A message waits as one file for each channel. Delivery is tried at once, then ever more rarely; a message that its
receiver refuses for good, or that nobody took for a week, is set aside with the reason. The file goes after the
receiver has answered, so a process killed in between sends again: each message carries its id (``Idempotency-Key``).
"""

import fcntl
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

from selfheal_assets.core.notification import Notification, Told
from selfheal_assets.stores.durable import sync_folder

FIRST_WAIT, LONGEST_WAIT = timedelta(seconds=30), timedelta(hours=1)
GIVEN_UP_AFTER: Final = timedelta(days=7)
Send = Callable[[dict[str, Any]], None]


class Refused(Exception):
    """The receiver will never take this message: trying again is of no use."""


@dataclass(frozen=True)
class Delivery:
    """What one round did: messages sent, still waiting, given up; and why the last failure failed."""

    sent: int = 0
    waiting: int = 0
    given_up: int = 0
    problem: str | None = None


class Outbox:
    """A folder of waiting messages.

    Args:
        folder: made if missing; ``waiting/`` and ``given_up/`` are in it, and ``told.json``.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._waiting, self._given_up = folder / "waiting", folder / "given_up"

    @contextmanager
    def alone(self) -> Iterator[bool]:
        """Whether nobody else is at work on it; the kernel frees the lock if this process dies."""
        self._waiting.mkdir(parents=True, exist_ok=True)
        with (self.folder / "lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
            yield True

    def told(self) -> Told | None:
        """How far people have been told; ``None`` before the first time."""
        path = self.folder / "told.json"
        if not path.exists():
            return None
        kept = json.loads(path.read_text(encoding="utf-8"))
        return Told(kept["decision"], datetime.fromisoformat(kept["chunk"]) if kept["chunk"] else None)

    def put(self, messages: list[Notification], channels: list[str], told: Told, now: datetime) -> None:
        """Let each message wait for each channel, then note how far people have been told.

        In this order: after a kill in between, what waits already is not put again.
        """
        for n, message in enumerate(messages):
            for channel in channels:
                if any(self._waiting.glob(f"*-{message.id}.{channel}.json")):
                    continue
                letter = {
                    "channel": channel,
                    "attempts": 0,
                    "first": now.isoformat(),
                    "next": now.isoformat(),
                }
                body = message.slack() if channel == "slack" else message.generic()
                whole = letter | {
                    "id": message.id,
                    "title": message.title,
                    "text": message.text,
                    "body": body,
                }
                _write(self._waiting / f"{now:%Y%m%dT%H%M%S%f}-{n:04}-{message.id}.{channel}.json", whole)
        chunk = told.chunk.isoformat() if told.chunk else None
        _write(self.folder / "told.json", {"decision": told.decision, "chunk": chunk})

    def deliver(self, senders: Mapping[str, Send], now: datetime) -> Delivery:
        """Try every message that is due, oldest first; after a failure, no other of that channel in this round."""
        sent, given_up, problem, down = 0, 0, None, set[str]()
        for path in sorted(self._waiting.glob("*.json")):
            letter = json.loads(path.read_text(encoding="utf-8"))
            channel = letter["channel"]
            if channel in down or channel not in senders or datetime.fromisoformat(letter["next"]) > now:
                continue
            try:
                senders[channel](letter)
            except Refused as refusal:
                given_up, problem = given_up + 1, f"{channel}: {refusal}"
                self._set_aside(path, letter, str(refusal))
            except OSError as error:
                down.add(channel)
                problem = f"{channel}: {error or type(error).__name__}"
                given_up += self._wait_on(path, letter, problem, now)
            else:
                sent += 1
                path.unlink()
        return Delivery(sent, len(list(self._waiting.glob("*.json"))), given_up, problem)

    def _wait_on(self, path: Path, letter: dict[str, Any], problem: str, now: datetime) -> int:
        if now - datetime.fromisoformat(letter["first"]) > GIVEN_UP_AFTER:
            self._set_aside(path, letter, problem)
            return 1
        wait = min(FIRST_WAIT * 2 ** min(letter["attempts"], 10), LONGEST_WAIT)
        tried = {"attempts": letter["attempts"] + 1, "problem": problem, "next": (now + wait).isoformat()}
        _write(path, letter | tried)
        return 0

    def _set_aside(self, path: Path, letter: dict[str, Any], problem: str) -> None:
        self._given_up.mkdir(exist_ok=True)
        _write(self._given_up / path.name, letter | {"problem": problem})
        path.unlink()


def _write(path: Path, value: dict[str, Any]) -> None:
    """Whole or not at all."""
    beside = path.with_suffix(".new")
    with beside.open("w", encoding="utf-8") as file:
        json.dump(value, file)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
    sync_folder(path.parent)
