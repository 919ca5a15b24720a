"""Histories with known truth: each event does what it says, to nothing else, and what is called true is true."""

import json

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal
from scipy import stats

from selfheal_assets.core.population import SimulationError, fit_population
from selfheal_assets.core.random_scenario import random_scenario
from selfheal_assets.core.simulation import simulate
from selfheal_assets_tests.core.generated import FEATURES, cases
from selfheal_assets_tests.core.simulated import (
    LABEL,
    outside,
    population,
    scenario,
    simulated,
    unchanged,
    within,
)

FROM, TO = 6, 12
PERIOD = {"start": FROM, "end": TO}
EVENTS = {
    "scaling": {"feature": "size", "factor": 2.0},
    "location": {"feature": "signal", "sd": 0.5},
    "mix": {"feature": "kind", "values": ["c"], "odds": 4.0},
    "prior_shift": {"odds": 2.0},
    "concept_drift": {"features": ["signal"], "factor": -1.0},
    "reporting_delay": {"days": 20, "spread_days": 5.0},
    "timing_change": {"slower": 2.0},
    "label_noise": {"missed": 0.3, "false_alarms": 0.1},
    "outage": {"of": "predictions"},
    "missing_column": {"feature": "signal"},
    "new_category": {"feature": "kind", "value": "z", "share": 0.25},
    "unit_change": {"feature": "size", "factor": 10.0},
}
# What an event leaves as it was, inside its period too.
KEEPS_CASES = {"concept_drift", "reporting_delay", "timing_change", "label_noise"}
KEEPS_TRUTH = {"reporting_delay", "label_noise", "missing_column", "new_category", "unit_change"}
KEEPS_LABELS = {"missing_column", "new_category", "unit_change"}
KEEPS_OTHER_FEATURES = {"scaling", "location", "missing_column", "new_category", "unit_change"}


def event(kind: str, **more):
    return {"kind": kind} | EVENTS[kind] | PERIOD | more


def ks(a, b) -> float:
    return stats.ks_2samp(a, b).pvalue


