"""The gates on labels so far: each on its own limit, unknown fails, and how often luck, harm and merit pass."""

import math
from dataclasses import replace
from datetime import datetime

import numpy as np
import pytest
from scipy.stats import norm

from selfheal_assets.core.decision import Action, decide
from selfheal_assets.core.evaluation import Comparison
from selfheal_assets.core.gate_evidence import NEVER, GateInputs, GateResult, Servability, Verdict
from selfheal_assets.core.gates import evaluate_gates
from selfheal_assets.core.partial_comparison import compare_partial, coverage_so_far
from selfheal_assets.core.partial_gates import farther_off
from selfheal_assets.core.policies import GatePolicy
from selfheal_assets_tests.core.test_partial_comparison import so_far

POLICY = GatePolicy(evidence="partial")
LOSS = Comparison("log_loss", 0.20, 0.19, -0.015, -0.005, 5000, 300)
RANKING = Comparison("roc_auc", 0.70, 0.72, 0.00, 0.04, 5000, 300)
COUNTED = Comparison("expected_over_observed", 0.5, 0.9, 0.3, 0.5, 5000, 300)
OVERALL = {c.metric: c for c in (LOSS, RANKING, COUNTED)}
GOOD = GateInputs(
    as_of=datetime(2007, 4, 1),
    overall=OVERALL,
    segments=[],
    label_coverage=0.9,
    last_promotion=NEVER,
    servability=Servability(True, 0.0, 1.0, 1.0),
    approvals={},
    has_champion=True,
)
PASS, FAIL, UNCLEAR = Verdict.passed, Verdict.failed, Verdict.inconclusive


def answers(inputs: GateInputs, policy: GatePolicy = POLICY) -> dict[str, GateResult]:
    return {r.gate: r for r in evaluate_gates(inputs, policy)}


def changed(of: Comparison, **changes) -> GateInputs:
    return replace(GOOD, overall=OVERALL | {of.metric: replace(of, **changes)})


def without(metric: str) -> GateInputs:
    return replace(GOOD, overall={k: v for k, v in OVERALL.items() if k != metric})


@pytest.mark.parametrize(
    ("gate", "inputs", "expected"),
    [
        ("sample_validity", changed(LOSS, positives=50), PASS),
        ("sample_validity", changed(LOSS, positives=49), UNCLEAR),
        ("sample_validity", changed(LOSS, rows=199), UNCLEAR),
        ("sample_validity", without("log_loss"), UNCLEAR),
        ("improvement", changed(LOSS, upper=-1e-9), PASS),
        ("improvement", changed(LOSS, upper=0.0), UNCLEAR),
        ("improvement", changed(LOSS, challenger=0.2, lower=-0.003, upper=0.003), FAIL),
        ("improvement", changed(LOSS, upper=math.nan), FAIL),
        ("improvement", changed(RANKING, lower=-0.0199), PASS),
        ("improvement", changed(RANKING, challenger=0.69, lower=-0.0201, upper=0.0001), FAIL),
        ("improvement", changed(RANKING, challenger=0.69, lower=-0.05, upper=0.03), UNCLEAR),
        ("improvement", changed(RANKING, challenger=0.66, lower=-0.0799, upper=-0.0001), FAIL),
        ("improvement", changed(RANKING, lower=math.nan), FAIL),
        ("improvement", without("log_loss"), FAIL),
        ("improvement", without("roc_auc"), FAIL),
        ("calibration", changed(COUNTED, champion=1.0, challenger=1.104), PASS),
        ("calibration", changed(COUNTED, champion=1.2, challenger=1.35), FAIL),
        ("calibration", changed(COUNTED, champion=0.9, challenger=0.75), FAIL),
        ("calibration", changed(COUNTED, champion=3.0, challenger=0.9), PASS),
        ("calibration", changed(COUNTED, champion=0.9, challenger=1.1), FAIL),
        ("calibration", changed(COUNTED, challenger=math.nan), FAIL),
        ("calibration", changed(COUNTED, positives=0), FAIL),
        ("calibration", without("expected_over_observed"), FAIL),
        ("label_coverage", replace(GOOD, label_coverage=0.29), FAIL),
        ("segments", replace(GOOD, segments=[replace(RANKING, challenger=0.66, upper=-0.01, segment="a=b")]), FAIL),
    ],
)  # fmt: skip
def test_each_gate_judges_its_own_evidence(gate, inputs, expected):
    found = answers(inputs)
    assert found[gate].verdict is expected, found[gate].reason
    assert decide(list(found.values()))[0] is (Action.promote if expected is PASS else found_action(found))


