"""Drift alarms: the bound, detection, what an alarm says, and every input that cannot be judged."""

from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfheal_assets.core.cell_counts import MISSING, UNSEEN
from selfheal_assets.core.drift_alarms import (
    ALARM_SCHEMA,
    alarm_finding,
    alarm_rows,
    drift_alarms,
    judge_feature,
)
from selfheal_assets.core.drift_evidence import act_limit
from selfheal_assets.core.drift_state import DriftState, begin, counts_since, folded, merge
from selfheal_assets.core.evidence_policy import DriftAlarms
from selfheal_assets.core.monitoring import Status

POLICY = DriftAlarms(chunks_per_year=30)
TENTHS = np.full(10, 0.1)
KINDS = np.array([0.5, 0.3, 0.15, 0.05])
UP = np.array([0.08] * 5 + [0.12] * 5)
MORE_D = np.array([0.44, 0.3, 0.15, 0.11])
FAIL, PASS, UNKNOWN = Status.failed.value, Status.passed.value, Status.insufficient.value


def reference_of(
    counts: dict[str, np.ndarray], ordered: tuple[str, ...] = ("amount", "probability")
) -> pl.DataFrame:
    rows = [
        (name, f"c{k}", int(n), float(k) if name in ordered else None)
        for name, values in counts.items()
        for k, n in enumerate(values)
    ]
    schema = {"feature": pl.String, "cell": pl.String, "rows": pl.Int64, "position": pl.Float64}
    return pl.DataFrame(rows, schema=schema, orient="row")


def chunk_of(counts: dict[str, np.ndarray], chunk: str | None = None) -> pl.DataFrame:
    frame = reference_of(counts).drop("position")
    return frame if chunk is None else frame.select(pl.lit(chunk).alias("chunk"), pl.all())


def drawn(
    rng: np.random.Generator, rows: int, amount=TENTHS, kind=KINDS, probability=TENTHS
) -> dict[str, Any]:
    shares = {"amount": amount, "kind": kind, "probability": probability}
    return {name: rng.multinomial(rows, p) for name, p in shares.items()}


def history_of(
    seed: int, chunks: int, at: int, rows: int = 1000, **changed: Any
) -> tuple[pl.DataFrame, pl.DataFrame]:
    rng = np.random.default_rng(seed)
    reference = reference_of(drawn(rng, 10_000))
    parts = [chunk_of(drawn(rng, rows, **(changed if t >= at else {})), f"w{t:02d}") for t in range(chunks)]
    return reference, pl.concat(parts)


def one(rows: pl.DataFrame, feature: str, tier: str) -> dict[str, Any]:
    return rows.row(by_predicate=(pl.col("feature") == feature) & (pl.col("tier") == tier), named=True)


def test_the_chance_of_any_false_alarm_is_bounded():
    # A budget of 0.4 makes the bound visible in few histories: 0.2 for each tier.
    policy = DriftAlarms(chunks_per_year=12, false_alarm_budget=0.4)
    rng, ever = np.random.default_rng(2), {"warn": 0, "act": 0}
    histories = 250
    for _ in range(histories):
        state = begin(reference_of(drawn(rng, 2000)), policy)
        alarmed = set()
        for t in range(12):
            counts = drawn(rng, 500)
            merged = [
                f.merged(str(t), np.append(counts[f.cells.feature], [0.0, 0.0]), policy.max_starts)
                for f in state.features
            ]
            state = DriftState(tuple(merged), t + 1)
            alarmed |= {j.tier for f in merged for j in judge_feature(f, policy, 3) if j.beyond}
        for tier in alarmed:
            ever[tier] += 1
    error = (0.2 * 0.8 / histories) ** 0.5
    assert ever["warn"] / histories <= 0.2 + 2 * error
    assert ever["act"] / histories <= 0.2 + 2 * error
    assert ever["warn"] / histories >= 0.1  # the level is not smaller than it need be
    assert ever["act"] >= 1


def test_an_unchanged_history_is_quiet():
    rows = drift_alarms(*history_of(1, chunks=30, at=99), POLICY)
    assert rows["status"].unique().to_list() == [PASS]
    assert rows.height == 30 * 3 * 2
    assert rows.filter(tier="act")["limit"].unique().to_list() == [act_limit(POLICY, features=3)]
    assert alarm_finding(rows.filter(chunk="w29")).status is Status.passed


