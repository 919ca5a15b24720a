"""Dagster's event log in SQLite: one SQLAlchemy engine for the life of the process, one transaction for an event.

Dagster's own class makes an engine and opens a connection, and so compiles each statement anew, at every event:
a seventh of a replay's time. In WAL mode a connection that waits in the pool keeps nobody out. It also asks the
database at every event which tables and columns it has: here once, as a process never takes one away.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import sqlalchemy
import sqlalchemy.event
from dagster import EventLogEntry
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

    @cached_property
    def _open(self) -> threading.local:
        """The connection of the event that this thread is storing."""
        return threading.local()

    @cached_property
    def _there(self) -> set[tuple[str, str]]:
        """Tables and columns that were found."""
        return set()

    @contextmanager
    def _connect(self) -> Iterator[Any]:
        if (connection := getattr(self._open, "connection", None)) is not None:
            yield connection
            return
        with self._engine.connect() as connection, connection.begin():
            yield connection

    def store_event(self, event: EventLogEntry) -> None:
        """The event with its tags, its asset's and its check's rows: all or nothing, where Dagster commits thrice."""
        with self._connect() as connection:
            outer, self._open.connection = getattr(self._open, "connection", None), connection
            try:
                super().store_event(event)
            finally:
                self._open.connection = outer

    def has_table(self, table_name: str) -> bool:
        """Whether the database has a table."""
        if (table_name, "") not in self._there:
            with self._connect() as connection:
                if not sqlalchemy.inspect(connection).has_table(table_name):
                    return False
            self._there.add((table_name, ""))
        return True

    def _has_asset_key_col_on_connection(self, conn: Any, column_name: str) -> bool:
        column = ("asset_keys", column_name)
        if column not in self._there:
            if not super()._has_asset_key_col_on_connection(conn, column_name):
                return False
            self._there.add(column)
        return True
