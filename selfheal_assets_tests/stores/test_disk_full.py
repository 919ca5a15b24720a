"""The loop's disk fills up or its file is damaged for real: nothing is lost, half done or unexplained."""

import subprocess
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import polars as pl
import pytest

from selfheal_assets.settings import Settings
from selfheal_assets.stores import label_ledger
from selfheal_assets.stores.tables import create_tables
from selfheal_assets.stores.warehouse import DiskFull, Warehouse
from selfheal_assets_tests.conftest import selfheal

pytestmark = pytest.mark.integration

DISK_BYTES, LABELS = 8 * 1024 * 1024, 20_000


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, of 8 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    line = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(folder)]
    mount = subprocess.run(line, capture_output=True, text=True)
    if mount.returncode != 0:
        pytest.skip(f"a small file system cannot be mounted here: {mount.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(disk: Path, left: int) -> Path:
    """Take every byte but ``left``."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space left"):
        while True:
            file.write(bytes(4096))
    with filler.open("r+b") as file:
        file.truncate(filler.stat().st_size - left)
    return filler


@pytest.fixture
def warehouse(disk: Path) -> Warehouse:
    made = Warehouse(disk / "warehouse.duckdb", disk / "published")
    create_tables(made, Settings(use_case="sba_loans").case)
    return made


def landed(disk: Path) -> Path:
    folder = disk / "labels"
    folder.mkdir()
    at = datetime(2020, 1, 1)
    rows = {"entity_id": [f"e{i:06d}" for i in range(LABELS)], "label": [i % 2 for i in range(LABELS)]}
    pl.DataFrame(rows).with_columns(
        occurred_at=pl.lit(at).dt.strftime("%Y-%m-%dT%H:%M:%S"),
        recorded_at=pl.lit(at).dt.strftime("%Y-%m-%dT%H:%M:%S"),
    ).write_csv(folder / "late.csv")
    return folder


@pytest.mark.parametrize("left", [0, 16 * 1024, 64 * 1024, 256 * 1024])
def test_labels_that_met_a_full_disk_are_ingested_once_when_there_is_room(
    disk: Path, warehouse: Warehouse, left: int
):
    folder = landed(disk)
    filler = fill(disk, left)
    with pytest.raises(
        DiskFull, match=r"is full; nothing of this step was kept.*Free space \(docs/runbook.md"
    ) as told:
        label_ledger.ingest(warehouse, folder)
    assert "warehouse.duckdb" in str(told.value)
    assert (folder / "late.csv").exists(), "it waits"
    filler.unlink()
    assert label_ledger.ingest(warehouse, folder).rows_added == LABELS
    assert label_ledger.ingest(warehouse, folder).rows_added == 0
    assert warehouse.query("select count(*) n from labels")["n"][0] == LABELS


def test_readers_keep_the_last_snapshot_and_no_scrap_stays(disk: Path, warehouse: Warehouse):
    old = pl.DataFrame({"chunk": ["Q1"]})
    path = warehouse.publish("health_report", old)
    filler = fill(disk, 0)
    big = pl.DataFrame({"chunk": [f"{i:x}" * 9 for i in range(50_000)]})
    with pytest.raises(DiskFull, match="No space left"):
        warehouse.publish("health_report", big)
    assert [p.name for p in disk.joinpath("published").iterdir()] == ["health_report.parquet"]
    filler.unlink()
    assert pl.read_parquet(path).equals(old)


def test_a_damaged_warehouse_is_named_with_the_way_out_and_no_stack_trace(tmp_path: Path):
    settings = Settings(use_case="sba_loans", home=tmp_path)
    settings.warehouse_path.parent.mkdir(parents=True)
    settings.warehouse_path.write_bytes(b"no database" * 2000)
    done = selfheal("audit", "verify", SELFHEAL_HOME=str(tmp_path))
    assert done.returncode == 2
    assert done.stderr.startswith(f"selfheal: {settings.warehouse_path} is damaged: restore it from a backup")
    assert settings.warehouse_path.read_bytes() == b"no database" * 2000, "nobody wrote over it"


def test_a_command_waits_for_the_warehouse_as_long_as_it_is_told(tmp_path: Path):
    settings = Settings(use_case="sba_loans", home=tmp_path)
    holder = Warehouse(settings.warehouse_path, settings.published)
    create_tables(holder, settings.case)
    with holder.locked():
        done = selfheal("audit", "verify", SELFHEAL_HOME=str(tmp_path), SELFHEAL_LOCK_TIMEOUT_S="0.1")
    assert done.returncode == 2
    assert "was locked by another process for more than 0.1 s: wait for the other run" in done.stderr
