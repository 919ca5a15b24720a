"""Each gate passes and fails on its own limit; what is missing fails; luck alone is rarely promoted."""

import math
from dataclasses import fields, replace
from datetime import datetime, timedelta

import numpy as np
import pytest
from scipy.stats import norm

from selfheal_assets.core.decision import Action, decide
from selfheal_assets.core.evaluation import Approval, Comparison, ScoredRows, compare
from selfheal_assets.core.gate_evidence import NEVER, GateInputs, Servability, Verdict
from selfheal_assets.core.gates import evaluate_gates
from selfheal_assets.core.policies import GatePolicy
from selfheal_assets_tests.core.generated import sigmoid

POLICY = GatePolicy()
NOW = datetime(2007, 4, 1)
F1 = Comparison("f1", 0.50, 0.52, 0.01, 0.03, 1000, 200)
AUC = Comparison("roc_auc", 0.70, 0.74, 0.02, 0.06, 1000, 200)
BRIER = Comparison("brier", 0.10, 0.10, -0.01, 0.005, 1000, 200)
SERVABLE = Servability(True, 0.0, 1.0, 1.0)


def rates(**groups: float | tuple[float, int]) -> dict[str, Approval]:
    """Approval rates of groups, each of 500 rows where nothing else is said."""
    return {name: Approval(*(g if isinstance(g, tuple) else (g, 500))) for name, g in groups.items()}


GOOD = GateInputs(
    as_of=NOW,
    overall={"f1": F1, "roc_auc": AUC, "brier": BRIER},
    segments=[Comparison("f1", 0.5, 0.5, -0.01, 0.01, 600, 60, "kind=a")],
    label_coverage=0.9,
    last_promotion=NOW - timedelta(days=100),
    servability=SERVABLE,
    approvals={"kind": rates(a=0.9, b=0.8)},
    has_champion=True,
)
GATES = [
    "eligibility", "sample_validity", "label_coverage", "cooldown", "improvement", "calibration", "ranking",
    "segments",    "fairness", "servability",
]  # fmt: skip
PASS, FAIL, UNCLEAR = Verdict.passed, Verdict.failed, Verdict.inconclusive


def verdicts(inputs: GateInputs, policy: GatePolicy = POLICY) -> dict[str, Verdict]:
    return {r.gate: r.verdict for r in evaluate_gates(inputs, policy)}


def with_f1(**changes) -> dict:
    return {"overall": {"f1": replace(F1, **changes), "roc_auc": AUC, "brier": BRIER}}


def with_brier(**changes) -> dict:
    return {"overall": {"f1": F1, "roc_auc": AUC, "brier": replace(BRIER, **changes)}}


def with_segment(champion: float, challenger: float, half: float = 0.005) -> dict:
    change = challenger - champion
    found = Comparison("f1", champion, challenger, change - half, change + half, 600, 60, "kind=a")
    return {"segments": [found]}


def served(**changes) -> dict:
    return {"servability": replace(SERVABLE, **changes)}


@pytest.mark.parametrize(("auc", "verdict"), [(0.28, FAIL), (0.5, FAIL), (0.501, PASS), (math.nan, FAIL)])
def test_better_than_a_champion_that_ranks_backwards_is_not_enough(auc, verdict):
    ranked = replace(AUC, champion=0.25, challenger=auc, lower=0.01)
    inputs = replace(GOOD, overall={"f1": F1, "roc_auc": ranked, "brier": BRIER})
    assert verdicts(inputs)["ranking"] is verdict


def test_a_champion_that_ranks_backwards_may_be_given_another_level():
    """It ranks each case as before, so that refusing it would not mend the ranking."""
    alike = replace(AUC, champion=0.45, challenger=0.45, lower=0.0, upper=0.0)
    inputs = replace(GOOD, overall={"f1": F1, "roc_auc": alike, "brier": BRIER})
    assert verdicts(inputs)["ranking"] is PASS


def test_good_evidence_passes_every_gate():
    assert verdicts(GOOD) == dict.fromkeys(GATES, PASS)
    action, reason = decide(evaluate_gates(GOOD, POLICY))
    assert action is Action.promote
    assert "F1 0.5000 → 0.5200 (+4.0 %, at least +2 %)" in reason


