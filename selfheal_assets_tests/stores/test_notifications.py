"""Messages reach their receivers, once, though these are killed in between; a refusal or an outage blocks nobody."""

import json
import socket
import socketserver
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path

import polars as pl
import pytest

from selfheal_assets.core.notification import Notification, Told
from selfheal_assets.settings import Settings
from selfheal_assets.stores import channels, notifications
from selfheal_assets.stores.outbox import Outbox, Refused

NOW = datetime(2024, 4, 1)
NOTHING_NEW = "nothing new since the last round"
RECEIVER = """
import http.server, sys
class Receiver(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        with open(sys.argv[2], "a") as log:
            log.write(self.headers["Idempotency-Key"] + " " + body + "\\n")
        self.send_response(int(sys.argv[3])); self.end_headers()
    def log_message(self, *_): pass
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Receiver).serve_forever()
"""


def message(title: str = "loans: REJECT") -> Notification:
    return Notification("decision", "info", title, "not better", NOW, "loans", {"id": 7})


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def receiver(port: int, log: Path, status: int = 200):
    """A receiver of webhooks in a process of its own, killed outright at the end."""
    process = subprocess.Popen([sys.executable, "-c", RECEIVER, str(port), str(log), str(status)])
    try:
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        yield
    finally:
        process.kill()
        process.wait()


def received(log: Path) -> list[tuple[str, dict]]:
    lines = log.read_text().splitlines() if log.exists() else []
    return [(line.partition(" ")[0], json.loads(line.partition(" ")[2])) for line in lines]


def settings_for(home: Path, **values: str) -> Settings:
    return Settings(home=home, **values)  # type: ignore[arg-type]


def publish(settings: Settings, decisions: int, chunks: list[str]) -> None:
    settings.published.mkdir(parents=True, exist_ok=True)
    rows = [
        {"id": i, "as_of": NOW, "action": "REJECT", "champion": 1, "challenger": 2, "reason": f"number {i}"}
        for i in range(1, decisions + 1)
    ]
    pl.DataFrame(rows).write_parquet(settings.published / "decisions.parquet")
    health = [
        {
            "chunk": datetime(2024, n, 1),
            "label": f"2024-0{n}",
            "status": status,
            "reason": "why",
            "failed_checks": "",
        }
        for n, status in enumerate(chunks, 1)
    ]
    pl.DataFrame(health).write_parquet(settings.published / "health_report.parquet")


def test_a_receiver_that_was_killed_has_each_message_once_when_it_is_back(tmp_path, monkeypatch):
    port, log = free_port(), tmp_path / "received"
    settings = settings_for(tmp_path / "home", notify_webhook=f"http://127.0.0.1:{port}/hook")
    clock = {"now": NOW}
    monkeypatch.setattr(Settings, "wall_clock", staticmethod(lambda: clock["now"]))
    publish(settings, 1, ["PASS"])
    with receiver(port, log):
        assert notifications.tell(settings) == NOTHING_NEW  # the history before the first round is not told
        publish(settings, 2, ["PASS"])
        assert notifications.tell(settings) == "1 sent"
    publish(settings, 3, ["PASS", "FAIL"])
    down = notifications.tell(settings)
    assert down.startswith("2 waiting; webhook: ConnectError")
    assert "2 waiting" in notifications.tell(settings)  # not due yet, and not put twice
    with receiver(port, log):
        clock["now"] += timedelta(minutes=2)
        assert notifications.tell(settings) == "2 sent"
        assert notifications.tell(settings) == NOTHING_NEW
    keys = [key for key, _ in received(log)]
    assert len(keys) == len(set(keys)) == 3
    assert [body["facts"].get("id") for _, body in received(log)] == [2, None, 3]
    assert [body["kind"] for _, body in received(log)] == ["decision", "alarm", "decision"]


def test_waiting_grows_and_an_old_message_is_given_up_with_its_reason(tmp_path):
    outbox, tried = Outbox(tmp_path), []

    def away(letter):
        tried.append(letter["attempts"])
        raise OSError("nobody there")

    with outbox.alone():
        outbox.put([message()], ["webhook"], Told(), NOW)
        now, gaps = NOW, []
        while len(tried) < 12:
            before = len(tried)
            outbox.deliver({"webhook": away}, now)
            gaps += [now] if len(tried) > before else []
            now += timedelta(seconds=30)
        waits = [(b - a).total_seconds() for a, b in pairwise(gaps)]
        assert waits[:3] == [30, 60, 120]
        assert waits[-1] == 3600
        done = outbox.deliver({"webhook": away}, NOW + timedelta(days=8))
    assert (done.given_up, done.waiting) == (1, 0)
    [kept] = (tmp_path / "given_up").glob("*.json")
    assert "nobody there" in json.loads(kept.read_text())["problem"]


