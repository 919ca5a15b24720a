"""Dagster's event log in SQLite, with one SQLAlchemy engine for the life of the process.

Dagster's own class makes an engine and opens a connection, and so compiles each statement anew, at every event:
a seventh of a replay's time. In WAL mode a connection that waits in the pool keeps nobody out.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import sqlalchemy
import sqlalchemy.event
from dagster._core.storage.event_log import ConsolidatedSqliteEventLogStorage

BUSY_TIMEOUT_S = 30


def _relax(connection: Any, _record: Any) -> None:
    """In WAL mode a power failure may cost the last events, but never the database; a killed process costs none."""
    connection.execute("pragma synchronous = normal")


class EventLog(ConsolidatedSqliteEventLogStorage):
    """Named in ``dagster.yaml``; see ``defs.home``."""

    @cached_property
    def _engine(self) -> sqlalchemy.Engine:
        engine = sqlalchemy.create_engine(self._conn_string, connect_args={"timeout": BUSY_TIMEOUT_S})
        sqlalchemy.event.listen(engine, "connect", _relax)
        return engine

    @contextmanager
    def _connect(self) -> Iterator[Any]:
        with self._engine.connect() as connection, connection.begin():
            yield connection
