"""The prediction log: an acknowledged answer is never lost, and none is counted twice."""

import shutil
import threading
import time
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import numpy as np
import orjson
import polars as pl
import pytest

from selfheal_assets.stores import log_ingestion, prediction_log
from selfheal_assets.stores.log_ingestion import ingest, read_segment
from selfheal_assets.stores.prediction_log import CaseColumns, PredictionLog, Role, Scorer
from selfheal_assets.stores.segments import DamagedSegment, framed, unframed
from selfheal_assets_tests.stores.conftest import kill_after, lines_until_killed, members, process

pytestmark = pytest.mark.integration

FEATURES = ["fee", "visits", "plan"]
SCORER = Scorer(model_version=3, model_fingerprint="abc", threshold=0.5)
SERVED = datetime(2021, 2, 3, 4, 5, 6, 789012)

# Processes of their own. Each says which answers it has given, and only after they were logged.
WRITER = """
import sys
from pathlib import Path
from selfheal_assets.stores.prediction_log import PredictionLog
from selfheal_assets_tests.stores.test_prediction_log import answer
log = PredictionLog(Path(sys.argv[1]), max_age_s=3600)
"""
ENDLESS = WRITER + "while True: print(answer(log, 3), flush=True)"
OBEDIENT = (
    WRITER
    + """
for line in sys.stdin:
    print(answer(log, int(line)), flush=True)
log.close()
"""
)
# The kernel lets no file grow beyond the limit, as a full disk would; then there is room again.
FULL_DISK = (
    WRITER
    + """
import resource
_, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (5000, hard))
refused = 0
while refused < 3:
    try:
        print(answer(log, 2), flush=True)
    except OSError as error:
        refused += 1
        print(f"refused {error.strerror}", flush=True)
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
print(answer(log, 2), flush=True)
log.close()
"""
)
INGESTER = """
import sys
from pathlib import Path
from selfheal_assets.settings import Settings
from selfheal_assets.stores.log_ingestion import ingest
from selfheal_assets.stores.warehouse import Warehouse
settings = Settings(use_case=sys.argv[1])
warehouse = Warehouse(Path(sys.argv[2]), Path(sys.argv[3]))
print("ready", flush=True)
ingest(warehouse, settings.case, Path(sys.argv[4]))
"""


def answer(log: PredictionLog, rows: int) -> str:
    """Log one batch; its prediction ids, in one line."""
    probability = [n / 10 for n in range(rows)]
    return " ".join(log.append(members(rows), FEATURES, probability, SCORER, SERVED))


@pytest.fixture
def folder(tmp_path) -> Path:
    return tmp_path / "prediction_log"


def logged(warehouse) -> list[str]:
    return warehouse.query("select prediction_id from prediction_log")["prediction_id"].to_list()


def segments(folder: Path, place: str) -> list[Path]:
    return sorted((folder / place).glob("*.jsonl"))


def sealed(folder: Path, batches: int = 1) -> tuple[Path, list[str]]:
    """One segment in ready/, and the ids it holds: two to a batch."""
    log = PredictionLog(folder)
    ids = [i for _ in range(batches) for i in answer(log, 2).split()]
    log.close()
    return segments(folder, "ready")[-1], ids


def test_every_row_arrives_once_and_as_it_was_logged(warehouse, case, folder):
    log = PredictionLog(folder)
    ids = log.append(members(7), FEATURES, [0.0, 0.1, 0.4999, 0.5, 0.7, 1.0, 1e-300], SCORER, SERVED)
    ids += log.append(members(1, 9), FEATURES, [0.25], Scorer(4, "def", 0.25, Role.challenger), SERVED)
    log.close()
    done = [ingest(warehouse, case, folder) for _ in range(2)]
    assert [(d.segments, d.rows_read, d.rows_added, d.torn_bytes) for d in done] == [
        (1, 8, 8, 0),
        (0, 0, 0, 0),
    ]

    rows = warehouse.query("select * from prediction_log order by event_time")
    given = pl.concat([members(7), members(1, 9)])
    assert rows.select(given.columns).equals(given)
    assert rows["prediction_id"].to_list() == ids and len(set(ids)) == 8
    assert rows["probability"].to_list() == [0.0, 0.1, 0.4999, 0.5, 0.7, 1.0, 1e-300, 0.25]
    assert rows["prediction"].to_list() == [0, 0, 0, 1, 1, 1, 0, 1]
    assert rows["predicted_at"].unique().to_list() == [SERVED]
    scorers = rows.select("model_version", "model_fingerprint", "threshold", "role").unique(
        maintain_order=True
    )
    assert scorers.rows() == [(3, "abc", 0.5, "champion"), (4, "def", 0.25, "challenger")]


