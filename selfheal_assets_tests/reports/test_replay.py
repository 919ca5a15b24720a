"""The page of a replay: the comparison in words, the plots, the table and every decision."""

import json
import re

import plotly.graph_objects as go
import polars as pl
import pytest

from selfheal_assets.reports.replay import replay_page
from selfheal_assets_tests.reports.conftest import Page


@pytest.fixture
def html(chunks, decisions, summary) -> str:
    return replay_page(chunks, decisions, summary, "Loans through the crisis", plotly_js="plotly.min.js")


def figures(html: str) -> list[dict]:
    return [
        json.loads(found) for found in re.findall(r'<script type="application/json".*?>(.*?)</script>', html)
    ]


def test_key_figures_are_on_the_page(html):
    text = Page(html).text
    for expected in (
        "Loans through the crisis", "2006 Q1 to 2008 Q4, 12 chunks", "AUC 0.712 against 0.661",
        "0.81 expected for each one observed, against 0.39", "Promotions", "6 challengers refused", "143 s",
        "Champion", "Challenger", "Estimated", "Realized", "2007 Q3", "1,006", "calibration, drift",
    ):  # fmt: skip
        assert expected in text


def test_every_decision_is_there_with_each_of_its_reasons(html):
    seen = Page(html)
    assert [li["id"] for li in seen.all("li") if "id" in li] == ["decision-1", "decision-2", "decision-3"]
    assert "no champion yet, challenger v1" in seen.text
    assert "<li>calibration: Brier +0.013</li><li>cooldown: 3 of 7 days</li>" in html


def test_figures_are_what_plotly_accepts(html):
    specs = figures(html)
    assert len(specs) == 4
    for spec in specs:
        go.Figure(spec)


def test_the_estimates_band_breaks_where_nothing_is_known(html):
    bands = [t for t in figures(html)[0]["data"] if t.get("fill") == "toself"]
    assert [len(t["x"]) for t in bands if t["name"] == "estimate's interval"] == [8, 12]
    assert [t["showlegend"] for t in bands] == [True, False, True]


def test_what_was_realized_has_its_band_and_so_have_partial_labels(html):
    performance, _, ratio, _ = figures(html)
    bands = {t["name"]: t for t in performance["data"] + ratio["data"] if t.get("fill") == "toself"}
    assert set(bands) == {"estimate's interval", "realized: its interval", "partial: its interval"}
    assert len(bands["partial: its interval"]["x"]) == 18, "nine chunks had partial labels"
    lines = {t["name"]: t["y"] for t in ratio["data"] if t.get("fill") != "toself"}
    assert lines["partial, as known on the day"][2:4] == [None, 0.6]
    assert lines["realized, never retrained"][0] == pytest.approx(47 / 123)


def test_one_day_is_at_one_place_in_all_plots(html):
    looks = [spec["layout"] for spec in figures(html)]
    assert len({(look["margin"]["l"], look["margin"]["r"], *look["xaxis"]["range"]) for look in looks}) == 1


def test_rates_are_counts_by_rows(html, chunks):
    observed = next(t for t in figures(html)[1]["data"] if t["name"] == "observed")
    assert observed["y"][0] == pytest.approx(chunks["observed"][0] / chunks["rows"][0])


def test_a_promotion_is_marked_where_its_chunk_ends_with_the_version_that_took_over(html):
    layout = figures(html)[0]["layout"]
    assert [(n["text"], n["x"][:10]) for n in layout["annotations"]] == [("▲ v2", "2006-07-01")]
    assert len(layout["shapes"]) == 1


def test_marks_on_the_timeline_lead_to_the_decisions(html):
    traces = {t["name"]: t for t in figures(html)[3]["data"]}
    assert [place for place, *_ in traces["promoted"]["customdata"]] == ["decision-1", "decision-2"]
    assert traces["refused"]["x"] == ["2006-10-01T00:00:00"], "on the day of the decision"
    assert traces["refused"]["customdata"][0][0] == "decision-3"
    assert traces["champion"]["text"] == ["v1", "v2"]
    assert len(traces["check failed"]["x"]) == 3


