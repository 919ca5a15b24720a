"""The slow path: the gates promote a challenger that is truly better on their rows, and the labels that come later
take it back, as the world has turned round again.

Nothing is planted: the toy's replay lives through three quarters. Who lives far away leaves until ``toy.CHANGE``,
stays until ``TURN_BACK``, and leaves again.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from selfheal_assets.core.metrics import roc_auc
from selfheal_assets.defs.home import prepare_dagster_home, replay_instance
from selfheal_assets.replay import Replay
from selfheal_assets.serving.scoring import ScoringService
from selfheal_assets.settings import Settings
from selfheal_assets.stores import decision_ledger
from selfheal_assets.stores.model_registry import QUARANTINED
from selfheal_assets.stores.prediction_log import PredictionLog
from selfheal_assets_tests import toy

pytestmark = [pytest.mark.integration, pytest.mark.long]

ROWS = 10_000
BEFORE, TURN_BACK, TAKEN_BACK = datetime(2020, 1, 1), datetime(2020, 4, 1), datetime(2020, 7, 1)
GATES_UNTIL = datetime(2020, 3, 1)  # a month before the promotion: what is mature by then
CHANGED = (
    ("go_live: 2019-07-01", "go_live: 2019-10-01"),
    ("horizon_months: 6", "horizon_months: 1"),
    ("evaluation_months: 3, validation_months: 3", "evaluation_months: 2, validation_months: 1"),
)


@dataclass(frozen=True)
class Life:
    """The replay, and what a service answered to the same rows at the end of each quarter: version and scores."""

    replay: Replay
    answers: dict[datetime, tuple[int, bytes]]

    def decisions(self) -> list[dict]:
        return decision_ledger.recorded(self.replay.stores.warehouse)

    def auc(self, version: int, start: datetime, end: datetime) -> float:
        """ROC AUC of a version on the world's cases of that time, by all that ever became known of them."""
        cases = world().filter(pl.col("joined_on") >= start, pl.col("joined_on") < end)
        label = cases["left_on"].is_not_null().to_numpy().astype(int)
        return roc_auc(label, self.replay.stores.registry.load(version).score(cases))


def world() -> pl.DataFrame:
    """The toy's cases, each known within a month, with the old relation again from ``TURN_BACK`` on."""
    joined, left = pl.col("joined_on"), pl.col("left_on")
    distance = pl.when(joined < TURN_BACK).then("distance").otherwise(-pl.col("distance"))
    return toy.generate().with_columns(distance=distance, left_on=joined + (left - joined) / 7)


def asked() -> pl.DataFrame:
    """Cases of nobody's world: neither trained on nor logged by the replay."""
    rng = np.random.default_rng(11)
    return pl.DataFrame(
        {
            "entity_id": [f"asked{i}" for i in range(ROWS)],
            "event_time": pl.Series([BEFORE] * ROWS, dtype=pl.Datetime("us")),
            "distance": np.clip(rng.normal(size=ROWS), -10, 10),
            "age": np.clip(rng.normal(size=ROWS), -10, 10),
            "plan": rng.choice(["basic", "family"], ROWS).tolist(),
        }
    )


def settings_in(folder: Path) -> Settings:
    """The toy with this world."""
    settings = toy.settings(folder)
    world().write_parquet(folder / "toy.parquet")
    use_case = folder / "toy.yaml"
    text = use_case.read_text()
    for old, new in CHANGED:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    use_case.write_text(text)
    return settings


@pytest.fixture(scope="module")
def life(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Life]:
    """The real assets, warehouse and registry; one service stays up throughout and follows the champion."""
    folder = tmp_path_factory.mktemp("slow")
    settings, rows, answers = settings_in(folder), asked(), {}
    with replay_instance(prepare_dagster_home(settings.dagster_home)) as instance:
        replay = Replay(settings, instance)
        log = PredictionLog(folder / "asked")
        service = ScoringService(replay.stores.registry, log, replay.case)
        lived = replay.run(TAKEN_BACK)
        for (_, _, outcome), end in zip(lived, (BEFORE, TURN_BACK, TAKEN_BACK), strict=True):
            service.refresh()
            scored = service.score(rows, end)
            assert scored.model.version == outcome.champion
            answers[end] = (scored.model.version, scored.probability.tobytes())
        log.close()
        yield Life(replay, answers)


def test_the_gates_promote_a_challenger_that_is_better_on_their_rows(life: Life):
    first, promoted, *_ = life.decisions()
    assert (first["action"], first["champion"], first["challenger"]) == ("PROMOTE", None, 1)
    assert (promoted["action"], promoted["as_of"]) == ("PROMOTE", TURN_BACK)
    assert (promoted["champion"], promoted["challenger"]) == (1, 2)
    gates = {g["gate"]: g for g in promoted["payload"]["evidence"]["gates"]}
    assert {g["verdict"] for g in gates.values()} == {"PASS"} and len(gates) == 10
    window = promoted["payload"]["evidence"]["window"]
    assert (window["start"], window["end"]) == (str(BEFORE), str(GATES_UNTIL))
    old, new = (life.auc(version, BEFORE, GATES_UNTIL) for version in (1, 2))
    assert old < 0.4 and new > 0.7
    assert gates["improvement"]["reason"].startswith(f"ROC AUC {old:.4f} → {new:.4f}")


def test_it_is_worse_than_its_predecessor_from_its_first_day_on(life: Life):
    old, new = (life.auc(version, TURN_BACK, TAKEN_BACK) for version in (1, 2))
    assert old > 0.7 and new < 0.4


def test_the_labels_that_come_later_take_it_back(life: Life):
    registry, warehouse = life.replay.stores.registry, life.replay.stores.warehouse
    assert [d["action"] for d in life.decisions()] == ["PROMOTE", "PROMOTE", "ROLL_BACK"]
    last = life.decisions()[-1]
    assert (last["champion"], last["challenger"], last["as_of"]) == (2, 1, TAKEN_BACK)
    evidence = last["payload"]["evidence"]
    assert evidence["log_wealth"] >= evidence["limit"] > 0
    since = world().filter(pl.col("joined_on") >= TURN_BACK, pl.col("joined_on") < TAKEN_BACK)
    assert evidence["rows"] == since.height, "all that it answered, and nothing else"
    assert evidence["positives"] == since.filter(pl.col("left_on") < TAKEN_BACK).height
    assert registry.champion() == 1
    assert registry.tags(2)[QUARANTINED] == last["reason"] == evidence["reason"]
    assert QUARANTINED not in registry.tags(1)
    assert decision_ledger.broken_links(warehouse) == []


def test_the_scores_are_those_of_before_the_promotion_byte_for_byte(life: Life):
    assert [version for version, _ in life.answers.values()] == [1, 2, 1]
    before, between, after = (scores for _, scores in life.answers.values())
    assert len(before) == ROWS * np.dtype(np.float64).itemsize
    assert after == before != between
