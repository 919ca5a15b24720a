"""``dagster dev`` over an installation that has lived a little, looked at in a real browser."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from selfheal_assets_tests.browser import launched, needs_browser
from selfheal_assets_tests.e2e import lineage
from selfheal_assets_tests.e2e.conftest import (
    STARTS_WITHIN_S,
    Installation,
    answers,
    free_port,
    started,
    wait_until,
)

pytestmark = [pytest.mark.e2e, needs_browser]

THE_USERS_ASSETS = (
    "reference_data",
    "prediction_log",
    "labels",
    "drift_report",
    "shadow_models",
    "production_model",
)


@pytest.fixture(scope="module")
def url(with_dagster_home: Installation) -> Iterator[str]:
    port = free_port()
    line = f"dagster dev -w workspace.yaml -h 127.0.0.1 -p {port}"
    log = with_dagster_home.folder / "dev.log"
    with started(line, log, **with_dagster_home.values) as program:
        address = f"http://127.0.0.1:{port}"
        wait_until(lambda: answers(f"{address}/server_info"), STARTS_WITHIN_S, program)
        yield address


@pytest.fixture(scope="module")
def page(url: str) -> Iterator[Any]:
    with launched() as browser:
        yield lineage.opened(browser, url)[0]


def test_the_lineage_shows_the_users_assets(page: Any, tmp_path: Path):
    import playwright.sync_api as playwright

    for name in THE_USERS_ASSETS:
        try:
            page.get_by_text(name, exact=True).wait_for(timeout=10_000)
        except playwright.TimeoutError:
            picture = tmp_path / "lineage.png"
            page.screenshot(path=picture)
            pytest.fail(f"'{name}' is not in {picture}; the page reads:\n{page.inner_text('body')}")


def test_an_asset_leads_to_what_it_last_did(page: Any, url: str):
    page.goto(f"{url}/assets/production_model?view=events")
    page.get_by_text("trained_until", exact=True).first.wait_for()
    text = page.inner_text("body")
    assert "Materialized" in text
    assert "fingerprint" in text and "threshold" in text
