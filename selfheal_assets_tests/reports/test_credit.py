"""The credit view of a page: says what was found, draws what plotly accepts, and says why a part is missing."""

from datetime import datetime

import plotly.graph_objects as go
import polars as pl
import pytest

from selfheal_assets.core import credit
from selfheal_assets.core.policies import CreditPolicy
from selfheal_assets.core.stability import stability_table
from selfheal_assets.reports.credit import CreditView, credit_section
from selfheal_assets.reports.drift import drift_page
from selfheal_assets.reports.page import Figure, Notice, Table
from selfheal_assets_tests.reports.conftest import CHUNKS, Page

POLICY = CreditPolicy(min_group_rows=100)
PARTS = ("stability", "bands", "ranking", "vintages", "impact", "swap")
REASONS = {name: f"there is no {name}" for name in PARTS}


def psi(variable: str, value: float | None, cohort: datetime = CHUNKS[3], rows: int = 5000) -> dict:
    return {
        "kind": "score" if variable == "score" else "feature", "cohort": cohort, "model_version": 3,
        "variable": variable, "rows": rows, "reference_rows": 9000 if value is not None else 0, "cells": 10,
        "psi": value,
    }  # fmt: skip


def view(**changed) -> CreditView:
    score = [psi("score", 0.02 * (i + 1), cohort) for i, cohort in enumerate(CHUNKS[:4])]
    score.append(psi("score", 9.0, CHUNKS[3], rows=7))  # another version answered a few cases
    bands = pl.DataFrame(
        {
            "band": [1, 2, 3], "rows": [100, 100, 10], "flagged": [0, 40, 10], "matured": [100, 100, 0],
            "expected_positives": [2.0, 5.0, 0.0], "positives": [2, 21, 0],
        }
    )  # fmt: skip
    ranking = pl.DataFrame(
        {
            "cohort": CHUNKS[:3], "model_version": [1, 1, 2], "positives": [30, 40, 0], "negatives": [900, 800, 700],
            "ks": [0.31, 0.28, None], "gini": [0.42, 0.37, None], "gini_error": [0.05, None, None],
        }
    )  # fmt: skip
    vintages = pl.DataFrame(
        [(c, age, 200, age * k) for k, c in enumerate(CHUNKS[:8]) for age in range(13 - k)],
        schema=["cohort", "months_on_book", "rows", "positives"],
        orient="row",
    )
    impact = pl.DataFrame(
        {
            "segment": "age", "group_name": ["young", "old", "<b>"], "fairness": True, "rows": [400, 500, 9],
            "approved": [200, 400, 9],
        }
    )  # fmt: skip
    swap = pl.DataFrame(
        {
            "champion_approves": [True, True, False], "challenger_approves": [True, False, True],
            "rows": [800, 60, 40], "matured": [800, 60, 40], "positives": [16, 9, 1],
        }
    )  # fmt: skip
    fields = {
        "stability": stability_table(
            pl.DataFrame([psi("score", 0.08), psi("a", 0.3), psi("b", None)]), POLICY
        ),
        "score_stability": stability_table(pl.DataFrame(score), POLICY),
        "bands": credit.score_bands(bands, POLICY),
        "ranking": credit.ranking(ranking, POLICY),
        "vintages": credit.vintages(vintages, POLICY),
        "impact": credit.adverse_impact(impact, POLICY),
        "swap": credit.swap_set(swap, POLICY),
        "banded": ("2006 Q1", "2006 Q3"),
        "swapped": "champion v3 and challenger v4 on last year's cases",
        "not_computed": REASONS,
    }
    return CreditView(**(fields | changed))


def figures(found: CreditView) -> dict[str, Figure]:
    blocks = credit_section(found, "quarter", "defaults").blocks
    return {block.title: block for block in blocks if isinstance(block, Figure)}


def tables(found: CreditView) -> dict[str, Table]:
    blocks = credit_section(found, "quarter", "defaults").blocks
    return {block.caption.split()[0]: block for block in blocks if isinstance(block, Table)}