ON_THE_LIMIT = [
    ("sample_validity", with_f1(rows=200), PASS),
    ("sample_validity", with_f1(rows=199), UNCLEAR),
    ("sample_validity", with_f1(positives=50), PASS),
    ("sample_validity", with_f1(positives=49), UNCLEAR),
    ("label_coverage", {"label_coverage": 0.30}, PASS),
    ("label_coverage", {"label_coverage": 0.2999}, FAIL),
    ("cooldown", {"last_promotion": NOW - timedelta(days=7)}, PASS),
    ("cooldown", {"last_promotion": NOW - timedelta(days=7) + timedelta(seconds=1)}, FAIL),
    ("cooldown", {"last_promotion": NOW + timedelta(days=30)}, FAIL),
    ("cooldown", {"last_promotion": NEVER}, PASS),
    ("improvement", with_f1(champion=0.5, challenger=0.5101), PASS),
    ("improvement", with_f1(champion=0.5, challenger=0.5099), FAIL),
    ("improvement", with_f1(lower=1e-9), PASS),
    ("improvement", with_f1(lower=0.0), UNCLEAR),
    ("improvement", with_f1(challenger=0.5, lower=-0.005, upper=0.005), FAIL),
    ("improvement", with_f1(challenger=0.504, lower=-0.0021, upper=0.0101), FAIL),
    ("improvement", with_f1(challenger=0.504, lower=-0.0070, upper=0.0150), UNCLEAR),
    ("improvement", with_f1(champion=0.0, challenger=0.1), PASS),
    ("improvement", with_f1(champion=0.0, challenger=0.0, lower=0.0), FAIL),
    ("calibration", with_brier(upper=0.01), PASS),
    ("calibration", with_brier(upper=0.0101), FAIL),
    ("calibration", with_brier(challenger=0.05, upper=0.0101), FAIL),
    ("segments", with_segment(0.500, 0.476), PASS),
    ("segments", with_segment(0.500, 0.474), FAIL),
    ("segments", with_segment(0.500, 0.451, 0.048), FAIL),
    ("segments", with_segment(0.500, 0.451, 0.050), PASS),
    ("segments", with_segment(0.0, 0.0), PASS),
    ("segments", {"segments": []}, PASS),
    ("fairness", {"approvals": {"kind": rates(a=1.0, b=0.80)}}, PASS),
    ("fairness", {"approvals": {"kind": rates(a=1.0, b=0.79)}}, FAIL),
    ("fairness", {"approvals": {"x": rates(a=1.0, b=1.0), "y": rates(a=1.0, b=0.5)}}, FAIL),
    ("fairness", {"approvals": {"kind": rates(a=0.0, b=0.0)}}, FAIL),
    ("fairness", {"approvals": {}}, PASS),
    ("servability", served(latency_ms=50.0, size_mb=50.0), PASS),
    ("servability", served(largest_difference=1e-7), PASS),
    ("servability", served(latency_ms=50.1), FAIL),
    ("servability", served(size_mb=50.1), FAIL),
    ("servability", served(largest_difference=1.1e-7), FAIL),
    ("servability", served(loads=False), FAIL),
    ("eligibility", {"ineligible": "version 4 is quarantined"}, FAIL),
]
SMALL_GROUPS = [
    ("fairness", {"approvals": {"kind": rates(a=1.0, b=0.9, c=(0.1, 499))}}, PASS),
    ("fairness", {"approvals": {"kind": rates(a=1.0, b=0.7, c=(0.9, 499))}}, FAIL),
    ("fairness", {"approvals": {"kind": rates(a=1.0, b=(1.0, 499))}}, UNCLEAR),
    ("fairness", {"approvals": {"x": rates(a=1.0, b=(1.0, 1)), "y": rates(c=1.0, d=0.9)}}, UNCLEAR),
    ("fairness", {"approvals": {"x": rates(a=1.0, b=(1.0, 1)), "y": rates(c=1.0, d=0.7)}}, FAIL),
    ("fairness", {"approvals": {"kind": rates(a=0.4)}}, PASS),
]
MISSING = [
    ("sample_validity", {"overall": None}, UNCLEAR),
    ("sample_validity", {"overall": {}}, UNCLEAR),
    ("improvement", {"overall": None}, FAIL),
    ("calibration", {"overall": None}, FAIL),
    ("calibration", {"overall": {"f1": F1, "roc_auc": AUC}}, FAIL),
    ("ranking", {"overall": {"f1": F1, "brier": BRIER}}, FAIL),
    ("label_coverage", {"label_coverage": None}, FAIL),
    ("segments", {"segments": None}, FAIL),
    ("cooldown", {"last_promotion": None}, FAIL),
    ("cooldown", {"as_of": None}, FAIL),
    ("eligibility", {"ineligible": None}, FAIL),
    ("fairness", {"approvals": None}, FAIL),
    ("fairness", {"approvals": {"kind": {}}}, FAIL),
    ("servability", {"servability": None}, FAIL),
]
NAN = [
    ("label_coverage", {"label_coverage": math.nan}, FAIL),
    ("improvement", with_f1(challenger=math.nan), FAIL),
    ("improvement", with_f1(lower=math.nan), FAIL),
    ("calibration", with_brier(upper=math.nan), FAIL),
    ("segments", with_segment(0.5, math.nan), FAIL),
    ("segments", with_segment(math.nan, 0.5), FAIL),
    ("fairness", {"approvals": {"kind": rates(a=math.nan, b=0.9)}}, FAIL),
    ("servability", served(largest_difference=math.nan), FAIL),
    ("servability", served(latency_ms=math.nan), FAIL),
]