def by_id(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.sort("entity_id")


# --- the same, and the others -------------------------------------------------------------------


def test_the_same_seed_makes_the_same_history_and_another_seed_another():
    everything = [event(kind) for kind in EVENTS]
    once, again, other = (simulated(*everything, seed=seed) for seed in (3, 3, 4))
    for name in ("cases", "labels", "truth", "events"):
        assert_frame_equal(getattr(once, name), getattr(again, name))
    assert not once.truth["true_probability"].equals(other.truth["true_probability"])
    assert simulate(population(), scenario(*everything), seed=3).labels.equals(once.labels)


@pytest.mark.parametrize("kind", EVENTS)
def test_an_event_changes_nothing_outside_its_period(kind):
    made, plain = simulated(event(kind)), unchanged()
    assert_frame_equal(outside(made, made.cases, FROM, TO), outside(plain, plain.cases, FROM, TO))
    assert_frame_equal(outside(made, made.truth, FROM, TO), outside(plain, plain.truth, FROM, TO))
    if kind != "reporting_delay":  # its period is of when labels become true
        ids = outside(plain, plain.truth, FROM, TO).select("entity_id")
        ours, theirs = (by_id(m.labels.join(ids, on="entity_id", how="semi")) for m in (made, plain))
        assert_frame_equal(ours, theirs)


@pytest.mark.parametrize("kind", EVENTS)
def test_an_event_changes_nothing_but_what_it_is_about(kind):
    made, plain = simulated(event(kind)), unchanged()
    if kind in KEEPS_CASES:
        assert_frame_equal(made.cases, plain.cases)
    if kind in KEEPS_TRUTH:
        assert_frame_equal(made.truth, plain.truth)
    if kind in KEEPS_LABELS:
        assert_frame_equal(made.labels, plain.labels)
    if kind in KEEPS_OTHER_FEATURES:
        assert_frame_equal(
            made.cases.drop(EVENTS[kind]["feature"]), plain.cases.drop(EVENTS[kind]["feature"])
        )
    changed = [not getattr(made, n).equals(getattr(plain, n)) for n in ("cases", "labels", "truth")]
    assert any(changed), "it does something"


# --- inputs -------------------------------------------------------------------------------------


def test_scaling_multiplies_and_location_moves_within_the_bounds():
    scaled, moved, plain = simulated(event("scaling")), simulated(event("location")), unchanged()
    before, after = (within(plain, m.cases, FROM, TO) for m in (plain, scaled))
    assert (after["size"] == 2 * before["size"]).all()
    before, after = (within(plain, m.cases, FROM, TO)["signal"] for m in (plain, moved))
    assert np.allclose(after - before, 0.5 * population().frame["signal"].std())
    bounded = simulated(event("scaling", factor=1000.0))
    assert within(bounded, bounded.cases, FROM, TO)["size"].max() == 10_000


def test_outcomes_follow_inputs_that_move():
    moved = simulated(event("location", sd=1.0))
    during, before = within(moved, moved.truth, FROM, TO), within(moved, moved.truth, 0, FROM)
    assert during["true_probability"].mean() > before["true_probability"].mean() + 0.1
    assert during["true_probability"].equals(during["initial_probability"]), "the same world, other inputs"


@pytest.mark.parametrize("odds", [4.0, 0.25])
def test_a_mix_multiplies_the_odds_of_its_group_and_keeps_the_rest_of_the_distribution(odds):
    made = simulated(event("mix", odds=odds), cases_per_month=3000)
    share = population().frame["kind"].eq("c").mean()
    wanted = odds * share / (odds * share + 1 - share)
    during = within(made, made.cases, FROM, TO)
    error = np.sqrt(wanted * (1 - wanted) / during.height)
    assert abs(during["kind"].eq("c").mean() - wanted) < 4 * error
    others = during.filter(pl.col("kind") != "c")["signal"]
    assert ks(others, population().frame.filter(pl.col("kind") != "c")["signal"]) > 1e-3


def test_a_mix_of_a_number_is_about_those_above_the_median_unless_told():
    made = simulated({"kind": "mix", "feature": "signal", "odds": 3.0} | PERIOD, cases_per_month=3000)
    median = population().frame["signal"].median()
    above = within(made, made.cases, FROM, TO)["signal"] > median
    assert abs(above.mean() - 0.75) < 0.02
    assert json.loads(made.events["parameters"][0])["above"] == median


# --- outcomes -----------------------------------------------------------------------------------


@pytest.mark.parametrize("odds", [2.0, 0.5])
def test_a_prior_shift_multiplies_the_odds_of_a_positive_and_keeps_how_positives_look(odds):
    made = simulated(event("prior_shift", odds=odds), cases_per_month=3000)
    rate = (1 / (1 + np.exp(-population().log_odds))).mean()
    during = within(made, made.truth, FROM, TO)
    wanted = odds * rate / (odds * rate + 1 - rate)
    assert abs(during["true_label"].mean() - wanted) < 4 * np.sqrt(wanted * (1 - wanted) / during.height)
    known = made.cases.join(made.truth.select("entity_id", "true_label"), on="entity_id")
    for label in (0, 1):
        ours = known.filter(pl.col("true_label") == label)
        shifted, before = within(made, ours, FROM, TO), within(made, ours, -12, FROM)
        assert ks(shifted["signal"], before["signal"]) > 1e-3
        counts = [f["kind"].value_counts().sort("kind")["count"].to_list() for f in (shifted, before)]
        assert stats.chi2_contingency(counts).pvalue > 1e-3


def test_concept_drift_turns_the_effect_of_a_feature_round():
    made = simulated(event("concept_drift"), cases_per_month=2000)
    known = made.cases.join(made.truth.select("entity_id", "true_label"), on="entity_id")

    def correlation(frame: pl.DataFrame) -> float:
        return np.corrcoef(frame["signal"], frame["true_label"])[0, 1]

    assert correlation(within(made, known, 0, FROM)) > 0.3
    assert correlation(within(made, known, FROM, TO)) < -0.3
    assert correlation(within(made, known, TO, 24)) > 0.3


def test_concept_drift_leaves_the_effects_of_other_features():
    made = simulated(event("concept_drift"))
    during = within(made, made.truth, FROM, TO)
    logit = [np.log(during[n] / (1 - during[n])) for n in ("true_probability", "initial_probability")]
    effects = population().truth.contributions(within(made, made.cases, FROM, TO))
    assert np.allclose(logit[0] - logit[1], -2 * effects[:, 0]), "signal, the first, from +1 to -1 times"


def test_concept_drift_adds_log_odds_to_every_case():
    made = simulated({"kind": "concept_drift", "log_odds": 1.0} | PERIOD)
    during = within(made, made.truth, FROM, TO)
    logit = [np.log(during[n] / (1 - during[n])) for n in ("true_probability", "initial_probability")]
    assert np.allclose(logit[0] - logit[1], 1.0)


def test_the_course_of_an_event_is_sudden_gradual_or_recurring():
    def shift(**course) -> pl.DataFrame:
        made = simulated({"kind": "concept_drift", "log_odds": 1.0, "start": 6} | course)
        t = pl.col("true_probability"), pl.col("initial_probability")
        odds = [(p / (1 - p)).log() for p in t]
        monthly = made.truth.with_columns(s=odds[0] - odds[1]).group_by_dynamic("event_time", every="1mo")
        return monthly.agg(pl.col("s").mean())["s"].to_numpy()[12:]  # from go-live on

    assert np.allclose(shift(), [0] * 6 + [1] * 18)
    assert np.allclose(shift(end=8), [0] * 6 + [1] * 2 + [0] * 16)
    gradual = shift(course="gradual", ramp_months=10)
    assert np.allclose(gradual, np.clip((np.arange(24) - 5.5) / 10, 0, 1), atol=0.01)
    assert np.allclose(shift(course="recurring", period_months=4), [0] * 6 + [1, 1, 0, 0] * 4 + [1, 1])


# --- labels -------------------------------------------------------------------------------------


def test_labels_are_recorded_when_they_become_true_unless_delayed():
    plain = unchanged()
    assert plain.labels["recorded_at"].equals(plain.labels["occurred_at"])
    made = simulated(event("reporting_delay"), reporting_delay_days=3)
    wait = (pl.col("recorded_at") - pl.col("occurred_at")).dt.total_seconds() / 86_400
    during = within(made, made.labels, FROM, TO, "occurred_at").select(wait)["recorded_at"]
    others = outside(made, made.labels, FROM, TO, "occurred_at").select(wait)["recorded_at"]
    assert (others == 3).all()
    assert during.min() >= 23 - 1e-4 and abs(during.mean() - 28) < 0.5 and abs(during.std() - 5) < 0.5
    assert by_id(made.labels)["occurred_at"].equals(by_id(plain.labels)["occurred_at"])


def test_a_timing_change_makes_positives_later_and_not_fewer():
    made, plain = simulated(event("timing_change")), unchanged()
    assert made.truth["true_label"].equals(plain.truth["true_label"])
    share = (pl.col("true_at") - pl.col("event_time")) / (
        pl.col("event_time").dt.offset_by("3mo") - pl.col("event_time")
    )
    ages = [
        within(plain, m.truth, FROM, TO).filter(pl.col("true_label") == 1).select(share.alias("a"))["a"]
        for m in (plain, made)
    ]
    assert np.allclose(ages[1], ages[0] ** 0.5, atol=1e-5)


def test_noise_records_the_share_of_wrong_labels_and_keeps_the_truth():
    made = simulated(event("label_noise"), cases_per_month=2000)
    known = within(made, made.truth, FROM, TO).join(made.labels, on="entity_id")
    for label, share in ((1, 0.3), (0, 0.1)):
        wrong = known.filter(pl.col("true_label") == label).select(pl.col("label") != label).to_series()
        assert abs(wrong.mean() - share) < 4 * np.sqrt(share * (1 - share) / len(wrong))
    missed = known.filter((pl.col("true_label") == 1) & (pl.col("label") == 0))
    assert (missed["recorded_at"] == missed["event_time"].dt.offset_by("3mo")).all(), "as any negative"


def test_an_outage_of_labels_holds_them_back_or_loses_them():
    held, lost = (simulated(event("outage", of="labels", backlog=b)) for b in (True, False))
    plain, end = unchanged(), held.scenario.moment(TO)
    waiting = within(plain, plain.labels, FROM, TO, "recorded_at")
    assert within(held, held.labels, FROM, TO, "recorded_at").is_empty()
    came = held.labels.filter(recorded_at=end)
    assert set(waiting["entity_id"]) <= set(came["entity_id"])
    assert held.labels.height == plain.labels.height
    assert by_id(held.labels)["occurred_at"].equals(by_id(plain.labels)["occurred_at"])
    assert set(plain.labels["entity_id"]) - set(lost.labels["entity_id"]) == set(waiting["entity_id"])


def test_an_outage_of_predictions_leaves_neither_case_nor_label():
    made = simulated(event("outage"))
    assert within(made, made.cases, FROM, TO).is_empty() and within(made, made.truth, FROM, TO).is_empty()
    assert set(made.labels["entity_id"]) == set(made.cases["entity_id"])
    empty = made.by_chunk().filter(pl.col("cases") == 0)
    assert empty.height == 6 and empty["true_probability"].null_count() == 6


@pytest.mark.parametrize("seed", range(12))
def test_no_label_is_recorded_before_it_is_true_and_none_is_true_before_its_case(seed):
    made = simulate(population(), random_scenario(seed, cases_per_month=100))
    known = made.labels.join(made.cases.select("entity_id", "event_time"), on="entity_id")
    due = pl.col("event_time").dt.offset_by("6mo")
    assert known.select((pl.col("recorded_at") >= pl.col("occurred_at")).all()).item()
    assert known.select((pl.col("occurred_at").is_between("event_time", due)).all()).item()
    assert known["entity_id"].is_unique().all()
    assert (
        made.labels.drop_nulls(["entity_id", "label", "occurred_at", "recorded_at"]).height
        == made.labels.height
    )


# --- the record ---------------------------------------------------------------------------------


def test_schema_breaks_spoil_the_record_and_not_the_world():
    plain = unchanged()
    before = within(plain, plain.cases, FROM, TO)
    after = {k: within(plain, simulated(event(k)).cases, FROM, TO) for k in KEEPS_LABELS}
    assert after["missing_column"]["signal"].null_count() == before.height
    strange = after["new_category"]["kind"] == "z"
    assert abs(strange.mean() - 0.25) < 4 * np.sqrt(0.25 * 0.75 / before.height)
    assert after["new_category"].filter(~strange)["kind"].equals(before.filter(~strange)["kind"])
    assert (after["unit_change"]["size"] == 10 * before["size"]).all()


# --- truth --------------------------------------------------------------------------------------


def test_the_true_probabilities_are_those_that_the_labels_were_drawn_with():
    made = simulated(*(event(k) for k in EVENTS if k != "outage"), cases_per_month=2000)
    truth = made.truth.with_columns(
        band=pl.col("true_probability").rank("ordinal") * 20 // (made.truth.height + 1)
    )
    p = pl.col("true_probability")
    bands = truth.group_by("band").agg(z=(pl.col("true_label").sum() - p.sum()) / (p * (1 - p)).sum().sqrt())
    assert bands.height == 20
    assert stats.chi2.sf((bands["z"] ** 2).sum(), 20) > 1e-3
    during = within(made, made.truth, FROM, TO)
    q, y = during["initial_probability"], during["true_label"]
    brier = [((during[n] - y) ** 2).mean() for n in ("true_probability", "initial_probability")]
    assert brier[0] < brier[1] - 0.02 and len(q), (
        "the world before go-live is not the one the labels came from"
    )


def test_an_unchanged_history_has_no_trend_whatever_the_seed():
    # Cases of two halves must be exchangeable: p-values over seeds are uniform, for every feature and the label.
    found = []
    for seed in range(60):
        made = simulate(population(), scenario(cases_per_month=60), seed)
        half = made.cases.height // 2
        counts = [
            f["kind"].value_counts().sort("kind")["count"].to_list()
            for f in (made.cases[:half], made.cases[half:])
        ]
        found.append(
            [
                stats.spearmanr(np.arange(2 * half), made.cases["signal"]).pvalue,
                stats.spearmanr(np.arange(2 * half), made.truth["true_label"]).pvalue,
                stats.spearmanr(np.arange(2 * half), made.truth["true_probability"]).pvalue,
                stats.chi2_contingency(counts).pvalue,
                stats.kstest(
                    made.scenario.elapsed(made.cases["event_time"]), stats.uniform(-12, 36).cdf
                ).pvalue,
            ]
        )
        assert made.truth["true_probability"].equals(made.truth["initial_probability"])
    for p_values in np.array(found).T:
        assert stats.kstest(p_values, "uniform").pvalue > 1e-3


def test_the_positive_rate_can_be_chosen_and_the_ranking_stays():
    rare, plain = simulated(positive_rate=0.02), unchanged()
    assert abs(rare.truth["true_probability"].mean() - 0.02) < 0.001
    logit = [np.log(m.truth["true_probability"] / (1 - m.truth["true_probability"])) for m in (rare, plain)]
    assert (logit[0] - logit[1]).std() < 1e-9


# --- the log ------------------------------------------------------------------------------------


def test_the_log_says_what_was_in_force_when_and_how_strongly():
    made = simulated(
        {"kind": "prior_shift", "odds": 4.0, "start": 2, "course": "gradual", "ramp_months": 2},
        event("missing_column", feature="@number"),
    )
    assert made.events.select("event", "kind", "touches", "features").rows() == [
        (1, "prior_shift", "outcomes", ""),
        (2, "missing_column", "record", "signal"),
    ]
    assert made.events["end"].to_list() == [made.scenario.ends, made.scenario.moment(TO)]
    shift = made.in_force().filter(event=1)
    assert shift["chunk"].to_list()[:3] == [made.scenario.moment(m) for m in (2, 3, 4)]
    assert shift["strength"].to_list()[:3] == pytest.approx([0.25, 0.75, 1.0], abs=0.01)
    odds = [json.loads(text)["odds"] for text in shift["parameters"]]
    assert odds[:3] == pytest.approx([4**0.25, 4**0.75, 4.0], rel=0.02)
    assert made.in_force().filter(event=2).height == 6
    assert made.in_force("quarter").filter(event=2)["strength"].to_list() == [1.0, 1.0]


# --- mistakes -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (
            event("scaling", feature="sise"),
            "event 1 (scaling): 'sise' is no feature; use one of signal, size, kind",
        ),
        (
            event("scaling", feature="kind"),
            "'kind' is a category, which cannot be moved or scaled: name a number",
        ),
        (event("new_category", value="a"), "'a' is a value of 'kind' already: give one that is not"),
        (
            event("new_category", feature="size"),
            "'size' is a number, which has no categories: name a category",
        ),
        (event("mix", values=["q"]), "no case has 'q' as 'kind'; values are a, b, c"),
        (event("mix", feature="size"), "'size' is a number: give 'above', not 'values'"),
        (event("concept_drift", features=["signal", "x"]), "event 1 (concept_drift): 'x' is no feature"),
    ],
)
def test_an_event_that_cannot_happen_is_told_with_what_to_change(given, words):
    with pytest.raises(SimulationError) as caught:
        simulated(given)
    assert words in str(caught.value)


