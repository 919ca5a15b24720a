"""The ways out: a webhook, Slack's, e-mail. Each takes a letter of ``stores.outbox`` and returns when it is had."""

import smtplib
import ssl
from collections.abc import Callable
from email.message import EmailMessage
from typing import Any
from urllib.parse import unquote, urlsplit

import httpx

from selfheal_assets.settings import Settings
from selfheal_assets.stores.outbox import Refused, Send

TIMEOUT_S = 10.0
_AGAIN = {408, 425, 429}  # of the client's errors, those that pass


def senders(settings: Settings) -> dict[str, Send]:
    """The channels that the settings name."""
    found: dict[str, Send] = {}
    if settings.notify_webhook:
        found["webhook"] = _poster(settings.notify_webhook)
    if settings.notify_slack:
        found["slack"] = _poster(settings.notify_slack)
    if settings.notify_email:
        found["email"] = _mailer(settings)
    return found


def _poster(url: str) -> Send:
    def post(letter: dict[str, Any]) -> None:
        try:
            answer = httpx.post(
                url, json=letter["body"], headers={"Idempotency-Key": letter["id"]}, timeout=TIMEOUT_S
            )
        except httpx.HTTPError as error:
            raise OSError(f"{type(error).__name__}: {error}") from error
        if answer.is_success:
            return
        told = f"the receiver answered {answer.status_code} {answer.reason_phrase}"
        if answer.is_client_error and answer.status_code not in _AGAIN:
            raise Refused(f"{told}: check the URL")
        raise OSError(told)

    return post


def _mailer(settings: Settings) -> Send:
    def mail(letter: dict[str, Any]) -> None:
        message = EmailMessage()
        message["Subject"], message["From"] = letter["title"], settings.notify_from
        message["To"], message["Message-ID"] = settings.notify_email, f"<{letter['id']}@selfheal>"
        message.set_content(letter["text"])
        try:
            with _connected(settings.smtp_url) as server:
                server.send_message(message)
        except (
            smtplib.SMTPRecipientsRefused,
            smtplib.SMTPSenderRefused,
            smtplib.SMTPAuthenticationError,
        ) as error:
            raise Refused(f"{type(error).__name__}: {error}") from error
        except smtplib.SMTPException as error:
            raise OSError(f"{type(error).__name__}: {error}") from error

    return mail


def _connected(url: str) -> smtplib.SMTP:
    """A session with ``smtp://user:password@host:port`` (STARTTLS where the server has it) or ``smtps://…``."""
    parts = urlsplit(url)
    host, port = parts.hostname or "localhost", parts.port or (465 if parts.scheme == "smtps" else 25)
    connect: Callable[..., smtplib.SMTP] = smtplib.SMTP_SSL if parts.scheme == "smtps" else smtplib.SMTP
    server = connect(host, port, timeout=TIMEOUT_S)
    if parts.scheme == "smtp" and server.has_extn("starttls"):
        server.starttls(context=ssl.create_default_context())
    if parts.username:
        server.login(unquote(parts.username), unquote(parts.password or ""))
    return server