def test_a_feature_that_was_not_logged_is_missing(warehouse, case, folder):
    log = PredictionLog(folder)
    log.append(members(2), ["fee"], [0.1, 0.2], SCORER, SERVED)
    log.close()
    assert ingest(warehouse, case, folder).rows_added == 2
    assert warehouse.query("select fee, visits, plan from prediction_log order by fee").rows() == [
        (0.0, None, None),
        (1 / 7, None, None),
    ]


def test_a_score_that_is_no_number_is_refused_and_leaves_no_trace(warehouse, case, folder):
    log = PredictionLog(folder)
    with pytest.raises(ValueError, match="version 3 gave a score that is no number"):
        log.append(members(2), FEATURES, [0.1, float("nan")], SCORER, SERVED)
    ids = answer(log, 2).split()
    log.close()
    assert ingest(warehouse, case, folder).torn_bytes == 0
    assert sorted(logged(warehouse)) == sorted(ids)


def test_a_segment_is_sealed_when_it_is_full_old_or_closed(folder):
    for log in (PredictionLog(folder, max_bytes=1), PredictionLog(folder, max_age_s=0)):
        answer(log, 1)
        answer(log, 1)
        log.close()
    assert (len(segments(folder, "ready")), segments(folder, "open")) == (4, [])
    log = PredictionLog(folder)
    answer(log, 1)
    answer(log, 1)
    assert (len(segments(folder, "ready")), len(segments(folder, "open"))) == (4, 1)
    log.close()
    log.close()
    assert (len(segments(folder, "ready")), segments(folder, "open")) == (5, [])


