"""``selfheal status`` and ``selfheal notify``: how the use case stands, and telling people of it."""

import json
from dataclasses import asdict
from typing import Annotated

import typer

from selfheal_assets.settings import read_settings

_ALL = 1_000_000


def status(as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False) -> None:
    """Show how the model in production stands: champion, evidence, labels, last decisions, what the loop waits for.

    Reads published snapshots only, so it may run at any time, also while the loop writes. Exit code for cron and
    CI: 0 healthy; 1 attention, a check fails; 2 unknown: nothing monitored, too little data, or monitoring is behind.
    """
    from selfheal_assets.core.standing import stand
    from selfheal_assets.reports.standing import LAST_DECISIONS, show, standing_text
    from selfheal_assets.stores import label_status
    from selfheal_assets.stores.snapshots import read_rows

    settings = read_settings()
    case, published = settings.case, settings.published
    health, decisions = (read_rows(published, name, _ALL) for name in ("health_report", "decisions"))
    evidence = read_rows(published, "evidence", _ALL)
    labels = next(iter(read_rows(published, label_status.SNAPSHOT, 1)), None)
    live = {row["segment"]: row["rows"] for row in (labels or {}).get("live") or []}
    landed = label_status.waiting(settings.label_landing, live)
    standing = stand(health, decisions, landed["rows"], case.monitoring, case.policy, settings.now())
    if as_json:
        told = asdict(standing) | {
            "state": standing.state.name,
            "use_case": case.name,
            "health": health[0] if health else None,
            "evidence": evidence,
            "labels": labels,
            "decisions": decisions[:LAST_DECISIONS],
        }
        typer.echo(json.dumps(told, default=str))
    else:
        show(standing_text(standing, case, health, evidence, decisions, labels))
    raise typer.Exit(int(standing.state))


def notify(
    test: Annotated[bool, typer.Option("--test", help="Send a message that says it is a test.")] = False,
) -> None:
    """Send decisions and alarms that are new, and again what could not be delivered.

    The sensor tell_people does so every half minute; use this to try the channels, or from cron without a daemon.
    SELFHEAL_NOTIFY_WEBHOOK takes any URL (JSON), SELFHEAL_NOTIFY_SLACK an incoming webhook of Slack,
    SELFHEAL_NOTIFY_EMAIL an address, by SELFHEAL_SMTP_URL. Exit code 2 if no channel is named.
    """
    from selfheal_assets.core.notification import Notification
    from selfheal_assets.stores.notifications import NO_CHANNEL, tell

    settings = read_settings()
    name, now = settings.case.name, settings.wall_clock()
    trial = (
        Notification("alarm", "info", f"{name}: a test", "selfheal notify --test", now, name, {})
        if test
        else None
    )
    done = tell(settings, trial)
    typer.echo(done, err=True)
    if done == NO_CHANNEL:
        raise typer.Exit(2)
