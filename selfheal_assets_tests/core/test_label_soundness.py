"""Poisoned or only changed: limits on both sides, and how often clean data are held."""

from dataclasses import replace
from datetime import datetime, timedelta
from itertools import pairwise

import numpy as np
import polars as pl
import pytest

from selfheal_assets.core.column_faults import column_faults, distance
from selfheal_assets.core.label_soundness import Kept, TrainingEvidence, training_faults
from selfheal_assets.core.soundness_policy import Soundness
from selfheal_assets.core.spec import Feature, FeatureType

POLICY, FIRST, DAYS = Soundness(), datetime(2018, 1, 1), 730
SINCE, AS_OF = datetime(2019, 7, 1), datetime(2021, 1, 1)
FEATURES = (
    Feature(name="amount", type=FeatureType.number),
    Feature(name="years", type=FeatureType.integer, nullable=True),
    Feature(name="area", type=FeatureType.category),
)


def generated(seed: int, rows: int = 8000, rate=lambda day: 0.1 + 0 * day) -> pl.DataFrame:
    """Cases of two years; ``rate`` is the chance of a positive by day."""
    rng = np.random.default_rng(seed)
    day = np.sort(rng.integers(0, DAYS, rows))
    at = [FIRST + timedelta(days=int(d)) for d in day]
    label = (rng.random(rows) < rate(day)).astype(np.int8)
    known = [t + timedelta(days=int(a)) for t, a in zip(at, rng.integers(10, 360, rows), strict=True)]
    return pl.DataFrame(
        {
            "entity_id": [f"c{n}" for n in range(rows)],
            "event_time": pl.Series(at, dtype=pl.Datetime("us")),
            "amount": rng.lognormal(10, 1, rows),
            "years": rng.integers(0, 30, rows),
            "area": rng.choice(["urban", "rural", "other"], rows, p=[0.6, 0.3, 0.1]).tolist(),
            "label": label,
            "occurred_at": pl.Series(known, dtype=pl.Datetime("us")),
            "recorded_at": pl.Series(known, dtype=pl.Datetime("us")),
            "ledger_label": label,
        }
    )


def judged(rows: pl.DataFrame, kept: pl.DataFrame | None = None) -> list[str]:
    """Causes found in rows of which those before ``SINCE`` were trained on."""
    old = rows.filter(pl.col("event_time") < SINCE) if kept is None else kept
    evidence = TrainingEvidence(rows, AS_OF, FEATURES, "quarter", Kept(old, datetime(2020, 7, 1), SINCE))
    return [f.cause for f in training_faults(evidence, POLICY)]


def test_clean_data_are_held_less_often_than_one_time_in_a_hundred():
    """None of 150 in fact: with none, the chance is below 2 % at 95 % confidence (rule of three)."""
    held = [seed for seed in range(150) if judged(generated(seed, 3000))]
    assert held == []


def test_a_level_that_rises_sevenfold_in_two_years_is_no_poison_and_the_same_rise_at_once_is():
    gradual = generated(1, rate=lambda day: 0.03 + 0.18 * day / DAYS)
    assert judged(gradual) == []
    at_once = generated(1, rate=lambda day: np.where(day < 640, 0.03, 0.21))
    assert judged(at_once) == ["rate_jump"]


def test_the_first_training_set_is_judged_too():
    rows = generated(2, rate=lambda day: np.where(day < 640, 0.03, 0.3))
    first = TrainingEvidence(rows, AS_OF, FEATURES, "quarter", None)
    assert [f.cause for f in training_faults(first, POLICY)] == ["rate_jump"]
    assert training_faults(replace(first, rows=generated(2)), POLICY) == []
    assert [f.cause for f in training_faults(replace(first, rows=rows.clear()), POLICY)] == ["empty"]


def test_a_case_with_both_labels_contradicts_itself():
    rows = generated(3)
    assert judged(pl.concat([rows, rows[:5].with_columns(label=1 - pl.col("label"))]))[0] == "contradicting"
    assert judged(pl.concat([rows, rows[:5]]))[0] == "duplicated"


def test_labels_that_are_not_what_the_ledger_says_are_found():
    rows = generated(4)
    assert judged(rows.with_columns(ledger_label=pl.lit(None, pl.Int8))) == [], "silence says nothing"
    wrong = rows.with_row_index("n").with_columns(ledger_label=(pl.col("label") - (pl.col("n") == 7)).abs())
    assert judged(wrong.drop("n").with_columns(pl.col("ledger_label").cast(pl.Int8))) == ["label_changed"]


