"""The model registry: a version scores as it was trained, and exactly one is champion, whatever dies when."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest

from selfheal_assets.core.bundle import Bundle
from selfheal_assets.settings import Settings
from selfheal_assets.stores.model_registry import (
    CHALLENGER,
    CHAMPION,
    PREDECESSOR,
    ModelRegistry,
    NoSuchVersion,
)
from selfheal_assets_tests.serving.conftest import fit, generate, settings_in
from selfheal_assets_tests.stores.conftest import lines_until_killed, process

pytestmark = pytest.mark.integration

# Moves the champion to and fro; says where to before each move.
MOVER = """
import itertools, sys
from selfheal_assets.settings import Settings
from selfheal_assets.stores.model_registry import ModelRegistry
registry = ModelRegistry(Settings(use_case=sys.argv[1], home=sys.argv[2], mlflow_tracking_uri=None))
for version in itertools.cycle((1, 2)):
    print(version, flush=True)
    registry.move_champion(version)
"""


@dataclass(frozen=True)
class Registered:
    """A registry on SQLite with two versions, and what it said while it was empty."""

    settings: Settings
    bundles: tuple[Bundle, Bundle]
    when_empty: tuple[Any, ...]

    def reopened(self) -> ModelRegistry:
        """As another process sees it: with nothing in memory."""
        return ModelRegistry(self.settings)

    def aliases(self) -> dict[str, int | None]:
        return {a: self.reopened().aliased(a) for a in (CHAMPION, CHALLENGER, PREDECESSOR)}


@pytest.fixture(scope="module")
def registered(tmp_path_factory: pytest.TempPathFactory) -> Registered:
    """Made once: MLflow's SQLite store costs seconds."""
    settings = settings_in(tmp_path_factory.mktemp("registry"))
    registry = ModelRegistry(settings)
    empty = registry.champion(), registry.load_champion(), registry.versions(), registry.find("abc")
    bundles = fit(settings.case, 1), fit(settings.case, 2)
    assert [registry.register(b, {"auc": 0.7}, registry.new_run(b.candidate)) for b in bundles] == [1, 2]
    return Registered(settings, bundles, empty)


@pytest.fixture
def registry(registered: Registered) -> ModelRegistry:
    """Version 1 is champion and came after version 2."""
    registry = registered.reopened()
    registry.move_champion(2)
    registry.move_champion(1)
    return registry


def test_an_empty_registry_has_no_champion_and_no_versions(registered):
    assert registered.when_empty == (None, None, [], None)


def test_a_version_scores_as_it_was_trained(registered, registry):
    rows = generate(300, seed=9)
    for version, trained in enumerate(registered.bundles, 1):
        served = registered.reopened().fetch(version)
        assert served.fingerprint == trained.fingerprint
        assert served.threshold == trained.threshold and served.reference == trained.reference
        assert np.array_equal(served.score(rows), trained.score(rows))
        assert registry.load(version) is registry.load(version)
    first, second = registered.bundles
    assert not np.array_equal(first.score(rows), second.score(rows))


def test_the_same_bundle_again_keeps_its_version(registered, registry):
    again = fit(registered.settings.case, 1)
    assert again is not registered.bundles[0]
    assert registry.register(again, {"auc": 0.7}, registry.new_run("again")) == 1
    assert registered.aliases()[CHALLENGER] == 1
    assert registered.reopened().register(registered.bundles[1], {}, registry.new_run("again")) == 2
    assert registered.aliases()[CHALLENGER] == 2
    assert [v["version"] for v in registry.versions()] == [1, 2]


def test_versions_tell_aliases_and_fingerprints(registered, registry):
    registry.register(registered.bundles[1], {}, registry.new_run("again"))
    versions = registry.versions()
    assert [(v["version"], v["aliases"], v["fingerprint"]) for v in versions] == [
        (1, [CHAMPION], registered.bundles[0].fingerprint),
        (2, [CHALLENGER, PREDECESSOR], registered.bundles[1].fingerprint),
    ]
    assert [registry.find(v["fingerprint"]) for v in versions] == [1, 2]
    assert versions[0]["created_at"] <= versions[1]["created_at"]


def test_the_run_tells_what_was_trained(registered, registry):
    from mlflow import MlflowClient

    client = MlflowClient(registered.settings.tracking_uri)
    run = client.get_run(client.get_model_version(registry.model, "1").run_id)
    bundle = registered.bundles[0]
    assert run.data.metrics == {"auc": 0.7}
    assert run.data.params["bundle_fingerprint"] == bundle.fingerprint
    assert run.data.params["training_fingerprint"] == "generated-1"
    assert (run.data.params["candidate"], run.data.params["trained_until"]) == ("seed_1", "2020-06-01")


# --- The champion -----------------------------------------------------------------------------


def test_a_moved_champion_leaves_its_predecessor(registered, registry):
    assert registry.move_champion(2) == 1
    assert (registered.aliases()[CHAMPION], registered.aliases()[PREDECESSOR]) == (2, 1)
    assert registry.move_champion(2) == 2, "again changes nothing"
    assert (registered.aliases()[CHAMPION], registered.aliases()[PREDECESSOR]) == (2, 1)
    assert registry.move_champion(1) == 2
    assert (registered.aliases()[CHAMPION], registered.aliases()[PREDECESSOR]) == (1, 2)


