"""What people are told of: decisions, and chunks whose checks fail or hold again. Content only, no sending."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Final, Literal

from selfheal_assets.core import fingerprint
from selfheal_assets.core.monitoring import Status

Row = dict[str, Any]
_BAD: Final = {"ROLL_BACK", "HOLD", "FIX_DATA", "PENDING"}  # decisions that ask for a look
_QUIET: Final = "SUPPRESS"  # the alarm that it follows was told


@dataclass(frozen=True)
class Notification:
    """One message, before it is put into a channel's form.

    Attributes:
        kind: a decision of the loop, an alarm, or a recovery.
        severity: ``warning`` asks for a look, ``info`` does not.
        title: one line.
        text: the reason, in words.
        at: the time that it speaks of, naive UTC.
        use_case: whose.
        facts: what a program may want: ids, versions, failed checks.
    """

    kind: Literal["decision", "alarm", "recovery"]
    severity: Literal["info", "warning"]
    title: str
    text: str
    at: datetime
    use_case: str
    facts: Row

    @property
    def id(self) -> str:
        """Names the message by its content: the same one is told once."""
        return fingerprint.of_value(asdict(self) | {"at": self.at.isoformat()})

    def generic(self) -> Row:
        """The body of a plain webhook."""
        return asdict(self) | {"id": self.id, "at": self.at.isoformat()}

    def slack(self) -> Row:
        """The body of a Slack incoming webhook: ``text`` for the notification, blocks for the channel."""
        sign = ":warning:" if self.severity == "warning" else ":information_source:"
        head = f"{sign} *{self.title}*"
        section = {"type": "section", "text": {"type": "mrkdwn", "text": f"{head}\n{self.text[:2900]}"}}
        context = {
            "type": "context",
            "elements": [{"type": "mrkdwn", "text": f"{self.use_case}, {self.at:%Y-%m-%d}"}],
        }
        return {"text": f"{self.title}: {self.text[:200]}", "blocks": [section, context]}


def of_decision(row: Row, use_case: str) -> Notification:
    """A row of the ledger: ``id``, ``action``, ``as_of``, ``reason``, ``champion``, ``challenger``."""
    models = f"version {row['champion'] or '–'} → {row['challenger'] or '–'}"
    return Notification(
        "decision",
        "warning" if row["action"] in _BAD else "info",
        f"{use_case}: {row['action']} ({models})",
        row["reason"],
        row["as_of"],
        use_case,
        {k: row[k] for k in ("id", "action", "champion", "challenger")},
    )


def of_health(row: Row, before: Row | None, use_case: str) -> Notification | None:
    """The newest chunk against the one before: an alarm, a recovery, or nothing new.

    Args:
        row: of ``health_report``: ``chunk``, ``label``, ``status``, ``reason``, ``failed_checks``.
        before: the chunk before, if there is one.
        use_case: whose.
    """
    facts = {"chunk": row["label"], "failed_checks": row["failed_checks"] or ""}
    told = (row["label"], row["reason"], row["chunk"], use_case, facts)
    if row["status"] == Status.failed.value:
        return _of_chunk("alarm", f"{use_case}: checks fail in {row['label']}", *told)
    if (
        row["status"] == Status.passed.value
        and before is not None
        and before["status"] == Status.failed.value
    ):
        return _of_chunk("recovery", f"{use_case}: all checks hold again in {row['label']}", *told)
    return None


def _of_chunk(
    kind: Literal["alarm", "recovery"],
    title: str,
    label: str,
    reason: str,
    at: datetime,
    use_case: str,
    facts: Row,
) -> Notification:
    severity = "warning" if kind == "alarm" else "info"
    return Notification(kind, severity, title, reason or label, at, use_case, facts)


@dataclass(frozen=True)
class Told:
    """How far people have been told: the newest decision's number and the newest chunk."""

    decision: int = 0
    chunk: datetime | None = None


def news(
    health: Sequence[Row], decisions: Sequence[Row], told: Told, use_case: str
) -> tuple[list[Notification], Told]:
    """What is new since ``told``, oldest first, and how far that reaches; rows come newest first."""
    found = [
        of_decision(row, use_case)
        for row in reversed(decisions)
        if row["id"] > told.decision and row["action"] != _QUIET
    ]
    for row, before in reversed(list(zip(health, [*health[1:], None], strict=True)) if health else []):
        if told.chunk is None or row["chunk"] > told.chunk:
            message = of_health(row, before, use_case)
            found += [message] if message else []
    newest = max([told.decision, *(row["id"] for row in decisions)])
    chunks = [c for c in (told.chunk, *(row["chunk"] for row in health)) if c is not None]
    return sorted(found, key=lambda n: n.at), Told(newest, max(chunks, default=None))
