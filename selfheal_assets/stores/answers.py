"""Answers that clients may ask for again: the first answer to a key, kept beside the prediction log for some time.

SQLite in the log's folder, shared by all processes that write the log. A file lock, which the kernel frees when a
process dies, lets one of them at a time answer cases with keys.

How an answer is given exactly once. Under the lock, an answer is first *promised*: its bytes, and the log's line that
belongs to it, are committed here (1). Then the line is appended to the log (2), then the promise is struck out as
kept (3), then the answer leaves. Whoever takes the lock appends the lines of promises that are still open before it
looks anything up. So after a crash

- before (1) nothing was answered and nothing is kept: the client's next attempt is the first;
- between (1) and (3) the line is appended, perhaps for a second time, and the next attempt gets the promised bytes.
  A line that is in the log twice carries the same ids: ingestion drops the second;
- after (3) the next attempt gets the same bytes.

What is found here is therefore in the log. What is not promised: an answer to a key after ``keep`` has passed, or
after this file was removed; and under a durability below ``fsync`` a power cut may take a promise with its answer.
"""

import fcntl
import os
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from selfheal_assets.stores.segment_writer import Durability

FILE = "answers.sqlite"
_PRUNE_EVERY = timedelta(minutes=1)
_TABLES = """
create table if not exists answers (
    key text primary key, digest blob not null, answer blob not null, given_at text not null);
create index if not exists answers_by_age on answers (given_at);
create table if not exists promised (line blob not null);
"""


class AnswersUnavailable(OSError):
    """The kept answers can be neither read nor written; the message says which file."""


@dataclass(frozen=True)
class Kept:
    """An answer, and the digest of what it answers."""

    digest: bytes
    answer: bytes


class AnswerStore:
    """Kept answers of one log. For one thread of each process; processes share it.

    Args:
        folder: of the prediction log.
        keep: for how long an answer is given again.
        durability: of the log; a promise is as durable as its line.
    """

    def __init__(self, folder: Path, keep: timedelta, durability: Durability = Durability.fsync) -> None:
        self._folder, self._keep = folder, keep
        self._synchronous = "full" if durability is Durability.fsync else "off"
        self._connection: sqlite3.Connection | None = None
        self._pruned_at: datetime | None = None

    @contextmanager
    def held(self, now: datetime) -> Iterator["HeldAnswers"]:
        """The store, while no other process has it.

        Args:
            now: naive UTC, by the wall clock; ages are counted from it.

        Raises:
            AnswersUnavailable: it cannot be read or written.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(self._folder / "answers.lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield self._opened(now)
        except sqlite3.Error as error:
            self.close()
            raise AnswersUnavailable(
                f"the kept answers in {self._folder / FILE} cannot be used ({error}): free space, mend the "
                "folder's rights, or move a damaged file away, which forgets its keys"
            ) from error
        finally:
            os.close(lock)

    def _opened(self, now: datetime) -> "HeldAnswers":
        if self._connection is None or not (self._folder / FILE).exists():
            self.close()
            self._connection = sqlite3.connect(
                self._folder / FILE, isolation_level=None, check_same_thread=False
            )
            self._connection.execute("pragma journal_mode = wal")
            self._connection.execute(f"pragma synchronous = {self._synchronous}")
            self._connection.executescript(_TABLES)
        forgotten = (now - self._keep).isoformat(timespec="microseconds")
        if self._pruned_at is None or now - self._pruned_at >= _PRUNE_EVERY:
            self._connection.execute("delete from answers where given_at < ?", [forgotten])
            self._pruned_at = now
        return HeldAnswers(self._connection, now.isoformat(timespec="microseconds"), forgotten)

    def close(self) -> None:
        """Close the file; the next use opens it again."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


class HeldAnswers:
    """What may be done with the kept answers under their lock."""

    def __init__(self, connection: sqlite3.Connection, now: str, forgotten: str) -> None:
        self._connection, self._now, self._forgotten = connection, now, forgotten

    def recall(self, key: str) -> Kept | None:
        """The answer to a key, unless it is too old."""
        row = self._connection.execute(
            "select digest, answer from answers where key = ? and given_at >= ?", [key, self._forgotten]
        ).fetchone()
        return Kept(*row) if row else None

    def promise(self, line: bytes | None, answers: Mapping[str, Kept]) -> None:
        """Keep answers by their keys; ``line`` is what the log must hold before any of them leaves."""
        rows = [(key, kept.digest, kept.answer, self._now) for key, kept in answers.items()]
        self._connection.execute("begin immediate")
        try:
            self._connection.executemany("insert or replace into answers values (?, ?, ?, ?)", rows)
            if line is not None:
                self._connection.execute("insert into promised values (?)", [line])
            self._connection.execute("commit")
        except BaseException:
            with suppress(sqlite3.Error):
                self._connection.execute("rollback")
            raise

    def promised(self) -> list[bytes]:
        """Lines of which it is not known that they are in the log."""
        return [row[0] for row in self._connection.execute("select line from promised order by rowid")]

    def keep_promises(self) -> None:
        """Strike out all promises: their lines are in the log.

        Where that fails their lines are appended once more, later: no reason to withhold an answer.
        """
        with suppress(sqlite3.Error):
            self._connection.execute("delete from promised")
