"""The page of a model card: key figures, why it was chosen, its limits, and the decisions that name it."""

from dataclasses import replace
from datetime import datetime

import plotly.graph_objects as go
import polars as pl
import pytest

from selfheal_assets.core.bundle import Bundle, Calibrator, ReferenceWindow
from selfheal_assets.core.feature_effects import EFFECT_SCHEMA, IMPORTANCE_SCHEMA
from selfheal_assets.core.model_card import CALIBRATION_SCHEMA, SEGMENT_SCHEMA, CardFigures, ModelCard
from selfheal_assets.core.realized import REALIZED_SCHEMA
from selfheal_assets.core.spec import Feature
from selfheal_assets.reports.card import card_page
from selfheal_assets_tests.reports.conftest import GATES, Page
from selfheal_assets_tests.reports.test_replay import figures

BUNDLE = Bundle(
    "loans", (Feature(name="amount", type="number"), Feature(name="area", type="category")), {"area": ["urban"]}, b"",
    Calibrator(1.1, -0.2), 0.178, datetime(1999, 1, 1), datetime(2002, 1, 1),
    ReferenceWindow(datetime(2002, 1, 1), datetime(2003, 1, 1), datetime(2006, 1, 1)), "6456872c", "recalibrated",
    {"rows": 15498, "positives": 294},
)  # fmt: skip


def rows(schema: dict, *found: dict) -> pl.DataFrame:
    return pl.DataFrame([dict.fromkeys(schema) | row for row in found], schema=schema)


def measured(auc: float, cases: int) -> pl.DataFrame:
    shared = {"segment": "all", "rows": cases, "positives": 181, "status": "PASS"}
    return rows(
        REALIZED_SCHEMA,
        shared
        | {
            "metric": "roc_auc",
            "value": auc,
            "lower": auc - 0.03,
            "upper": auc + 0.03,
            "unit": "probability",
        },
        shared
        | {"metric": "expected_over_observed", "value": 0.42, "lower": 0.41, "upper": 0.43, "unit": "ratio"},
    )


def decision(number: int, champion: int | None, challenger: int) -> dict:
    payload = {"evidence": {"gates": GATES}, "fingerprints": {"use_case": "0c0df75e"}}
    return {
        "id": number, "as_of": datetime(2006, number, 1), "action": "PROMOTE", "reason": "improvement: +6.4 %",
        "champion": champion, "challenger": challenger, "payload": payload,
    }  # fmt: skip


def made() -> ModelCard:
    figures_of = CardFigures(
        measured(0.737, 14769),
        rows(
            SEGMENT_SCHEMA,
            {
                "segment": "area=urban",
                "metric": "roc_auc",
                "value": 0.71,
                "lower": 0.67,
                "upper": 0.74,
                "rows": 9000,
            },
            {
                "segment": "area=rural",
                "metric": "roc_auc",
                "rows": 90,
                "positives": 3,
                "reason": "too few cases",
            },
        ),
        rows(
            CALIBRATION_SCHEMA,
            {"bin": 0, "rows": 700, "expected": 0.01, "observed": 0.02, "lower": 0.012, "upper": 0.03},
            {"bin": 1, "rows": 700, "expected": 0.05, "observed": 0.05, "lower": 0.04, "upper": 0.06},
        ),
        rows(IMPORTANCE_SCHEMA, {"feature": "amount", "strength": 0.6, "share": 1.0}),
        rows(
            EFFECT_SCHEMA,
            {"feature": "amount", "cell": "< 10k", "rows": 99, "effect": 0.66, "least": 0.4, "most": 0.8},
            {"feature": "amount", "cell": "≥ 10k", "rows": 101, "effect": -1.18, "least": -1.4, "most": -1.0},
        ),
    )
    candidates = pl.DataFrame(
        {
            "candidate": ["full_history", "recalibrated"],
            "validation_log_loss": [0.07271, None],
            "reason": ["loses 0.015 nats", "the least loss"],
            "chosen": [False, True],
        }
    )
    comparison = pl.DataFrame(
        {
            "segment": ["all"], "metric": ["roc_auc"], "champion_value": [0.70], "challenger_value": [0.7493],
            "lower": [0.01], "upper": [0.09], "rows": [22049], "positives": [100], "champion": [10],
        }
    )  # fmt: skip
    return ModelCard(
        11, BUNDLE, "champion", "", figures_of, ["Not tried on later cases."], candidates, comparison,
        measured(0.627, 31936), figures_of.calibration.head(1), (31936, datetime(2006, 10, 2), datetime(2008, 3, 31)),
        [decision(7, 10, 11), decision(8, 11, 12)],
    )  # fmt: skip


