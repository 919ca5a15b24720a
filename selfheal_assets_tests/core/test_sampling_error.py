"""Sampling errors against redrawn chunks, and against NannyML's."""

from dataclasses import replace

import numpy as np
import pytest

from selfheal_assets.core.expected import METRICS, business_value
from selfheal_assets.core.policies import Costs
from selfheal_assets.core.sampling_error import sampling_errors
from selfheal_assets.core.score_groups import ScoreGroups, groups_of_labels, groups_of_rows

COSTS = Costs(missed_positive=10, refused_good=3, caught_positive=1, accepted_good=2)
ROWS, STEPS = 1000, 12


def population(seed: int = 1) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores, a step map of them (a few wide groups), and what is flagged."""
    score = np.random.default_rng(seed).beta(1.5, 4, 40_000)
    step = np.minimum((score * STEPS).astype(int), STEPS - 1)
    calibrated = np.linspace(0.02, 0.9, STEPS)[step] ** 1.3
    return score, calibrated, score >= 0.37


def at_size(groups: ScoreGroups, rows: int) -> ScoreGroups:
    share = rows / groups.total
    sums = ("rows", "score_sum", "score_square_sum", "log_score_sum", "log_complement_sum")
    return replace(groups, **{name: getattr(groups, name) * share for name in sums})


@pytest.fixture(scope="module")
def redrawn() -> dict[str, float]:
    """Standard deviation of each realized metric over chunks redrawn from the population, rows and labels."""
    score, calibrated, flagged = population()
    rng = np.random.default_rng(2)
    figures = METRICS | {"business_value": ("", lambda g: business_value(g, COSTS))}
    found = {name: [] for name in figures}
    for _ in range(600):
        rows = rng.integers(0, len(score), ROWS)
        label = (rng.uniform(size=ROWS) < calibrated[rows]).astype(int)
        groups = groups_of_labels(score[rows], label, flagged[rows])
        for name, (_, compute) in figures.items():
            found[name].append(compute(groups))
    return {name: float(np.std(values, ddof=1)) for name, values in found.items()}


@pytest.fixture(scope="module")
def ours() -> dict[str, float]:
    return sampling_errors(at_size(groups_of_rows(*population()), ROWS), COSTS, seed=3, resamples=1000)


@pytest.mark.parametrize("metric", [*METRICS, "business_value"])
def test_errors_are_those_of_redrawn_chunks(metric, ours, redrawn):
    # 600 redraws know a standard deviation to 3 % (one standard error).
    assert ours[metric] == pytest.approx(redrawn[metric], rel=0.1)


def test_errors_shrink_with_the_root_of_the_rows():
    groups = groups_of_rows(*population())
    small, large = (sampling_errors(at_size(groups, n), COSTS, seed=0) for n in (1000, 16_000))
    for name in ("roc_auc", "f1", "precision", "recall", "specificity", "accuracy", "brier", "log_loss"):
        assert large[name] == pytest.approx(small[name] / 4, rel=1e-9), name
    assert large["true_positives"] == pytest.approx(small["true_positives"] * 4, rel=1e-9)
    assert large["average_precision"] == pytest.approx(small["average_precision"] / 4, rel=0.2)


def test_many_groups_are_banded_without_loss():
    score = np.random.default_rng(1).uniform(size=5000)
    fine = sampling_errors(groups_of_rows(score, score, score > 0.5), seed=1, resamples=500)
    few = np.round(score, 2)
    coarse = sampling_errors(groups_of_rows(few, few, few > 0.5), seed=1, resamples=500)
    for name in ("average_precision", "ks"):
        assert fine[name] == pytest.approx(coarse[name], rel=0.1)


def test_the_seed_decides():
    groups = groups_of_rows(*population())
    assert sampling_errors(groups, seed=5) == sampling_errors(groups, seed=5)
    assert sampling_errors(groups, seed=5)["ks"] != sampling_errors(groups, seed=6)["ks"]


@pytest.mark.parametrize(
    ("probability", "flagged", "absent"),
    [
        ([], [], {*METRICS, "business_value"}),
        ([0.0, 0.0], [0, 0], {"roc_auc", "gini", "precision", "recall", "f1", "average_precision", "ks"}),
        ([1.0, 1.0], [1, 1], {"roc_auc", "gini", "specificity", "average_precision", "ks"}),
        ([0.3, 0.6], [0, 0], {"precision"}),
    ],
)
def test_what_is_not_defined_has_no_error(probability, flagged, absent):
    score = np.linspace(0.2, 0.8, len(probability))
    groups = groups_of_rows(
        np.repeat(score, 50), np.repeat(probability, 50), np.repeat(flagged, 50).astype(bool)
    )
    found = sampling_errors(groups, COSTS)
    assert {*METRICS, "business_value"} - set(found) == absent
    assert all(np.isfinite(v) and v >= 0 for v in found.values())


@pytest.mark.integration
def test_nannymls_errors_beside_ours():
    """NannyML's precision, recall, specificity and accuracy agree; its ROC AUC's counts the positives' scatter alone,
    and its F1's takes F1 for a share."""
    import pandas as pd

    from selfheal_assets.settings import prepare_environment

    prepare_environment()
    from nannyml.sampling_error import binary_classification as theirs

    score, calibrated, flagged = population()
    label = (np.random.default_rng(4).uniform(size=len(score)) < calibrated).astype(int)
    ours = sampling_errors(at_size(groups_of_labels(score, label, flagged), ROWS))
    y, hit, size = pd.Series(label), pd.Series(flagged.astype(int)), np.zeros(ROWS)

    def error(name: str, *parts: pd.Series) -> float:
        return getattr(theirs, f"{name}_sampling_error")(
            getattr(theirs, f"{name}_sampling_error_components")(*parts), size
        )

    for name in ("precision", "recall", "specificity", "accuracy"):
        assert ours[name] == pytest.approx(error(name, y, hit), rel=1e-6), name
    assert error("auroc", y, pd.Series(score)) < 0.95 * ours["roc_auc"]
    assert error("f1", y, hit) > 1.2 * ours["f1"]


def test_rows_of_one_probability_still_have_an_order_that_chance_moves():
    """Two wide steps: the scatter within a step is a large part of the ROC AUC's error."""
    rng = np.random.default_rng(7)
    score = rng.uniform(size=400)
    calibrated = np.where(score < 0.5, 0.3, 0.6)
    aucs = []
    for _ in range(1500):
        drawn = rng.integers(0, 400, 400)
        label = (rng.uniform(size=400) < calibrated[drawn]).astype(int)
        fresh = score[drawn] + rng.uniform(0, 1e-9, 400)
        aucs.append(METRICS["roc_auc"][1](groups_of_labels(fresh, label, fresh > 0.5)))
    ours = sampling_errors(groups_of_rows(score, calibrated, score > 0.5))["roc_auc"]
    assert ours == pytest.approx(np.std(aucs, ddof=1), rel=0.06)
