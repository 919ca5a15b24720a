"""The page of a backtest: the answer in words with its interval, the regrets, and figures that plotly accepts."""

from dataclasses import replace
from datetime import datetime

import plotly.graph_objects as go
import polars as pl
import pytest

from selfheal_assets.core import backtest as shapes
from selfheal_assets.core.backtest import ACTIONS, CHUNKS, DIFFERENCES, EVENTS, SUMMARY, Backtest
from selfheal_assets.reports.backtest import backtest_page
from selfheal_assets_tests.reports.conftest import Page
from selfheal_assets_tests.reports.test_replay import figures

QUARTERS = [datetime(2006, month, 1) for month in (1, 4, 7, 10)]
END = datetime(2007, 1, 1)
POLICIES = ("never", "on drift", "selfheal", "oracle")
AUC = dict(zip(POLICIES, (0.629, 0.712, 0.706, 0.766), strict=True))
RATIO = dict(zip(POLICIES, (0.142, 0.477, 0.480, 0.660), strict=True))


def frame(rows: list[dict], schema: dict) -> pl.DataFrame:
    return pl.DataFrame([dict.fromkeys(schema) | row for row in rows], schema=schema)


def made() -> Backtest:
    """Four policies over a year; ``selfheal`` is proved better than never, and promoted once to its regret."""
    chunks = [
        {"policy": p, "chunk": q, "rows": 1000, "positives": 90, "auc": AUC[p] - 0.01 * i, "f1": 0.2, "brier": 0.08,
         "expected_over_observed": RATIO[p], "champion": 1}
        for p in POLICIES for i, q in enumerate(QUARTERS)
    ]  # fmt: skip
    promoted = {"action": "PROMOTE", "reason": "passed", "champion": 1, "challenger": 2}
    actions = [
        {"policy": "selfheal", "as_of": QUARTERS[1], "regretted": True, "regret": 0.0123} | promoted,
        {"policy": "on drift", "as_of": QUARTERS[2], "regretted": False, "regret": -0.02} | promoted,
        {"policy": "selfheal", "as_of": QUARTERS[3], "action": "REJECT", "reason": "no gain", "champion": 2},
    ]
    counted = {"rows": 4000, "positives": 360, "f1": 0.2, "brier": 0.08, "auc_within": 0.65, "promotions": 1,
               "retrainings": 2, "refusals": 1, "rollbacks": 0, "regretted_promotions": 0}  # fmt: skip
    summary = [
        counted | {"policy": p, "auc": AUC[p], "expected_over_observed": RATIO[p]}
        | ({"regretted_promotions": 1} if p == "selfheal" else {})
        for p in POLICIES
    ]  # fmt: skip
    gaps = {
        "never": (-0.077, -0.084, -0.071),
        "on drift": (0.006, 0.002, 0.010),
        "oracle": (0.06, 0.055, 0.064),
    }
    level = {"never": (1.2, 1.1, 1.3), "on drift": (0.001, -0.004, 0.006), "oracle": (-0.3, -0.4, -0.2)}
    differences = [
        {"policy": p, "against": "selfheal", "metric": m, "difference": d, "lower": low, "upper": u}
        for m, found in (("auc", gaps), ("off_balance", level))
        for p, (d, low, u) in found.items()
    ]
    return Backtest(
        "loans", "Loans", "quarter", QUARTERS[0], END, QUARTERS[0], END, 0, 0.95, "",
        POLICIES, frame(chunks, CHUNKS), frame(actions, ACTIONS), frame([], shapes.MODELS), frame([], shapes.ALARMS),
        frame([], EVENTS), frame(summary, SUMMARY), frame(differences, DIFFERENCES),
    )  # fmt: skip


@pytest.fixture
def html() -> str:
    return backtest_page(made(), plotly_js="plotly.min.js")


def test_the_answer_comes_first_with_its_interval(html):
    seen = Page(html)
    assert (
        "selfheal would have ranked better than never retraining: ROC AUC 0.706 against 0.629, a difference of "
        "+0.077 (95 % interval +0.071 to +0.084). Its forecast would have been nearer to what happened: 0.480 "
        "defaults expected for each observed, against 0.142."
    ) in seen.text
    assert {"class": "verdict good"} in seen.all("p")