def test_too_few_positives_are_told():
    rows = cases(100, seed=1).with_row_index("i").with_columns(entity_id=pl.col("i").cast(pl.String), label=0)
    labels = rows.select("entity_id", "label", occurred_at="event_time")
    with pytest.raises(
        SimulationError, match=r"0 positives among 100 labelled cases.*at least 30 of each outcome"
    ):
        fit_population(rows, labels, FEATURES, LABEL)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"history_months": 6}, "history_months: 6 is too short: .* = 7"),
        ({"go_live": "2016-01-02"}, "go_live: 2016-01-02 must be the first day of a month"),
        ({"events": [event("mix", end=6)]}, "end: 6 must be after start 6"),
        ({"events": [event("outage", end=None)]}, "an outage must end"),
        ({"events": [event("concept_drift", factor=1.0)]}, "else nothing drifts"),
        ({"events": [event("mix", start=24, end=30)]}, "events.0.start: month 24 is after the traffic"),
    ],
)
def test_a_scenario_that_makes_no_sense_is_refused(changed, words):
    with pytest.raises(ValueError, match=words):
        scenario(**changed)


def test_random_scenarios_draw_every_kind_and_leave_out_what_they_must():
    drawn = [random_scenario(seed) for seed in range(150)]
    assert {e.kind for s in drawn for e in s.events} == set(EVENTS)
    assert all(2 <= len(s.events) <= 5 for s in drawn)
    assert random_scenario(5) == drawn[5] and drawn[5] != drawn[6]
    without = [random_scenario(seed, without=("new_category",)) for seed in range(150)]
    assert "new_category" not in {e.kind for s in without for e in s.events}
