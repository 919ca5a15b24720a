"""``selfheal decisions``, ``audit``, ``asof``: what was decided, on which evidence, and whether that still holds."""

import json
from dataclasses import asdict
from datetime import datetime
from typing import Annotated, Any

import typer

from selfheal_assets.cli.plainly import told_plainly
from selfheal_assets.settings import Settings, read_settings

app = typer.Typer(
    help="What the loop decided, 'no' included, and on which evidence.", invoke_without_command=True
)
audit = typer.Typer(help="Whether the record of decisions is as it was written.", no_args_is_help=True)
_JSON = Annotated[bool, typer.Option("--json", help="For programs.")]


class NothingDecided(LookupError):
    """There is no ledger, or no such decision in it; the message says how to get one."""


@app.callback()
def decisions(context: typer.Context, as_json: _JSON = False) -> None:
    """List the decisions, newest last."""
    if context.invoked_subcommand is not None:
        return
    from selfheal_assets.stores import decision_ledger

    with told_plainly(NothingDecided):
        rows = decision_ledger.history(_warehouse(read_settings())).to_dicts()
    if as_json:
        typer.echo(json.dumps(rows, default=str))
    for row in [] if as_json else rows:
        models = f"{row['champion'] or '–'} → {row['challenger'] or '–'}"
        typer.echo(
            f"{row['id']:>4}  {row['as_of']:%Y-%m-%d}  {row['action']:<12}  {models:>9}  {row['reason']}"
        )


@app.command()
def show(
    number: Annotated[int, typer.Argument(metavar="ID", help="As `selfheal decisions` lists it.")],
    as_json: _JSON = False,
) -> None:
    """Print the whole evidence of one decision: each gate's answer, the window, the fingerprints, the chain."""
    from selfheal_assets.stores import decision_ledger

    with told_plainly(NothingDecided):
        known = {d["id"]: d for d in decision_ledger.recorded(_warehouse(read_settings()))}
        if number not in known:
            raise NothingDecided(f"there is no decision {number}: `selfheal decisions` lists them")
    decision = known[number]
    if as_json:
        typer.echo(json.dumps(decision, default=str))
        return
    payload = decision["payload"]
    for name in ("id", "action", "as_of", "recorded_at", "champion", "challenger", "reason"):
        typer.echo(f"{name:<14} {decision[name]}")
    for name, value in payload["fingerprints"].items():
        typer.echo(f"{name:<14} fingerprint {value or '–'}")
    typer.echo(f"{'hash':<14} {decision['hash']} after {decision['previous_hash']}")
    for line in _evidence(payload["evidence"]):
        typer.echo(line)


def _evidence(evidence: dict[str, Any]) -> list[str]:
    lines = []
    for name, value in evidence.items():
        if name == "gates":
            lines += [
                f"\n{g['verdict']:<12} {g['gate']}: {g['reason']}" + _more(g["evidence"]) for g in value
            ]
        else:
            lines.append(f"{name:<14} {value}")
    return lines


def _more(evidence: dict[str, Any]) -> str:
    return "".join(f"\n{'':<13}{name} = {value}" for name, value in evidence.items())


@audit.command()
def verify(
    last: Annotated[
        str | None,
        typer.Option(help="The newest hash as it was written down elsewhere: rows cut off at the end show."),
    ] = None,
    as_json: _JSON = False,
) -> None:
    """Check every row's hash and its link to the row before; a change of one byte is found, and its row named.

    Exit code 1 if anything is amiss. Write the printed hash down outside this machine, for --last next time.
    """
    from selfheal_assets.stores import audit as auditing
    from selfheal_assets.stores import decision_ledger

    with told_plainly(NothingDecided):
        warehouse = _warehouse(read_settings())
    rows, broken = decision_ledger.history(warehouse), auditing.damaged(warehouse)
    newest = rows["hash"][-1]
    cut_off = last is not None and last not in rows["hash"].to_list()
    told = {
        "decisions": rows.height,
        "broken": broken["id"].to_list(),
        "last_hash": newest,
        "cut_off": cut_off,
    }
    if as_json:
        typer.echo(json.dumps(told))
    else:
        for row in broken.to_dicts():
            typer.echo(
                f"decision {row['id']} ({row['action']} as of {row['as_of']:%Y-%m-%d}) is not as it was recorded"
            )
        if cut_off:
            typer.echo(f"no row has the hash {last}: rows were cut off or replaced since it was written down")
        sound = not broken.height and not cut_off
        typer.echo(
            f"{rows.height} decisions, {'all' if sound else 'NOT all'} as recorded; last hash {newest}"
        )
    if broken.height or cut_off:
        raise typer.Exit(1)


def asof(
    day: Annotated[
        datetime, typer.Argument(formats=["%Y-%m-%d"], metavar="DATE", help="For example 2008-09-15.")
    ],
    as_json: _JSON = False,
) -> None:
    """Rebuild what was known and decided at a date, and compare it with the ledger.

    Each decision's training set is put together anew from what was known on its own day, and the models that it
    names are read again: their fingerprints must be the recorded ones. Exit code 1 if one is not.
    """
    from selfheal_assets.stores import audit as auditing
    from selfheal_assets.stores import decision_ledger
    from selfheal_assets.stores.model_registry import ModelRegistry

    settings = read_settings()
    with told_plainly(NothingDecided):
        warehouse = _warehouse(settings)
        if broken := decision_ledger.broken_links(warehouse):
            raise NothingDecided(
                f"decision {broken[0]} is not as it was recorded: see `selfheal audit verify`"
            )
    found = auditing.known_at(warehouse, settings.case, ModelRegistry(settings), day)
    if as_json:
        typer.echo(json.dumps(asdict(found), default=str))
    else:
        typer.echo(
            f"{found.as_of:%Y-%m-%d}: {found.cases:,} cases had happened, {found.mature:,} of them mature; "
            f"{found.labels:,} labels were known, {found.positives:,} positive. Champion: "
            f"{f'version {found.champion}' if found.champion else 'none yet'}."
        )
        for d in found.decisions:
            typer.echo(
                f"{d.id:>4}  {d.as_of:%Y-%m-%d}  {d.action:<12}  {'; '.join(d.differences) or 'rebuilt the same'}"
            )
    if found.differs:
        raise typer.Exit(1)


def _warehouse(settings: Settings) -> Any:
    from selfheal_assets.stores import decision_ledger
    from selfheal_assets.stores.warehouse import Warehouse

    nothing = "no decision was taken yet: run `selfheal replay`, or materialize promotion_decision"
    if not settings.warehouse_path.exists():
        raise NothingDecided(f"{nothing} (looked in {settings.warehouse_path})")
    warehouse = Warehouse(settings.warehouse_path, settings.published, settings.lock_timeout_s)
    if not warehouse.has("decisions") or decision_ledger.history(warehouse).is_empty():
        raise NothingDecided(nothing)
    return warehouse