def test_a_change_is_found_described_and_dated():
    reference, history = history_of(3, chunks=16, at=10, amount=UP, kind=MORE_D)
    rows = drift_alarms(reference, history, POLICY)
    assert rows.filter(pl.col("chunk") < "w10", pl.col("status") == FAIL).is_empty()
    soon = rows.filter(pl.col("status") == FAIL, pl.col("chunk") <= "w12")
    assert set(soon["feature"]) == {"amount", "kind"}
    last = rows.filter(chunk="w15")
    amount, kind = one(last, "amount", "act"), one(last, "kind", "act")
    assert one(last, "probability", "act")["status"] == PASS
    assert amount["first_chunk"] == kind["first_chunk"] == "w10"
    assert amount["first_chunk_earliest"] <= "w10" <= amount["first_chunk_latest"]
    assert amount["first_chunk_score"] > 0.5
    assert amount["direction"] == "up"
    assert amount["shift_sd"] == pytest.approx(0.5 / 8.25**0.5, abs=0.05)
    assert amount["mass_moved"] == pytest.approx(0.1, abs=0.02)
    assert kind["direction"] == "mix"
    assert kind["grown"].startswith("c3 ")
    assert kind["shrunk"].startswith("c0 ")
    assert kind["effect_size"] == pytest.approx((0.06**2 / 0.49 + 0.06**2 / 0.06) ** 0.5, abs=0.06)
    assert amount["prediction_mass_moved"] < 0.03
    assert amount["reason"].startswith("amount changed since w10 (w10 to w10): up, ")
    finding = alarm_finding(last)
    assert finding.status is Status.failed
    assert finding.statistic is not None
    assert finding.statistic > 1
    assert "amount changed" in finding.reason
    assert "kind changed" in finding.reason


def test_a_change_of_the_scores_says_how_much_of_them_moved():
    rows = drift_alarms(*history_of(3, chunks=14, at=10, probability=UP, amount=UP), POLICY).filter(
        chunk="w13"
    )
    moved = one(rows, "probability", "act")
    assert moved["prediction_mass_moved"] == moved["mass_moved"] == pytest.approx(0.1, abs=0.02)
    assert one(rows, "amount", "act")["prediction_mass_moved"] == pytest.approx(0.1, abs=0.02)


def test_without_scores_an_alarm_says_that_their_part_is_unknown():
    reference, history = history_of(3, chunks=14, at=10, amount=UP)
    row = one(drift_alarms(reference, history, POLICY, score=None).filter(chunk="w13"), "amount", "act")
    assert row["prediction_mass_moved"] is None
    assert "scores are not among the features" in row["reason"]


def test_a_warning_needs_two_hits_on_the_same_feature():
    rng = np.random.default_rng(4)
    reference = reference_of(drawn(rng, 10_000))
    hit, quiet = 1000 * UP, 1000 * TENTHS

    def statuses(*amounts: np.ndarray) -> list[str]:
        parts = [
            chunk_of({"amount": a, "kind": 1000 * KINDS, "probability": quiet}, f"w{t}")
            for t, a in enumerate(amounts)
        ]
        rows = drift_alarms(reference, pl.concat(parts), POLICY)
        return rows.filter(feature="amount", tier="warn")["status"].to_list()

    assert statuses(quiet, hit, quiet) == [PASS, PASS, PASS]
    assert statuses(hit, quiet, hit) == [PASS, PASS, FAIL]
    assert statuses(hit, quiet, quiet, hit) == [PASS] * 4
    assert statuses(hit, hit, quiet) == [PASS, FAIL, PASS]


def test_the_order_of_features_and_rows_does_not_matter():
    reference, history = history_of(5, chunks=8, at=4, amount=UP)
    plain = drift_alarms(reference, history, POLICY)
    turned = reference.sample(fraction=1, shuffle=True, seed=1).sort("position", nulls_last=True)
    shuffled = history.with_columns(n=pl.int_range(pl.len()).shuffle(seed=2)).sort("chunk", "n").drop("n")
    found = drift_alarms(turned, shuffled, POLICY)
    by = ["chunk", "feature", "tier"]
    assert found["feature"].to_list() != plain["feature"].to_list()
    numbers = ["statistic", "limit", "mass_moved", "effect_size", "shift_sd", "budget_spent"]
    for name in ALARM_SCHEMA:
        a, b = plain.sort(by)[name], found.sort(by)[name]
        if name in numbers:
            assert a.to_list() == pytest.approx(b.to_list())
        elif name not in ("p_value", "first_chunk_score", "prediction_mass_moved"):
            assert a.to_list() == b.to_list()


def test_carried_along_is_the_same_as_folded_from_history():
    policy = DriftAlarms(chunks_per_year=30, max_starts=12)
    reference, history = history_of(6, chunks=20, at=15, kind=MORE_D)
    state = begin(reference, policy)
    for chunk in history["chunk"].unique(maintain_order=True):
        state = merge(state, chunk, history.filter(chunk=chunk).drop("chunk"), policy)
        assert all(len(f.starts) <= 12 for f in state.features)
    again = folded(reference, history, policy)
    assert alarm_rows(state, policy).equals(alarm_rows(again, policy))
    assert alarm_rows(state, policy).equals(drift_alarms(reference, history, policy).filter(chunk="w19"))
    assert state.features[0].starts[:2] == ("w00", "w09")
    assert state.features[0].before[0].sum() == 10_000
    assert state.features[0].before[1].sum() == 10_000 + 9 * 1000