@pytest.mark.parametrize(("gate", "change", "expected"), ON_THE_LIMIT + SMALL_GROUPS + MISSING + NAN)
def test_each_gate_judges_its_own_evidence(gate, change, expected):
    found = verdicts(replace(GOOD, **change))
    assert found[gate] is expected
    others = {g: v for g, v in found.items() if g != gate}
    if change not in ({"overall": None}, {"overall": {}}):
        assert set(others.values()) == {PASS}, "no other gate may answer for this evidence"
    action, reason = decide(evaluate_gates(replace(GOOD, **change), POLICY))
    assert (action is Action.promote) == (expected is PASS)
    if expected is not PASS:
        assert gate in reason or "sample_validity" in reason


@pytest.mark.parametrize("name", [f.name for f in fields(GateInputs)])
def test_no_input_may_be_missing(name):
    """Each input in turn is unknown, of evidence that is refused only if somebody looks."""
    results = evaluate_gates(replace(GOOD, **{name: None}), POLICY)
    if name == "has_champion":
        assert [r.gate for r in results] == GATES, "unknown is not 'no champion'"
    else:
        assert decide(results)[0] is not Action.promote


def test_no_power_says_how_many_labels_it_takes():
    """With that many rows and the bounds that they bring, the chance of seeing the gain is the policy's."""
    seen = replace(F1, challenger=0.504, lower=-0.016, upper=0.024, rows=1000)
    (found,) = (
        r
        for r in evaluate_gates(replace(GOOD, overall={"f1": seen, "brier": BRIER}), POLICY)
        if r.gate == "improvement"
    )
    assert found.verdict is UNCLEAR
    further = found.evidence["further_labels"]
    assert f"{further:,} more labels" in found.reason
    error = 0.02 / norm.ppf(0.95) * math.sqrt(1000 / (1000 + further))
    drawn = np.random.default_rng(0).normal(0.01, error, 100_000)
    assert np.mean(drawn - norm.ppf(0.95) * error > 0) == pytest.approx(0.80, abs=0.01)


def test_segments_without_power_are_named():
    results = evaluate_gates(replace(GOOD, **with_segment(0.5, 0.49, 0.051)), POLICY)
    (found,) = (r for r in results if r.gate == "segments")
    assert found.evidence["without_power"] == ["kind=a"]
    assert "no power to see a loss of twice that in kind=a" in found.reason


