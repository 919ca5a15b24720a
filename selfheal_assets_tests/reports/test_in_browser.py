"""The pages in a real browser: every figure is drawn, nothing fails, nothing leaves the folder."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from selfheal_assets.reports.drift import save_drift_page
from selfheal_assets.reports.page import write_atomically
from selfheal_assets.reports.replay import replay_page
from selfheal_assets_tests.browser import launched, needs_browser
from selfheal_assets_tests.reports.test_credit import view

pytestmark = [pytest.mark.e2e, needs_browser]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with launched() as browser:
        yield browser


def opened(browser: Any, path: Path, scheme: str) -> tuple[Any, list[str]]:
    """The page, and all that it complained about or asked a network for."""
    page, trouble = browser.new_page(color_scheme=scheme), []
    page.on("console", lambda message: trouble.append(message.text))
    page.on("pageerror", lambda error: trouble.append(str(error)))
    page.on("request", lambda r: None if r.url.startswith(("file:", "data:")) else trouble.append(r.url))
    page.goto(path.as_uri())
    page.wait_for_function(
        "[...document.querySelectorAll('[data-figure]')].every(f => f.querySelector('svg'))"
    )
    return page, trouble


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_chunks_page_is_drawn(browser, drift_report, tmp_path, scheme):
    page, trouble = opened(browser, save_drift_page(drift_report(), tmp_path / "drift.html"), scheme)
    assert page.locator("[data-figure]").count() == 7
    assert page.locator("[data-figure] .bars path").count() > 10
    assert "Needs a look" in page.inner_text("body")
    assert trouble == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_credit_view_is_drawn(browser, drift_report, tmp_path, scheme):
    path = save_drift_page(drift_report(credit=view()), tmp_path / "drift.html")
    page, trouble = opened(browser, path, scheme)
    assert page.locator("#credit [data-figure]").count() == 4
    assert page.locator("#credit [data-figure] .scatterlayer path.point").count() > 30
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    assert trouble == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_replays_page_is_drawn_and_a_mark_leads_to_its_decision(
    browser, chunks, decisions, summary, evidence, tmp_path, scheme
):
    html = replay_page(chunks, decisions, summary, "Loans", evidence=evidence)
    page, trouble = opened(browser, write_atomically(tmp_path / "replay.html", html), scheme)
    assert page.locator("[data-figure]").count() == 4
    assert not page.locator("#decision-3 details").evaluate("d => d.open")
    page.locator("[data-figure]").nth(3).scroll_into_view_if_needed()
    mark = page.locator("[data-figure]").nth(3).locator(".scatterlayer .trace").last.locator("path.point")
    box = mark.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.wait_for_timeout(200)
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.wait_for_function("document.querySelector('#decision-3 details').open")
    assert "0.0123 to 0.0456" in page.locator("#decision-3").inner_text()
    assert trouble == []


def test_plot_text_follows_the_theme(browser, drift_report, tmp_path):
    path = save_drift_page(drift_report(), tmp_path / "drift.html")
    fill = "getComputedStyle(document.querySelector('.xtick text')).fill"
    assert [opened(browser, path, scheme)[0].evaluate(fill) for scheme in ("light", "dark")] == [
        "rgb(27, 33, 41)",
        "rgb(230, 234, 239)",
    ]


def test_without_the_shared_plotly_the_page_says_what_is_missing(browser, drift_report, tmp_path):
    path = save_drift_page(drift_report(), tmp_path / "drift.html")
    (tmp_path / "plotly.min.js").unlink()
    page = browser.new_page()
    page.goto(path.as_uri())
    assert "This plot needs plotly.min.js" in page.locator("[data-figure]").first.inner_text()
    folds = page.locator("details.fold")
    assert folds.count() > 0
    assert folds.evaluate_all("all => all.every(fold => fold.open)"), "the tables stand in for the plots"


def test_on_paper_every_reason_is_open(browser, chunks, decisions, summary, tmp_path):
    html = replay_page(chunks, decisions, summary, "Loans")
    page, trouble = opened(browser, write_atomically(tmp_path / "replay.html", html), "light")
    page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    assert page.locator("details:not([open])").count() == 0
    page.evaluate("window.dispatchEvent(new Event('afterprint'))")
    assert page.locator("details[open]").count() == 0
    assert trouble == []


def test_a_row_and_an_address_lead_to_a_decisions_evidence(
    browser, chunks, decisions, summary, evidence, tmp_path
):
    html = replay_page(chunks, decisions, summary, "Loans", evidence=evidence)
    path = write_atomically(tmp_path / "replay.html", html)
    page, trouble = opened(browser, path, "light")
    page.locator("#table a[href='#decision-3']").click()
    page.wait_for_function("document.querySelector('#decision-3 details').open")
    assert not page.locator("#decision-2 details").evaluate("d => d.open")
    page.goto(f"{path.as_uri()}#decision-2")
    page.reload()
    page.wait_for_function("document.querySelector('#decision-2 details').open")
    assert trouble == []
