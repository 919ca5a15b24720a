"""The page of one chunk: says what was found, and says so where nothing could be."""

import json
import re
import time

import plotly.graph_objects as go
import polars as pl
import pytest

from selfheal_assets.reports.drift import drift_page, save_drift_page
from selfheal_assets_tests.reports.conftest import COHORTS, ESTIMATES, FINDINGS, REALIZED, Page, univariate

FRAMES = ("findings", "univariate", "multivariate", "estimates", "cohort_evidence", "realized")


def figures(html: str) -> list[dict]:
    return [
        json.loads(found) for found in re.findall(r'<script type="application/json".*?>(.*?)</script>', html)
    ]


def test_the_verdict_names_what_failed_and_what_is_unknown(drift_report):
    text = Page(drift_page(drift_report())).text
    assert "Needs a look: 1 of 3 checks failed (drift_within_limits)." in text
    assert "realized_performance_holds could not be judged for lack of data." in text


@pytest.mark.parametrize(
    ("statuses", "verdict"),
    [
        (["PASS"], "Healthy: all 1 checks passed."),
        (["INSUFFICIENT_DATA"], "Not known to be healthy."),
        ([], "Not known to be healthy: no check was evaluated."),
    ],
)
def test_only_passed_checks_are_healthy(drift_report, statuses, verdict):
    findings = FINDINGS.filter(pl.col("status").is_in(statuses))
    assert verdict in Page(drift_page(drift_report(findings=findings))).text


def test_key_figures_are_on_the_page(drift_report):
    text = Page(drift_page(drift_report())).text
    for expected in (
        "2007 Q3: drift and health", "Loans · champion v3", "2 of 3 measured features drifted: amount and employees;",
        "98 defaults so far where 65.0 were expected, 1.51 times as many", "0.703", "0.670 – 0.735",
        "1.100 – 1.310", "3 positives, 10 needed", "all values are missing", "2006 Q1",
    ):  # fmt: skip
        assert expected in text


def test_figures_are_what_plotly_accepts(drift_report):
    specs = figures(drift_page(drift_report()))
    assert len(specs) == 7  # ratios, two distributions, estimates, cohorts, two realized metrics
    for spec in specs:
        go.Figure(spec)


def test_only_the_drifted_features_are_drawn_the_largest_first(drift_report):
    captions = re.findall(r"<figcaption><strong>(.*?)</strong>", drift_page(drift_report()))
    assert captions[1:3] == ["amount", "employees"]


@pytest.mark.parametrize("name", FRAMES)
@pytest.mark.parametrize("nothing", ["no columns", "no rows"])
def test_an_empty_frame_is_not_computed_and_says_why(drift_report, name, nothing):
    full = getattr(drift_report(), name)
    empty = pl.DataFrame() if nothing == "no columns" else full.clear()
    report = drift_report(**{name: empty}, not_computed={name: "only 12 rows came in."})
    assert "not computed, because only 12 rows came in." in Page(drift_page(report)).text


def test_nothing_at_all_is_still_a_page(drift_report):
    names = (*FRAMES, "reference_features", "analysis_features")
    text = Page(drift_page(drift_report(champion=None, **dict.fromkeys(names, pl.DataFrame())))).text
    assert "no champion" in text
    assert text.count("not computed, because no result was recorded for this chunk.") == 6


@pytest.mark.parametrize("name", ["univariate", "estimates", "realized"])
def test_rows_without_any_value_give_their_reason(drift_report, name):
    frame = getattr(drift_report(), name)
    blank = frame.with_columns(value=pl.lit(None, dtype=pl.Float64), reason=pl.lit("43 rows, 200 needed"))
    text = Page(drift_page(drift_report(**{name: blank}))).text
    assert "not computed, because 43 rows, 200 needed." in text


def test_a_cohort_row_without_expectation_is_left_out(drift_report):
    blank = pl.DataFrame(
        {"cohort": [None], "expected": [None]}, schema=COHORTS.select("cohort", "expected").schema
    )
    frame = pl.concat([COHORTS, blank], how="diagonal")
    assert "98 defaults so far" in Page(drift_page(drift_report(cohort_evidence=frame))).text


def test_drift_is_judged_by_the_policys_limit_too(drift_report):
    text = Page(drift_page(drift_report(least_drift=0.2))).text
    assert "1 of 3 measured features drifted: amount;" in text


def test_cohorts_in_which_nothing_is_expected_yet_are_too_early(drift_report):
    young = COHORTS.with_columns(expected=pl.lit(0.01), observed=pl.lit(0))
    text = Page(drift_page(drift_report(cohort_evidence=young))).text
    assert "Too early to tell: less than one case of defaults is expected so far." in text
    assert "times as many" not in text


def test_a_range_with_one_end_is_shown_as_a_limit(drift_report):
    html = drift_page(drift_report())
    assert "≥ 0.220" in Page(html).text
    assert "limit" in {trace["name"] for trace in figures(html)[3]["data"]}


def test_without_feature_values_the_rest_is_drawn(drift_report):
    report = drift_report(
        reference_features=pl.DataFrame(), not_computed={"reference_features": "no reference"}
    )
    html = drift_page(report)
    assert "Distributions then and now: not computed, because no reference." in Page(html).text
    assert len(figures(html)) == 5


def test_one_cohort_scored_by_two_models_is_a_table(drift_report):
    one = REALIZED.filter(pl.col("cohort") == REALIZED["cohort"][0])
    both = pl.concat([one.with_columns(scored_by=pl.lit(name)) for name in ("served", "champion")])
    html = drift_page(drift_report(realized=both))
    assert "today's champion" in Page(html).text
    assert "Realized roc_auc" not in html


