"""The replay from end to end: nobody looks into the future, and no crash costs or doubles anything."""

import os
import re
from collections import Counter
from datetime import datetime

import dagster as dg
import polars as pl
import pytest

from selfheal_assets.core.periods import chunk_end
from selfheal_assets.defs.home import prepare_dagster_home, replay_instance
from selfheal_assets.replay import Replay, ReplayFailed
from selfheal_assets.stores import decision_ledger
from selfheal_assets.stores.sources import SourceError
from selfheal_assets.stores.warehouse import Warehouse
from selfheal_assets_tests import toy
from selfheal_assets_tests.conftest import Lived, selfheal, state_of

pytestmark = pytest.mark.integration

QUARTERS = [datetime(2019, 7, 1), datetime(2019, 10, 1)]
QUARTERS += [datetime(2020, month, 1) for month in (1, 4, 7, 10)]
IN_CHUNK_3, IN_RETRAINING, AT_THE_END, ASKED_AGAIN = range(4)


@pytest.mark.long
def test_no_label_is_known_before_its_time(tmp_path):
    """In process, chunk by chunk; and what was lived through is not lived again."""
    settings = toy.settings(tmp_path)
    until = QUARTERS[2]
    with replay_instance(prepare_dagster_home(settings.dagster_home)) as instance:
        replay = Replay(settings, instance)
        newest = []
        for _, of, outcome in replay.run(until):
            assert of == 2
            end = chunk_end(outcome.chunk, "quarter")
            labels = state_of(settings).labels
            newest.append(labels["recorded_at"].max())
            assert newest[-1] < end, f"a label of the future is in the ledger at {end}"
            known = replay.traffic.labels.filter(pl.col("recorded_at") < end)
            assert labels.height == known.height == outcome.labels_known > 0
        assert len(newest) == 2 and newest[1] >= QUARTERS[1]
        before = state_of(settings)
        assert list(replay.run(until)) == []
        assert_same(state_of(settings), before)
        assert replay.finished() == set(QUARTERS[:2])
        assert (
            before.predictions.height == before.predictions["entity_id"].n_unique() == answered(QUARTERS[2])
        )


def toy_with(folder, *changes: tuple[str, str]):
    """Settings of a toy whose use case was changed."""
    settings = toy.settings(folder)
    path = folder / "toy.yaml"
    text = path.read_text()
    for old, new in changes:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    path.write_text(text)
    return settings


@pytest.mark.long
def test_going_live_within_a_chunk_and_ending_before_the_data_does(tmp_path):
    """The first chunk begins before go-live, and the list of chunks ends with ``monitoring.until``."""
    settings = toy_with(
        tmp_path,
        ("go_live: 2019-07-01", "go_live: 2019-08-15"),
        ("until: 2021-07-01", "until: 2019-10-01"),
        ("compared: {start: 2020-10-01, end: 2021-01-01}\n", ""),
    )
    with replay_instance(prepare_dagster_home(settings.dagster_home)) as instance:
        replay = Replay(settings, instance)
        (outcome,) = [outcome for _, _, outcome in replay.run()]
        assert outcome.chunk == QUARTERS[0]
        decisions = decision_ledger.history(replay.stores.warehouse)
        assert decisions["as_of"][0] == datetime(2019, 8, 15), "not before the reference is mature"
        with pytest.raises(ReplayFailed, match=r"no quarter to live through.*2019-08-15"):
            next(replay.run(datetime(2019, 1, 1)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("start: 2018-10-01, end", "start: 2017-10-01, end"), r"none before reference\.start 2017-10-01"),
        (
            ("{start: 2018-10-01, end: 2019-01-01}", "{start: 2016-01-01, end: 2017-01-01}"),
            "none in the reference",
        ),
    ],
)
def test_a_reference_before_the_data_is_told_before_anything_is_written(tmp_path, change, message):
    settings = toy_with(tmp_path, change)
    with pytest.raises(SourceError, match=message) as caught, dg.DagsterInstance.ephemeral() as instance:
        Replay(settings, instance)
    assert str(tmp_path / "toy.parquet") in str(caught.value)
    assert os.listdir(settings.root) == ["dbt"], "as it was before"


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (toy.generate().clear(), r"toy\.parquet has no rows; nothing was loaded"),
        (toy.generate().filter(pl.col("joined_on") < toy.GO_LIVE), "no case on or after go_live"),
    ],
)
def test_a_file_without_traffic_is_told_before_anything_is_written(tmp_path, rows, message):
    settings = toy.settings(tmp_path)
    rows.write_parquet(tmp_path / "toy.parquet")
    with pytest.raises(SourceError, match=message), dg.DagsterInstance.ephemeral() as instance:
        Replay(settings, instance)
    assert os.listdir(settings.root) == ["dbt"], "as it was before"