def test_the_page_has_a_credit_view_if_it_is_given_one(drift_report):
    assert "Credit view" not in Page(drift_page(drift_report())).text
    html = drift_page(drift_report(credit=view()))
    text = Page(html).text
    for expected in (
        "Credit view", "0.300", "large", "In 1 of 2 bands the expected rate lies outside", "21.00 %",
        "more than expected", "2006 Q1", "0.50", "0.63", "below 0.8", "swapped in: only the challenger approves",
        "champion v3 and challenger v4", "no matured label in this band yet", "9 rows; a group needs 100",
    ):  # fmt: skip
        assert expected in text, expected
    assert "<b>" not in html


def test_figures_are_what_plotly_accepts_and_say_in_words_what_they_show():
    found = figures(view())
    assert list(found) == [
        "PSI of the score", "Score bands: expected and observed", "KS and Gini by cohort", "Vintage curves"
    ]  # fmt: skip
    for figure in found.values():
        go.Figure(figure.spec)
    assert "2006 Q4 0.080" in found["PSI of the score"].alt
    assert "band 2 expected 5.0 %, observed 21.0 %" in found["Score bands: expected and observed"].alt
    assert found["KS and Gini by cohort"].alt == "2006 Q1 Gini 0.420, KS 0.310; 2006 Q2 Gini 0.370, KS 0.280"
    assert "2006 Q1 0.00 % after 12 months" in found["Vintage curves"].alt


def test_at_most_six_vintages_are_drawn_each_told_apart_without_colour():
    traces = figures(view())["Vintage curves"].spec["data"]
    assert [trace["name"] for trace in traces] == [
        "2006 Q1",
        "2006 Q2",
        "2006 Q4",
        "2007 Q1",
        "2007 Q3",
        "2007 Q4",
    ]
    assert len({(t["line"]["dash"], t["marker"]["symbol"]) for t in traces}) == 6
    assert traces[-1]["x"] == list(range(6))


def test_observed_rates_carry_their_jeffreys_interval():
    observed = figures(view())["Score bands: expected and observed"].spec["data"][1]
    lower, upper = credit.jeffreys_interval([2, 21], [100, 100], POLICY.confidence)
    assert observed["y"] == [0.02, 0.21]
    assert observed["error_y"]["array"] == pytest.approx(list(upper - [0.02, 0.21]))
    assert observed["error_y"]["arrayminus"] == pytest.approx(list([0.02, 0.21] - lower))


def test_stability_lists_the_score_first_then_the_largest():
    rows = tables(view())["Stability"].rows
    assert [row[0] for row in rows] == ["score", "a", "b"]
    assert rows[2][-1].details.startswith("no cells")
    assert [row[-1].word for row in rows] == ["small", "large", "insufficient data"]


def test_the_highest_band_is_named_as_such():
    names = [row[0] for row in tables(view())["Score"].rows]
    assert names == ["1 (lowest scores)", "2", "3 (highest scores)"]


@pytest.mark.parametrize("name", PARTS)
@pytest.mark.parametrize("nothing", ["no columns", "no rows"])
def test_an_empty_part_is_not_computed_and_says_why(name, nothing):
    full = getattr(view(), name)
    section = credit_section(
        view(**{name: pl.DataFrame() if nothing == "no columns" else full.clear()}), "quarter", "x"
    )
    [notice] = [block for block in section.blocks if isinstance(block, Notice)]
    assert notice.text.endswith(f"not computed, because there is no {name}.")


def test_nothing_at_all_is_still_a_page(drift_report):
    text = Page(drift_page(drift_report(credit=CreditView()))).text
    assert text.count("not computed, because no result was recorded for this chunk.") == len(PARTS)


def test_a_part_without_any_known_value_is_a_table_alone():
    unknown = view(
        ranking=view().ranking.filter(pl.col("gini").is_null()),
        bands=view().bands.filter(pl.col("rate").is_null()),
        vintages=view().vintages.filter(pl.col("months_on_book") == 0),
        score_stability=pl.DataFrame(),
    )
    assert figures(unknown) == {}
    assert {"Stability", "Score", "How", "Cumulative"} <= set(tables(unknown))