def test_what_speaks_against_it_is_said_as_plainly(html):
    text = Page(html).text
    assert "ranked worse than retraining on every drift alarm" in text
    assert "a difference of -0.006 (95 % interval -0.010 to -0.002)" in text
    assert "Its forecast would have been as near to what happened: 0.480" in text
    assert "Regretted: 1 of 1 promotions, against 0 of 1 promotions." in text


def test_what_it_would_have_cost_is_said_in_the_users_currency():
    found = made()
    gap = {"policy": "never", "against": "selfheal", "metric": "cost"}
    gap |= {"difference": 900.0, "lower": 700.0, "upper": 1100.0}
    priced = replace(
        found, currency="USD", differences=pl.concat([found.differences, frame([gap], DIFFERENCES)])
    )
    text = Page(backtest_page(priced, plotly_js="p.js")).text
    assert "It would have cost 900 USD less (700 to 1,100)." in text
    assert "-900 -1,100 to -700 ✓ better" in text


@pytest.mark.parametrize(
    ("metric", "change", "tone"),
    [
        ("auc", {"difference": 0.02, "lower": 0.01, "upper": 0.03}, "bad"),
        ("off_balance", {"difference": -0.2, "lower": -0.3, "upper": -0.1}, "bad"),
        ("off_balance", {"difference": 0.0, "lower": -0.1, "upper": 0.1}, "good"),
    ],
)
def test_the_verdict_is_good_only_where_nothing_is_proved_worse(metric, change, tone):
    found = made()
    at = (pl.col("policy") == "never") & (pl.col("metric") == metric)
    moved = found.differences.with_columns(
        pl.when(at).then(pl.lit(v)).otherwise(pl.col(k)).alias(k) for k, v in change.items()
    )
    html = backtest_page(replace(found, differences=moved), plotly_js="p.js")
    assert {"class": f"verdict {tone}"} in Page(html).all("p")


def test_a_regretted_promotion_has_a_mark_and_a_word_of_its_own(html):
    marks = {t["name"]: t for t in figures(html)[3]["data"]}
    assert marks["promoted, and regretted"]["y"] == ["selfheal"]
    assert marks["promoted"]["y"] == ["on drift"]
    assert marks["promoted"]["marker"]["symbol"] != marks["promoted, and regretted"]["marker"]["symbol"]
    assert "2006-04-01 v1 v2 +0.0123 – ★ regretted" in Page(html).text


def test_policies_are_told_apart_without_colour(html):
    lines = figures(html)[0]["data"]
    assert len({(t["line"]["dash"], t["marker"]["symbol"]) for t in lines}) == len(POLICIES)
    assert lines[-1]["name"] == "selfheal" and lines[-1]["line"]["width"] == 3


def test_differences_say_in_words_who_is_better(html):
    named = [sorted(t["name"] for t in spec["data"]) for spec in figures(html)[4:]]
    assert named == [
        ["selfheal better", "selfheal worse"],
        ["not told apart", "selfheal better", "selfheal worse"],
    ]


def test_figures_are_what_plotly_accepts(html):
    specs = figures(html)
    assert len(specs) == 6
    for spec in specs:
        go.Figure(spec)


def test_without_differences_or_chunks_the_page_says_so():
    found = made()
    bare = replace(
        found,
        differences=found.differences.clear(),
        chunks=found.chunks.clear(),
        actions=found.actions.clear(),
    )
    text = Page(backtest_page(bare, plotly_js="p.js")).text
    for expected in (
        "could not be compared",
        "no chunk was lived through",
        "No policy did anything",
        "no resamples",
    ):
        assert expected in text


def test_one_policy_alone_is_compared_with_nothing():
    found = made()
    alone = replace(
        found, policies=("selfheal",), differences=found.differences.clear(),
        summary=found.summary.filter(pl.col("policy") == "selfheal"),
        chunks=found.chunks.filter(pl.col("policy") == "selfheal"),
    )  # fmt: skip
    assert "Only selfheal was tried" in Page(backtest_page(alone, plotly_js="p.js")).text


def test_the_page_is_one_file():
    assert Page(backtest_page(made())).loads() == []
