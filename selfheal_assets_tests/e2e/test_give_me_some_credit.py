"""The second shipped use case on its real file, where that is at hand: the first champion ranks well."""

import pytest

from selfheal_assets.defs.resources import Stores
from selfheal_assets.stores import decision_ledger
from selfheal_assets_tests.e2e.conftest import REFERENCE, RETRAIN, settings_of, shell
from selfheal_assets_tests.toy import PROJECT

REAL_FILE = PROJECT.parent / "shared" / "data" / "gmsc.parquet"

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.long,
    pytest.mark.skipif(not REAL_FILE.is_file(), reason=f"{REAL_FILE} is not there; its licence is not open"),
]


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Stores:
    """After the README's first and third line, in a project whose ``data/`` holds the file, as a user puts it."""
    folder = tmp_path_factory.mktemp("credit")
    project = folder / "project"
    (project / "data").mkdir(parents=True)
    (project / "data" / "cs-training.parquet").symlink_to(REAL_FILE)
    (project / "dbt_project").symlink_to(PROJECT / "dbt_project")
    values = {
        "SELFHEAL_USE_CASE": "give_me_some_credit",
        "SELFHEAL_PROJECT": str(project),
        "SELFHEAL_HOME": str(folder / "home"),
    }
    shell(REFERENCE, folder / "reference.log", **values)
    shell(RETRAIN, folder / "retrain.log", **values)
    return Stores(settings_of(folder / "home", "give_me_some_credit", project))


def test_the_first_champion_ranks_held_out_borrowers(stores: Stores):
    bundle = stores.registry.load(1)
    reference = stores.case.reference
    assert (bundle.reference.start.date(), bundle.reference.end.date()) == (reference.start, reference.end)
    assert bundle.trained_until <= bundle.reference.start, "the judged rows are later than those trained on"
    [row] = stores.warehouse.query(
        'select challenger_value as auc, "rows" as n, positives from shadow_evaluation '
        "where challenger = 1 and segment = 'all' and metric = 'roc_auc'"
    ).iter_rows(named=True)
    assert row["auc"] >= 0.85
    assert row["n"] > 10_000
    assert 0.05 < row["positives"] / row["n"] < 0.08


def test_it_became_champion_by_a_recorded_decision(stores: Stores):
    assert stores.registry.champion() == 1
    [decision] = decision_ledger.history(stores.warehouse).to_dicts()
    assert (decision["action"], decision["champion"], decision["challenger"]) == ("PROMOTE", None, 1)
