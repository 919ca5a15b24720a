"""The warehouse: the only module that opens DuckDB.

One writer at a time, held by a file lock that the kernel frees when a process dies; each write is one
transaction. Readers outside Dagster never open the file: they read the snapshots in ``published``.
"""

import errno
import fcntl
import os
import random
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import duckdb
import polars as pl

_CONFIG: dict[str, Any] = {
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
    "memory_limit": "2GB",
    "threads": 2,
}


class WarehouseBusy(TimeoutError):
    """Another process held the warehouse for longer than the time allowed."""


class WarehouseDamaged(RuntimeError):
    """The warehouse's file is not what DuckDB wrote."""


class DiskFull(OSError):
    """The warehouse's disk is full; nothing of the transaction was kept."""

    def __init__(self, path: Path, told: str) -> None:
        super().__init__(
            errno.ENOSPC,
            f"the disk of {path} is full; nothing of this step was kept, and nothing before it is lost. Free space "
            f"(docs/runbook.md, 'The disk is full') and run the step again. In its own words: {told}",
        )

    def __str__(self) -> str:
        return str(self.strerror)


class Warehouse:
    """A DuckDB file with one writer.

    Args:
        path: the database file; its folder is made.
        published: folder of the snapshots.
        timeout_s: how long to wait for another process.
    """

    def __init__(self, path: Path, published: Path, timeout_s: float = 120.0) -> None:
        self.path = path
        self.published = published
        self.timeout_s = timeout_s
        self._lock: int | None = None
        self._kept: duckdb.DuckDBPyConnection | None = None
        self._keep = False
        path.parent.mkdir(parents=True, exist_ok=True)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the writer's lock with the file closed: dbt opens it by itself."""
        self._close_kept()
        if self._lock is not None:
            yield
            return
        self._lock = self._acquire()
        try:
            yield
        finally:
            self._close_kept()
            os.close(self._lock)
            self._lock = None

    @property
    def is_kept(self) -> bool:
        """Whether lock and connection are kept between operations: nobody else changes anything in between."""
        return self._keep

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Hold the writer's lock while other code of this process, dbt, opens the file with the same settings.

        A connection that is kept open stays so: DuckDB gives both the same database, and nothing is written out
        and read again in between.
        """
        if self._keep:
            yield
            return
        with self.locked():
            yield

    def _acquire(self) -> int:
        deadline = time.monotonic() + self.timeout_s
        descriptor = os.open(f"{self.path}.lock", os.O_RDWR | os.O_CREAT, 0o644)
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return descriptor
            except BlockingIOError as error:
                if time.monotonic() > deadline:
                    os.close(descriptor)
                    raise WarehouseBusy(
                        f"{self.path} was locked by another process for more than {self.timeout_s:g} s: "
                        "wait for the other run, or raise SELFHEAL_LOCK_TIMEOUT_S"
                    ) from error
                time.sleep(0.02 * random.uniform(0.5, 1.5))

    @contextmanager
    def kept_open(self) -> Iterator[None]:
        """Keep lock and connection between operations: for one process that does many, as a replay does."""
        if self._keep:
            yield
            return
        with self.locked():
            self._keep = True
            try:
                yield
            finally:
                self._keep = False

    @contextmanager
    def tuned(self, **settings: int | str) -> Iterator[None]:
        """Keep lock and connection, with other settings of DuckDB than usual for as long."""
        with self.kept_open():
            self._set(settings)
            try:
                yield
            finally:
                self._set({name: _CONFIG[name] for name in settings})

    def _set(self, settings: dict[str, int | str]) -> None:
        with self.write() as connection:
            for name, value in settings.items():
                connection.execute(f"set {name} = '{value}'")

    def _connect(self) -> duckdb.DuckDBPyConnection:
        """Open the file. Whoever looks into it with another tool takes no lock of ours, and is waited for too."""
        deadline = time.monotonic() + self.timeout_s
        while True:
            try:
                return duckdb.connect(str(self.path), config=_CONFIG)
            except duckdb.IOException as error:
                if "not a valid DuckDB database" in str(error):
                    raise WarehouseDamaged(
                        f"{self.path} is damaged: restore it from a backup (docs/runbook.md, 'Back up and "
                        f"restore'); the service goes on answering and logging without it. In DuckDB's words: {error}"
                    ) from error
                if "Could not set lock" not in str(error):
                    raise
                if time.monotonic() > deadline:
                    raise WarehouseBusy(
                        f"{self.path} was open in another program for more than {self.timeout_s:g} s: close it "
                        f"there, or raise SELFHEAL_LOCK_TIMEOUT_S ({error})"
                    ) from error
                time.sleep(0.1)

    def _close_kept(self) -> None:
        if self._kept is not None:
            self._kept.close()
            self._kept = None

    @contextmanager
    def write(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """One transaction: committed at the end, rolled back on any exception."""
        if self._lock is None:
            with self.locked(), self.write() as connection:
                yield connection
            return
        connection = self._kept or self._connect()
        self._kept = connection
        try:
            connection.execute("begin")
            yield connection
            connection.execute("commit")
        except BaseException as error:
            with suppress(duckdb.Error):
                connection.execute("rollback")
            if isinstance(error, duckdb.Error) and os.strerror(errno.ENOSPC) in str(error):
                raise DiskFull(self.path, str(error)) from error
            raise
        finally:
            if not self._keep:
                self._close_kept()

    @contextmanager
    def read(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """A connection for reading. It holds the lock too: DuckDB lets no reader in beside a writer."""
        with self.write() as connection:
            yield connection

    def query(self, sql: str, parameters: list[Any] | None = None) -> pl.DataFrame:
        """Rows of a query as a frame."""
        with self.read() as connection:
            return connection.sql(sql, params=parameters or []).pl()

    def replace(self, table: str, frame: pl.DataFrame, where: dict[str, Any] | None = None) -> None:
        """Replace the rows of ``table`` that match ``where`` (all, if empty) by ``frame``, in one transaction.

        The table is made from the frame where it does not exist.
        """
        with self.write() as connection:
            replace_rows(connection, table, frame, where)

    def has(self, table: str) -> bool:
        """Whether the table exists."""
        if not self.path.exists():
            return False
        with self.read() as connection:
            return has_table(connection, table)

    def publish(self, name: str, frame: pl.DataFrame) -> Path:
        """Write a snapshot beside its final place and rename it, so that readers see the old or the new."""
        self.published.mkdir(parents=True, exist_ok=True)
        target = self.published / f"{name}.parquet"
        temporary = target.with_name(f".{target.name}.{os.getpid()}")
        try:
            frame.write_parquet(temporary)
            os.replace(temporary, target)
        except pl.exceptions.ComputeError as error:  # in place of an OSError
            if os.strerror(errno.ENOSPC) in str(error):
                raise DiskFull(target, str(error)) from error
            raise
        finally:
            temporary.unlink(missing_ok=True)  # is there only where the disk was full
        return target


def one(connection: duckdb.DuckDBPyConnection, sql: str, parameters: list[Any] | None = None) -> tuple | None:
    """First row of a statement, all of it fetched: DuckDB 2 refuses other work while a result is open."""
    rows = connection.execute(sql, parameters or []).fetchall()
    return rows[0] if rows else None


def has_table(connection: duckdb.DuckDBPyConnection, table: str) -> bool:
    """Whether the table or view exists."""
    found = one(
        connection,
        "select count(*) from information_schema.tables where table_schema = 'main' and table_name = ?",
        [table],
    )
    return bool(found and found[0])


def columns_made_by(statements: Iterable[str]) -> dict[str, dict[str, str]]:
    """The columns and types of the tables that these statements make, by table, tried out in memory."""
    with duckdb.connect() as connection:
        for statement in statements:
            connection.execute(statement)
        found = connection.execute(
            "select table_name, column_name, data_type from duckdb_columns()"
        ).fetchall()
    tables: dict[str, dict[str, str]] = {}
    for table, column, kind in found:
        tables.setdefault(table, {})[column] = kind.lower()
    return tables


def replace_rows(
    connection: duckdb.DuckDBPyConnection,
    table: str,
    frame: pl.DataFrame,
    where: dict[str, Any] | None = None,
) -> None:
    """Delete what matches ``where``, insert ``frame``: within the caller's transaction.

    Columns that the table does not have yet (it was made by an earlier version) are added, null in the rows it holds.
    """
    connection.register("incoming", frame.to_arrow())
    try:
        columns = ", ".join(f'"{c}"' for c in frame.columns)
        if not has_table(connection, table):
            connection.execute(f"create table {table} as select {columns} from incoming")
            return
        for name, dtype in _missing_columns(connection, table):
            connection.execute(f'alter table {table} add column "{name}" {dtype}')
        clause = " and ".join(f'"{c}" = ?' for c in where or {}) or "true"
        connection.execute(f"delete from {table} where {clause}", list((where or {}).values()))
        connection.execute(f"insert into {table} ({columns}) select {columns} from incoming")
    finally:
        connection.unregister("incoming")


def _missing_columns(connection: duckdb.DuckDBPyConnection, table: str) -> list[tuple[str, str]]:
    """Names and types of the columns that ``incoming`` has and ``table`` has not."""
    return connection.execute(
        "select name, type from pragma_table_info('incoming') where name not in "
        "(select name from pragma_table_info(?))",
        [table],
    ).fetchall()