def test_a_killed_replay_knew_no_future_label_either(lived: Lived):
    for moment, end in ((IN_CHUNK_3, QUARTERS[3]), (IN_RETRAINING, QUARTERS[4])):
        labels = lived.states[moment].labels
        assert not labels.is_empty()
        assert labels["recorded_at"].max() < end


def test_it_was_killed_where_it_hurts(lived: Lived):
    in_chunk, in_retraining = lived.states[IN_CHUNK_3], lived.states[IN_RETRAINING]
    assert in_chunk.lived == QUARTERS[:2]
    assert len(in_chunk.logged_segments) == 1, "logged, and not ingested"
    assert in_chunk.predictions.height == answered(QUARTERS[2])
    assert in_retraining.lived == QUARTERS[:4]
    assert in_retraining.decisions.height == 1, "the retraining had not come to its decision"


def test_each_case_is_answered_exactly_once(lived: Lived):
    predictions = lived.states[AT_THE_END].predictions
    more_than_once = [case for case, n in Counter(predictions["entity_id"]).items() if n > 1]
    assert more_than_once == []
    assert predictions.height == answered(toy.END)
    assert lived.states[AT_THE_END].lived == QUARTERS
    assert lived.states[AT_THE_END].logged_segments == []


def test_a_killed_retraining_is_made_up_for_at_its_own_time(lived: Lived):
    decisions = lived.states[AT_THE_END].decisions
    assert decisions["action"].to_list() == ["PROMOTE", "REJECT", "PROMOTE"]
    assert decisions["as_of"].to_list() == [QUARTERS[0], QUARTERS[4], QUARTERS[5]]
    assert [v["version"] for v in lived.states[AT_THE_END].versions] == [1, 2, 3]
    assert lived.states[AT_THE_END].versions[2]["aliases"] == ["challenger", "champion"]
    assert lived.states[AT_THE_END].versions[0]["aliases"] == ["previous_champion"]
    warehouse = Warehouse(lived.settings.warehouse_path, lived.settings.published)
    assert decision_ledger.broken_links(warehouse) == []


def test_who_answered_is_who_was_champion_then(lived: Lived):
    predictions = lived.states[AT_THE_END].predictions
    promoted = QUARTERS[5]
    first = predictions.filter(pl.col("event_time") < promoted)["model_version"].unique().to_list()
    later = predictions.filter(pl.col("event_time") >= promoted)["model_version"].unique().to_list()
    assert (first, later) == ([1], [3])
    late = predictions.filter(pl.col("predicted_at") > pl.col("event_time"))
    assert late.is_empty(), "an answer after the fact"


def test_asking_again_changes_nothing(lived: Lived):
    assert_same(lived.states[ASKED_AGAIN], lived.states[AT_THE_END])


def answered(before: datetime) -> int:
    """Cases of the source from go-live until then."""
    joined = toy.generate()["joined_on"]
    return ((joined >= toy.GO_LIVE) & (joined < before)).sum()


def assert_same(now, before) -> None:
    for name in ("predictions", "labels", "decisions"):
        assert getattr(now, name).equals(getattr(before, name)), name
    assert now.versions == before.versions
    assert now.lived == before.lived


def test_its_page_opens_to_evidence_cards_and_drift_reports_that_are_there(lived: Lived):
    reports = lived.settings.reports
    html = (reports / "replay.html").read_text(encoding="utf-8")
    beside = set(re.findall(r'href="([a-z]+_[^"#]+\.html)"', html))
    versions = {f"model_{v['version']}.html" for v in lived.states[AT_THE_END].versions}
    assert versions <= beside and len(beside) == len(versions) + len(QUARTERS)
    assert all((reports / name).is_file() for name in beside)
    last = lived.states[AT_THE_END].decisions["id"].max()
    assert f'id="decision-{last}"' in html and "Each gate" in html
    assert 'href="replay.html#decision-1"' in (reports / "model_1.html").read_text(encoding="utf-8")


@pytest.mark.long
def test_a_card_is_written_anew_for_a_version_or_the_champion(lived: Lived, tmp_path):
    stores, target = lived.copied(tmp_path / "home"), tmp_path / "card.html"
    values = {"SELFHEAL_HOME": str(tmp_path / "home"), "SELFHEAL_USE_CASE": lived.settings.use_case}
    made = selfheal("card", "1", "--output", str(target), **values)
    assert (made.returncode, made.stdout.strip()) == (0, str(target)), made.stderr
    assert "Model card: version 1" in target.read_text(encoding="utf-8")
    champion = selfheal("card", **values)
    assert champion.stdout.strip().endswith(f"model_{stores.registry.champion()}.html"), champion.stderr
    unknown = selfheal("card", "99", **values)
    assert unknown.returncode == 2 and "has no version 99" in unknown.stderr
