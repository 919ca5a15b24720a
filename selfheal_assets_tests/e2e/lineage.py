"""Dagster's global lineage in a browser.

Run as a script it takes the README's picture of it: ``make demo``, then ``make dev`` in one terminal and
``.venv/bin/python -m selfheal_assets_tests.e2e.lineage docs/images/lineage.png`` in another.
"""

import argparse
from pathlib import Path
from typing import Any

from selfheal_assets_tests.browser import launched

# What Dagster's UI keeps in the browser: no newsletter, menu and side panel closed, nodes that show their name only.
REMEMBERED = {
    "communityNux": '"1"',
    "large-screen-nav-open": "false",
    "dagster-nav-collapsed": "true",
    "asset-node-facets": "[]",
}
PICTURE_WIDTH, MARGIN = 1600, 16
LOADS_WITHIN_MS = 30_000


def opened(browser: Any, url: str, scale: float = 1.0) -> tuple[Any, list[str]]:
    """The lineage of all assets with every group expanded, and what the page asked of other machines.

    Nothing leaves this machine: such requests are refused. The window is large, as Dagster draws only the
    assets that are in view.
    """
    page = browser.new_page(
        viewport={"width": 4200, "height": 4200}, color_scheme="light", device_scale_factor=scale
    )
    page.set_default_timeout(LOADS_WITHIN_MS)
    for key, value in REMEMBERED.items():
        page.add_init_script(f"localStorage.setItem('{key}', '{value}')")
    elsewhere: list[str] = []

    def judge(route: Any) -> None:
        if route.request.url.startswith(url):
            route.continue_()
        else:
            elsewhere.append(route.request.url)
            route.abort()

    page.route("**/*", judge)
    page.goto(url)
    page.locator("a[href='/asset-groups']").first.click()  # its name depends on whether the menu is folded
    page.get_by_text("retrain", exact=True).last.wait_for()
    page.keyboard.press("Alt+e")  # expand all groups
    page.wait_for_url("**expanded=**")
    page.reload()  # fits the expanded graph into the window
    page.get_by_text("production_model", exact=True).wait_for()
    page.locator("button:has([aria-label=panel_show_right])").first.click()
    return page, elsewhere


def _graph(page: Any) -> dict[str, float]:
    """The rectangle that holds every group and asset."""
    page.wait_for_timeout(3000)  # for the assets' states, and the last animation
    boxes = [box for box in (e.bounding_box() for e in page.locator("svg foreignObject").all()) if box]
    left, top = min(b["x"] for b in boxes) - MARGIN, min(b["y"] for b in boxes) - MARGIN
    right = max(b["x"] + b["width"] for b in boxes) + MARGIN
    bottom = max(b["y"] + b["height"] for b in boxes) + MARGIN
    return {"x": left, "y": top, "width": right - left, "height": bottom - top}


def save_picture(url: str, path: Path) -> None:
    """A picture of the graph alone, ``PICTURE_WIDTH`` pixels wide."""
    with launched() as browser:
        size = _graph(opened(browser, url)[0])
        page, _ = opened(browser, url, PICTURE_WIDTH / size["width"])
        page.screenshot(path=path, clip=_graph(page))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Take a picture of Dagster's global lineage.")
    parser.add_argument("path", type=Path, help="the PNG to write")
    parser.add_argument("--url", default="http://127.0.0.1:3000", help="of the running Dagster UI")
    given = parser.parse_args()
    save_picture(given.url, given.path)