def page(card: ModelCard, **options) -> str:
    return card_page(card, "Loans", "defaults", **options)


def test_key_figures_are_on_the_page():
    text = Page(page(made())).text
    for expected in (
        "Model card: version 11", "Version 11 is the champion; it answered 31,936 cases from 2006-10-02 to",
        "ROC AUC is 0.737 (0.707 – 0.767)", "0.627 (0.597 – 0.657), with 0.42 defaults expected for each observed",
        "15,498", "cases, 294 positive (1.9 %)", "1999-01-01 to 2002-01-01", "6456872c", "0c0df75e",
        BUNDLE.fingerprint,
        "recalibrated – ✓ chosen the least loss", "full_history 0.07271 · not chosen loses 0.015 nats",
        "Against the champion of that day, v10", "+0.0493 +0.0100 to +0.0900", "Not tried on later cases.",
        "area=rural ROC AUC – – 90 3 ? insufficient data too few cases", "▼ too low", "✓ within",
        "Highest at < 10k (+0.66), lowest at ≥ 10k (-1.18).",
    ):  # fmt: skip
        assert expected in text


def test_its_own_decision_has_its_evidence_and_the_others_lead_to_the_replay():
    html = page(made(), replayed=True)
    assert [li["id"] for li in Page(html).all("li") if "id" in li] == ["decision-7", "decision-8"]
    assert html.count("0.0123 to 0.0456") == 1, (
        "the gates of the decision about itself, not those of its challengers"
    )
    assert {a["href"] for a in Page(html).all("a")} >= {"replay.html", "replay.html#decision-8"}
    assert "replay.html" not in page(made())


def test_figures_are_what_plotly_accepts():
    specs = figures(page(made()))
    assert len(specs) == 4
    for spec in specs:
        go.Figure(spec)


def test_the_curve_as_served_is_beside_that_of_the_reference():
    lines = {t["name"]: t for t in figures(page(made()))[1]["data"]}
    assert (lines["on its reference"]["x"], lines["as served"]["x"]) == ([0.01, 0.05], [0.01])
    assert lines["on its reference"]["line"]["dash"] != lines["as served"]["line"]["dash"]
    alone = replace(made(), served_curve=made().served_curve.clear())
    assert "as served" not in {t["name"] for t in figures(page(alone))[1]["data"]}


def test_what_is_not_known_is_said_so():
    empty = CardFigures(*(getattr(made().figures, n).clear() for n in CardFigures.__dataclass_fields__))
    bare = replace(
        made(), figures=empty, candidates=pl.DataFrame(), comparison=pl.DataFrame(), trail=[],
        served=made().served.clear(), served_curve=made().served_curve.clear(), answered=(0, None, None),
        standing="challenger",
    )  # fmt: skip
    text = Page(page(bare)).text
    for expected in (
        "Version 11 is the newest challenger. How good it is was not measured", "no matured case yet",
        "was not kept", "has no labelled case", "No decision names it yet", "the use case names none",
    ):  # fmt: skip
        assert expected in text
    unmatched = replace(made(), comparison=pl.DataFrame())
    assert "No comparison with a champion was kept" in Page(page(unmatched)).text


@pytest.mark.parametrize(
    ("standing", "reason", "said", "tone"),
    [
        ("quarantined", "lost its bets", "Version 11 is quarantined (lost its bets)", "bad"),
        ("retired", "", "Version 11 is not in service", "neutral"),
        ("champion", "", "Version 11 is the champion", "good"),
    ],
)
def test_the_verdict_says_where_it_stands(standing, reason, said, tone):
    html = page(replace(made(), standing=standing, quarantined=reason))
    assert said in Page(html).text
    assert {"class": f"verdict {tone}"} in Page(html).all("p")


def test_hostile_text_is_text():
    hostile = "<script>alert(1)</script>"
    card = made()
    found = replace(
        card.figures,
        segments=card.figures.segments.with_columns(segment=pl.lit(hostile)),
        effects=card.figures.effects.with_columns(feature=pl.lit(hostile), cell=pl.lit(hostile)),
        importance=card.figures.importance.with_columns(feature=pl.lit(hostile)),
    )
    assert "<script>alert" not in page(replace(card, figures=found, limits=[hostile], quarantined=hostile))


def test_the_page_is_one_file():
    assert Page(page(made(), plotly_js=None)).loads() == []
