"""dbt in process: the parsed project, and a build of it.

What a dbt result means to Dagster belongs in ``defs.dbt``. The project's folder may be read-only: dbt writes
into the installation's own folder only. dbt takes seconds to import, so it is imported inside functions.
"""

import fcntl
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from selfheal_assets.core import fingerprint

if TYPE_CHECKING:
    from dbt.contracts.graph.manifest import Manifest

_QUIETLY = (
    "--log-level", "none", "--log-level-file", "none", "--quiet", "--no-use-colors", "--no-version-check",
    "--cache-selected-only",
)  # fmt: skip

STANDING = "standing_view"  # a materialization of the project's own: the view is the same after every build
_BUSY_S = 30


class DbtFailed(RuntimeError):
    """dbt could not parse or start the project; the message is dbt's own, with the project's folder."""


@dataclass(frozen=True)
class NodeResult:
    """What became of one model or test.

    ``status`` is dbt's word: ``success``, ``pass``, ``warn``, ``fail``, ``error`` or ``skipped``.
    ``failures`` counts the rows that a test found; ``seconds`` is wall time.
    """

    unique_id: str
    status: str
    message: str
    failures: int | None
    seconds: float
    compiled: Path | None


class DbtProject:
    """A dbt project that is built into one warehouse.

    Args:
        folder: holds ``dbt_project.yml`` and ``profiles.yml``.
        work: folder for what dbt writes; it is made.
        warehouse: the DuckDB file. Whoever calls ``build`` holds its lock and has closed it.
    """

    def __init__(self, folder: Path, work: Path, warehouse: Path) -> None:
        self.folder = folder
        self.work = work
        self.warehouse = warehouse
        self._parsed: Manifest | None = None

    @cached_property
    def fingerprint(self) -> str:
        """Names the project's files, dbt's version, and the warehouse's name: dbt writes it into the queries."""
        if not (self.folder / "dbt_project.yml").is_file():
            raise DbtFailed(
                f"no dbt project in {self.folder}: run from a checkout, or set SELFHEAL_PROJECT to the "
                "folder that holds dbt_project/"
            )
        written = {"target", "logs", "dbt_packages"}
        files = sorted(
            path
            for suffix in ("sql", "yml")
            for path in self.folder.rglob(f"*.{suffix}")
            if path.relative_to(self.folder).parts[0] not in written and path.name != ".user.yml"
        )
        names = [str(path.relative_to(self.folder)) for path in files]
        versions = [version("dbt-core"), version("dbt-duckdb")]
        about = orjson.dumps([*versions, str(self.folder), self.warehouse.name, *names])
        return fingerprint.of_bytes(about, *(path.read_bytes() for path in files))

    def manifest(self) -> dict[str, Any]:
        """dbt's manifest.json of the project as it is now; parsed only if no process has done so before."""
        path = self.work / f"manifest-{self.fingerprint}.json"
        if not path.exists():
            with self._alone():
                if not path.exists():
                    self._parse()
                    os.replace(self.work / "target" / "manifest.json", path)
        return orjson.loads(path.read_bytes())

    def build(self, names: Sequence[str] = (), views: bool = True) -> list[NodeResult]:
        """Build models and run tests, in the order of their dependencies.

        Args:
            names: dbt's fully qualified names, joined by dots: these and nothing else; all, if empty.
            views: without them what is materialized as a standing view is left as it is: for who knows that it
                stands.

        Raises:
            DbtFailed: dbt did not come so far as to build. What fails in building is in the results.
        """
        with self._alone():
            manifest = self._parsed or self._parse()
            chosen = ("--select", *names) if names else ()
            if not views:
                chosen = (*chosen, "--exclude", f"config.materialized:{STANDING}")
            if chosen:
                chosen = (*chosen, "--indirect-selection", "empty")
            done = self._invoke(["build", "--no-write-json", *chosen], manifest, str(self.warehouse))
        return [_result(node) for node in done.results]

    def _parse(self) -> "Manifest":
        # Whatever folder the warehouse is in, so that dbt finds what it has parsed for another one.
        self._parsed = manifest = self._invoke(["parse", "--write-json"], None, self.warehouse.name)
        return manifest

    def _invoke(self, arguments: list[str], manifest: "Manifest | None", warehouse: str) -> Any:
        from dbt.cli.main import dbtRunner

        folders = {
            "--project-dir": self.folder,
            "--profiles-dir": self.folder,
            "--target-path": self.work / "target",
            "--log-path": self.work / "logs",
        }
        places = [str(part) for pair in folders.items() for part in pair]
        with _environment({"SELFHEAL_WAREHOUSE": warehouse}), _closing_connections():
            outcome = dbtRunner(manifest=manifest).invoke([*_QUIETLY, *arguments, *places])
        if outcome.result is not None:
            return outcome.result
        error = outcome.exception
        if error is not None and not isinstance(error, Exception):  # dbt catches an interrupt, too
            raise error
        raise DbtFailed(f"dbt {arguments[0]} of {self.folder} failed: {error}") from error

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep other processes out of dbt's working folder; the kernel frees the lock when a process dies."""
        self.work.mkdir(parents=True, exist_ok=True)
        with open(self.work / "lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables for dbt, which reads its profile from them, and put back what was there."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def _closing_connections() -> Iterator[None]:
    """Close the warehouse after dbt: its adapter would keep the file open, and locked, as long as we live."""
    from dbt.adapters.duckdb.connections import DuckDBConnectionManager

    try:
        yield
    finally:
        if DuckDBConnectionManager._ENV is not None:
            _close_when_idle(DuckDBConnectionManager._ENV)
        DuckDBConnectionManager.close_all_connections()


def _close_when_idle(environment: Any) -> None:
    """Close the adapter's connection once no thread of dbt's is in a call: DuckDB refuses, and does not wait.

    Raises:
        duckdb.ResourceInUseException: it is still busy after ``_BUSY_S``.
    """
    import duckdb

    deadline = time.monotonic() + _BUSY_S
    while True:
        try:
            environment.close()
            return
        except duckdb.ResourceInUseException:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def _result(node: Any) -> NodeResult:
    compiled = getattr(node.node, "compiled_path", None)
    return NodeResult(
        unique_id=node.node.unique_id,
        status=str(node.status),
        message=node.message or "",
        failures=node.failures,
        seconds=node.execution_time,
        compiled=Path(compiled) if compiled else None,
    )
