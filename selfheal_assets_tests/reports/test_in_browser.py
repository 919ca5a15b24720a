"""The pages in a real browser: every figure is drawn, nothing fails, nothing leaves the folder."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from selfheal_assets.reports.backtest import backtest_page
from selfheal_assets.reports.card import card_page
from selfheal_assets.reports.drift import drift_page, save_drift_page
from selfheal_assets.reports.page import write_atomically
from selfheal_assets.reports.replay import replay_page
from selfheal_assets_tests.browser import launched, needs_browser
from selfheal_assets_tests.reports import test_backtest, test_card
from selfheal_assets_tests.reports.test_credit import view

pytestmark = [pytest.mark.e2e, needs_browser]

# Each report is opened in both by `make test`, its parts in the dark by `make test-long`.
SCHEMES = pytest.mark.parametrize("scheme", ["light", pytest.param("dark", marks=pytest.mark.long)])


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with launched() as browser:
        yield browser


def opened(browser: Any, path: Path, scheme: str | None) -> tuple[Any, list[str]]:
    """The page, and all that it complained about or asked a network for; a context has its scheme already."""
    page, trouble = (browser.new_page(color_scheme=scheme) if scheme else browser.new_page()), []
    page.on("console", lambda message: trouble.append(message.text))
    page.on("pageerror", lambda error: trouble.append(str(error)))
    page.on("request", lambda r: None if r.url.startswith(("file:", "data:")) else trouble.append(r.url))
    page.goto(path.as_uri())
    page.wait_for_function(
        "[...document.querySelectorAll('[data-figure]')].every(f => f.querySelector('svg'))"
    )
    return page, trouble


@SCHEMES
def test_a_chunks_page_is_drawn(browser, drift_report, tmp_path, scheme):
    page, trouble = opened(browser, save_drift_page(drift_report(), tmp_path / "drift.html"), scheme)
    assert page.locator("[data-figure]").count() == 7
    assert page.locator("[data-figure] .bars path").count() > 10
    assert "Needs a look" in page.inner_text("body")
    assert trouble == []


@SCHEMES
def test_the_credit_view_is_drawn(browser, drift_report, tmp_path, scheme):
    path = save_drift_page(drift_report(credit=view()), tmp_path / "drift.html")
    page, trouble = opened(browser, path, scheme)
    assert page.locator("#credit [data-figure]").count() == 4
    assert page.locator("#credit [data-figure] .scatterlayer path.point").count() > 30
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    assert trouble == []


@SCHEMES
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


PAGES = {
    "replay": (["AUC 0.712 against 0.661", "Every decision and its evidence"], 4),
    "drift": (["Needs a look: 1 of 3 checks failed", "Median"], 7),
    "card": (["Version 11 is the champion", "0.737", "0.42", "Limits"], 4),
    "backtest": (["selfheal would have ranked better", "+0.071 to +0.084", "regretted"], 6),
}


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", PAGES)
def test_a_report_is_one_file_that_says_its_key_figures_and_asks_for_nothing_else(
    browser, chunks, decisions, summary, evidence, drift_report, tmp_path, name, scheme
):
    pages = {
        "replay": lambda: replay_page(chunks, decisions, summary, "Loans", evidence=evidence),
        "drift": lambda: drift_page(drift_report(), plotly_js=None),
        "card": lambda: card_page(test_card.made(), "Loans", "defaults", plotly_js=None),
        "backtest": lambda: backtest_page(test_backtest.made()),
    }
    path = write_atomically(tmp_path / f"{name}.html", pages[name]())
    asked: list[str] = []
    with browser.new_context(color_scheme=scheme) as context:
        context.on("request", lambda request: asked.append(request.url))
        page, trouble = opened(context, path, None)
        said, plots = PAGES[name]
        assert [text for text in said if text not in page.inner_text("body")] == []
        assert page.locator("[data-figure]").count() == plots
        assert all(page.locator("[role=img]").evaluate_all("all => all.map(f => f.ariaLabel.length > 20)"))
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    assert trouble == []
    assert [url for url in asked if not url.startswith("data:")] == [path.as_uri()]