def test_another_process_sees_the_new_champion_at_once(registered, registry):
    watching = registered.reopened()
    assert watching.load_champion()[0] == 1
    registry.move_champion(2)
    version, bundle = watching.load_champion()
    assert (version, bundle.fingerprint) == (2, registered.bundles[1].fingerprint)


def test_a_version_that_is_not_there_is_named_and_moves_no_alias(registered, registry):
    before = registered.aliases()
    for refused in (registry.load, registry.fetch, registry.move_champion):
        with pytest.raises(NoSuchVersion, match=r"model 'subscriptions' has no version 99: .*not found"):
            refused(99)
    assert registered.aliases() == before


def test_at_any_kill_there_is_one_champion_and_the_move_can_be_repeated(registered, registry):
    where = (registered.settings.use_case, registered.settings.home)
    with process(MOVER, *where) as mover:
        wanted = int(lines_until_killed(mover, 5)[-1])
    assert registered.aliases()[CHAMPION] in (1, 2)
    registry.move_champion(wanted)
    assert (registered.aliases()[CHAMPION], registered.aliases()[PREDECESSOR]) == (wanted, 3 - wanted)


def test_tags_are_kept_per_version(registered, registry):
    registry.tag(2, "quarantined", "likelihood ratio 31 > 20")
    registry.tag(2, "quarantined", "it said: 'no' – twice")
    tags = [registered.reopened().tags(version) for version in (1, 2)]
    prints = [bundle.fingerprint for bundle in registered.bundles]
    assert tags == [
        {"fingerprint": prints[0]},
        {"fingerprint": prints[1], "quarantined": "it said: 'no' – twice"},
    ]


# --- As MLflow loads it -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def pyfunc(registered: Registered) -> Iterator[Any]:
    """The champion, loaded by somebody who knows MLflow and nothing of selfheal."""
    import mlflow

    registered.reopened().move_champion(1)
    uri, before = registered.settings.tracking_uri, (mlflow.get_tracking_uri(), mlflow.get_registry_uri())
    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(uri)
    try:
        yield mlflow.pyfunc.load_model(f"models:/{registered.settings.case.name}@champion")
    finally:
        mlflow.set_tracking_uri(before[0])
        mlflow.set_registry_uri(before[1])


def features(rows: int = 100) -> pd.DataFrame:
    return generate(rows, seed=9).drop("entity_id", "event_time", "label").to_pandas()


def test_pyfunc_scores_as_the_bundle_does(registered, pyfunc):
    bundle, rows = registered.bundles[0], generate(100, seed=9)
    frame = features().sample(frac=1, axis="columns", random_state=1).assign(another=1)
    scored = pyfunc.predict(frame.set_index(pd.Index(range(100, 0, -1))))
    assert np.array_equal(scored["probability"].to_numpy(), bundle.score(rows))
    assert np.array_equal(
        scored["prediction"].to_numpy(), (bundle.score(rows) >= bundle.threshold).astype(int)
    )
    assert 0 < scored["prediction"].sum() < 100


@pytest.mark.parametrize("as_pandas_has_it", ["float64", "Int64", "object"])
def test_pyfunc_takes_the_gaps_of_pandas(registered, pyfunc, as_pandas_has_it):
    gap = pl.arange(pl.len()) % 4 == 0
    rows = generate(100, seed=9).with_columns(
        pl.when(~gap).then(pl.col(name)).alias(name) for name in ("visits", "city", "balance")
    )
    frame = rows.drop("entity_id", "event_time", "label").to_pandas()
    frame["visits"] = pd.Series(rows["visits"].to_list(), dtype=as_pandas_has_it)
    frame["city"] = pd.Series([np.nan if city is None else city for city in rows["city"]], dtype=object)
    assert frame.isna().sum().sum() == 75
    expected = registered.bundles[0].score(rows)
    assert np.array_equal(pyfunc.predict(frame)["probability"].to_numpy(), expected)
    assert not np.array_equal(expected, registered.bundles[0].score(generate(100, seed=9)))


def test_pyfunc_takes_a_frame_without_its_nullable_columns(registered, pyfunc):
    left_out = ["visits", "city", "balance"]
    rows = generate(100, seed=9).with_columns(pl.lit(None).alias(name) for name in left_out)
    scored = pyfunc.predict(features().drop(columns=left_out))
    assert np.array_equal(scored["probability"].to_numpy(), registered.bundles[0].score(rows))


@pytest.mark.parametrize("column", ["monthly_fee", "plan", "age"])
def test_pyfunc_refuses_a_frame_without_a_required_column(pyfunc, column):
    from mlflow.exceptions import MlflowException

    with pytest.raises(MlflowException, match=rf"missing inputs \['{column}'\]"):
        pyfunc.predict(features().drop(columns=column))


@pytest.mark.parametrize(("column", "value"), [("monthly_fee", "much"), ("age", 1.5), ("plan", 7)])
def test_pyfunc_refuses_another_type(pyfunc, column, value):
    from mlflow.exceptions import MlflowException

    with pytest.raises(MlflowException, match=rf"Error: .* column {column}\b"):
        pyfunc.predict(features().assign(**{column: value}))
