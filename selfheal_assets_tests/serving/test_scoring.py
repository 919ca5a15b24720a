"""Scoring without HTTP: following the champion, logging before answering."""

from dataclasses import dataclass, fields
from datetime import datetime
from pathlib import Path
from time import thread_time

import numpy as np
import polars as pl
import pytest

from selfheal_assets.core.bundle import Bundle
from selfheal_assets.serving.champion import NoChampion
from selfheal_assets.serving.scoring import LogNotDurable, ScoringService
from selfheal_assets.stores.champion_failures import ChampionFailure, Kind
from selfheal_assets.stores.prediction_log import PredictionLog
from selfheal_assets.use_case import UseCase
from selfheal_assets_tests.serving.conftest import fit, generate, settings_in

NOW = datetime(2021, 5, 4, 3, 2, 1, 7)


class StubRegistry:
    """A registry in memory."""

    def __init__(self, *bundles: Bundle) -> None:
        self.bundles = dict(enumerate(bundles, start=1))
        self.alias: int | None = None
        self.predecessor: int | None = None

    def aliased(self, alias: str) -> int | None:
        return self.predecessor

    def tags(self, version: int) -> dict[str, str]:
        return {}

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


# --- A champion that fails ------------------------------------------------------------------------


@dataclass
class Failing:
    """A service whose second version fails in a chosen way; what it tells the loop."""

    service: ScoringService
    registry: StubRegistry
    told: list[ChampionFailure]

    def promoted(self, change) -> "Failing":
        """Version 1 has answered; version 3, which fails, is taken up."""
        self.registry.alias = 1
        assert self.service.refresh()
        self.registry.bundles[3] = broken(self.registry.bundles[2], change)
        self.registry.alias = 3
        self.service.refresh()
        return self


def broken(bundle: Bundle, change) -> Bundle:
    """The bundle with its probabilities changed; it scores the warm-up's single blank row as before."""

    class Broken(Bundle):
        def score_matrix(self, matrix):
            probability = super().score_matrix(matrix)
            return probability if len(matrix) == 1 and np.isnan(matrix[0, 0]) else change(probability)

    return Broken(**{f.name: getattr(bundle, f.name) for f in fields(bundle)})


@pytest.fixture
def failing(registry: StubRegistry, case: UseCase, tmp_path: Path) -> Failing:
    told: list[ChampionFailure] = []
    service = ScoringService(registry, PredictionLog(tmp_path / "log"), case, failed=told.append)  # pyright: ignore
    return Failing(service, registry, told)


def nan_above_a_half(probability: np.ndarray) -> np.ndarray:
    return np.where(probability > 0.5, np.nan, probability)


def test_scores_that_are_not_finite_never_leave(failing: Failing):
    found = failing.promoted(nan_above_a_half)
    cases = generate(300, 3)
    assert found.service.champion.version == 3, "the warm-up cannot know"
    scored = found.service.score(cases, NOW)
    np.testing.assert_array_equal(scored.probability, found.registry.bundles[1].score(cases))
    assert scored.version == found.service.champion.version == 1
    [told] = found.told
    assert (told.version, told.kind) == (3, Kind.scores) and "scores are not finite" in told.reason
    assert found.service.refresh() is False and found.service.champion.version == 1, "refused from then on"
    assert found.service.problem and "version 3 is refused" in found.service.problem
    found.registry.alias = 1
    assert found.service.refresh() is False and found.service.problem is None, "the alias went back"
    found.registry.alias = 3
    assert found.service.refresh() and found.service.champion.version == 3, "promoted anew, it is tried anew"


@pytest.mark.parametrize(("rows", "expected"), [(199, 3), (200, 1)])
def test_collapsed_scores_are_held_against_the_model_that_tells_the_cases_apart(failing, rows, expected):
    found = failing.promoted(lambda p: np.where(np.arange(len(p)) == 0, p, 0.25))
    scored = found.service.score(generate(rows, 3), NOW)
    assert scored.version == expected
    assert [t.kind for t in found.told] == ([Kind.scores] if expected == 1 else [])


def test_clients_that_ask_the_same_all_day_are_no_failure(failing: Failing):
    found = failing.promoted(lambda p: p)
    same = generate(1, 3)
    for _ in range(300):
        assert found.service.score(same, NOW).version == 3
    assert found.told == []


def test_a_slow_champion_is_refused_by_the_median(failing: Failing):
    def slow(probability: np.ndarray) -> np.ndarray:
        until = thread_time() + 0.06
        while thread_time() < until:
            pass
        return probability

    found = failing.promoted(slow)
    versions = [found.service.score(generate(1, 3), NOW).version for _ in range(21)]
    assert versions == [3] * 19 + [1, 1]
    assert found.told[0].kind is Kind.latency and "limit 50 ms" in found.told[0].reason


def test_a_champion_that_does_not_load_is_told_once_and_the_predecessor_answers_a_new_process(
    failing: Failing,
):
    failing.registry.predecessor = 1
    failing.registry.alias = 9
    assert failing.service.refresh() is False
    assert failing.service.champion.version == 1
    assert failing.service.refresh() is False
    [told] = failing.told
    assert (told.version, told.kind, told.reason) == (9, Kind.does_not_load, "KeyError: 9")


def test_without_a_stand_in_no_nan_leaves_and_a_slow_one_goes_on(failing: Failing):
    failing.registry.bundles[3] = broken(failing.registry.bundles[2], nan_above_a_half)
    failing.registry.alias = 3
    assert failing.service.refresh()
    with pytest.raises(NoChampion, match=r"version 3 fails, and no other can answer: .* not finite"):
        failing.service.score(generate(300, 3), NOW)
    assert len(failing.told) == 1
