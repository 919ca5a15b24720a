"""``selfheal rollback``, ``pending``, ``approve``: what people decide about the champion, recorded."""

import json
import sys
from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer

from selfheal_assets.cli.plainly import told_plainly
from selfheal_assets.settings import Settings, read_settings

if TYPE_CHECKING:
    from selfheal_assets.stores.model_registry import ModelRegistry
    from selfheal_assets.stores.warehouse import Warehouse

_JSON = Annotated[bool, typer.Option("--json", help="For programs.")]


class NotPossible(ValueError):
    """What was asked cannot be done; the message says why, and what would help."""


def rollback(
    to: Annotated[
        int, typer.Option(help="The version that answers again; it must have been champion before.")
    ],
    reason: Annotated[
        str, typer.Option(help="Why, in words: it is recorded, and kept on the quarantined version.")
    ],
    quarantine_rows: Annotated[
        str | None,
        typer.Option(
            metavar="FROM..UNTIL",
            help="Also keep the cases of these days out of training sets from now on, as 2024-01-01..2024-02-01 "
            "(UNTIL not included).",
        ),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: _JSON = False,
) -> None:
    """Take the champion back by hand: another version answers, and the champion is quarantined.

    Everything in the bundle goes back with it: booster, calibrator, threshold, features, reference. The service
    follows within seconds. `selfheal decisions` lists who was champion when.
    """
    from selfheal_assets.stores import revocation

    settings = read_settings()
    with told_plainly(NotPossible, revocation.NotRolledBack):
        days = _days(quarantine_rows) if quarantine_rows else None
        if not reason.strip():
            raise NotPossible("--reason must say why: it is recorded")
        warehouse, registry = _stores(settings)
        champion = revocation.checked(warehouse, registry, to)
        _confirm(f"Version {champion} is quarantined, and version {to} answers again. Go on?", yes or as_json)
        number = revocation.by_hand(
            warehouse, registry, champion, to, reason.strip(), settings.user, settings.now(), days
        )
    told = {"decision": number, "champion": to, "quarantined": champion, "quarantined_rows": quarantine_rows}
    typer.echo(
        json.dumps(told)
        if as_json
        else f"Decision {number}: version {to} is champion, version {champion} is quarantined."
    )


def pending(as_json: _JSON = False) -> None:
    """List the promotions that wait for an approval, and what is in the way of those that can have none any more."""
    from selfheal_assets.stores import approvals

    settings = read_settings()
    with told_plainly(NotPossible):
        warehouse, registry = _stores(settings)
        waiting = approvals.pending(warehouse, registry, settings.case.policy.gates, settings.wall_clock())
    if as_json:
        typer.echo(json.dumps([asdict(w) for w in waiting], default=str))
    elif not waiting:
        typer.echo("No promotion waits for an approval.", err=True)
    for w in [] if as_json else waiting:
        state = (
            w.obstacle or f"until {w.expires_at:%Y-%m-%d %H:%M} UTC: selfheal approve {w.decision} --by NAME"
        )
        typer.echo(
            f"{w.decision:>4}  {w.champion or '–'} → {w.challenger}  asked by {w.requested_by}  {state}\n"
            f"      {w.reason}"
        )


def approve(
    number: Annotated[int, typer.Argument(metavar="ID", help="As `selfheal pending` lists it.")],
    by: Annotated[str, typer.Option(help="Who approves; not who asked for the promotion.")],
    as_json: _JSON = False,
) -> None:
    """Approve a promotion that waits, and carry it out.

    Look at its evidence first: `selfheal decisions show ID`. Where `policy.gates.approval` is true, a challenger that
    passed all gates waits as PENDING for somebody other than who asked, at most `policy.gates.approval_days` days.
    """
    from selfheal_assets.stores import approvals, promotion

    settings = read_settings()
    with told_plainly(NotPossible, approvals.NotApproved, promotion.ChampionChanged):
        warehouse, registry = _stores(settings)
        made = approvals.approve(
            warehouse,
            registry,
            settings.case.policy.gates,
            number,
            by,
            settings.user,
            settings.now(),
            settings.wall_clock(),
        )
        champion = registry.champion()
    told = {"decision": made, "approves": number, "approved_by": by, "champion": champion}
    typer.echo(
        json.dumps(told) if as_json else f"Decision {made}: version {champion} is champion, approved by {by}."
    )


def _stores(settings: Settings) -> "tuple[Warehouse, ModelRegistry]":
    """Ledger and registry of an installation, with what was cut off made good."""
    from selfheal_assets.stores import promotion
    from selfheal_assets.stores.model_registry import ModelRegistry
    from selfheal_assets.stores.tables import create_tables
    from selfheal_assets.stores.warehouse import Warehouse

    if not settings.warehouse_path.exists():
        raise NotPossible(
            f"nothing was decided yet (looked in {settings.warehouse_path}): run `selfheal replay`, or materialize "
            "promotion_decision"
        )
    warehouse = Warehouse(settings.warehouse_path, settings.published, settings.lock_timeout_s)
    create_tables(warehouse, settings.case)
    registry = ModelRegistry(settings)
    promotion.recover(warehouse, registry)
    return warehouse, registry


def _confirm(question: str, agreed: bool) -> None:
    if agreed:
        return
    if not sys.stdin.isatty():
        raise NotPossible("nobody is here to be asked: give --yes")
    typer.confirm(question, abort=True)


def _days(text: str) -> tuple[datetime, datetime]:
    """The first day and the day after the last of FROM..UNTIL."""
    try:
        start, end = (datetime.strptime(day, "%Y-%m-%d") for day in text.split(".."))
    except ValueError:
        raise NotPossible(
            f"--quarantine-rows {text}: give two days as 2024-01-01..2024-02-01 (UNTIL not included)"
        ) from None
    if start >= end:
        raise NotPossible(f"--quarantine-rows {text}: FROM must be before UNTIL")
    return start, end
