"""The runbook's backup and restore, by its own lines: made while a service writes, restored over nothing."""

import re
import shutil
import subprocess
from datetime import datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from selfheal_assets.settings import Settings
from selfheal_assets.stores.answers import AnswerStore, Kept
from selfheal_assets.stores.log_ingestion import ingest
from selfheal_assets.stores.prediction_log import PredictionLog, Scorer
from selfheal_assets_tests.e2e.conftest import README, Installation

pytestmark = [pytest.mark.e2e, pytest.mark.long]

PLACE = "RUN=data/run/sba_loans TO=backup\n"
NOW = datetime(2021, 1, 1)


def lines(name: str) -> str:
    page = (README.parent / "docs" / "runbook.md").read_text()
    found = re.search(rf"<!-- {name} -->\n```sh\n(.*?)```", page, re.DOTALL)
    assert found and found[1].startswith(PLACE)
    return found[1].removeprefix(PLACE)


def run(name: str, root: Path, backup: Path) -> None:
    script = f"RUN='{root}' TO='{backup}'\n{lines(name)}"
    done = subprocess.run(["sh", "-eu", "-c", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def log_rows(settings: Settings, entity: str) -> PredictionLog:
    """A writer that has answered three cases and goes on living."""
    case = settings.case
    cases = pl.DataFrame(
        {"entity_id": [f"{entity}-{n}" for n in range(3)], "event_time": [datetime(2003, 1, 1)] * 3}
    )
    log = PredictionLog(settings.prediction_log)
    empty = [pl.lit(None).alias(f.name) for f in case.features]
    names = [f.name for f in case.features]
    log.append(cases.with_columns(empty), names, [0.1] * 3, Scorer(1, "f", 0.5), datetime(2003, 1, 2))
    return log


@pytest.mark.skipif(shutil.which("flock") is None, reason="the runbook's backup needs flock of util-linux")
def test_a_restored_backup_has_every_answer_and_every_decision(
    without_dagster_home: Installation, tmp_path: Path
):
    settings, backup, aside = without_dagster_home.settings, tmp_path / "backup", tmp_path / "aside"
    stores = without_dagster_home.stores
    champion = stores.registry.champion()
    before = {
        name: stores.warehouse.query(f"select count(*) n from {name}")["n"][0]
        for name in ("decisions", "labels")
    }
    answers, given = AnswerStore(settings.prediction_log, timedelta(hours=1)), Kept(b"digest", b"answer")
    with answers.held(NOW) as held:
        held.promise(None, {"backed-up": given})
    sealed = log_rows(settings, "sealed")
    sealed.close()
    writing = log_rows(settings, "open")
    run("backup", settings.root, backup)
    writing.close()

    settings.root.rename(aside)
    try:
        run("restore", settings.root, backup)
        restored = without_dagster_home.stores
        ingest(restored.warehouse, settings.case, settings.prediction_log)
        assert ingest(restored.warehouse, settings.case, settings.prediction_log).rows_added == 0
        found = restored.warehouse.query(
            "select entity_id from prediction_log where regexp_matches(entity_id, '^(sealed|open)-') order by 1"
        )
        assert found["entity_id"].to_list() == [
            f"{kind}-{n}" for kind in ("open", "sealed") for n in range(3)
        ]
        for name, count in before.items():
            assert restored.warehouse.query(f"select count(*) n from {name}")["n"][0] == count > 0
        assert restored.registry.champion() == champion is not None
        assert restored.registry.load(champion) is not None
        with AnswerStore(settings.prediction_log, timedelta(hours=1)).held(NOW) as held:
            assert held.recall("backed-up") == given
    finally:
        answers.close()
        shutil.rmtree(settings.root)
        aside.rename(settings.root)
