"""The page builder: what is escaped, what is loaded, what is written, and whether it can be read."""

import re

import pytest

from selfheal_assets.reports import figures as fig
from selfheal_assets.reports.page import (
    Column,
    Figure,
    Notice,
    Page,
    Section,
    Table,
    plotly_source,
    render,
    write_atomically,
    write_shared_plotly,
)
from selfheal_assets_tests.reports.conftest import Page as Seen

HOSTILE = "</script><script>alert(1)</script><img src=http://evil.example/x>"
FIGURE = Figure("Title", "Caption", "Alt", fig.spec([fig.line([1], [2], "name", fig.BLUE)], fig.layout(200)))


def page(*blocks, **more) -> Page:
    return Page(**({"title": "T", "subtitle": "S", "verdict": "V", "tone": "good"} | more), sections=[
        Section("one", "One", blocks)
    ])  # fmt: skip


def test_hostile_text_stays_text_wherever_it_stands():
    figure = Figure(HOSTILE, HOSTILE, HOSTILE, {"data": [{"name": HOSTILE}], "layout": {"height": 100}})
    table = Table(HOSTILE, [Column(HOSTILE)], [[HOSTILE]])
    html = render(page(figure, table, Notice(HOSTILE), title=HOSTILE, verdict=HOSTILE), "plotly.min.js")
    seen = Seen(html)
    assert "<script>alert" not in html
    assert seen.all("img") == []
    assert seen.loads() == ["plotly.min.js"]
    assert HOSTILE in seen.text


def test_plotly_comes_once_and_only_where_a_figure_needs_it():
    marker = plotly_source().decode()[:60]
    assert render(page(FIGURE, FIGURE)).count(marker) == 1
    assert marker not in render(page(FIGURE), "plotly.min.js")
    assert marker not in render(page(Notice("nothing to draw")))


def test_inline_page_loads_nothing():
    assert Seen(render(page(FIGURE))).loads() == []


def test_a_policy_forbids_the_network():
    policy = [m["content"] for m in Seen(render(page(FIGURE))).all("meta") if "http-equiv" in m]
    assert policy and "default-src 'none'" in policy[0] and "http" not in policy[0].replace("http-equiv", "")


def test_every_figure_has_a_caption_and_an_alternative_text():
    seen = Seen(render(page(FIGURE, FIGURE), "plotly.min.js"))
    plots = [attrs for attrs in seen.all("div") if "data-figure" in attrs]
    assert [(p["role"], p["aria-label"]) for p in plots] == [("img", "Alt")] * 2
    assert len({p["data-figure"] for p in plots}) == 2
    assert len(seen.all("figcaption")) == 2


def test_shared_plotly_is_written_once(tmp_path):
    first = write_shared_plotly(tmp_path / "reports")
    before = first.stat().st_mtime_ns
    assert write_shared_plotly(tmp_path / "reports") == first
    assert first.stat().st_mtime_ns == before
    assert first.read_bytes() == plotly_source()


def test_shared_plotly_of_another_version_is_replaced(tmp_path):
    (tmp_path / "plotly.min.js").write_text("an older one")
    assert write_shared_plotly(tmp_path).read_bytes() == plotly_source()


def test_a_written_page_replaces_the_old_one_and_leaves_nothing_beside_it(tmp_path):
    target = tmp_path / "deep" / "page.html"
    write_atomically(target, "old")
    write_atomically(target, "né")
    assert target.read_text(encoding="utf-8") == "né"
    assert [p.name for p in target.parent.iterdir()] == ["page.html"]


def luminance(color: str) -> float:
    parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def themes() -> list[dict[str, str]]:
    """The colour variables of the light, the dark and the printed page."""
    blocks = re.findall(r":root \{(.*?)\}", render(page()), re.S)
    return [dict(re.findall(r"--([\w-]+): (#\w{6})", block)) for block in blocks]


@pytest.mark.parametrize("theme", range(3), ids=["light", "dark", "print"])
def test_text_contrast_is_at_least_that_of_wcag_aa(theme):
    colors = themes()[0] | themes()[theme]
    pairs = [("ink", "paper"), ("muted", "paper"), ("muted", "card"), ("link", "paper")]
    pairs += [(tone, f"{tone}-back") for tone in ("good", "bad", "unknown", "neutral")]
    assert {pair: c for pair in pairs if (c := contrast(colors[pair[0]], colors[pair[1]])) < 4.5} == {}


@pytest.mark.parametrize("color", [fig.BLUE, fig.VERMILLION, fig.GREEN, fig.GREY])
@pytest.mark.parametrize("theme", range(2), ids=["light", "dark"])
def test_marks_stand_out_in_both_themes(color, theme):
    assert contrast(color, themes()[theme]["paper"]) >= 3