def test_one_channel_down_keeps_no_other_waiting(tmp_path):
    outbox, sent = Outbox(tmp_path), []

    def away(_):
        raise OSError("down")

    with outbox.alone():
        outbox.put([message("a"), message("b")], ["slack", "webhook"], Told(), NOW)
        done = outbox.deliver({"slack": away, "webhook": lambda letter: sent.append(letter["title"])}, NOW)
    assert sorted(sent) == ["a", "b"]
    assert (done.sent, done.waiting) == (2, 2)


def test_a_refusal_is_not_tried_again(tmp_path):
    port, log = free_port(), tmp_path / "received"
    settings = settings_for(tmp_path / "home", notify_webhook=f"http://127.0.0.1:{port}")
    with receiver(port, log, status=404):
        assert notifications.tell(settings, message()) == (
            "1 given up; webhook: the receiver answered 404 Not Found: check the URL"
        )
        assert notifications.tell(settings) == NOTHING_NEW
    assert len(received(log)) == 1


def test_a_receiver_in_trouble_is_tried_again(tmp_path):
    port, log = free_port(), tmp_path / "received"
    send = channels.senders(settings_for(tmp_path, notify_webhook=f"http://127.0.0.1:{port}"))["webhook"]
    with receiver(port, log, status=503), pytest.raises(OSError, match="503"):
        send({"id": "x", "body": {}})
    with receiver(port, log, status=401), pytest.raises(Refused, match="401"):
        send({"id": "x", "body": {}})


class MailServer(socketserver.ThreadingTCPServer):
    """Keeps the letters that it was sent."""

    letters: list[str]


class Mailbox(socketserver.StreamRequestHandler):
    """As much of SMTP as it takes to be sent a letter."""

    def handle(self):
        self.wfile.write(b"220 here\r\n")
        lines: list[str] = []
        while line := self.rfile.readline().decode().strip():
            verb = line.upper()[:4]
            if verb == "DATA":
                self.wfile.write(b"354 go on\r\n")
                while (part := self.rfile.readline().decode().rstrip("\r\n")) != ".":
                    lines.append(part)
            if verb == "RCPT" and "nobody@" in line:
                self.wfile.write(b"550 no such mailbox\r\n")
            else:
                self.wfile.write(b"221 bye\r\n" if verb == "QUIT" else b"250 ok\r\n")
            if verb == "QUIT":
                break
        self.server.letters.append("\n".join(lines))  # type: ignore[attr-defined]


@contextmanager
def mail_server():
    with MailServer(("127.0.0.1", 0), Mailbox) as server:
        server.letters = []
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def test_a_letter_by_smtp_has_subject_reason_and_receiver(tmp_path):
    with mail_server() as server:
        url = f"smtp://127.0.0.1:{server.server_address[1]}"
        settings = settings_for(tmp_path, notify_email="risk@bank.example", smtp_url=url)
        assert notifications.tell(settings, message()) == "1 sent"
        deadline = time.monotonic() + 5
        while not server.letters and time.monotonic() < deadline:
            time.sleep(0.01)
        [letter] = server.letters
    assert "Subject: loans: REJECT" in letter
    assert "To: risk@bank.example" in letter
    assert "not better" in letter


def test_an_address_that_the_mail_server_refuses_is_given_up(tmp_path):
    with mail_server() as server:
        url = f"smtp://127.0.0.1:{server.server_address[1]}"
        settings = settings_for(tmp_path, notify_email="nobody@bank.example", smtp_url=url)
        assert notifications.tell(settings, message()).startswith("1 given up; email: SMTPRecipientsRefused")


def test_a_kill_between_the_letters_and_the_note_of_them_tells_nothing_twice(tmp_path):
    outbox = Outbox(tmp_path)
    with outbox.alone():
        outbox.put([message()], ["webhook"], Told(1), NOW)
        outbox.put([message()], ["webhook"], Told(1), NOW + timedelta(seconds=9))
    assert len(list((tmp_path / "waiting").glob("*.json"))) == 1


def test_two_at_once_do_not_both_send(tmp_path):
    settings = settings_for(tmp_path, notify_webhook="http://127.0.0.1:9")
    with Outbox(settings.root / "outbox").alone():
        assert notifications.tell(settings, message()) == "another process is telling"


def test_without_a_channel_it_says_how_to_name_one(tmp_path):
    assert "SELFHEAL_NOTIFY_WEBHOOK" in notifications.tell(settings_for(tmp_path))