def test_several_cohorts_scored_by_two_models_are_two_lines(drift_report):
    both = pl.concat([REALIZED.with_columns(scored_by=pl.lit(name)) for name in ("served", "champion")])
    spec = figures(drift_page(drift_report(realized=both)))[-2]
    assert {trace["name"] for trace in spec["data"]} == {"the champion of that day", "today&#x27;s champion"}


def test_a_hostile_feature_name_is_text(drift_report):
    name = "<script>alert(1)</script>"
    values = {
        f: getattr(drift_report(), f).rename({"amount": name})
        for f in ("reference_features", "analysis_features")
    }
    html = drift_page(drift_report(univariate=univariate((name, "employees")), **values))
    assert "<script>alert" not in html
    assert f"<strong>{name.replace('<', '&lt;').replace('>', '&gt;')}</strong>" in html
    assert figures(html)[0]["data"][0]["y"][0] == "&lt;script&gt;alert(1)&lt;/script&gt;"


def test_the_saved_page_is_small_fast_and_shares_plotly(drift_report, tmp_path):
    save_drift_page(drift_report(), tmp_path / "drift_2007-07-01.html")
    start = time.process_time()
    page = save_drift_page(drift_report(chunk_label="2007 Q4"), tmp_path / "drift_2007-10-01.html")
    assert time.process_time() - start < 0.5  # 0.02 s on a free machine
    assert page.stat().st_size < 100_000
    assert Page(page.read_text(encoding="utf-8")).loads() == ["plotly.min.js"]
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "drift_2007-07-01.html", "drift_2007-10-01.html", "plotly.min.js"
    ]  # fmt: skip


ALARMS = pl.DataFrame(
    {
        "feature": ["amount", "amount", "area", "score"],
        "tier": ["warn", "act", "warn", "act"],
        "status": ["FAIL", "FAIL", "FAIL", "PASS"],
        "direction": ["down", "down", "mix", None],
        "grown": [None, None, "rural 4.0", None],
        "shrunk": [None, None, "urban 2.6", None],
        "shift_sd": [-0.36, -0.36, None, None],
        "mass_moved": [0.307, 0.307, 0.04, None],
        "first_chunk": ["2007-01-01", "2007-01-01", "2007-04-01", None],
    }
)
PSI = pl.DataFrame(
    {
        "feature": ["amount", "area", "score", "employees"],
        "value": [0.47, 0.012, 0.15, 0.02],
        "cut_off": [0.004, 0.001, 0.20, 0.03],
        "band": ["moved", "stable", "watch", "stable"],
        "rows": [5557, 5557, 60, 5557],
        "reference_rows": [14769, 14769, 300, 14769],
    }
)


def test_what_changed_is_said_in_words_feature_by_feature(drift_report):
    text = Page(drift_page(drift_report(alarms=ALARMS, psi=PSI))).text
    assert (
        "amount ▲ changed Shifted down: 30.7 % of rows moved, the mean by -0.36 standard deviations." in text
    )
    assert (
        "area ● warns Another mix: 4.0 % of rows moved (more of rural 4.0; fewer of urban 2.6 points)."
        in text
    )
    assert "score · quiet" in text


def test_a_psi_that_chance_alone_gives_for_so_few_rows_is_no_finding(drift_report):
    text = Page(drift_page(drift_report(alarms=ALARMS, psi=PSI))).text
    assert "0.15 0.2 300 → 60 · watch, but may be chance" in text
    assert "0.47 0.004 14,769 → 5,557 ▲ moved" in text
    assert "0.012 0.001 14,769 → 5,557 ✓ small, but beyond chance" in text
    assert "0.02 0.03 14,769 → 5,557 ✓ stable" in text


def test_where_the_alarms_judge_no_bar_is_said_to_be_outside_its_limit(drift_report):
    judged = drift_page(drift_report(alarms=ALARMS, psi=PSI))
    assert "alarm: it changed" in judged and "outside its limit" not in judged
    assert "outside its limit" in drift_page(drift_report())


@pytest.mark.parametrize(
    ("effects", "said"),
    [
        (
            [0.031, -0.004],
            "causes of the change of the estimated ROC AUC: amount +0.031 and area -0.004 of +0.027",
        ),
        ([None, None], "No cause can be told apart: no weights have all distributions at once."),
    ],
)
def test_suspected_causes_are_sentences_or_the_reason_why_there_are_none(drift_report, effects, said):
    causes = pl.DataFrame(
        {
            "metric": "estimated_roc_auc",
            "rank": [1, 2],
            "feature": ["amount", "area"],
            "effect": pl.Series(effects, dtype=pl.Float64),
            "total_change": 0.027,
            "reason": "no weights have all distributions at once",
        }
    )
    assert said in Page(drift_page(drift_report(alarms=ALARMS, psi=PSI, causes=causes))).text


def test_an_estimate_without_a_limit_is_not_within_one_and_one_not_trusted_says_so(drift_report):
    estimates = ESTIMATES.with_columns(
        alert=pl.lit(False),
        trusted=pl.Series([False, True]),
        threshold_lower=pl.Series([0.6, None], dtype=pl.Float64),
    )
    text = Page(drift_page(drift_report(estimates=estimates))).text
    assert "0.703 0.670 – 0.735 0.600 – 0.760 ? not trusted" in text
    assert "0.190 0.170 – 0.210 – · no limit" in text
