"""`make crash-log`: services are loaded and killed outright, again and again; what they acknowledged is counted.

Clients remember every answer they got: its id, the case they sent, and what was said. Meanwhile, and twice at the
end, the log is ingested into a real warehouse. Whatever was answered must be there, once, as it was answered.
Services run in several lanes that share the log's folder, as workers do. Most are forked from a host that has
imported everything (``host``); a share is started by ``selfheal serve`` as an operator does.
"""

import http.client
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

from selfheal_assets.settings import Settings
from selfheal_assets.stores import log_ingestion
from selfheal_assets.stores.tables import create_tables
from selfheal_assets.stores.warehouse import Warehouse
from selfheal_assets_tests.bench import report
from selfheal_assets_tests.bench.installation import (
    cases_of,
    install,
    process_environment,
    scratch_folder,
    served_cases,
    settings_in,
)
from selfheal_assets_tests.bench.processes import family, free_port, is_alive, running, wait_for

CASES, MAX_BATCH, ONE_IN_BATCHES = 500, 20, 4
STARTS_WITHIN_S, ENDS_WITHIN_S = 120, 20
SELFHEAL = "from selfheal_assets.cli import main; main()"


@dataclass(frozen=True)
class Said:
    """What a client was told about a case that it sent."""

    case: int
    entity_id: str
    probability: float
    prediction: int
    model_version: int
    model_fingerprint: str
    threshold: float


@dataclass
class Count:
    """What all clients got, and what the ingestions saw."""

    said: dict[str, Said] = field(default_factory=dict)
    twice_said: int = 0
    refused: dict[str, int] = field(default_factory=dict)
    ingestions: int = 0
    torn_bytes: int = 0
    rounds: dict[str, int] = field(default_factory=lambda: {"forked": 0, "command": 0})
    mutex: threading.Lock = field(default_factory=threading.Lock)

    def hear(self, sent: list[int], answers: list[dict[str, Any]]) -> None:
        """Keep acknowledged answers."""
        names = [name for name in Said.__dataclass_fields__ if name != "case"]
        with self.mutex:
            for case, answer in zip(sent, answers, strict=True):
                self.twice_said += answer["prediction_id"] in self.said
                self.said[answer["prediction_id"]] = Said(case, *(answer[n] for n in names))

    def refuse(self, what: str) -> None:
        """Keep an answer that was none."""
        with self.mutex:
            self.refused[what] = self.refused.get(what, 0) + 1


def main(
    rounds: Annotated[int, typer.Option(min=1, help="Services to kill.")] = 200,
    lanes: Annotated[int, typer.Option(min=1, help="Services at a time, on one log folder.")] = 2,
    connections: Annotated[int, typer.Option(min=1, help="Clients of each service.")] = 4,
    load_s: Annotated[
        float, typer.Option(help="A service is killed within this time of its first answer.")
    ] = 1.0,
    command_every: Annotated[
        int, typer.Option(min=1, help="One round in so many starts `selfheal serve` instead of forking.")
    ] = 20,
    workers: Annotated[int, typer.Option(min=1, help="Workers of `selfheal serve` in those rounds.")] = 1,
    seed: Annotated[
        int | None, typer.Option(help="Of moments, cases and victims. Default: a new one.")
    ] = None,
    folder: Annotated[Path | None, typer.Option(help="Where to work. Default: data/run.")] = None,
) -> None:
    """Kill services under load, and count what of their answers is missing, doubled or changed in the warehouse."""
    seed = random.SystemRandom().randrange(2**32) if seed is None else seed
    report.say(f"Seed {seed}. Training a model")
    with scratch_folder(folder, "crash-log-") as scratch:
        started = time.monotonic()
        result = Crashes(scratch, connections, load_s, command_every, workers, seed).run(rounds, lanes)
    seconds = time.monotonic() - started
    report.table(
        f"{rounds} services killed under load (seed {seed}), {seconds:,.0f} s",
        ["what", "count"],
        [
            ("services forked and killed", result["forked"]),
            ("`selfheal serve` started and killed", result["command"]),
            ("ingestions meanwhile", result["ingestions"]),
            ("bytes of torn tails skipped", result["torn_bytes"]),
            ("answers acknowledged", result["acknowledged"]),
            ("logged, not acknowledged", result["unacknowledged"]),
            ("refused", ", ".join(f"{k}: {n}" for k, n in result["refused"].items()) or 0),
            ("acknowledged and lost", result["lost"]),
            ("duplicated", result["duplicated"]),
            ("corrupted", result["corrupted"]),
        ],
    )
    report.figures(rounds=rounds, **result, seed=seed, seconds=seconds)
    bad = result["lost"] or result["duplicated"] or result["corrupted"] or not result["acknowledged"]
    raise typer.Exit(1 if bad else 0)


