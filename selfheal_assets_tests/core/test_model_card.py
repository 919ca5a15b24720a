"""A card's figures are those of the rows, its effects those of the model, and its limits what was not tried."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from selfheal_assets.core.bundle import Bundle, Calibrator
from selfheal_assets.core.feature_effects import MOST_ROWS
from selfheal_assets.core.fitting import Candidate, fit_bundle
from selfheal_assets.core.metrics import roc_auc
from selfheal_assets.core.model_card import CardFigures, calibration_curve, card_figures, limits_of
from selfheal_assets.core.policies import AlarmPolicy, RealizedFigures
from selfheal_assets.core.spec import Segment, Training
from selfheal_assets_tests.core.generated import FEATURES, PLAN, START, cases

SEGMENTS = (Segment(name="kind", feature="kind"), Segment(name="size", feature="size", cuts=(2, 50)))
POLICY, FIGURES = AlarmPolicy(), RealizedFigures(resamples=200)


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    training = Training(rounds=40, max_depth=3, seed=7)
    return fit_bundle(
        cases(3000, 1), Candidate("full_history", START), PLAN, FEATURES, training, "made", "abc"
    )


@pytest.fixture(scope="module")
def rows() -> pl.DataFrame:
    return cases(2500, 2, PLAN.evaluate_from, PLAN.evaluate_until)


@pytest.fixture(scope="module")
def found(bundle, rows) -> CardFigures:
    return card_figures(bundle, rows, SEGMENTS, POLICY, FIGURES)


def value(frame: pl.DataFrame, segment: str, metric: str) -> dict:
    return frame.filter((pl.col("segment") == segment) & (pl.col("metric") == metric)).row(0, named=True)


def test_metrics_are_those_of_the_rows_overall_and_by_segment(bundle, rows, found):
    label, score = rows["label"].to_numpy(), bundle.score(rows)
    assert value(found.metrics, "all", "roc_auc")["value"] == pytest.approx(roc_auc(label, score))
    of_c = (rows["kind"] == "c").to_numpy()
    seen = value(found.segments, "kind=c", "roc_auc")
    assert seen["value"] == pytest.approx(roc_auc(label[of_c], score[of_c]))
    assert seen["lower"] < seen["value"] < seen["upper"] and seen["rows"] == of_c.sum()
    level = value(found.segments, "kind=c", "expected_over_observed")
    assert level["value"] == pytest.approx(score[of_c].sum() / label[of_c].sum())


def test_a_group_too_small_to_judge_is_a_limit_and_has_no_figure(bundle, rows, found):
    small = value(found.segments, "size=other", "roc_auc")
    assert small["value"] is None and small["reason"].startswith("fewer than 200 cases")
    [said] = [text for text in limits_of(bundle, found, SEGMENTS, 36) if text.startswith("size=other")]
    assert "< 2 (" in said and said.endswith("too few to judge, even together.")


def test_the_curve_has_equally_many_cases_a_band_and_tells_a_wrong_level(bundle, rows, found):
    assert found.calibration["rows"].sum() == 2500
    assert found.calibration["rows"].is_between(245, 255).all(), "but for ties"
    assert found.calibration["expected"].is_sorted()
    label = rows["label"].to_numpy()
    shares = found.calibration.select((pl.col("observed") * pl.col("rows")).sum()).item()
    assert shares == pytest.approx(label.sum())
    right = calibration_curve(label, np.full(len(label), label.mean()), 10, 0.95).row(0, named=True)
    assert right["lower"] < right["expected"] == pytest.approx(right["observed"])
    low = card_figures(replace(bundle, calibrator=Calibrator(1.0, -5.0)), rows, (), POLICY, FIGURES)
    assert "at worst too low" in " ".join(limits_of(bundle, low, SEGMENTS, 36))


def test_the_strongest_feature_is_the_one_that_matters_and_its_effect_rises(found):
    assert found.importance["feature"][0] == "signal"
    assert found.importance["share"].sum() == pytest.approx(1)
    signal = found.effects.filter(pl.col("feature") == "signal")
    assert signal["rows"].sum() == MOST_ROWS
    assert signal["effect"][0] < -0.5 < 0.5 < signal["effect"][-1]
    assert (signal["least"] <= signal["effect"]).all() and (signal["effect"] <= signal["most"]).all()
    kinds = found.effects.filter(pl.col("feature") == "kind")
    assert kinds.sort("effect")["cell"][-1] == "c"


def test_categories_called_like_our_own_cells_stay_themselves(bundle, rows):
    names = ["other"] * 150 + ["missing"] * 100 + [None] * 60 + [f"k{i % 19}" for i in range(190)]
    called = rows.head(500).with_columns(kind=pl.Series(names))
    effects = card_figures(bundle, called, (), POLICY, FIGURES).effects.filter(feature="kind")
    cells = dict(effects.select("cell", "rows").iter_rows())
    assert (cells["'other'"], cells["'missing'"], cells["missing"]) == (150, 100, 60)
    assert cells["other"] == 190 - sum(n for c, n in cells.items() if c.startswith("k"))


def test_missing_values_are_a_cell_of_their_own_and_few_values_are_named(bundle, rows):
    gaps = rows.with_columns(
        signal=pl.when(pl.int_range(pl.len()) % 5 > 0).then("signal"), size=pl.int_range(pl.len()) % 3
    )
    effects = card_figures(bundle, gaps, (), POLICY, FIGURES).effects
    signal = effects.filter(pl.col("feature") == "signal")
    assert signal["cell"][-1] == "missing"
    assert signal["rows"][-1] / MOST_ROWS == pytest.approx(0.2, abs=0.05)
    assert effects.filter(pl.col("feature") == "size")["cell"].to_list() == ["0", "1", "2"]


def test_limits_say_what_was_not_tried(bundle, found):
    said = " ".join(limits_of(bundle, found, SEGMENTS, 36))
    assert "cases from 2020-01-01 to 2021-01-01, with the labels known on 2022-01-01" in said
    assert "It knows nothing of the 24 months before its training" in said
    assert "names no group for fairness" in said
    early = replace(bundle, notes=bundle.notes | {"immature_until": "2021-06-01T00:00:00"})
    fair = (Segment(name="kind", feature="kind", fairness=True),)
    said = " ".join(limits_of(early, found, fair, 36))
    assert "younger than the horizon of 36 months" in said
    assert "fairness" not in said and "knows nothing" not in said


def test_without_labelled_cases_there_are_no_figures(bundle, rows):
    empty = card_figures(bundle, rows.clear(), SEGMENTS, POLICY, FIGURES)
    assert all(getattr(empty, name).is_empty() for name in CardFigures.__dataclass_fields__)
