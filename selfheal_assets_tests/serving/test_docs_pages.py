"""``/docs`` and ``/redoc`` in a browser that reaches nobody else, under the policy that they are sent with."""

import asyncio
import socket
import threading
import time
from collections.abc import Iterator

import pytest
import uvicorn

from selfheal_assets.serving.app import create_app
from selfheal_assets_tests.browser import launched, needs_browser
from selfheal_assets_tests.serving.conftest import Installation

pytestmark = [pytest.mark.integration, needs_browser]


@pytest.fixture
def url(installation: Installation) -> Iterator[str]:
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(create_app(installation.settings), log_config=None, ws="none"))
    thread = threading.Thread(target=lambda: asyncio.run(server.serve([listening])))
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield "http://{}:{}".format(*listening.getsockname())
    server.should_exit = True
    thread.join()


REDOCS_LOGO = "https://cdn.redoc.ly/"  # its bundle asks for it, and the policy refuses


@pytest.mark.parametrize(("path", "shown"), [("/docs", "/predict/batch"), ("/redoc", "Score one case")])
def test_a_page_is_whole_without_anybody_elses_server(url: str, path: str, shown: str):
    reached: list[str] = []
    complaints: list[str] = []
    with launched() as browser:
        page = browser.new_page()
        page.on("response", lambda answer: reached.append(answer.url))
        page.on("console", lambda said: complaints.append(said.text) if said.type == "error" else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(url + path, wait_until="networkidle")
        page.get_by_text(shown).first.wait_for(timeout=15_000)
    assert [c for c in complaints if REDOCS_LOGO not in c] == []
    assert f"{url}/openapi.json" in reached
    assert [a for a in reached if not a.startswith((url, "data:", "blob:"))] == []