class Crashes:
    """One run: an installation, services that are killed, clients, and an ingestion beside them."""

    def __init__(
        self, folder: Path, connections: int, load_s: float, command_every: int, workers: int, seed: int
    ) -> None:
        self.settings, self.cases = installation(folder)
        self.folder, self.seed = folder, seed
        self.connections, self.load_s = connections, load_s
        self.command_every, self.workers = command_every, workers
        self.count = Count()
        self.warehouse = Warehouse(self.settings.warehouse_path, self.settings.published)
        create_tables(self.warehouse, self.settings.case)

    def run(self, rounds: int, lanes: int) -> dict[str, Any]:
        """Kill ``rounds`` services, then count."""
        numbers = iter(range(rounds))
        taking, failures, stopped = threading.Lock(), [], threading.Event()

        def lane() -> None:
            with host(self.settings, self.folder) as forked:
                while not failures:
                    with taking:
                        number = next(numbers, None)
                    if number is None:
                        return
                    self._round(number, forked)
                    if (number + 1) % 10 == 0:
                        report.say(f"{number + 1} rounds, {len(self.count.said):,} answers acknowledged")

        def guarded(work) -> None:
            try:
                work()
            except BaseException as error:  # noqa: BLE001 - raised again by the main thread
                failures.append(error)

        ingesting = threading.Thread(target=guarded, args=(lambda: self._ingest_until(stopped),))
        threads = [threading.Thread(target=guarded, args=(lane,)) for _ in range(lanes)]
        ingesting.start()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        stopped.set()
        ingesting.join()
        if failures:
            raise failures[0]
        return self._counted()

    def _round(self, number: int, forked: subprocess.Popen[str]) -> None:
        chance = random.Random(f"{self.seed}-{number}")
        port = free_port()
        if number % self.command_every == self.command_every - 1:
            self.count.rounds["command"] += 1
            command = [sys.executable, "-c", SELFHEAL, "serve", "--port", str(port)]
            if self.workers > 1:
                command += ["--workers", str(self.workers)]
            log = self.folder / "serve.log"
            with running(command, process_environment(self.settings), log) as process:
                self._load_and_kill(process.pid, port, chance, log)
            return
        self.count.rounds["forked"] += 1
        assert forked.stdin and forked.stdout
        forked.stdin.write(f"{port}\n")
        forked.stdin.flush()
        self._load_and_kill(int(forked.stdout.readline()), port, chance, self.folder / "host.log")

    def _load_and_kill(self, pid: int, port: int, chance: random.Random, log: Path) -> None:
        wait_for(lambda: healthy(port), STARTS_WITHIN_S, lambda: is_alive(pid), log, every_s=0.02)
        clients = [
            threading.Thread(target=self._client, args=(port, pid, chance.random()))
            for _ in range(self.connections)
        ]
        for client in clients:
            client.start()
        time.sleep(chance.uniform(0, self.load_s))
        if (others := family(pid)[1:]) and chance.random() < 0.5:  # one of several workers first
            kill([chance.choice(others)])
            time.sleep(chance.uniform(0, self.load_s))
        kill(family(pid))
        for client in clients:
            client.join()

    def _client(self, port: int, pid: int, seed: float) -> None:
        """Send cases over one connection after another until the service is dead."""
        chance = random.Random(seed)
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=ENDS_WITHIN_S)
        while True:
            rows = chance.randint(2, MAX_BATCH) if chance.randrange(ONE_IN_BATCHES) == 0 else 1
            sent = [chance.randrange(len(self.cases)) for _ in range(rows)]
            bodies = [
                self.cases[i] | {"entity_id": f"{self.cases[i]['entity_id']}-{chance.getrandbits(48):x}"}
                for i in sent
            ]
            path, body = ("/predict", bodies[0]) if rows == 1 else ("/predict/batch", {"cases": bodies})
            try:
                connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
                response = connection.getresponse()
                answer = json.loads(response.read())
            except (OSError, http.client.HTTPException, ValueError):
                connection.close()
                if not is_alive(pid):
                    return
                continue
            if response.status != 200:
                self.count.refuse(str(response.status))
                continue
            answers = [answer] if rows == 1 else answer["predictions"]
            if [a["entity_id"] for a in answers] != [b["entity_id"] for b in bodies]:
                self.count.refuse("answers of other cases")
                continue
            self.count.hear(sent, answers)

    def _ingest_until(self, stopped: threading.Event) -> None:
        chance = random.Random(self.seed)
        while not stopped.wait(chance.uniform(0.05, 0.6)):
            self._ingest()

    def _ingest(self) -> int:
        done = log_ingestion.ingest(self.warehouse, self.settings.case, self.settings.prediction_log)
        self.count.ingestions += 1
        self.count.torn_bytes += done.torn_bytes
        return done.rows_added

    def _counted(self) -> dict[str, Any]:
        self._ingest()
        added_by_second = self._ingest()
        logged = self.warehouse.query("select * from prediction_log")
        times = logged["prediction_id"].len() - logged["prediction_id"].n_unique()
        rows = {row["prediction_id"]: row for row in logged.to_dicts()}
        said, names = self.count.said, self.settings.case.feature_names
        lost = [i for i in said if i not in rows]
        corrupted = [i for i, s in said.items() if i in rows and not self._is_as_said(s, rows[i], names)]
        return {
            "acknowledged": len(said),
            "lost": len(lost),
            "duplicated": times + added_by_second + self.count.twice_said,
            "corrupted": len(corrupted),
            "unacknowledged": len(rows) - len(said) + len(lost),
            "refused": self.count.refused,
            "ingestions": self.count.ingestions,
            "torn_bytes": self.count.torn_bytes,
            **self.count.rounds,
        }

    def _is_as_said(self, said: Said, row: dict[str, Any], features: list[str]) -> bool:
        sent = self.cases[said.case]
        same = all(row[name] == sent.get(name) for name in features)
        told = (name for name in Said.__dataclass_fields__ if name != "case")
        return same and all(row[name] == getattr(said, name) for name in told)


def installation(folder: Path) -> tuple[Settings, list[dict[str, Any]]]:
    """An installation with a champion, and cases to send to it."""
    cases = cases_of(settings_in(folder / "home"))
    settings, _ = install(folder / "home", cases)
    return settings, served_cases(settings, cases, CASES)


@contextmanager
def host(settings: Settings, folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that forks services, see ``host``."""
    with (folder / "host.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "selfheal_assets_tests.bench.host"],
            env=process_environment(settings),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def healthy(port: int) -> bool:
    """Whether the service can answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def kill(pids: list[int]) -> None:
    """SIGKILL, and wait until they are gone."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not any(map(is_alive, pids)), ENDS_WITHIN_S, every_s=0.005)


if __name__ == "__main__":
    report.run(main)