def test_what_withheld_a_retraining_has_a_lane_of_its_own(chunks, decisions, summary):
    held = decisions.with_columns(action=pl.Series(["PROMOTE", "SUPPRESS", "ROLL_BACK"]))
    lanes = {
        t["name"]: t["y"]
        for t in figures(replay_page(chunks, held, summary, "T", plotly_js="p.js"))[3]["data"]
    }
    assert lanes["suppressed"] == ["withheld"]
    assert lanes["rolled back"] == ["rolled back"]


def test_a_decision_opens_to_its_gates_with_interval_limit_and_sample(chunks, decisions, summary, evidence):
    html = replay_page(chunks, decisions, summary, "T", plotly_js="p.js", evidence=evidence)
    text = Page(html).text
    assert "6.4 2 0.0123 to 0.0456 4,321 87 F1 +6.4 % (power 0.91)" in text
    assert "✕ fail 0.0131 0.01 – 4,321 – Brier +0.013" in text
    assert "window start 2005-01-01" in text and "fingerprint of challenger 86f4df97" in text


def test_table_rows_lead_to_evidence_model_cards_and_drift_reports(chunks, decisions, summary):
    html = replay_page(
        chunks, decisions, summary, "T", plotly_js="p.js",
        cards={2: "model_2.html"}, chunk_pages={chunks["chunk"][0]: "drift_2006-01-01.html"},
    )  # fmt: skip
    links = [a["href"] for a in Page(html).all("a")]
    assert links.count("#decision-2") == 1 and links.count("#decision-3") == 1
    assert links.count("model_2.html") == 3, "its stretch as champion, and the two decisions that name it"
    assert "drift_2006-01-01.html" in links
    assert "no card" not in html and "model_1.html" not in links


@pytest.mark.parametrize(
    ("change", "verdict", "tone"),
    [
        ({}, "ranked better than the never-retrained one", "good"),
        ({"auc_healed": 0.6611}, "ranked as well as", "good"),
        ({"auc_healed": 0.60}, "ranked worse than", "neutral"),
        ({"auc_healed": 0.60, "expected_over_observed_healed": 9.0}, "was farther from what happened", "bad"),
        ({"expected_over_observed_healed": 1 / 0.39}, "was no nearer to what happened", "good"),
        ({"auc_healed": None}, "Not known: too few labels", "unknown"),
        ({"period": "all"}, "Over the whole replay the healed model", "good"),
    ],
)
def test_the_verdict_says_what_the_figures_say(chunks, decisions, summary, change, verdict, tone):
    html = replay_page(chunks, decisions, summary | change, "T", plotly_js="plotly.min.js")
    assert verdict in Page(html).text
    assert {"class": f"verdict {tone}"} in Page(html).all("p")


def test_no_chunks_and_no_decisions_are_said_so(chunks, decisions):
    text = Page(replay_page(chunks.clear(), decisions.clear(), {}, "T")).text
    for expected in ("no chunks", "because no chunk was replayed", "No decision was taken.", "Not known:"):
        assert expected in text


@pytest.mark.parametrize("length", [1, 2])
def test_short_replays_are_drawn(chunks, decisions, summary, length):
    for spec in figures(replay_page(chunks.head(length), decisions, summary, "T", plotly_js="p.js")):
        go.Figure(spec)


def test_unknown_everywhere_is_drawn(chunks, decisions, summary):
    known = ("chunk", "label", "failed_checks")
    blank = chunks.with_columns(
        pl.lit(None, dtype=t).alias(c) for c, t in chunks.schema.items() if c not in known
    )
    for spec in figures(replay_page(blank, decisions, summary, "T", plotly_js="p.js")):
        go.Figure(spec)


def test_hostile_text_is_text(chunks, decisions, summary):
    hostile = "<script>alert(1)</script>"
    html = replay_page(
        chunks.with_columns(label=pl.lit(hostile), failed_checks=pl.lit(hostile), reason=pl.lit(hostile)),
        decisions.with_columns(reason=pl.lit(hostile), action=pl.lit(hostile)),
        summary | {"period": hostile},
        hostile,
        plotly_js="plotly.min.js",
    )
    assert "<script>alert" not in html


def test_the_page_is_one_file(chunks, decisions, summary):
    html = replay_page(chunks, decisions, summary, "T")
    assert Page(html).loads() == []
    assert len(html) < 5_000_000
