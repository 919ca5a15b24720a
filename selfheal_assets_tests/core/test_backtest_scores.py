"""When a promotion is regretted, which alarm was false, how late a change was found."""

from datetime import datetime

import numpy as np
import polars as pl
import pytest

from selfheal_assets.core.backtest_scores import Promotion, alarm_figures, regret
from selfheal_assets.core.simulation_log import IN_FORCE
from selfheal_assets.core.simulation_scores import score_alarms

MONTHS = [datetime(2020, m, 1) for m in range(1, 13)]
ENDS = dict(zip(MONTHS, [*MONTHS[1:], datetime(2021, 1, 1)], strict=True))


def test_a_promotion_is_regretted_where_the_model_before_would_have_lost_less():
    label = np.array([1, 0, 0, 1], dtype=np.int8)
    good, bad = np.array([0.9, 0.1, 0.1, 0.9]), np.array([0.5, 0.5, 0.5, 0.5])
    worse, better = regret(Promotion(label, bad, good)), regret(Promotion(label, good, bad))
    assert worse and better
    assert worse.value == pytest.approx(np.log(0.9) - np.log(0.5)) == -better.value
    assert [worse.lower, worse.upper] == pytest.approx([worse.value] * 2), "each case says the same"


def test_a_few_cases_prove_no_regret():
    rng = np.random.default_rng(0)
    label = (rng.uniform(size=40) < 0.5).astype(np.int8)
    found = regret(Promotion(label, rng.uniform(0.3, 0.7, 40), rng.uniform(0.3, 0.7, 40)))
    assert found and found.lower < 0 < found.upper


def test_without_cases_nobody_knows():
    none = np.array([])
    assert regret(Promotion(none, none, none)) is None


def test_the_delay_is_from_the_event_to_the_end_of_the_chunk_that_alarms():
    acting = [(MONTHS[m], 1, "location", "inputs", 1.0, "{}") for m in (2, 3, 4)]
    acting += [(MONTHS[8], 2, "concept_drift", "outcomes", 1.0, "{}")]
    in_force = pl.DataFrame(acting, schema=IN_FORCE, orient="row")
    scores = score_alarms(in_force, MONTHS, {MONTHS[0], MONTHS[3]})
    assert alarm_figures(scores, ENDS) == {
        "false_alarms": 1, "events": 2, "detected": 1, "detection_delay_days": 61.0,
    }  # fmt: skip


def test_without_truth_nobody_knows_which_alarm_was_false():
    assert set(alarm_figures(None, ENDS).values()) == {None}