def test_fairness_names_the_groups_that_are_too_small():
    found = {
        r.gate: r
        for r in evaluate_gates(replace(GOOD, approvals={"kind": rates(a=1.0, b=(0.2, 43))}), POLICY)
    }
    assert found["fairness"].reason == (
        "kind: fewer than two groups can be compared; too small to be compared (at least 500 rows): kind=b has 43"
    )
    assert found["fairness"].evidence["too_small"] == {"kind=b": 43}
    smaller = POLICY.model_copy(update={"min_segment_rows": 43})
    again = {
        r.gate: r
        for r in evaluate_gates(replace(GOOD, approvals={"kind": rates(a=1.0, b=(0.2, 43))}), smaller)
    }
    assert again["fairness"].verdict is FAIL


@pytest.mark.parametrize(
    ("gate", "change", "limits"),
    [
        ("sample_validity", {}, {"min_rows": 1001}),
        ("sample_validity", {}, {"min_positives": 201}),
        ("label_coverage", {}, {"min_label_coverage": 0.95}),
        ("cooldown", {}, {"cooldown_days": 101}),
        ("improvement", {}, {"min_improvement_pct": 5.0}),
        ("calibration", {}, {"max_brier_degradation": 0.004}),
        ("segments", with_segment(0.5, 0.48), {"max_segment_degradation_pct": 1.0}),
        ("servability", served(largest_difference=1e-9), {"max_score_difference": 1e-10}),
        ("fairness", {}, {"min_adverse_impact_ratio": 0.9}),
        ("servability", {}, {"max_latency_ms": 0.5}),
        ("servability", {}, {"max_size_mb": 0.5}),
    ],
)
def test_each_limit_is_the_policys(gate, change, limits):
    inputs = replace(GOOD, **change)
    assert verdicts(inputs)[gate] is PASS
    assert verdicts(inputs, POLICY.model_copy(update=limits))[gate] is not PASS


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, PASS),
        ({"challenger": 0.7141}, PASS),
        ({"challenger": 0.7139}, FAIL),
        ({"lower": 0.0}, UNCLEAR),
    ],
)
def test_the_primary_metric_decides(change, expected):
    """By ROC AUC where the policy says so, whatever F1 says."""
    by_auc = POLICY.model_copy(update={"primary_metric": "roc_auc"})
    worse = replace(F1, challenger=0.4, lower=-0.2, upper=-0.05, rows=10, positives=1)
    inputs = replace(GOOD, overall={"f1": worse, "brier": BRIER, "roc_auc": replace(AUC, **change)})
    assert verdicts(inputs, by_auc) == dict.fromkeys(GATES, PASS) | {"improvement": expected}
    assert verdicts(inputs)["improvement"] is FAIL


def test_without_the_primary_metric_nothing_is_promoted():
    by_auc = POLICY.model_copy(update={"primary_metric": "roc_auc"})
    without = replace(GOOD, overall={"f1": F1, "brier": BRIER})
    found = verdicts(without, by_auc)
    assert (found["sample_validity"], found["improvement"]) == (UNCLEAR, FAIL)
    assert decide(evaluate_gates(without, by_auc))[0] is Action.inconclusive


def test_too_few_rows_are_inconclusive_whatever_else_fails():
    inputs = replace(GOOD, **with_f1(rows=150, positives=20, lower=-0.1))
    action, reason = decide(evaluate_gates(inputs, POLICY))
    assert action is Action.inconclusive
    assert reason.startswith("sample_validity: 150 rows with 20 positives; the policy asks for 200 and 50")


def test_a_rejection_names_each_failed_gate():
    inputs = replace(GOOD, label_coverage=0.1, servability=None)
    action, reason = decide(evaluate_gates(inputs, POLICY))
    assert action is Action.reject
    assert "label_coverage: 10%" in reason
    assert "servability: no serving trial" in reason


def test_each_answer_carries_its_evidence():
    for found in evaluate_gates(GOOD, POLICY):
        assert found.reason
        if found.gate not in ("eligibility", "segments"):
            assert found.value is not None
            assert found.limit is not None


