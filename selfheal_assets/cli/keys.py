"""``selfheal keys``: API keys of the prediction service."""

import json
from datetime import timedelta
from typing import Annotated

import typer

from selfheal_assets.cli.plainly import told_plainly
from selfheal_assets.settings import Settings, read_settings

app = typer.Typer(help="API keys of the prediction service.", no_args_is_help=True)


@app.command("create")
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


@app.command("revoke")
def revoke_key(
    key: Annotated[str, typer.Argument(metavar="ID|NAME", help="As `selfheal keys list` says.")],
) -> None:
    """Revoke a key: within a second it opens nothing any more."""
    from selfheal_assets.stores.api_keys import KeyFile, KeysUnusable, UnknownKey

    with told_plainly(KeysUnusable, UnknownKey, OSError):
        revoked = KeyFile(read_settings().api_keys_path).revoke(key, Settings.wall_clock())
    typer.echo(f"API key {revoked.id} ('{revoked.name}') is revoked.", err=True)


@app.command("list")
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
