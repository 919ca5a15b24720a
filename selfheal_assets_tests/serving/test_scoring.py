"""Scoring without HTTP: following the champion, logging before answering."""

from datetime import datetime
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from selfheal_assets.core.bundle import Bundle
from selfheal_assets.serving.scoring import LogNotDurable, NoChampion, ScoringService
from selfheal_assets.stores.prediction_log import PredictionLog
from selfheal_assets.use_case import UseCase
from selfheal_assets_tests.serving.conftest import fit, generate, settings_in

NOW = datetime(2021, 5, 4, 3, 2, 1, 7)


class StubRegistry:
    """A registry in memory."""

    def __init__(self, *bundles: Bundle) -> None:
        self.bundles = dict(enumerate(bundles, start=1))
        self.alias: int | None = None

    def champion(self) -> int | None:
        return self.alias

    def load(self, version: int) -> Bundle:
        return self.bundles[version]


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> UseCase:
    return settings_in(tmp_path_factory.mktemp("case")).case


@pytest.fixture(scope="module")
def bundles(case: UseCase) -> tuple[Bundle, Bundle]:
    return fit(case, 1), fit(case, 2)


@pytest.fixture
def registry(bundles: tuple[Bundle, Bundle]) -> StubRegistry:
    return StubRegistry(*bundles)


@pytest.fixture
def service(registry: StubRegistry, case: UseCase, tmp_path: Path) -> ScoringService:
    return ScoringService(registry, PredictionLog(tmp_path / "log"), case)  # pyright: ignore


def test_without_a_champion_it_says_what_to_do(service: ScoringService):
    assert service.refresh() is False
    with pytest.raises(NoChampion, match=r"selfheal replay.*production_model"):
        service.score(generate(1, 0), NOW)


def test_scores_are_the_bundles_own(service: ScoringService, registry: StubRegistry):
    registry.alias = 1
    assert service.refresh() is True
    cases = generate(50, 9)
    scored = service.score(cases, NOW)
    bundle = registry.bundles[1]
    np.testing.assert_array_equal(scored.probability, bundle.score(cases))
    np.testing.assert_array_equal(scored.prediction, scored.probability >= bundle.threshold)
    assert (scored.version, scored.threshold) == (1, bundle.threshold)
    assert len(set(scored.prediction_ids)) == 50


def test_nothing_to_score_logs_nothing(service: ScoringService, registry: StubRegistry, tmp_path: Path):
    registry.alias = 1
    service.refresh()
    assert service.score(generate(1, 0).clear(), NOW).prediction_ids == []
    assert not (tmp_path / "log").exists()


def test_a_moved_alias_is_followed_once(service: ScoringService, registry: StubRegistry):
    registry.alias = 1
    assert [service.refresh(), service.refresh()] == [True, False]
    registry.alias = 2
    assert [service.refresh(), service.refresh()] == [True, False]
    assert service.champion.version == 2


def test_a_failed_load_keeps_the_old_version_and_is_told(
    service: ScoringService, registry: StubRegistry, caplog: pytest.LogCaptureFixture
):
    registry.alias = 1
    service.refresh()
    registry.alias = 3
    assert [service.refresh(), service.refresh()] == [False, False]
    assert service.champion.version == 1
    assert service.problem and "KeyError: 3" in service.problem
    assert len(caplog.records) == 1, "told once, not at every look"
    registry.alias = 2
    assert service.refresh() is True
    assert service.problem is None


def test_a_removed_alias_keeps_the_old_version(service: ScoringService, registry: StubRegistry):
    registry.alias = 1
    service.refresh()
    registry.alias = None
    assert service.refresh() is False
    assert service.champion.version == 1
    assert service.problem and "no champion" in service.problem


def test_a_bundle_that_reads_undeclared_features_is_not_served(
    registry: StubRegistry, case: UseCase, tmp_path: Path
):
    narrower = case.model_copy(update={"features": case.features[1:]})
    service = ScoringService(registry, PredictionLog(tmp_path), narrower)  # pyright: ignore
    registry.alias = 1
    assert service.refresh() is False
    with pytest.raises(
        NoChampion, match="version 1 reads monthly_fee, which 'subscriptions' does not declare"
    ):
        service.score(generate(1, 0), NOW)


def test_a_failed_flush_answers_nothing_and_its_segment_is_not_written_again(
    service: ScoringService, registry: StubRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    registry.alias = 1
    service.refresh()
    service.score(generate(2, 0), NOW)
    (segment,) = (tmp_path / "log" / "open").glob("*.jsonl")
    before = segment.read_bytes()

    def failing(descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr("os.fdatasync", failing)
        with pytest.raises(LogNotDurable, match="Input/output error"):
            service.score(generate(3, 0), NOW)
    assert segment.read_bytes() == before
    service.score(generate(4, 0), NOW)
    # A second flush of the same file may claim success for what the first has lost.
    assert segment.read_bytes() == before
    (other,) = set((tmp_path / "log" / "open").glob("*.jsonl")) - {segment}
    assert other.read_bytes().count(b"\n") == 1


def test_categories_and_missing_values_are_logged_as_given(
    service: ScoringService, registry: StubRegistry, tmp_path: Path
):
    registry.alias = 1
    service.refresh()
    cases = generate(2, 0).with_columns(city=pl.Series(["Xanadu\x00", None]))
    scored = service.score(cases, NOW)
    np.testing.assert_array_equal(scored.probability, registry.bundles[1].score(cases))
    (segment,) = (tmp_path / "log" / "open").glob("*.jsonl")
    assert '"city":["Xanadu\\u0000",null]' in segment.read_text()
