"""Scores against known truth: exact regret, and which alarm answered which event."""

from datetime import datetime

import numpy as np
import pytest

from selfheal_assets.core import metrics
from selfheal_assets.core.simulation_scores import regret, score_alarms
from selfheal_assets_tests.core.simulated import simulated, unchanged


def test_regret_is_the_expected_excess_of_brier_and_log_loss():
    rng = np.random.default_rng(1)
    p, q = rng.uniform(0.05, 0.95, 400), rng.uniform(0.05, 0.95, 400)
    assert regret(p, p).brier == regret(p, p).log_loss == 0
    found = regret(p, q)
    # Over many draws of labels, the model's mean score less the truth's.
    excess = []
    for _ in range(2000):
        y = (rng.uniform(size=400) < p).astype(np.int8)
        brier = np.mean((q - y) ** 2) - np.mean((p - y) ** 2)
        excess.append((brier, metrics.log_loss(y, q) - metrics.log_loss(y, p)))
    error = np.std(excess, axis=0) / np.sqrt(len(excess))
    assert (np.abs(np.mean(excess, axis=0) - [found.brier, found.log_loss]) < 4 * error).all()
    assert found.rows == 400
    assert regret(np.array([0.2]), np.array([0.5])).brier == pytest.approx(0.09)
    assert regret(np.array([0.5]), np.array([0.25])).log_loss == pytest.approx(0.5 * np.log(4 / 3))


def test_a_certain_model_that_is_wrong_has_a_finite_regret():
    assert 10 < regret(np.array([0.5]), np.array([0.0])).log_loss < 20


def test_the_world_before_an_event_has_regret_in_it_and_none_before():
    made = simulated({"kind": "concept_drift", "features": ["signal"], "factor": 0.0, "start": 6})
    truth = made.truth.with_columns(later=made.truth["event_time"] >= made.scenario.moment(6))
    later, before = (truth.filter(later=x) for x in (True, False))
    assert regret(before["true_probability"].to_numpy(), before["initial_probability"].to_numpy()).brier == 0
    assert regret(later["true_probability"].to_numpy(), later["initial_probability"].to_numpy()).brier > 0.01


@pytest.mark.parametrize(
    ("p", "q", "words"),
    [
        ([], [], "at least one"),
        ([0.1], [0.1, 0.2], "same cases"),
        ([0.1], [np.nan], "missing"),
        ([1.1], [0.5], "0..1"),
    ],
)
def test_regret_of_nothing_is_refused(p, q, words):
    with pytest.raises(ValueError, match=words):
        regret(np.array(p), np.array(q))


MADE = (
    {"kind": "concept_drift", "log_odds": 1.0, "start": 4, "end": 8},
    {"kind": "label_noise", "missed": 0.5, "start": 12, "end": 16},
    {"kind": "missing_column", "feature": "size", "start": 20, "end": 22},
)


def scored(*alarms: int, **given):
    made = simulated(*MADE)
    chunks = made.by_chunk()["chunk"].to_list()
    return chunks, score_alarms(made.in_force(), chunks, [chunks[i] for i in alarms], **given)


def test_alarms_answer_events_or_are_false():
    chunks, scores = scored(1, 6, 7, 13, 23)
    assert scores.detections.rows() == [
        (1, "concept_drift", "outcomes", chunks[4], chunks[6], 2),
        (3, "missing_column", "record", chunks[20], None, None),
    ]
    assert scores.false_alarms == (chunks[1], chunks[13], chunks[23])
    assert scores.quiet_chunks == 24 - 4 - 2


def test_patience_lets_an_alarm_come_late():
    chunks, scores = scored(9, 23, patience=2)
    assert scores.detections["delay_chunks"].to_list() == [5, 3]
    assert scores.false_alarms == () and scores.quiet_chunks == 24 - 6 - 4
    assert scored(10, patience=2)[1].false_alarms == (chunks[10],)


def test_what_an_alarm_should_see_can_be_chosen():
    chunks, scores = scored(6, 13, touches=["labels"])
    assert scores.detections["kind"].to_list() == ["label_noise"]
    assert scores.false_alarms == (chunks[6],)


def test_every_alarm_of_an_unchanged_history_is_false():
    made = unchanged()
    chunks = made.by_chunk()["chunk"].to_list()
    scores = score_alarms(made.in_force(), chunks, chunks[:2])
    assert scores.detections.is_empty() and len(scores.false_alarms) == 2 and scores.quiet_chunks == 24


def test_an_alarm_in_no_chunk_is_refused():
    chunks = unchanged().by_chunk()["chunk"].to_list()
    with pytest.raises(ValueError, match="1999-01-01, which is not among the 24 chunks"):
        score_alarms(unchanged().in_force(), chunks, [datetime(1999, 1, 1)])