def found_action(found: dict[str, GateResult]) -> Action:
    unclear = any(r.verdict is UNCLEAR for r in found.values())
    return Action.inconclusive if unclear else Action.reject


def test_good_evidence_promotes_and_says_why():
    action, reason = decide(evaluate_gates(GOOD, POLICY))
    assert action is Action.promote
    assert reason == (
        "log loss so far 0.2000 → 0.1900; 95% lower bound of the gain +0.00500; ROC AUC so far 0.7000 → 0.7200, "
        "lower bound +0.0000 (at least −0.02)"
    )


def test_the_reasons_speak_of_labels_so_far():
    found = answers(GOOD)
    assert found["sample_validity"].reason == "5000 evaluated rows, 300 positives so far"
    assert found["label_coverage"].reason.startswith(
        "90% of the positives expected by their ages have been reported"
    )
    assert "expected/observed so far 0.50 → 0.90" in found["calibration"].reason
    matured = answers(GOOD, GatePolicy(evidence="matured"))
    assert matured["label_coverage"].reason.startswith("90% of the evaluation window is labelled")


@pytest.mark.parametrize(
    ("inputs", "limits"),
    [
        (changed(RANKING, lower=-0.01), {"max_ranking_loss": 0.009}),
        (changed(COUNTED, champion=1.0, challenger=1.05), {"max_calibration_loss": 0.04}),
        (changed(LOSS, upper=-0.001), {"confidence": 0.95, "min_positives": 301}),
    ],
)
def test_each_limit_is_the_policys(inputs, limits):
    assert {r.verdict for r in evaluate_gates(inputs, POLICY)} == {PASS}
    assert {r.verdict for r in evaluate_gates(inputs, POLICY.model_copy(update=limits))} != {PASS}


@pytest.mark.parametrize(
    ("inputs", "wanted"),
    [
        (changed(LOSS, challenger=0.199, lower=-0.011, upper=0.009), 0.20 * 0.02),
        (changed(RANKING, challenger=0.70, lower=-0.05, upper=0.05), 0.02),
    ],
)
def test_no_power_says_how_many_positives_it_takes(inputs, wanted):
    """With so many positives in all, the chance of proof is the policy's."""
    improvement = answers(inputs)["improvement"]
    further = improvement.evidence["further_labels"]
    assert f"too few positives so far to tell: {further:,} more" in improvement.reason
    [wide] = [
        c for c in inputs.overall.values() if c.metric != "expected_over_observed" and c.lower < 0 < c.upper
    ]
    error = (wide.upper - wide.lower) / 2 / norm.ppf(0.95) * math.sqrt(300 / (300 + further))
    assert norm.cdf(wanted / error - norm.ppf(0.95)) == pytest.approx(0.80, abs=0.005)


def test_how_much_farther_off_is_bounded_at_its_confidence():
    """Of counts with a mean between what two models expect, the bound is below the truth in at most 5 %."""
    one, other, mean = 80.0, 130.0, 100.0
    truth = abs(math.log(other / mean)) - abs(math.log(one / mean))
    counts = np.random.default_rng(1).poisson(mean, 4000)
    bounds = {
        n: farther_off(Comparison("expected_over_observed", one / n, other / n, 0, 0, 900, int(n)), 0.95)
        for n in np.unique(counts)
    }
    missed = np.mean([bounds[n] < truth for n in counts])
    assert missed <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 4000)
    assert missed > 0.02, "no wider than it must be"


def test_equal_levels_are_never_farther_off_whatever_was_observed():
    for count in (5, 50, 5000):
        assert farther_off(replace(COUNTED, champion=0.4, challenger=0.4, positives=count), 0.95) == 0


def promoted(trials: int, champion: float, challenger: float, rows: int = 8000) -> float:
    """How often the gates promote, on labels so far of right probabilities."""
    count = 0
    for seed in range(trials):
        overall = {c.metric: c for c in compare_partial(so_far(rows, seed, champion, challenger), POLICY)}
        coverage = coverage_so_far(overall["expected_over_observed"])
        inputs = replace(GOOD, overall=overall, label_coverage=coverage)
        count += decide(evaluate_gates(inputs, POLICY))[0] is Action.promote
    return count / trials


def test_an_equal_challenger_is_rarely_promoted_on_labels_so_far():
    assert promoted(300, 1.0, 1.0) <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / 300)


def test_a_worse_challenger_is_hardly_ever_promoted_on_labels_so_far():
    assert promoted(150, 1.0, 0.9) <= 0.01


def test_a_better_challenger_is_promoted_on_labels_so_far():
    assert promoted(40, 1.0, 1.35) >= 0.9
