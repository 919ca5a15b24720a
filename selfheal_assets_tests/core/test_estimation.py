"""Estimates of chunks whose truth is known: the right estimator, honest errors, doubt where doubt is due, no NaN."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfheal_assets.core.calibration import IDENTITY, CannotCalibrate, fit_isotonic, plain_map
from selfheal_assets.core.density_ratio import Inputs
from selfheal_assets.core.estimation import ESTIMATE_SCHEMA, ChunkRows, estimate_chunk
from selfheal_assets.core.evidence_policy import DensityRatio, Estimation
from selfheal_assets.core.expected import METRICS, expected_metrics
from selfheal_assets.core.policies import Costs
from selfheal_assets.core.reference_rows import CBPE, WEIGHTED, ReferenceRows, backtest, coverage
from selfheal_assets.core.score_groups import groups_of_labels, groups_of_rows
from selfheal_assets_tests.core.generated import sigmoid

POLICY = Estimation()
COSTS = Costs(missed_positive=10, refused_good=3)


def world(rows: int, seed: int, hidden: float = 0.2, drift: float = 0.0) -> ReferenceRows:
    """Cases with a signal that the model knows and a group that it ignores, but that matters.

    ``hidden`` is the group's share: where it grows, cases of one score become worse, which weights can follow and the
    score alone cannot. ``drift`` moves the truth itself, which nothing can follow.
    """
    rng = np.random.default_rng(seed)
    signal = rng.normal(size=rows)
    group = (rng.uniform(size=rows) < hidden).astype(np.float32)
    score = sigmoid(1.2 * signal - 1.2)
    label = (rng.uniform(size=rows) < sigmoid(1.2 * signal - 1.5 + 1.6 * group + drift)).astype(int)
    matrix = np.column_stack([signal, group]).astype(np.float32)
    return ReferenceRows(Inputs(matrix, score, ["signal", "group"], [False, True]), score >= 0.4, label)


def unlabelled(rows: ReferenceRows) -> ChunkRows:
    return ChunkRows(rows.inputs, rows.flagged)


def truth(rows: ReferenceRows) -> dict[str, float]:
    groups = groups_of_labels(rows.inputs.score, rows.label, rows.flagged)
    return dict(expected_metrics(groups, COSTS).select("metric", "value").iter_rows())


def rows_of(frame: pl.DataFrame) -> dict[str, dict]:
    return {row["metric"]: row for row in frame.iter_rows(named=True)}


REFERENCE = world(6000, 1)


# Which estimator.


def test_where_the_inputs_shift_the_weighted_estimator_is_chosen_and_right():
    chunk = world(3000, 2, hidden=0.6)
    found, real = rows_of(estimate_chunk(REFERENCE, unlabelled(chunk), POLICY, COSTS)), truth(chunk)
    for metric in ("precision", "brier", "log_loss", "expected_calibration_error", "recall"):
        row = found[metric]
        assert row["estimator"] == WEIGHTED, metric
        assert row["value"] == row["value_weighted"]
        assert abs(row["value"] - real[metric]) < abs(row["value_cbpe"] - real[metric]), metric
        assert row["lower"] <= real[metric] <= row["upper"], metric
        assert row["own_error"] > 0
        assert row["rows"] == 3000
    assert not found["brier"]["trusted"]
    assert "disagree by" in found["brier"]["reason"]


def test_ks_is_estimated_by_whom_the_roc_auc_is():
    seen = set()
    for hidden in (0.2, 0.4, 0.6):
        for seed in range(3):
            chunk = unlabelled(world(800, 30 + seed, hidden=hidden))
            frame = estimate_chunk(REFERENCE, chunk, Estimation(ratios=(DensityRatio(rounds=10),)), seed=seed)
            found = rows_of(frame)
            assert found["ks"]["estimator"] == found["roc_auc"]["estimator"] == found["gini"]["estimator"]
            seen.add(found["ks"]["estimator"])
    assert seen == {CBPE, WEIGHTED}


def test_where_nothing_shifts_the_estimators_agree_and_are_trusted():
    chunk = world(3000, 13)
    found = rows_of(estimate_chunk(REFERENCE, unlabelled(chunk), POLICY, COSTS))
    for metric in ("roc_auc", "f1", "accuracy", "brier"):
        row = found[metric]
        assert row["trusted"] and row["reason"] is None and row["status"] == "PASS", metric
        assert abs(row["value_cbpe"] - row["value_weighted"]) < row["standard_error"], metric


def test_what_the_reference_does_not_cover_is_cbpes_and_not_trusted():
    chunk = unlabelled(world(3000, 4))
    chunk.inputs.matrix[:1500, 1] = np.nan  # the group is not recorded for half of them
    frame = estimate_chunk(REFERENCE, chunk, POLICY, COSTS)
    assert set(frame["estimator"]) == {CBPE}
    assert not frame["trusted"].any()
    assert frame["reason"].str.contains("does not cover this chunk: 'group' still differs by").all()


def test_a_change_of_the_truth_moves_no_estimate():
    same, changed = (world(3000, 5, drift=d) for d in (0.0, 1.0))
    estimates = [estimate_chunk(REFERENCE, unlabelled(c), POLICY, COSTS) for c in (same, changed)]
    assert estimates[0].equals(estimates[1])
    assert truth(changed)["brier"] > rows_of(estimates[1])["brier"]["upper"]


def test_too_few_effective_rows_keep_the_weighted_estimator_out():
    policy = Estimation(min_effective_rows=5000)
    chunk = unlabelled(world(3000, 2, hidden=0.6))
    frame = estimate_chunk(REFERENCE, chunk, policy, COSTS)
    assert set(frame["estimator"]) == {CBPE}
    complaint = coverage(REFERENCE, chunk.inputs, policy, 0).complaint()
    assert complaint is not None and "5000 are needed" in complaint
    assert coverage(REFERENCE, chunk.inputs, POLICY, 0).complaint() is None


def test_effective_rows_are_those_of_the_rarer_class():
    rare = world(3000, 1)
    rare.label[np.flatnonzero(rare.label)[60:]] = 0
    cover = coverage(rare, world(1000, 3).inputs, POLICY, 0)
    assert cover.balanced and not cover.usable
    assert 40 < cover.effective <= 60


# The backtest.


def test_the_backtest_knows_which_errs_on_chunks_like_this_one():
    reference = world(30_000, 1)
    cover = coverage(reference, world(3000, 2, hidden=0.6).inputs, POLICY, 0)
    errors = backtest(reference, cover, 3000, POLICY, COSTS, seed=0)
    brier = errors.row(by_predicate=pl.col("metric") == "brier", named=True)
    assert brier[WEIGHTED] < 0.5 * brier[CBPE]
    # And CBPE's measured error there is its true one: the difference that a labelled chunk shows.
    fresh, plain = world(60_000, 9, hidden=0.6), plain_map(reference.inputs.score, reference.label)
    estimate = expected_metrics(groups_of_rows(fresh.inputs.score, plain(fresh.inputs.score), fresh.flagged))
    bias = abs(rows_of(estimate)["brier"]["value"] - truth(fresh)["brier"])
    assert brier[CBPE] == pytest.approx(bias, rel=0.2)


def test_without_usable_weights_the_backtest_is_cbpes_alone():
    chunk = unlabelled(world(3000, 4))
    chunk.inputs.matrix[:1500, 1] = np.nan
    cover = coverage(REFERENCE, chunk.inputs, POLICY, 0)
    errors = backtest(REFERENCE, cover, 3000, POLICY, COSTS, seed=0)
    assert errors[WEIGHTED].null_count() == errors.height == len(METRICS) + 1
    assert errors[CBPE].null_count() == 0


def test_errors_of_counts_are_for_the_chunks_own_rows():
    cover = coverage(REFERENCE, world(500, 3).inputs, POLICY, 0)
    small, large = (
        dict(backtest(REFERENCE, cover, n, POLICY, COSTS).select("metric", CBPE).iter_rows())
        for n in (10_000, 1_000_000)
    )
    assert large["true_positives"] == pytest.approx(100 * small["true_positives"])
    assert large["f1"] == small["f1"]


# Determinism, intervals, size.


def test_the_same_seed_gives_the_same_table():
    chunk = unlabelled(world(1500, 6, hidden=0.4))
    first, again, other = (estimate_chunk(REFERENCE, chunk, POLICY, COSTS, seed=s) for s in (1, 1, 2))
    assert first.equals(again)
    assert not first.equals(other)


def test_intervals_hold_what_is_promised():
    """Over fresh chunks, some shifted: 95 % intervals hold the realized metric in at least nine of ten."""
    held, boosted = [], Estimation(ratios=(DensityRatio(),))
    for seed in range(10):
        chunk = world(1500, 100 + seed, hidden=0.2 + 0.03 * seed)
        found, real = (
            rows_of(estimate_chunk(REFERENCE, unlabelled(chunk), boosted, COSTS, seed)),
            truth(chunk),
        )
        held += [
            found[m]["lower"] <= real[m] <= found[m]["upper"] for m in ("roc_auc", "f1", "brier", "recall")
        ]
    assert np.mean(held) >= 0.9


def test_a_sample_stands_for_the_rows_and_groups_come_from_all():
    chunk, policy = world(5000, 7), Estimation(max_rows=2000)
    plain = plain_map(REFERENCE.inputs.score, REFERENCE.label)
    sample = unlabelled(chunk.take(np.arange(1000)))
    frame = estimate_chunk(
        REFERENCE, sample, policy, COSTS, plain=plain,
        regroup=lambda m: groups_of_rows(chunk.inputs.score, m(chunk.inputs.score), chunk.flagged),
    )  # fmt: skip
    expected = expected_metrics(
        groups_of_rows(chunk.inputs.score, plain(chunk.inputs.score), chunk.flagged), COSTS
    )
    assert frame["value_cbpe"].to_list() == expected["value"].to_list()
    assert set(frame["rows"]) == {5000}


def test_intervals_stay_within_what_a_metric_can_be():
    chunk = world(250, 8)
    rare = ChunkRows(chunk.inputs, chunk.inputs.score > np.sort(chunk.inputs.score)[-4])
    found = rows_of(estimate_chunk(REFERENCE, rare, POLICY, COSTS))
    assert (found["recall"]["lower"], found["precision"]["upper"]) == (0.0, 1.0)
    assert found["business_value"]["lower"] < 0


# What cannot be estimated.


def assert_sound(frame: pl.DataFrame) -> None:
    """Every metric is a row; no NaN; no value without bounds of its kind, no gap without its reason."""
    assert frame.schema == ESTIMATE_SCHEMA
    assert frame["metric"].to_list() == [*METRICS, "business_value"]
    for name, dtype in frame.schema.items():
        if dtype.is_float():
            assert frame[name].drop_nulls().is_finite().all(), name
    gaps = frame["value"].is_null()
    assert (gaps == (frame["status"] == "INSUFFICIENT_DATA")).all()
    assert (~gaps | frame["reason"].is_not_null()).all()
    assert not (gaps & frame["trusted"]).any()
    assert (frame["trusted"] | frame["reason"].is_not_null()).all()


@pytest.mark.parametrize(
    ("chunk", "reference", "says"),
    [
        (world(199, 1), REFERENCE, "199 scored rows; estimation.min_rows asks for 200"),
        (world(0, 1), REFERENCE, "0 scored rows; estimation.min_rows asks for 200"),
        (world(500, 1), world(40, 1), "rows of its rarer class; estimation.min_class_rows asks for 30"),
    ],
)
def test_too_few_rows_say_how_many_are_needed(chunk, reference, says):
    frame = estimate_chunk(reference, unlabelled(chunk), POLICY, COSTS)
    assert_sound(frame)
    assert frame["value"].null_count() == frame.height
    assert frame["reason"].str.contains(says, literal=True).all()


def test_a_reference_of_one_class_says_so():
    one = ReferenceRows(REFERENCE.inputs, REFERENCE.flagged, np.zeros(6000, dtype=int))
    frame = estimate_chunk(one, unlabelled(world(500, 1)), POLICY, COSTS)
    assert_sound(frame)
    assert frame["reason"].str.contains("0 rows of its rarer class").all()


def test_a_reference_with_a_score_that_is_no_number_says_so():
    score = REFERENCE.inputs.score.copy()
    score[3] = np.nan
    broken = Inputs(REFERENCE.inputs.matrix, score, REFERENCE.inputs.names, REFERENCE.inputs.categorical)
    frame = estimate_chunk(
        ReferenceRows(broken, REFERENCE.flagged, REFERENCE.label), unlabelled(world(500, 1)), POLICY, COSTS
    )
    assert_sound(frame)
    assert frame["reason"].str.contains("1 of 6000 reference scores are not finite").all()
    with pytest.raises(CannotCalibrate):
        fit_isotonic(score, REFERENCE.label)


def test_scores_that_are_no_numbers_are_left_out_and_counted():
    chunk = world(1000, 8)
    chunk.inputs.score[:3] = [np.nan, np.inf, -np.inf]
    frame = estimate_chunk(REFERENCE, unlabelled(chunk), POLICY, COSTS)
    assert_sound(frame)
    assert set(frame["rows"]) == {997}
    assert frame["reason"].str.contains("3 of 1000 scores are not finite and are left out").all()


def test_nothing_flagged_leaves_precision_alone_without_a_value():
    chunk = world(1000, 8)
    frame = estimate_chunk(REFERENCE, ChunkRows(chunk.inputs, np.zeros(1000, bool)), POLICY, COSTS)
    assert_sound(frame)
    assert frame.filter(pl.col("value").is_null())["metric"].to_list() == ["precision"]


def test_no_costs_leave_the_business_value_without_a_value():
    frame = estimate_chunk(REFERENCE, unlabelled(world(1000, 8)), POLICY)
    assert_sound(frame)
    assert frame.filter(pl.col("value").is_null())["metric"].to_list() == ["business_value"]


@settings(max_examples=8, deadline=None)
@given(
    rows=st.integers(200, 400),
    spoil=st.sampled_from(["missing", "infinite", "constant", "unseen", "one score", "zero", "one"]),
    seed=st.integers(0, 5),
)
def test_any_spoilt_chunk_has_a_sound_table(rows, spoil, seed):
    chunk = world(rows, seed)
    matrix, score = chunk.inputs.matrix, chunk.inputs.score
    match spoil:
        case "missing":
            matrix[:] = np.nan
        case "infinite":
            matrix[:, 0] = np.inf
        case "constant":
            matrix[:] = 1.0
        case "unseen":
            matrix[:, 1] = 9.0
        case "one score":
            score[:] = 0.5
        case "zero":
            score[:] = 0.0
        case "one":
            score[:] = 1.0
    quick = Estimation(draws=1, folds=2, ratios=(DensityRatio(rounds=5), DensityRatio(classifier="logistic")))
    assert_sound(estimate_chunk(world(400, 1), unlabelled(chunk), quick, COSTS, plain=IDENTITY))
