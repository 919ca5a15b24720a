"""Labels that the service took: each in the ledger once, whatever dies in between."""

from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from selfheal_assets.stores import label_status
from selfheal_assets.stores.label_ledger import LabelIngestion, ingest
from selfheal_assets.stores.label_log import COLUMNS, LabelLog, count_rows, read_segment
from selfheal_assets.stores.segments import DamagedSegment, segments
from selfheal_assets_tests.stores.conftest import lines_until_killed, process
from selfheal_assets_tests.stores.test_label_ledger import dead_letters, land, ledger

pytestmark = pytest.mark.integration

NOW = datetime(2021, 6, 1, 12, 30, 0, 5)
WRITER = """
import sys
from pathlib import Path
from selfheal_assets.stores.label_log import LabelLog
from selfheal_assets_tests.stores.test_label_log import label
log, n = LabelLog(Path(sys.argv[1])), 0
while True:
    log.append([label(f"m{n}"), label(f"m{n + 1}")])
    print(f"m{n} m{n + 1}", flush=True)
    n += 2
"""
KILLED = """
import os, signal, sys
from pathlib import Path
from selfheal_assets.stores import label_ledger
from selfheal_assets.stores.warehouse import Warehouse
def die(*args, **kwargs): os.kill(os.getpid(), signal.SIGKILL)
if sys.argv[4] == "before the commit":
    one = label_ledger.one
    label_ledger.one = lambda *args: (one(*args), die())
else:
    Path.unlink = die
label_ledger.ingest(Warehouse(Path(sys.argv[1]), Path(sys.argv[2])), Path(sys.argv[3]))
"""


def label(entity_id: str, **values: Any) -> dict[str, Any]:
    row = {"prediction_id": None, "label": 1, "occurred_at": NOW, "recorded_at": NOW, "source": "api"}
    return row | {"entity_id": entity_id} | values


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "labels"


def sealed(folder: Path, *groups: list[dict[str, Any]]) -> Path:
    log = LabelLog(folder)
    for group in groups:
        log.append(group)
    log.close()
    return segments(folder, "ready")[-1]


def names(warehouse) -> list[str]:
    return sorted(row[1] for row in ledger(warehouse))


def test_labels_arrive_once_and_as_they_were_told(warehouse, folder):
    early = datetime(2020, 1, 1)
    groups = (
        [label("a"), label("b", label=0, occurred_at=early)],
        [label(None, prediction_id="Łódź \n p", source="crm")],
    )
    segment = sealed(folder, *groups)
    assert count_rows(segment) == read_segment(segment).height == 3
    assert [ingest(warehouse, folder) for _ in range(2)] == [
        LabelIngestion(1, 3, 3, 0, 0),
        LabelIngestion(0, 0, 0, 0, 0),
    ]
    assert ledger(warehouse) == [
        ("Łódź \n p", None, 1, NOW, NOW, "crm"),
        (None, "a", 1, NOW, NOW, "api"),
        (None, "b", 0, early, NOW, "api"),
    ]
    assert list(folder.rglob("*.jsonl")) == []


def test_an_open_segment_is_read_and_left_to_its_writer(warehouse, folder):
    log = LabelLog(folder)
    log.append([label("a")])
    first = ingest(warehouse, folder)
    log.append([label("b"), label("c")])
    second = ingest(warehouse, folder)
    log.close()
    third = ingest(warehouse, folder)
    assert [d.rows_added for d in (first, second, third)] == [1, 2, 0]
    assert [list(d.live.values()) for d in (first, second, third)] == [[1], [3], []]
    assert names(warehouse) == ["a", "b", "c"]


def test_a_killed_writer_loses_nothing_that_it_acknowledged(warehouse, folder):
    with process(WRITER, folder) as writer:
        acknowledged = " ".join(lines_until_killed(writer, 20)).split()
    ingest(warehouse, folder)
    assert set(acknowledged) <= set(names(warehouse))
    assert len(names(warehouse)) <= len(acknowledged) + 2
    assert list(folder.rglob("*.jsonl")) == []


@pytest.mark.parametrize("moment", ["before the commit", "before the removal"])
def test_a_kill_at_a_chosen_moment_loses_and_doubles_nothing(warehouse, folder, moment):
    sealed(folder, [label("a"), label("b")])
    with process(KILLED, warehouse.path, warehouse.published, folder, moment) as ingester:
        assert ingester.wait() == -9
    assert names(warehouse) == ([] if moment == "before the commit" else ["a", "b"])
    ingest(warehouse, folder)
    assert names(warehouse) == ["a", "b"]
    assert list(folder.rglob("*.jsonl")) == []


def test_a_damaged_segment_is_set_aside_and_keeps_no_other_out(warehouse, folder):
    good, bad = sealed(folder, [label("a")]), sealed(folder, [label("b")], [label("c")])
    content = bad.read_bytes()
    bad.write_bytes(content.replace(b'"b"', b'"x"'))
    with pytest.raises(DamagedSegment, match="line 1"):
        read_segment(bad)
    assert ingest(warehouse, folder) == LabelIngestion(2, 1, 1, 0, 1)
    assert names(warehouse) == ["a"] and not good.exists()
    (letter,) = dead_letters(folder, bad.name)
    assert "line 1" in letter["reason"] and "Restore the file" in letter["reason"]
    (folder / "ready" / bad.name).write_bytes(content)
    assert ingest(warehouse, folder).rows_added == 2


def test_a_segment_of_another_schema_is_named(folder):
    segment = sealed(folder, [label("a")])
    from selfheal_assets.stores import segments as segment_files

    lines = [segment_files.framed(b'{"schema":9,"rows":1,"labels":{}}'), segment_files.seal_line(1, 0)]
    segment.write_bytes(b"".join(lines))
    with pytest.raises(DamagedSegment, match="schema 9, this version reads 1"):
        read_segment(segment)


# --- Status -----------------------------------------------------------------------------------


def test_what_waits_is_counted_without_what_was_taken(warehouse, folder):
    assert label_status.waiting(folder, {}) == {"rows": 0, "files": 0, "oldest_file_landed_at": None}
    sealed(folder, [label("a"), label("b")])
    log = LabelLog(folder)
    log.append([label("c")])
    land(folder, "l.csv", "entity_id,label\na,1\n")
    waiting = label_status.waiting(folder, {})
    assert (waiting["rows"], waiting["files"], waiting["oldest_file_landed_at"]) == (
        3,
        1,
        datetime(2021, 6, 1, 12, 30),
    )
    done = ingest(warehouse, folder)
    assert label_status.waiting(folder, done.live)["rows"] == 0
    log.append([label("d")])
    assert label_status.waiting(folder, done.live)["rows"] == 1
    log.close()


def test_what_was_rejected_is_told_newest_first(warehouse, folder):
    assert label_status.rejected(folder) == {"rows": 0, "files": 0, "newest": []}
    folder.mkdir()
    land(folder, "rows.csv", "entity_id,label\na,1\nb,7\n" + "c,8\n" * 20)
    ingest(warehouse, folder)
    land(folder, "whole.jsonl", "{")
    ingest(warehouse, folder)
    told = label_status.rejected(folder)
    assert (told["rows"], told["files"], len(told["newest"])) == (21, 1, 10)
    assert (told["newest"][0]["file"], told["newest"][0]["row"]) == ("whole.jsonl", None)
    assert "line 1: not JSON" in told["newest"][0]["reason"]
    assert (told["newest"][1]["row"], told["newest"][1]["reason"]) == (22, "label must be 0 or 1")


def test_columns_are_the_ledgers(warehouse):
    assert warehouse.query("select * from labels").columns == list(COLUMNS)