def test_few_corrections_are_the_ledgers_daily_work_and_many_are_not():
    rows = generated(5)
    old = rows.filter(pl.col("event_time") < SINCE)

    def corrected(share: float) -> pl.DataFrame:
        some = pl.int_range(pl.len()) < share * old.height
        since = pl.when(some).then(pl.lit(datetime(2020, 8, 1))).otherwise("recorded_at")
        label = pl.when(some).then(1 - pl.col("label")).otherwise("label").cast(pl.Int8)
        return rows.with_columns(label=label, ledger_label=label, recorded_at=since)

    assert judged(corrected(0.015), old) == []
    assert judged(corrected(0.03), old) == ["label_flipped"]


@pytest.mark.parametrize(("days", "causes"), [(1, []), (40, ["timing_jump"])])
def test_labels_counted_at_one_age_may_move_with_the_calendar_and_no_further(days, causes):
    """24 months are 730 days or 731: every label of the newest cohorts came a day later, and nothing jumped."""
    rows = generated(6)
    age = pl.when(pl.col("event_time") < SINCE).then(300).otherwise(300 + days)
    known = pl.col("event_time") + pl.duration(days=age)
    assert judged(rows.with_columns(occurred_at=known, recorded_at=known)) == causes


@pytest.mark.parametrize(
    ("spoil", "causes"),
    [
        (pl.col("amount") * 8.5, ["unit"]),
        (pl.col("amount") * 3, []),
        (pl.col("amount") * 0.1, ["unit"]),
        (-pl.col("amount"), ["negative"]),
        (pl.lit(20_000.0), ["stuck"]),
        (pl.lit(None, pl.Float64), ["missing"]),
        (pl.when(pl.int_range(pl.len()) % 2 == 0).then("amount"), []),
        (pl.col("amount") + 2e6, ["unit"]),
    ],
)
def test_a_column_breaks_beyond_its_limit_only(spoil, causes):
    before, after = generated(6), generated(7).with_columns(amount=spoil)
    assert [f.cause for f in column_faults(before, after, FEATURES, POLICY)] == causes
    ignored = POLICY.model_copy(update={"ignored": ("amount",)})
    assert column_faults(before, after, FEATURES, ignored) == []


def test_too_few_rows_tell_nothing_of_a_column():
    before, after = generated(6), generated(7, POLICY.min_rows - 1).with_columns(amount=pl.lit(1.0))
    assert column_faults(before, after, FEATURES, POLICY) == []
    enough = generated(7, POLICY.min_rows).with_columns(amount=pl.lit(1.0))
    assert [f.cause for f in column_faults(before, enough, FEATURES, POLICY)] == ["stuck"]


def test_a_product_that_ends_is_not_stuck():
    """``low_doc`` of the loans ended so: 95 % 'no' in one quarter, all of the next."""
    before = generated(8).with_columns(
        area=pl.when(pl.int_range(pl.len()) % 20 == 0).then(pl.lit("a")).otherwise(pl.lit("b"))
    )
    after = generated(9).with_columns(area=pl.lit("b"))
    assert column_faults(before, after, FEATURES, POLICY) == []


def test_the_distance_is_kolmogorovs():
    assert distance(np.array([1.0, 2.0]), np.array([1.0, 2.0])) == 0
    assert distance(np.array([1.0, 2.0]), np.array([3.0, 4.0])) == 1
    assert distance(np.array([1.0, 2.0, 3.0, 4.0]), np.array([3.0, 4.0])) == pytest.approx(0.5)


@pytest.mark.long
def test_the_loans_are_held_at_none_of_their_retrainings():
    """Real loans of 1997 to 2012 with a retraining each half-year: defaults rise from 1 % to 25 %."""
    from selfheal_assets.settings import Settings
    from selfheal_assets.stores.sources import read_cases

    settings = Settings(use_case="sba_loans")
    cases = read_cases(settings.case, settings)
    every = cases.frame.join(cases.labels.sort("label").unique("entity_id", keep="last"), on="entity_id")
    every = every.with_columns(ledger_label="label", matured=pl.col("event_time").dt.offset_by("36mo"))
    days = [datetime(2002 + n // 2, 1 + 6 * (n % 2), 1) for n in range(23)]
    held = {}
    for before, as_of in pairwise(days):
        until = datetime(before.year - 4, before.month, 1)
        kept = Kept(every.filter(pl.col("event_time") < until), before, until)
        rows = every.filter(pl.col("matured") < as_of).drop("matured")
        faults = training_faults(
            TrainingEvidence(rows, as_of, settings.case.features, "quarter", kept), POLICY
        )
        held |= {as_of: [f.reason for f in faults]} if faults else {}
    assert held == {}
