"""``selfheal backtest``: what each of several policies would have done over the recorded history."""

import json
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from selfheal_assets.cli.plainly import told_plainly
from selfheal_assets.settings import Settings, read_settings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from selfheal_assets.backtest.policies import BacktestPolicy
    from selfheal_assets.backtest.run import Bounds
    from selfheal_assets.core.backtest import Backtest
    from selfheal_assets.use_case import UseCase

PAGE = "backtest.html"
_DAY = ["%Y-%m-%d"]


def backtest(
    use_case: Annotated[
        str | None, typer.Option(help="A name or a .yaml. Default: SELFHEAL_USE_CASE, else sba_loans.")
    ] = None,
    every: Annotated[int, typer.Option(min=1, help="Chunks between the trainings of 'every'.")] = 4,
    policy: Annotated[
        list[Path] | None,
        typer.Option(help="A .yaml with 'policy' and 'training' over the use case's own; may be repeated."),
    ] = None,
    looked_at_after: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="So many chunks after a fault holds training, somebody finds it right. Default: nobody looks.",
        ),
    ] = None,
    judged_from: Annotated[
        datetime | None,
        typer.Option("--from", help="Judge cases from this day on. Default: go-live.", formats=_DAY),
    ] = None,
    until: Annotated[
        datetime | None, typer.Option(help="Live through no chunk that ends later.", formats=_DAY)
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Of the intervals' resampling.")] = 0,
    resamples: Annotated[int, typer.Option(min=0, max=100_000, help="For the intervals; 0: none.")] = 500,
    folder: Annotated[
        Path | None,
        typer.Option(help="What is computed is kept here. Default: <home>/backtests/<name>-<id>."),
    ] = None,
    full: Annotated[
        bool, typer.Option("--full", help="Use the full table, see `selfheal data fetch`.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one line of JSON for programs.")] = False,
) -> None:
    """Replay the history under several policies: would this loop have helped?

    Each policy lives through the history chunk by chunk and sees only what was
    known on the day: never retraining, retraining every so many chunks, on any
    drift alarm, this use case's loop with its gates and rollback, any policy
    file, and an oracle that sees every label at once.

    Nothing of the installation is read or written but the source's file and the
    folder of the backtest. Interrupted, it goes on where it stopped.
    docs/backtest.md tells what the figures mean.
    """
    from selfheal_assets.backtest.policies import PolicyError
    from selfheal_assets.backtest.run import Bounds, NothingToLiveThrough

    given: dict[str, Any] = {"use_case": use_case} if use_case else {}
    settings = read_settings(**given, **({"full": True} if full else {}))
    with told_plainly(PolicyError, NothingToLiveThrough):
        compared = _compared(settings.case, every, policy or [], looked_at_after)
        found, kept = _run(settings, compared, Bounds(judged_from, until), seed, resamples, folder)
    _write(found, kept, settings.case.label.outcome)
    if as_json:
        typer.echo(json.dumps(found.to_json()))
        return
    from selfheal_assets.reports.backtest_console import backtest_lines

    for line in backtest_lines(found):
        typer.echo(line)
    typer.echo(f"Kept in {kept}; look at {kept / PAGE}")


def _compared(
    case: "UseCase", every: int, files: list[Path], looked_at_after: int | None
) -> "tuple[BacktestPolicy, ...]":
    from selfheal_assets.backtest.policies import policies_from, standard_policies

    return (
        *standard_policies(case, every, looked_at_after),
        *policies_from(case, files, looked_at_after),
    )


def _run(
    settings: Settings,
    compared: "Sequence[BacktestPolicy]",
    bounds: "Bounds",
    seed: int,
    resamples: int,
    folder: Path | None,
) -> "tuple[Backtest, Path]":
    from selfheal_assets.backtest.history import History, truth_of
    from selfheal_assets.backtest.kept import code_fingerprint
    from selfheal_assets.backtest.run import run_backtest
    from selfheal_assets.core import fingerprint
    from selfheal_assets.core.periods import midnight
    from selfheal_assets.reports.backtest_console import living_progress
    from selfheal_assets.stores.applications import require_reference, split_at_go_live
    from selfheal_assets.stores.simulation_files import read_truth
    from selfheal_assets.stores.sources import read_cases

    case = settings.case
    cases = read_cases(case, settings)
    require_reference(case, split_at_go_live(cases, midnight(case.go_live))[0])
    told_truth = read_truth(settings.use_case_folder) if settings.use_case_folder else None
    name = fingerprint.of_value([cases.fingerprint, case.model_dump(mode="json"), code_fingerprint()])
    kept = folder or settings.backtests / f"{case.name}-{name}"
    with living_progress([p.name for p in compared]) as told:
        found = run_backtest(
            History(cases.frame, cases.labels, truth_of(*told_truth) if told_truth else None),
            case,
            compared,
            seed,
            bounds=bounds,
            folder=kept,
            resamples=resamples,
            told=told,
        )
    return found, kept


def _write(found: "Backtest", folder: Path, outcome: str) -> None:
    """The frames as Parquet, the figures as JSON, and the page."""
    from selfheal_assets.reports.backtest import backtest_page
    from selfheal_assets.reports.page import write_atomically

    folder.mkdir(parents=True, exist_ok=True)
    for name in ("chunks", "actions", "models", "alarms", "events", "summary", "differences"):
        getattr(found, name).write_parquet(folder / f"{name}.parquet")
    write_atomically(folder / PAGE, backtest_page(found, outcome))
    (folder / "backtest.json").write_text(json.dumps(found.to_json(), indent=1), encoding="utf-8")
