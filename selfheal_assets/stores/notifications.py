"""One round of telling people: what is new goes into the outbox, what is due goes out."""

from dataclasses import asdict

from selfheal_assets.core.notification import Notification, Told, news
from selfheal_assets.settings import Settings
from selfheal_assets.stores.channels import senders
from selfheal_assets.stores.outbox import Outbox
from selfheal_assets.stores.snapshots import read_rows

_ALL = 1_000_000
NO_CHANNEL = (
    "no channel is named: set SELFHEAL_NOTIFY_WEBHOOK, SELFHEAL_NOTIFY_SLACK or SELFHEAL_NOTIFY_EMAIL"
)


def tell(settings: Settings, extra: Notification | None = None) -> str:
    """Tell what is new and try again what could not be delivered; returns what was done, in words.

    The first round notes how far the history reaches and tells nothing of it.
    """
    channels, outbox = senders(settings), Outbox(settings.root / "outbox")
    if not channels:
        return NO_CHANNEL
    with outbox.alone() as alone:
        if not alone:
            return "another process is telling"
        health, decisions = (read_rows(settings.published, n, _ALL) for n in ("health_report", "decisions"))
        told = outbox.told()
        found, reaches = news(health, decisions, told or Told(), settings.case.name)
        messages = ([] if told is None else found) + ([extra] if extra else [])
        if messages or reaches != told:
            outbox.put(messages, [*channels], reaches, settings.wall_clock())
        done = outbox.deliver(channels, settings.wall_clock())
    words = ", ".join(
        f"{n} {name.replace('_', ' ')}" for name, n in asdict(done).items() if name != "problem" and n
    )
    return (words or "nothing new since the last round") + (f"; {done.problem}" if done.problem else "")
