"""The dbt project's manifest: parsed when it must be, and where it may be written."""

import shutil
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import duckdb
import pytest

from selfheal_assets.stores.dbt_project import DbtFailed, DbtProject, _close_when_idle

SHIPPED = Path(__file__).parents[2] / "dbt_project"
pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def parsed(tmp_path_factory) -> DbtProject:
    """A copy of the shipped project, parsed: the first parse takes seconds."""
    root = tmp_path_factory.mktemp("dbt_project")
    shutil.copytree(SHIPPED, root / "project", ignore=shutil.ignore_patterns("target", "logs", ".user.yml"))
    project = DbtProject(root / "project", root / "work", root / "warehouse.duckdb")
    project.manifest()
    return project


def again(project: DbtProject) -> DbtProject:
    """The project as the next process sees it."""
    return DbtProject(project.folder, project.work, project.warehouse)


def test_an_unchanged_project_is_not_parsed_again(parsed, monkeypatch):
    monkeypatch.setattr(DbtProject, "_invoke", lambda *_: pytest.fail("dbt was called"))
    assert again(parsed).manifest()["metadata"]["project_name"] == "selfheal"


def test_nothing_is_written_into_the_project_and_no_warehouse_is_made(parsed):
    shipped = {path.relative_to(SHIPPED) for path in SHIPPED.rglob("*") if path.suffix in (".sql", ".yml")}
    files = {path.relative_to(parsed.folder) for path in parsed.folder.rglob("*") if path.is_file()}
    assert files <= shipped
    assert not parsed.warehouse.exists()


def test_a_changed_model_is_parsed_and_a_broken_one_named(parsed):
    model = parsed.folder / "models" / "marts" / "fct_label_coverage.sql"
    before = model.read_text()
    try:
        model.write_text(before + "-- changed\n")
        nodes = again(parsed).manifest()["nodes"]
        assert nodes["model.selfheal.fct_label_coverage"]["raw_code"].endswith("-- changed")
        model.write_text("select * from {{ ref('nowhere') }}")
        with pytest.raises(DbtFailed, match=r"fct_label_coverage.*depends on a node named 'nowhere'"):
            again(parsed).manifest()
    finally:
        model.write_text(before)


def test_a_folder_without_a_project_says_what_to_set(tmp_path):
    with pytest.raises(DbtFailed, match="SELFHEAL_PROJECT"):
        DbtProject(tmp_path, tmp_path / "work", tmp_path / "warehouse.duckdb").manifest()


def test_a_connection_is_closed_once_its_last_call_is_over():
    """On a busy machine dbt's thread may not have returned from its last call when the build has."""
    connection = duckdb.connect()
    query = "select sum(a * b) from range(8000) x(a), range(50000) y(b)"
    slow = threading.Thread(target=lambda: connection.execute(query))
    slow.start()
    time.sleep(0.1)  # or the question below would be the call that it meets
    refused = False
    while slow.is_alive() and not refused:
        try:
            connection.execute("select 1")
        except duckdb.ResourceInUseException:
            refused = True
    assert refused, "the call was over too soon to be met"
    _close_when_idle(SimpleNamespace(close=connection.close))
    assert not slow.is_alive()
    with pytest.raises(duckdb.ConnectionException):
        connection.execute("select 1")
