"""The ``selfheal`` command: replay, serve, score, dev. A module beside this one for each group of others.

Parses, calls, prints; what the commands do lives elsewhere.
"""

import json
import os
import shutil
import sys
import time
from contextlib import ExitStack
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from selfheal_assets.cli import backtest, cards, data, decisions, keys, promotion, simulate, status
from selfheal_assets.cli.plainly import told_plainly
from selfheal_assets.settings import Settings, SettingsError, prepare_environment, read_settings
from selfheal_assets.stores.segment_writer import Durability

if TYPE_CHECKING:
    from selfheal_assets.replay import Replay

app = typer.Typer(
    help="A tabular classifier in production, monitored, retrained and rolled back by itself.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.add_typer(data.app, name="data")
app.add_typer(keys.app, name="keys")
app.add_typer(decisions.app, name="decisions")
app.add_typer(decisions.audit, name="audit")
app.command("asof")(decisions.asof)
for command in (
    status.status,
    status.notify,
    promotion.rollback,
    promotion.pending,
    promotion.approve,
    simulate.simulate,
    backtest.backtest,
    cards.card,
):
    app.command()(command)


def main() -> None:
    """Run the command; a failure that the user can mend is one message, not a stack trace."""
    prepare_environment()
    from selfheal_assets.core.plan import NotEnoughData
    from selfheal_assets.stores.sources import SourceError
    from selfheal_assets.stores.warehouse import DiskFull, WarehouseBusy, WarehouseDamaged
    from selfheal_assets.use_case import UseCaseError

    told = (
        SettingsError,
        UseCaseError,
        SourceError,
        NotEnoughData,
        WarehouseBusy,
        WarehouseDamaged,
        DiskFull,
    )
    try:
        app()
    except told as error:
        typer.echo(f"selfheal: {error}", err=True)
        sys.exit(2)


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
        summary_path = settings.published / "replay.json"
        if not left and not run.changed_since() and summary_path.exists():
            typer.echo(
                f"Nothing is to be done: all {len(run.chunks(until))} chunks are replayed. --fresh starts anew."
            )
            typer.echo(summary_path.read_text(encoding="utf-8").strip())
            return
        _tell_changes(run, bool(left))
        typer.echo(header_line(settings.case.title, len(left)), err=True)
        for number, of, outcome in run.run(until):
            typer.echo(chunk_line(number, of, outcome, time.perf_counter() - started), err=True)
        run.let_labels_arrive()
        result = replaying.finish(run)
    typer.echo(chunk_table(result.chunks, settings.case))
    for line in summary_lines(result.summary, result.report, settings.case):
        typer.echo(line)
    typer.echo(json.dumps(result.summary))


def _tell_changes(run: "Replay", goes_on: bool) -> None:
    """Say what the use case changed since the last leg; figures of an ended replay would not be its own."""
    from selfheal_assets.replay import ReplayFailed, listed

    changes = [c for c in run.changed_since() if not c.is_shown_only]
    if changes and not goes_on:
        raise ReplayFailed(
            f"the use case changed since this was replayed ({listed(changes)}), so its figures are not those of the "
            "use case as it is now. --fresh starts anew"
        )
    if changes:
        typer.echo(
            f"The use case changed since the last leg ({listed(changes)}): this applies from here on, the "
            f"{len(run.finished())} chunks lived through stay as they were. --fresh starts anew.",
            err=True,
        )


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
    from selfheal_assets.serving.champion import NoChampion
    from selfheal_assets.serving.scoring import LogNotDurable, scoring_of

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
