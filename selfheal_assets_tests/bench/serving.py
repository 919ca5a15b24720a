"""`make bench-serving`: this service beside a plain peer, ``mlflow models serve``, and the server's own limit.

All serve the same registered model to the same cases, each as one worker on one processor, with the load generator
(wrk) on another. They take turns: each round measures every server in every scenario, and while one is measured the
others are stopped (SIGSTOP), so a drift of the machine's speed meets all alike.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from selfheal_assets.settings import Settings
from selfheal_assets_tests.bench import report
from selfheal_assets_tests.bench.installation import (
    USE_CASE,
    cases_of,
    install,
    process_environment,
    scratch_folder,
    served_cases,
    settings_in,
)
from selfheal_assets_tests.bench.processes import cpu_seconds, free_port, is_alive, running, wait_for
from selfheal_assets_tests.toy import PROJECT

STARTS_WITHIN_S, TIMEOUT_S = 120, 30
SINGLE_BODIES, BATCH_BODIES = 500, {100: 50, 1000: 10}
SCRIPT = Path(__file__).with_name("load.lua")
SELFHEAL = "from selfheal_assets.cli import main; main()"
NO_WRK = "wrk, the load generator, is not installed: `apt-get install wrk` (Debian), or `brew install wrk`"

Case = dict[str, Any]


@dataclass(frozen=True)
class Scenario:
    """How a server is asked: ``rows`` cases a request, over ``connections``."""

    rows: int
    connections: int

    @property
    def name(self) -> str:
        """For tables and JSON."""
        return f"{'single' if self.rows == 1 else f'batch_{self.rows}'}_{self.connections}"


@dataclass(frozen=True)
class Contestant:
    """A server: how it is started, and how it is asked."""

    name: str
    what: str
    command: Callable[[int], list[str]]
    environment: dict[str, str]
    health: str
    path: Callable[[int], str]
    body: Callable[[Sequence[Case]], Any]
    probability: Callable[[Any], float | None] = lambda answer: None
    batches: bool = True


@dataclass(frozen=True)
class Running:
    """A started contestant."""

    contestant: Contestant
    port: int
    process: subprocess.Popen[bytes]

    def pause(self, stop: bool) -> None:
        """Stop it with all its children, or let it go on."""
        os.killpg(self.process.pid, signal.SIGSTOP if stop else signal.SIGCONT)


@dataclass(frozen=True)
class Measured:
    """What one run of the load generator reached."""

    rps: float
    rows_per_s: float
    p50_ms: float
    p99_ms: float
    cpu_ms: float | None
    errors: int


def main(
    rounds: Annotated[int, typer.Option(min=1, help="Rounds; the medians count.")] = 3,
    seconds: Annotated[int, typer.Option(min=1, help="Length of each measurement.")] = 3,
    warm_s: Annotated[int, typer.Option(min=0, help="Load before each measurement.")] = 1,
    batch_connections: Annotated[int, typer.Option(min=1, help="Connections that send batches.")] = 8,
    only: Annotated[
        str | None, typer.Option(help="Names of servers, with commas: plain,mlflow,fsync,os,shadow,noop")
    ] = None,
    folder: Annotated[
        Path | None,
        typer.Option(help="Where to work, on the disk that is to be measured. Default: data/run."),
    ] = None,
) -> None:
    """Load this service and its peers in turn, and compare requests/s, latency and processor time."""
    if shutil.which("wrk") is None:
        report.say(NO_WRK)
        raise typer.Exit(2)
    server_cpu, load_cpu = _processors()
    scenarios = [Scenario(1, 1), Scenario(1, 16), Scenario(1, 64)]
    scenarios += [Scenario(rows, batch_connections) for rows in BATCH_BODIES]
    results: dict[tuple[str, str], list[Measured]] = {}
    with scratch_folder(folder, "bench-serving-") as scratch, ExitStack() as stack:
        report.say("Training a model")
        cases = cases_of(settings_in(scratch / "home"))
        settings, version = install(scratch / "home", cases)
        bodies = served_cases(settings, cases, SINGLE_BODIES)
        chosen = [c for c in contestants(settings, version, scratch) if not only or c.name in only.split(",")]
        servers = []
        for contestant in chosen:
            report.say(f"Starting {contestant.name}: {contestant.what}")
            servers.append(_started(contestant, scratch, server_cpu, stack))
        honoured = _checked(servers, bodies)
        for server in servers:
            server.pause(True)
        for number in range(rounds):
            for scenario in scenarios:
                for server in servers:
                    if scenario.rows > 1 and not server.contestant.batches:
                        continue
                    measured = _measure(server, scenario, bodies, scratch, load_cpu, seconds, warm_s)
                    results.setdefault((server.contestant.name, scenario.name), []).append(measured)
            report.say(f"Round {number + 1} of {rounds} is done")
        for server in servers:
            server.pause(False)
    _report(chosen, scenarios, results, rounds, honoured)


def contestants(settings: Settings, version: int, scratch: Path) -> list[Contestant]:
    """The servers of the comparison, in the order of the table."""
    model = f"models:/{settings.case.name}/{version}"
    registry = {"MLFLOW_TRACKING_URI": settings.tracking_uri, "MLFLOW_REGISTRY_URI": settings.tracking_uri}
    features = settings.case.feature_names

    def uvicorn(module: str) -> Callable[[int], list[str]]:
        app = f"selfheal_assets_tests.bench.{module}:app"
        quiet = ["--log-level", "warning", "--no-access-log"]
        return lambda port: [sys.executable, "-m", "uvicorn", app, "--port", str(port), *quiet]

    def mlflow(port: int) -> list[str]:
        program = [sys.executable, "-m", "mlflow", "models", "serve", "-m", model, "--env-manager", "local"]
        return [*program, "--workers", "1", "--host", "127.0.0.1", "--port", str(port)]

    def split(cases: Sequence[Case]) -> Any:
        rows = [[case.get(name) for name in features] for case in cases]
        return {"dataframe_split": {"columns": features, "data": rows}}

    def ours(durability: str, name: str, what: str, **environment: str) -> Contestant:
        return Contestant(
            name,
            f"this service, one worker, durability {durability}{what}",
            lambda port: [sys.executable, "-c", SELFHEAL, "serve", "--port", str(port)],
            process_environment(settings, **registry)
            | {"SELFHEAL_HOME": str(scratch / f"home-{name}"), "SELFHEAL_DURABILITY": durability}
            | environment,
            "/health",
            _predict_path,
            _plain_body,
            _plain_probability,
        )

    peer = {"PLAIN_PEER_MODEL": model, "PLAIN_PEER_LOG": str(scratch / "plain_peer.csv")}
    common = process_environment(settings, **registry)
    return [
        Contestant(
            "plain",
            "plain peer: FastAPI, pydantic, pyfunc on a DataFrame, CSV without fsync",
            uvicorn("plain_peer"),
            common | peer,
            "/health",
            _predict_path,
            _plain_body,
            _plain_probability,
        ),
        Contestant(
            "mlflow",
            "mlflow models serve --env-manager local, one worker, no log",
            mlflow,
            common,
            "/ping",
            lambda rows: "/invocations",
            split,
            lambda answer: answer["predictions"][0]["probability"],
        ),
        ours("fsync", "fsync", ""),
        ours("os", "os", ""),
        ours("fsync", "shadow", ", a challenger in shadow", SELFHEAL_USE_CASE=str(_with_shadow(scratch))),
        Contestant(
            "noop",
            "the limit: a bare ASGI application under the same server that does nothing",
            uvicorn("noop"),
            common,
            "/",
            _predict_path,
            _plain_body,
            batches=False,
        ),
    ]


def _with_shadow(scratch: Path) -> Path:
    """The shipped use case, with a challenger in shadow."""
    shipped = PROJECT / "selfheal_assets" / "use_cases" / f"{USE_CASE}.yaml"
    use_case = scratch / shipped.name
    use_case.write_text(f"{shipped.read_text()}\nserving: {{shadow: challenger}}\n")
    return use_case


def _predict_path(rows: int) -> str:
    return "/predict" if rows == 1 else "/predict/batch"


def _plain_body(cases: Sequence[Case]) -> Any:
    return cases[0] if len(cases) == 1 else {"cases": list(cases)}


def _plain_probability(answer: Any) -> float:
    return answer["probability"]


def _processors() -> tuple[set[int], set[int]]:
    """One processor for the server and one for the generator; the same where there is but one."""
    known = sorted(os.sched_getaffinity(0))
    if len(known) < 2:
        report.say("Only one processor: server and load generator share it")
    return {known[0]}, {known[-1]}


def _started(contestant: Contestant, scratch: Path, cpus: set[int], stack: ExitStack) -> Running:
    port, log = free_port(), scratch / f"{contestant.name}.log"
    command = contestant.command(port)
    process = stack.enter_context(running(command, contestant.environment, log, cpus))
    url = f"http://127.0.0.1:{port}{contestant.health}"
    wait_for(lambda: _answers(url), STARTS_WITHIN_S, lambda: is_alive(process.pid), log)
    return Running(contestant, port, process)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return response.status == 200
    except OSError:
        return False


def _asked(server: Running, path: str, body: Any = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(
        f"http://127.0.0.1:{server.port}{path}", data, {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:
            return json.load(response)
    except urllib.error.HTTPError as error:
        raise SystemExit(f"{server.contestant.name} answers {error.code}: {error.read()[:500]!r}") from error


def _checked(servers: list[Running], bodies: Sequence[Case]) -> dict[str, bool]:
    """See that all give the same answers; returns whether each of ours serves with the durability asked for."""
    for case in bodies[:20]:
        told = {}
        for server in servers:
            c = server.contestant
            told[c.name] = c.probability(_asked(server, c.path(1), c.body([case])))
        given = [p for p in told.values() if p is not None]
        if given and max(given) - min(given) > 1e-9:
            raise SystemExit(f"the servers disagree about a case: {told}")
    honoured = {}
    for server in servers:
        name = server.contestant.name
        if wanted := server.contestant.environment.get("SELFHEAL_DURABILITY"):
            honoured[name] = _asked(server, "/health").get("log_durability") == wanted
            if not honoured[name]:
                report.say(f"{name}: this version of the service knows no SELFHEAL_DURABILITY={wanted}")
    return honoured


def _measure(
    server: Running,
    scenario: Scenario,
    bodies: Sequence[Case],
    scratch: Path,
    cpus: set[int],
    seconds: int,
    warm_s: int,
) -> Measured:
    file = _bodies_file(server.contestant, scenario, bodies, scratch)
    server.pause(False)
    try:
        if warm_s:
            _wrk(server, scenario, file, cpus, warm_s)
        before = cpu_seconds(server.process.pid)
        requests, duration_us, errors, p50_us, p99_us = _wrk(server, scenario, file, cpus, seconds)
        after = cpu_seconds(server.process.pid)
    finally:
        server.pause(True)
    used = sum(cpu - before.get(pid, 0.0) for pid, cpu in after.items())
    rps = requests / (duration_us / 1e6)
    return Measured(
        rps,
        rps * scenario.rows,
        p50_us / 1e3,
        p99_us / 1e3,
        used * 1e3 / requests if requests else None,
        int(errors),
    )


def _bodies_file(contestant: Contestant, scenario: Scenario, bodies: Sequence[Case], scratch: Path) -> Path:
    file = scratch / f"{contestant.name}-{scenario.rows}.jsonl"
    if not file.exists():
        rows, count = scenario.rows, BATCH_BODIES.get(scenario.rows, len(bodies))
        taken = ([bodies[(n * rows + i) % len(bodies)] for i in range(rows)] for n in range(count))
        file.write_text("\n".join(json.dumps(contestant.body(cases)) for cases in taken) + "\n")
    return file


def _wrk(server: Running, scenario: Scenario, file: Path, cpus: set[int], seconds: int) -> tuple[float, ...]:
    url = f"http://127.0.0.1:{server.port}{server.contestant.path(scenario.rows)}"
    command = ["wrk", "-t1", f"-c{scenario.connections}", f"-d{seconds}s", "--timeout", f"{TIMEOUT_S}s"]
    ran = subprocess.run(
        [*command, "-s", str(SCRIPT), url, "--", str(file)],
        capture_output=True,
        text=True,
        timeout=seconds + 2 * TIMEOUT_S,
        preexec_fn=lambda: os.sched_setaffinity(0, cpus),
    )
    line = next((x for x in ran.stdout.splitlines() if x.startswith("RESULT ")), None)
    if line is None:
        raise SystemExit(f"wrk failed: {ran.stdout}{ran.stderr}")
    return tuple(float(x) for x in line.split()[1:])


def _report(
    chosen: list[Contestant],
    scenarios: list[Scenario],
    results: dict[tuple[str, str], list[Measured]],
    rounds: int,
    honoured: dict[str, bool],
) -> None:
    def middle(name: str, scenario: str, figure: str) -> float | None:
        return report.median(getattr(m, figure) for m in results.get((name, scenario), []))

    def ratio(one: str, other: str, scenario: str, figure: str) -> float | None:
        """Median of the rounds' ratios."""
        pairs = zip(results.get((one, scenario), []), results.get((other, scenario), []), strict=False)
        return report.median(report.ratio(getattr(a, figure), getattr(b, figure)) for a, b in pairs)

    figures = list(Measured.__dataclass_fields__)
    for scenario in scenarios:
        what = "single rows" if scenario.rows == 1 else f"batches of {scenario.rows:,}"
        names = [c.name for c in chosen if (c.name, scenario.name) in results]
        report.table(
            f"{what}, {scenario.connections} connections, medians of {rounds} rounds",
            ["server", "requests/s", "rows/s", "p50 ms", "p99 ms", "CPU ms", "errors", "× plain", "× mlflow"],
            [
                (
                    n,
                    *(middle(n, scenario.name, f) for f in figures),
                    ratio(n, "plain", scenario.name, "rps"),
                    ratio(n, "mlflow", scenario.name, "rps"),
                )
                for n in names
            ],
        )
    for contestant in chosen:
        report.say(f"{contestant.name}: {contestant.what}")
    batch = next(s.name for s in scenarios if s.rows == 1000)
    report.figures(
        rps_ratio_vs_plain=ratio("fsync", "plain", "single_64", "rps"),
        rps_ratio_vs_mlflow=ratio("fsync", "mlflow", "single_64", "rps"),
        p99_ratio_vs_plain=ratio("fsync", "plain", "single_64", "p99_ms"),
        p99_ratio_vs_mlflow=ratio("fsync", "mlflow", "single_64", "p99_ms"),
        p50_ratio_vs_plain_single=ratio("fsync", "plain", "single_1", "p50_ms"),
        batch_rows_ratio_vs_plain=ratio("fsync", "plain", batch, "rows_per_s"),
        batch_rows_ratio_vs_mlflow=ratio("fsync", "mlflow", batch, "rows_per_s"),
        share_of_noop=ratio("fsync", "noop", "single_64", "rps"),
        p99_ratio_with_shadow=ratio("shadow", "fsync", "single_64", "p99_ms"),
        p99_noise=report.ratio(*_extremes(m.p99_ms for m in results.get(("fsync", "single_64"), []))),
        errors=sum(m.errors for all_of in results.values() for m in all_of),
        rounds=rounds,
        durability_honoured=honoured,
        measured={
            f"{c.name}.{s.name}": {f: middle(c.name, s.name, f) for f in figures}
            for c in chosen
            for s in scenarios
            if (c.name, s.name) in results
        },
    )


def _extremes(values: Iterable[float]) -> tuple[float | None, float | None]:
    """The largest and the smallest, if there are any."""
    known = list(values)
    return max(known, default=None), min(known, default=None)


if __name__ == "__main__":
    report.run(main)
