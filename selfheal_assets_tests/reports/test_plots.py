"""The pictures of the Dagster UI: SVG that is well formed and shows what the figures say."""

import base64
from xml.etree import ElementTree

import polars as pl

from selfheal_assets.reports.plots import bars_markdown, timeline_markdown

SVG = "{http://www.w3.org/2000/svg}"


def drawn(markdown: str) -> ElementTree.Element:
    head, _, picture = markdown.removesuffix(")").partition("(data:image/svg+xml;base64,")
    assert head.startswith("![") and head.endswith("]")
    return ElementTree.fromstring(base64.b64decode(picture))


def texts(picture: ElementTree.Element) -> list[str]:
    return [str(t.text) for t in picture.iter(f"{SVG}text")]


def test_the_longest_bar_is_on_top_and_an_alarm_is_marked():
    rows = {"f": ["a", "b & <c>", "unknown"], "v": [0.1, 0.2, None], "m": [True, False, True]}
    picture = drawn(bars_markdown(pl.DataFrame(rows), "f", "v", "m"))
    assert texts(picture)[:4] == ["b & <c>", "0.200", "a ▲", "0.100"]
    widths = [float(r.attrib["width"]) for r in picture.iter(f"{SVG}rect") if "%" not in r.attrib["width"]]
    assert widths[0] == 2 * widths[1]


def test_bars_of_no_length_are_drawn():
    picture = drawn(bars_markdown(pl.DataFrame({"f": ["a"], "v": [0.0], "m": [None]}), "f", "v", "m"))
    assert texts(picture)[:2] == ["a", "0.000"]


def test_a_line_has_a_gap_where_a_chunk_is_unknown_and_failures_are_marked_below():
    estimates = [0.6, 0.62, None, 0.61]
    health = pl.DataFrame(
        {
            "label": ["Q1", "Q2", "Q3", "Q4"],
            "estimated_auc": estimates,
            "estimated_lower": estimates,
            "estimated_upper": estimates,
            "realized_auc": [None, None, None, 0.7],
            "failed_checks": ["", "drift", None, "drift"],
        }
    )
    picture = drawn(timeline_markdown(health))
    assert len(list(picture.iter(f"{SVG}polyline"))) == 3, "two runs estimated, one realized"
    assert len(list(picture.iter(f"{SVG}polygon"))) == 2
    assert texts(picture).count("▲") == 2
    assert {"Q1", "Q4", "0.60"} <= set(texts(picture))
    low, high = (
        min(float(c.attrib["cy"]) for c in picture.iter(f"{SVG}circle") if c.attrib["fill"] == f)
        for f in ("#3b6ea5", "#333333")
    )
    assert high < low, "more is higher up"