def test_threads_share_one_log(warehouse, case, folder):
    log, given = PredictionLog(folder, max_bytes=3000), []
    threads = [
        threading.Thread(target=lambda: given.extend(answer(log, 2) for _ in range(10))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    log.close()
    assert len(segments(folder, "ready")) > 5
    assert ingest(warehouse, case, folder).rows_added == 160
    assert sorted(logged(warehouse)) == sorted(" ".join(given).split())


# --- Torn and damaged -------------------------------------------------------------------------


def left_by_a_dead_writer(segment: Path) -> bytes:
    """Move a sealed segment back to open/, without its seal; returns its contents."""
    lines = segment.read_bytes().splitlines(keepends=True)
    segment.unlink()
    (segment.parent.parent / "open" / segment.name).write_bytes(b"".join(lines[:-1]))
    return b"".join(lines[:-1])


def test_wherever_the_last_line_is_torn_the_rows_before_it_are_read(case, folder):
    segment, _ = sealed(folder, batches=3)
    whole = left_by_a_dead_writer(segment)
    segment = folder / "open" / segment.name
    last = whole.splitlines(keepends=True)[-1]
    for kept in range(len(last)):
        segment.write_bytes(whole[: len(whole) - len(last) + kept])
        frame, torn = read_segment(segment, case)
        assert (frame.height, torn) == (4, kept)


@pytest.mark.parametrize("batches", [1, 3])
def test_a_torn_tail_is_reported_once_and_the_rows_before_it_kept(warehouse, case, folder, batches):
    segment, ids = sealed(folder, batches)
    whole = left_by_a_dead_writer(segment)
    (folder / "open" / segment.name).write_bytes(whole[:-20])
    torn = len(whole.splitlines(keepends=True)[-1]) - 20
    done = [ingest(warehouse, case, folder) for _ in range(2)]
    assert [(d.rows_added, d.torn_bytes) for d in done] == [(2 * batches - 2, torn), (0, 0)]
    assert sorted(logged(warehouse)) == sorted(ids[:-2])
    noted = warehouse.query("select * from ingested_segments").rows()
    assert noted == [(segment.name, 2 * batches - 2, torn)]
    assert not list(folder.rglob("*.jsonl"))


def test_a_sealed_segment_that_was_cut_short_stops_the_ingestion_until_it_is_decided(warehouse, case, folder):
    segment, ids = sealed(folder, batches=3)
    lines = segment.read_bytes().splitlines(keepends=True)
    segment.write_bytes(b"".join(lines[:2]))
    with pytest.raises(DamagedSegment, match=r"line 3.*the seal at its end is missing.*into open/"):
        ingest(warehouse, case, folder)
    assert logged(warehouse) == [] and segment.exists()
    segment.rename(folder / "open" / segment.name)
    assert ingest(warehouse, case, folder).rows_added == 4
    assert sorted(logged(warehouse)) == sorted(ids[:4])


@pytest.mark.parametrize(
    "damage",
    [
        lambda line: b"\0" * len(line),
        lambda line: line[:-9],
        lambda line: b"[]",
        lambda line: framed(orjson.dumps(orjson.loads(unframed(line)) | {"entity_id": None}))[:-1],
        lambda line: framed(orjson.dumps(orjson.loads(unframed(line)) | {"schema": 1}))[:-1],
        lambda line: line.replace(b'"fee":[0.0,', b'"fee":["",'),
        lambda line: line.replace(b"2021-02-03", b"2021-02-31"),
    ],
)
def test_a_damaged_line_is_named_and_nothing_is_lost(warehouse, case, folder, damage):
    _, earlier = sealed(folder)
    segment, ids = sealed(folder, batches=3)
    whole = segment.read_bytes()
    lines = whole.split(b"\n")
    assert damage(lines[1]) != lines[1]
    segment.write_bytes(b"\n".join([lines[0], damage(lines[1]), *lines[2:]]))
    with pytest.raises(DamagedSegment) as caught:
        ingest(warehouse, case, folder)
    for expected in (f"{segment}, line 2", "nothing of it was ingested", "move the file out"):
        assert expected in str(caught.value)
    assert logged(warehouse) == [] and len(segments(folder, "ready")) == 2
    segment.write_bytes(whole)
    assert ingest(warehouse, case, folder).rows_added == 8
    assert sorted(logged(warehouse)) == sorted(earlier + ids)


def test_a_full_disk_refuses_answers_and_leaves_no_half_line(warehouse, case, folder):
    with process(FULL_DISK, folder) as writer:
        said = writer.stdout.read().splitlines()
        assert writer.wait() == 0
    assert said[-4:-1] == ["refused File too large"] * 3
    ids = " ".join(line for line in said if not line.startswith("refused")).split()
    assert len(ids) > 10
    (segment,) = segments(folder, "ready")
    assert segment.stat().st_size > 5000
    done = ingest(warehouse, case, folder)
    assert (done.rows_added, done.torn_bytes) == (len(ids), 0)
    assert sorted(logged(warehouse)) == sorted(ids)


# --- Killed writers and living ones -----------------------------------------------------------


def test_the_segment_of_a_killed_writer_is_adopted_with_all_it_acknowledged(warehouse, case, folder):
    for already in (1, 30):
        with process(ENDLESS, folder) as writer:
            acknowledged = " ".join(lines_until_killed(writer, already)).split()
        assert (len(segments(folder, "open")), segments(folder, "ready")) == (1, [])
        before = len(logged(warehouse))
        done = ingest(warehouse, case, folder)
        assert (done.segments, segments(folder, "open"), segments(folder, "ready")) == (1, [], [])
        assert set(acknowledged) <= set(logged(warehouse))
        # The line that was being written, at most, was logged without having been acknowledged.
        assert len(acknowledged) <= len(logged(warehouse)) - before <= len(acknowledged) + 3
        assert ingest(warehouse, case, folder).rows_added == 0


def test_a_writer_killed_before_its_first_line_does_no_harm(warehouse, case, folder):
    (folder / "open").mkdir(parents=True)
    (folder / "open" / "00001-a.jsonl").touch()
    done = ingest(warehouse, case, folder)
    assert (done.segments, done.rows_added, done.torn_bytes) == (1, 0, 0)
    assert not list(folder.rglob("*.jsonl"))


def test_a_segment_that_its_writer_has_not_locked_yet_is_left_alone(warehouse, case, folder):
    hidden = folder / "open" / ".00001-a.jsonl"  # the writer, alive, locks it next and then renames it
    hidden.parent.mkdir(parents=True)
    hidden.touch()
    assert ingest(warehouse, case, folder).segments == 0
    assert hidden.exists()


def test_no_log_at_all_is_no_error(warehouse, case, folder):
    assert ingest(warehouse, case, folder).segments == 0


def test_the_segment_of_a_living_writer_is_read_and_left_to_it(warehouse, case, folder):
    def told(rows: int) -> list[str]:
        writer.stdin.write(f"{rows}\n")
        writer.stdin.flush()
        return writer.stdout.readline().split()

    with process(OBEDIENT, folder) as writer:
        first = told(5)
        assert [ingest(warehouse, case, folder).rows_added for _ in range(2)] == [5, 0]
        (segment,) = segments(folder, "open")
        second = told(4)
        assert segments(folder, "open") == [segment], "it was not stolen"
        assert sorted(orjson.loads(unframed(segment.read_bytes().splitlines()[1]))["entity_id"]) == [
            "m0",
            "m1",
            "m2",
            "m3",
        ]
        assert ingest(warehouse, case, folder).rows_added == 4
        third = told(3)
        writer.stdin.close()
        assert writer.wait() == 0
    assert (segments(folder, "open"), len(segments(folder, "ready"))) == ([], 1)
    assert [ingest(warehouse, case, folder).rows_added for _ in range(2)] == [3, 0]
    assert sorted(logged(warehouse)) == sorted(first + second + third)
    assert not list(folder.rglob("*.jsonl"))


def test_ingesting_while_a_writer_writes_and_seals_loses_and_doubles_nothing(warehouse, case, folder):
    log, given, stop = PredictionLog(folder, max_bytes=2000), [], threading.Event()

    def write() -> None:
        while not stop.wait(0.005):
            given.append(answer(log, 2))

    writer = threading.Thread(target=write)
    writer.start()
    added = calls = 0
    while calls < 8 or len(given) < 30:
        added, calls = added + ingest(warehouse, case, folder).rows_added, calls + 1
    stop.set()
    writer.join()
    log.close()
    added += ingest(warehouse, case, folder).rows_added
    ids = " ".join(given).split()
    assert added == len(ids) > 20
    assert sorted(logged(warehouse)) == sorted(ids)


# --- Seen again -------------------------------------------------------------------------------


def test_a_copied_or_renamed_segment_adds_nothing(warehouse, case, folder):
    segment, ids = sealed(folder, batches=2)
    kept = segment.read_bytes()
    shutil.copy(segment, segment.with_name("copy.jsonl"))
    done = ingest(warehouse, case, folder)
    assert (done.segments, done.rows_read, done.rows_added) == (2, 8, 4)
    segment.with_name("restored.jsonl").write_bytes(kept)
    assert ingest(warehouse, case, folder).rows_added == 0
    assert sorted(logged(warehouse)) == sorted(ids)
    assert segments(folder, "ready") == []


def test_a_segment_that_a_crash_left_behind_is_removed_unread(warehouse, case, folder):
    segment, _ = sealed(folder)
    kept = segment.read_bytes()
    ingest(warehouse, case, folder)
    segment.write_bytes(kept)  # the rows are committed; the process died before it removed the file
    done = ingest(warehouse, case, folder)
    assert (done.rows_read, done.rows_added) == (0, 0)
    assert not segment.exists()


def test_a_kill_at_any_moment_of_the_ingestion_loses_and_doubles_nothing(settings, warehouse, case, folder):
    ids: list[str] = []
    for delay in (0.0, 0.1):
        log = PredictionLog(folder, max_bytes=1)
        ids += [i for _ in range(30) for i in answer(log, 2).split()]
        where = (settings.use_case, warehouse.path, warehouse.published, folder)
        with process(INGESTER, *where) as ingester:
            kill_after(ingester, delay)
    ingest(warehouse, case, folder)
    assert sorted(logged(warehouse)) == sorted(ids)
    assert segments(folder, "ready") == []
    assert warehouse.query("select count(*), sum(rows_added) from ingested_segments").rows() == [(60, 120)]


# Killed by its own hand at one place of the ingestion: what came before has happened, what comes after has not.
KILLED_AT = (
    INGESTER.replace(
        'print("ready", flush=True)',
        """
import os, signal
from selfheal_assets.stores import log_ingestion
def die(*args, **kwargs): os.kill(os.getpid(), signal.SIGKILL)
if sys.argv[5] == "between insert and manifest":
    insert = log_ingestion._insert_new
    log_ingestion._insert_new = lambda *args: (insert(*args), die())
elif sys.argv[5] == "between commit and removal":
    Path.unlink = die
else:
    os.rename = die
""",
    )
    + 'print("alive")'
)


@pytest.mark.parametrize(
    "moment",
    ["between insert and manifest", "between commit and removal", "while a dead writer's is adopted"],
)
def test_a_kill_at_a_chosen_moment_loses_and_doubles_nothing(settings, warehouse, case, folder, moment):
    segment, ids = sealed(folder, batches=3)
    if "adopted" in moment:
        left_by_a_dead_writer(segment)
    where = (settings.use_case, warehouse.path, warehouse.published, folder)
    with process(KILLED_AT, *where, moment) as ingester:
        assert ingester.stdout.read() == ""
        assert ingester.wait() == -9
    committed = moment == "between commit and removal"
    assert len(logged(warehouse)) == (6 if committed else 0)
    assert ingest(warehouse, case, folder).rows_added == (0 if committed else 6)
    assert ingest(warehouse, case, folder).segments == 0
    assert sorted(logged(warehouse)) == sorted(ids)
    assert not list(folder.rglob("*.jsonl"))


# --- Ids of clients ---------------------------------------------------------------------------


def own_ids(log: PredictionLog, ids: list[str | None], fee: float) -> list[str]:
    cases = CaseColumns(["m"] * len(ids), [None] * len(ids), {"fee": [fee] * len(ids)}, ids)
    return log.append_columns(cases, np.full(len(ids), 0.5), SCORER, SERVED)


def test_of_two_rows_with_one_id_the_first_is_kept_wherever_the_second_is(warehouse, case, folder):
    for _ in range(2):  # the second time they are in the warehouse already
        log = PredictionLog(folder)
        given = own_ids(log, ["a", None, "a"], 1.0)  # twice in one line
        own_ids(log, ["b", "a"], 2.0)  # and in one segment
        log.close()
        later = PredictionLog(folder)
        own_ids(later, ["b", "c"], 3.0)  # and in two
        later.close()
        assert (given[0], given[2]) == ("a", "a") and given[1].endswith("-1")
        ingest(warehouse, case, folder)
    rows = dict(warehouse.query("select prediction_id, fee from prediction_log").rows())
    made = [i for i in rows if i not in ("a", "b", "c")]
    assert {i: rows[i] for i in ("a", "b", "c")} == {"a": 1.0, "b": 2.0, "c": 3.0}
    assert len(made) == 2 and given[1] in made


def test_ids_grow_with_time(folder):
    log = PredictionLog(folder)
    first = answer(log, 1)
    time.sleep(0.002)
    assert first < answer(log, 1)
    log.close()


def test_batches_of_an_ingestion_are_transactions_of_their_own(warehouse, case, folder, monkeypatch):
    monkeypatch.setattr(log_ingestion, "_BATCH_ROWS", 4)
    monkeypatch.setattr(log_ingestion, "_SLAB_ROWS", 3)
    kept = [sealed(folder, batches=3) for _ in range(2)]
    damaged, last = sealed(folder, batches=2)
    whole = damaged.read_bytes()
    damaged.write_bytes(whole.replace(b"family", b"basic!", 1))
    with pytest.raises(DamagedSegment, match="nothing of it was ingested"):
        ingest(warehouse, case, folder)
    assert sorted(logged(warehouse)) == sorted(i for _, ids in kept for i in ids)
    assert segments(folder, "ready") == [damaged]
    damaged.write_bytes(whole)
    assert ingest(warehouse, case, folder).rows_added == len(last)


def test_an_id_given_twice_far_apart_in_a_segment_is_kept_once(warehouse, case, folder, monkeypatch):
    monkeypatch.setattr(log_ingestion, "_SLAB_ROWS", 2)
    log = PredictionLog(folder)
    for n in range(3):
        columns = prediction_log.case_columns(members(2, 2 * n), FEATURES)
        named = replace(columns, prediction_id=["mine", None])
        log.append_columns(named, np.array([n / 10, 0.5]), SCORER, SERVED)
    log.close()
    done = ingest(warehouse, case, folder)
    assert (done.rows_read, done.rows_added) == (6, 4)
    assert warehouse.query("select probability from prediction_log where prediction_id = 'mine'").rows() == [
        (0.0,)
    ]