def test_budget_spent_grows_by_look_to_each_tiers_share():
    policy = DriftAlarms(chunks_per_year=30, false_alarm_budget=0.05, warn_share=0.4)
    rows = drift_alarms(*history_of(1, chunks=30, at=99), policy).filter(feature="kind")
    warn, act = rows.filter(tier="warn")["budget_spent"], rows.filter(tier="act")["budget_spent"]
    assert warn[0] == pytest.approx(0.02 / 30)
    assert warn[-1] == pytest.approx(0.02)
    assert act[-1] == pytest.approx(0.03)


def test_the_acting_tier_alarms_from_its_limit_on():
    (feature,) = folded(
        reference_of({"amount": 1000 * TENTHS}), chunk_of({"amount": 600 * UP}, "w0"), POLICY
    ).features
    evidence = judge_feature(feature, POLICY, 1)[1].statistic
    assert evidence is not None
    for above, beyond in ((-0.01, True), (0.01, False)):
        budget = 2 * float(np.exp(-evidence - above))
        policy = POLICY.model_copy(update={"false_alarm_budget": budget})
        assert judge_feature(feature, policy, 1)[1].beyond is beyond


def test_certain_but_small_is_no_alarm():
    share = TENTHS + np.array([0.008, 0, 0, 0, 0, 0, 0, 0, 0, -0.008])
    reference = reference_of({"amount": 1_000_000 * TENTHS})
    parts = [chunk_of({"amount": 1_000_000 * share}, f"w{t}") for t in range(3)]
    rows = drift_alarms(reference, pl.concat(parts), POLICY)
    row = one(rows.filter(chunk="w2"), "amount", "act")
    assert row["statistic"] > row["limit"]
    assert row["status"] == PASS
    assert "less than the 2 %" in row["reason"]
    strict = POLICY.model_copy(update={"min_mass_moved": 0.005})
    assert (
        one(drift_alarms(reference, pl.concat(parts), strict).filter(chunk="w2"), "amount", "act")["status"]
        == FAIL
    )


def test_a_small_reference_is_a_sample_too():
    # Five hundred rows against chunks of ten thousand: the reference's own error is most of the distance.
    rng = np.random.default_rng(8)
    alarms = 0
    for _ in range(20):
        reference = reference_of(drawn(rng, 500))
        parts = [chunk_of(drawn(rng, 10_000), f"w{t}") for t in range(5)]
        alarms += drift_alarms(reference, pl.concat(parts), POLICY)["status"].is_in([FAIL]).any()
    assert alarms <= 1


# What cannot be judged, and what looks as if it could not.

GOOD = reference_of({"amount": 1000 * TENTHS, "kind": 1000 * KINDS})


def judged(reference: pl.DataFrame, *chunks: dict[str, Any], policy: DriftAlarms = POLICY) -> pl.DataFrame:
    parts = [chunk_of({k: np.asarray(v) for k, v in c.items()}, f"w{t}") for t, c in enumerate(chunks)]
    return drift_alarms(reference, pl.concat(parts), policy)


def test_an_empty_chunk_is_unknown_and_says_so():
    state = merge(begin(GOOD, POLICY), "w0", GOOD.drop("position").clear(), POLICY)
    rows = alarm_rows(state, POLICY)
    assert rows["status"].unique().to_list() == [UNKNOWN]
    assert rows["reason"].unique().to_list() == ["the chunk has no rows of this feature"]
    assert alarm_finding(rows).status is Status.insufficient
    assert alarm_finding(alarm_rows(begin(GOOD, POLICY), POLICY)).status is Status.insufficient


def test_one_row_is_too_few_for_the_warning_and_no_evidence():
    rows = judged(GOOD, {"amount": [1] + [0] * 9, "kind": [0, 1, 0, 0]})
    warn, act = one(rows, "amount", "warn"), one(rows, "amount", "act")
    assert warn["status"] == UNKNOWN
    assert "χ² needs about" in warn["reason"]
    assert act["status"] == PASS
    assert act["statistic"] < 0


