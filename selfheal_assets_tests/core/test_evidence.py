"""Three stages side by side: each is there, says so where it is empty, and carries figures over unchanged."""

from datetime import datetime
from typing import Any

import polars as pl
import pytest

from selfheal_assets.core.evidence import EVIDENCE_SCHEMA, RATIO, STAGES, evidence_table
from selfheal_assets.core.tables import TABLES, validated

FIRST, SECOND = datetime(2020, 1, 1), datetime(2020, 4, 1)
NONE = pl.DataFrame()


def table(name: str, *rows: dict[str, Any]) -> pl.DataFrame:
    """Rows of a declared table; what they do not name is null."""
    return pl.DataFrame(rows, schema={c: column.dtype for c, column in TABLES[name].columns.items()})


ESTIMATED = table(
    "estimated_performance",
    {
        "segment": "all", "metric": "roc_auc", "value": 0.71, "lower": 0.66, "upper": 0.75, "rows": 900,
        "estimator": "weighted", "own_error": 0.02, "trusted": True, "status": "PASS", "standard_error": 0.03,
    },
    {
        "segment": "plan=family", "metric": "f1", "rows": 90, "status": "INSUFFICIENT_DATA",
        "reason": "90 scored rows; min_rows asks for 200",
    },
)  # fmt: skip
COHORTS = table("partial_label_evidence", {"cohort": FIRST, "rows": 700}, {"cohort": SECOND, "rows": 300})
ALARM = {
    "evidence": "partial", "status": "FAIL", "statistic": 5.5, "limit": 3.7, "budget": 0.025, "budget_spent": 0.02,
    "first_chunk": FIRST, "direction": "more", "effect": 1.6, "effect_lower": 1.25, "effect_upper": 2.0,
    "reason": "more than expected",
}  # fmt: skip
ALARMS = table(
    "harm_alarms",
    ALARM | {"evidence": "realized", "effect": 9.0, "effect_lower": 8.0, "effect_upper": 10.0},
    ALARM,
)
REALIZED_ROW = {
    "cohort": FIRST, "scored_by": "served", "segment": "all", "metric": "roc_auc", "value": 0.6, "lower": 0.55,
    "upper": 0.65, "rows": 500, "positives": 60, "unit": "share", "method": "delong", "status": "PASS",
}  # fmt: skip
REALIZED = table(
    "realized_performance",
    REALIZED_ROW,
    REALIZED_ROW | {"scored_by": "champion", "value": 0.68, "lower": 0.62, "upper": 0.73, "rows": 480},
    REALIZED_ROW
    | {"scored_by": "champion", "metric": "f1", "value": None, "lower": None, "upper": None, "reason": "one class"},
)  # fmt: skip


def rows_of(frame: pl.DataFrame, stage: str) -> list[dict[str, Any]]:
    return [{k: v for k, v in r.items() if v is not None} for r in frame.filter(stage=stage).to_dicts()]


def test_the_three_stages_stand_side_by_side_with_their_intervals_and_rows():
    found = validated("evidence", evidence_table(ESTIMATED, COHORTS, ALARMS, REALIZED))
    assert dict(found.schema) == EVIDENCE_SCHEMA
    assert found["stage"].unique(maintain_order=True).to_list() == list(STAGES)
    assert rows_of(found, "estimated") == [
        {
            "stage": "estimated", "segment": "all", "metric": "roc_auc", "value": 0.71, "lower": 0.66, "upper": 0.75,
            "rows": 900, "method": "weighted", "own_error": 0.02, "status": "PASS",
        },
        {
            "stage": "estimated", "segment": "plan=family", "metric": "f1", "rows": 90,
            "status": "INSUFFICIENT_DATA", "reason": "90 scored rows; min_rows asks for 200",
        },
    ]  # fmt: skip


def test_the_partial_stage_is_the_ratio_over_all_cohorts():
    """Of the partial labels' alarm, not of the realized losses', on the rows of every cohort."""
    found = evidence_table(ESTIMATED, COHORTS, ALARMS, REALIZED)
    assert rows_of(found, "partial") == [
        {
            "stage": "partial", "segment": "all", "metric": RATIO, "value": 0.625, "lower": 0.5, "upper": 0.8,
            "rows": 1000, "method": "poisson", "status": "FAIL", "reason": "more than expected",
        }
    ]  # fmt: skip


def test_the_realized_stage_is_as_todays_champion_scores():
    found = evidence_table(ESTIMATED, COHORTS, ALARMS, REALIZED)
    assert rows_of(found, "realized") == [
        {
            "stage": "realized", "segment": "all", "metric": "roc_auc", "value": 0.68, "lower": 0.62, "upper": 0.73,
            "rows": 480, "method": "delong", "status": "PASS",
        },
        {
            "stage": "realized", "segment": "all", "metric": "f1", "rows": 500, "method": "delong",
            "status": "PASS", "reason": "one class",
        },
    ]  # fmt: skip


NO_PARTIAL = ALARMS.filter(pl.col("evidence") == "realized")
ONLY_SERVED = REALIZED.filter(pl.col("scored_by") == "served")


@pytest.mark.parametrize(
    ("given", "empty"),
    [
        ((NONE, COHORTS, ALARMS, REALIZED), {"estimated"}),
        ((ESTIMATED.clear(), COHORTS, ALARMS, REALIZED), {"estimated"}),
        ((ESTIMATED, COHORTS, NONE, REALIZED), {"partial"}),
        ((ESTIMATED, COHORTS, NO_PARTIAL, REALIZED), {"partial"}),
        ((ESTIMATED, COHORTS, ALARMS, NONE), {"realized"}),
        ((ESTIMATED, COHORTS, ALARMS, ONLY_SERVED), {"realized"}),
        ((NONE, NONE, NONE, NONE), set(STAGES)),
    ],
)
def test_a_stage_without_evidence_says_so(given, empty):
    found = validated("evidence", evidence_table(*given))
    assert set(found["stage"]) == set(STAGES)
    for stage in STAGES:
        told = rows_of(found, stage)
        blank = {"stage": stage, "segment": "all", "metric": "all", "rows": 0, "status": "INSUFFICIENT_DATA"}
        blank["reason"] = f"nothing is {stage} of this chunk: see the check of its asset"
        assert (told == [blank]) is (stage in empty)


def test_nothing_observed_has_no_ratio_and_says_why():
    nothing = table("harm_alarms", ALARM | {"effect": 0.0, "effect_lower": 0.0, "effect_upper": 0.2})
    [row] = rows_of(validated("evidence", evidence_table(NONE, COHORTS, nothing, NONE)), "partial")
    assert (row["lower"], row["reason"]) == (5.0, "more than expected")
    assert "value" not in row and "upper" not in row


def test_an_alarm_without_cohorts_rests_on_no_rows():
    found = evidence_table(NONE, NONE, ALARMS, NONE)
    assert rows_of(found, "partial")[0]["rows"] == 0