def test_the_worst_segment_is_named():
    worse = [
        replace(F1, champion=0.5, challenger=c, lower=c - 0.51, upper=c - 0.49, segment=f"kind={k}")
        for k, c in (("a", 0.45), ("b", 0.3))
    ]
    found = {r.gate: r for r in evaluate_gates(replace(GOOD, segments=worse), POLICY)}["segments"]
    assert "2 of 2 segments" in found.reason
    assert "kind=b -40.0 %" in found.reason
    assert set(found.evidence["worse"]) == {"kind=a", "kind=b"}


NOTHING_TO_COMPARE = replace(
    GOOD, overall=None, segments=None, label_coverage=None, last_promotion=None, has_champion=False
)


def test_a_first_champion_needs_to_be_new_and_servable_only():
    results = evaluate_gates(NOTHING_TO_COMPARE, POLICY)
    assert [r.gate for r in results] == ["eligibility", "servability"]
    action, reason = decide(results)
    assert action is Action.promote
    assert reason.startswith("first champion: loads")


@pytest.mark.parametrize(
    "change", [{"servability": None}, served(loads=False), {"ineligible": "quarantined"}]
)
def test_a_first_champion_that_cannot_serve_or_is_quarantined_is_rejected(change):
    assert decide(evaluate_gates(replace(NOTHING_TO_COMPARE, **change), POLICY))[0] is Action.reject


# Simulated promotions: calibrated binormal models at a base rate of 20 %.

BASE_RATE = 0.2
QUICK = POLICY.model_copy(update={"resamples": 400})


def judged(seed: int, rows: int, champion: float, challenger: float, metric: str) -> tuple[Action, float]:
    """The decision about two models that separate the classes by so many standard deviations; and the gain."""
    rng = np.random.default_rng(seed)
    label = (rng.uniform(size=rows) < BASE_RATE).astype(np.int8)
    shared = rng.normal(size=rows)

    def probability(distance: float) -> np.ndarray:
        score = distance * label + math.sqrt(0.7) * shared + math.sqrt(0.3) * rng.normal(size=rows)
        return sigmoid(distance * score - distance**2 / 2 + math.log(BASE_RATE / (1 - BASE_RATE)))

    a, b = probability(champion), probability(challenger)
    found = {c.metric: c for c in compare(ScoredRows(label, a, b, a >= 0.25, b >= 0.25), QUICK, seed)}
    inputs = replace(GOOD, overall=found, segments=[])
    policy = QUICK.model_copy(update={"primary_metric": metric})
    return decide(evaluate_gates(inputs, policy))[0], found[metric].difference / found[metric].champion


@pytest.mark.parametrize("metric", ["f1", "roc_auc"])
def test_an_identical_challenger_is_rarely_promoted(metric):
    trials = 200
    found = [judged(seed, 1000, 1.0, 1.0, metric) for seed in range(trials)]
    promoted = sum(action is Action.promote for action, _ in found) / trials
    assert promoted <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / trials)
    # The gate without its bound would have let luck pass: the reason that the bound exists.
    assert sum(gain >= 0.02 for _, gain in found) / trials > 0.15


def test_a_worse_challenger_is_hardly_ever_promoted():
    found = [judged(seed, 1000, 1.0, 0.9, "f1")[0] for seed in range(100)]
    assert found.count(Action.promote) <= 2


@pytest.mark.parametrize("metric", ["f1", "roc_auc"])
def test_a_clearly_better_challenger_is_promoted(metric):
    found = [judged(seed, 10_000, 1.0, 1.25, metric)[0] for seed in range(15)]
    assert found.count(Action.promote) >= 14


def test_exactly_four_fifths_is_fair_whatever_the_rates_round_to():
    """Of 500 cases each 20 and 25: 0.04 / 0.05 is 0.7999999999999999."""
    for most in range(5, 501, 5):
        inputs = replace(GOOD, approvals={"kind": rates(a=most / 500, b=4 * most // 5 / 500)})
        assert verdicts(inputs)["fairness"] is PASS, most