def test_a_constant_feature_is_quiet_until_it_is_not():
    reference = reference_of({"amount": np.array([1000])})
    quiet = judged(reference, {"amount": [500]}, {"amount": [500]})
    assert one(quiet.filter(chunk="w1"), "amount", "act")["status"] == PASS
    assert "one value only" in one(quiet.filter(chunk="w1"), "amount", "warn")["reason"]
    changed = judged(reference, {"amount": [500]}, {"amount": [400, 100]})
    alarm = one(changed.filter(chunk="w1"), "amount", "act")
    assert (alarm["status"], alarm["direction"], alarm["first_chunk"]) == (FAIL, "unseen values", "w1")


def test_all_values_missing_is_an_alarm():
    missing = pl.DataFrame({"chunk": "w0", "feature": ["amount"], "cell": [MISSING], "rows": [1000]})
    rows = drift_alarms(GOOD, missing, POLICY)
    alarm = one(rows, "amount", "act")
    assert (alarm["status"], alarm["direction"], alarm["mass_moved"]) == (FAIL, "more missing", 1.0)
    assert alarm["grown"] == f"{MISSING} 100.0"
    assert one(rows, "kind", "act")["reason"] == "the chunk has no rows of this feature"


def test_an_unseen_category_in_every_row_is_an_alarm():
    rows = judged(GOOD, {"amount": 1000 * TENTHS, "kind": [0] * 7 + [1000]})
    alarm = one(rows, "kind", "act")
    assert (alarm["status"], alarm["direction"], alarm["mass_moved"]) == (FAIL, "unseen values", 1.0)
    assert alarm["grown"] == f"{UNSEEN} 100.0"


def test_a_reference_smaller_than_asked_judges_nothing():
    reference = reference_of({"amount": 40 * TENTHS, "kind": 1000 * KINDS})
    rows = judged(reference, {"amount": 1000 * UP, "kind": 1000 * KINDS})
    assert rows.filter(feature="amount")["status"].unique().to_list() == [UNKNOWN]
    assert (
        "the reference has 40 rows of this feature; alarms ask for 500"
        in one(rows, "amount", "warn")["reason"]
    )
    assert one(rows, "kind", "act")["status"] == PASS


def test_a_chunk_counts_once():
    state = merge(begin(GOOD, POLICY), "w0", GOOD.drop("position"), POLICY)
    with pytest.raises(ValueError, match="in the state already"):
        merge(state, "w0", GOOD.drop("position"), POLICY)


def test_no_feature_is_an_error():
    with pytest.raises(ValueError, match="no feature to watch"):
        begin(GOOD.clear(), POLICY)


def test_counts_since_a_chunk_are_those_of_the_chunks_from_it_on():
    reference, history = history_of(7, chunks=4, at=9)
    state = folded(reference, history, POLICY)
    found = counts_since(state, {"kind": "w02"})
    asked = history.filter(pl.col("chunk") >= "w02", pl.col("feature") == "kind")
    wanted = dict(asked.group_by("cell").agg(pl.col("rows").sum()).iter_rows())
    assert {c: n for _, c, n in found.iter_rows() if n} == wanted
    with pytest.raises(ValueError, match="w99 of kind"):
        counts_since(state, {"kind": "w99"})


@st.composite
def streams(draw: st.DrawFn) -> tuple[pl.DataFrame, pl.DataFrame]:
    size = draw(st.integers(1, 14))
    count = st.one_of(st.just(0), st.integers(0, 5), st.integers(0, 10**9))
    names = [*(f"c{k}" for k in range(size)), MISSING, UNSEEN]
    of = st.lists(count, min_size=len(names), max_size=len(names))
    ordered = draw(st.booleans())
    place = pl.Series(
        [float(k) if ordered and k < size else None for k in range(len(names))], dtype=pl.Float64
    )
    cells = pl.DataFrame({"feature": ["x"] * len(names), "cell": names})
    reference = cells.with_columns(rows=pl.Series(draw(of)), position=place)
    chunks = draw(st.lists(of, min_size=1, max_size=4))
    history = [
        cells.select(pl.lit(f"w{t}").alias("chunk"), pl.all()).with_columns(rows=pl.Series(c))
        for t, c in enumerate(chunks)
    ]
    return reference, pl.concat(history)


@settings(max_examples=60, deadline=None)
@given(streams())
def test_no_nan_and_no_crash(stream):
    rows = drift_alarms(*stream, DriftAlarms(min_reference_rows=1))
    for name, dtype in rows.schema.items():
        if dtype.is_float():
            assert rows[name].is_finite().fill_null(True).all(), name
    blank = rows.filter(pl.col("statistic").is_null())
    assert blank["reason"].is_not_null().all()
    assert (blank["status"] == UNKNOWN).all()
    alarms = rows.filter(pl.col("status") == FAIL)
    for name in ("first_chunk", "direction", "effect_size", "mass_moved", "budget_spent", "reason"):
        assert alarms[name].is_not_null().all(), name
    assert alarm_finding(rows).reason
