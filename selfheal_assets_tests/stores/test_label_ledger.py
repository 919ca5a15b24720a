"""The label ledger: what was known when, corrections as new rows, and bad input set aside with its reason."""

import io
import json
import os
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from selfheal_assets.stores import label_ledger, log_ingestion, prediction_log
from selfheal_assets.stores.label_ledger import COLUMNS, LabelIngestion, ingest
from selfheal_assets_tests.stores.conftest import kill_after, members, process

pytestmark = pytest.mark.integration

WRITTEN = datetime(2021, 6, 1, 12, 30)
INGESTER = """
import sys
from pathlib import Path
from selfheal_assets.stores.label_ledger import ingest
from selfheal_assets.stores.warehouse import Warehouse
warehouse = Warehouse(Path(sys.argv[1]), Path(sys.argv[2]))
print("ready", flush=True)
ingest(warehouse, Path(sys.argv[3]))
"""


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "labels").mkdir()
    return tmp_path / "labels"


def land(folder: Path, name: str, content: str | bytes) -> Path:
    """A file that was written at ``WRITTEN``."""
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    written = WRITTEN.replace(tzinfo=UTC).timestamp()
    os.utime(path, (written, written))
    return path


def ledger(warehouse) -> list[tuple]:
    return warehouse.query("select * from labels order by all").rows()


def known(warehouse, as_of: datetime) -> dict[str, int]:
    rows = warehouse.query("select entity_id, label from labels_as_of(cast(? as timestamp))", [as_of])
    return dict(rows.rows())


def parquet(frame: pl.DataFrame) -> bytes:
    written = io.BytesIO()
    frame.write_parquet(written)
    return written.getvalue()


def dead_letters(folder: Path, name: str) -> list[dict]:
    return [json.loads(line) for line in (folder / "rejected" / f"{name}.jsonl").read_text().splitlines()]


# --- What lands -------------------------------------------------------------------------------

TEXTS = {
    "entity_id": ["m1", "m2", None],
    "prediction_id": [None, None, "p3"],
    "label": ["1", "0", "1"],
    "occurred_at": ["2021-03-01", "2021-03-02", "2021-03-03"],
    "recorded_at": ["2021-04-01T10:00:00", "2021-04-02", "2021-04-03"],
    "source": ["crm", None, "desk"],
}
TYPED = pl.DataFrame(
    TEXTS
    | {
        "label": [1, 0, 1],
        "occurred_at": [date(2021, 3, d) for d in (1, 2, 3)],
        "recorded_at": [datetime(2021, 4, 1, 10), datetime(2021, 4, 2), datetime(2021, 4, 3)],
    }
)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("l.csv", pl.DataFrame(TEXTS).write_csv()),
        ("l.csv", "\ufeff" + pl.DataFrame(TEXTS).write_csv() + "\n\n"),
        ("l.csv", pl.DataFrame(TEXTS).write_csv(quote_style="always")),
        ("l.csv", TYPED.select(reversed(TYPED.columns)).with_columns(note=pl.lit("-")).write_csv()),
        ("l.jsonl", pl.DataFrame(TEXTS).write_ndjson()),
        ("l.jsonl", TYPED.write_ndjson().strip()),
        ("l.parquet", parquet(TYPED)),
        ("l.parquet", parquet(TYPED.cast({"label": pl.Float32, "recorded_at": pl.Datetime("ns")}))),
        (
            "l.parquet",
            parquet(TYPED.with_columns(pl.col("recorded_at").dt.convert_time_zone("Asia/Tokyo"))),
        ),
    ],
)
def test_each_format_gives_the_same_labels(warehouse, folder, name, content):
    land(folder, name, content)
    assert ingest(warehouse, folder) == LabelIngestion(1, 3, 3, 0, 0)
    assert ledger(warehouse) == [
        ("p3", None, 1, datetime(2021, 3, 3), datetime(2021, 4, 3), "desk"),
        (None, "m1", 1, datetime(2021, 3, 1), datetime(2021, 4, 1, 10), "crm"),
        (None, "m2", 0, datetime(2021, 3, 2), datetime(2021, 4, 2), name),
    ]
    assert [p.name for p in folder.iterdir()] == ["ingested"]


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("2021-03-01", datetime(2021, 3, 1)),
        ("2021-03-01T10:00:00", datetime(2021, 3, 1, 10)),
        ("2021-03-01 10:00:00.000001", datetime(2021, 3, 1, 10, 0, 0, 1)),
        ("2021-03-01T10:00:00Z", datetime(2021, 3, 1, 10)),
        ("2021-03-01T10:00:00+02:00", datetime(2021, 3, 1, 8)),
        (" 2021-03-01 ", datetime(2021, 3, 1)),
    ],
)
def test_iso_times_are_read_alone_and_beside_other_forms(warehouse, folder, text, read, together):
    other = "b,0,2021-01-01,2021-01-02T00:00:00Z\n" if together else ""
    land(folder, "l.csv", f"entity_id,label,occurred_at,recorded_at\n{other}a,1,{text},{text}\n")
    assert ingest(warehouse, folder).rows_rejected == 0
    assert (None, "a", 1, read, read, "l.csv") in ledger(warehouse)


def test_without_times_a_label_was_learned_when_its_file_was_written(warehouse, folder):
    land(folder, "l.csv", 'entity_id,label,occurred_at\na,1,\nb,0,2021-05-01\n"c",1,""\n')
    ingest(warehouse, folder)
    assert [row[3:5] for row in ledger(warehouse)] == [
        (WRITTEN, WRITTEN),
        (datetime(2021, 5, 1), WRITTEN),
        (WRITTEN, WRITTEN),
    ]


def test_only_whole_label_files_are_taken(warehouse, folder):
    for name in (".l.csv", "l.csv.part", "notes.txt"):
        land(folder, name, "entity_id,label\na,1\n")
    land(folder, "empty.csv", "entity_id,label\n")
    assert ingest(warehouse, folder) == LabelIngestion(1, 0, 0, 0, 0)
    assert sorted(p.name for p in folder.iterdir()) == [".l.csv", "ingested", "l.csv.part", "notes.txt"]


def test_no_folder_is_no_error(warehouse, tmp_path):
    assert ingest(warehouse, tmp_path / "nowhere") == LabelIngestion(0, 0, 0, 0, 0)


def test_dropped_labels_are_ingested_as_they_were(warehouse, folder):
    labels = pl.DataFrame(
        {
            "entity_id": ["a", None],
            "prediction_id": [None, "p1"],
            "label": [1, 0],
            "occurred_at": [WRITTEN - timedelta(days=1), WRITTEN],
            "recorded_at": [WRITTEN + timedelta(microseconds=1)] * 2,
            "source": ["api", "crm"],
        },
        schema_overrides=COLUMNS,
    ).select(*COLUMNS)
    first, second = (label_ledger.drop(folder / "deep", labels) for _ in range(2))
    assert first != second
    done = ingest(warehouse, folder / "deep")
    assert (done.files, done.rows_read, done.rows_added) == (2, 4, 2)
    assert set(ledger(warehouse)) == set(labels.rows())


# --- Known when -------------------------------------------------------------------------------


def test_a_correction_is_a_new_row_and_what_was_known_before_it_stays(warehouse, folder):
    day = datetime(2021, 3, 1)
    land(folder, "first.csv", f"entity_id,label,occurred_at,recorded_at\na,1,{day},{day}\nb,0,{day},{day}\n")
    ingest(warehouse, folder)
    before = {t: known(warehouse, t) for t in (day, day + timedelta(seconds=1), datetime(2021, 4, 1))}
    assert list(before.values()) == [{}, {"a": 1, "b": 0}, {"a": 1, "b": 0}], "strictly before"

    land(folder, "second.csv", f"entity_id,label,occurred_at,recorded_at\na,0,{day},2021-04-01T00:00:00\n")
    assert ingest(warehouse, folder).rows_added == 1
    assert {t: known(warehouse, t) for t in before} == before
    assert known(warehouse, datetime(2021, 4, 1, 0, 0, 1)) == {"a": 0, "b": 0}
    assert [row[2] for row in ledger(warehouse) if row[1] == "a"] == [0, 1]


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0)])
def test_the_newest_record_wins_however_the_files_arrive(warehouse, folder, order):
    lines = ["a,1,2021-01-01,2021-03-01", "a,0,2021-02-01,2021-03-02", "a,1,2021-01-15,2021-03-02"]
    for arrival, line in enumerate(order):
        land(folder, f"{arrival}.csv", f"entity_id,label,occurred_at,recorded_at\n{lines[line]}\n")
        ingest(warehouse, folder)
    assert known(warehouse, datetime(2021, 3, 2)) == {"a": 1}
    assert known(warehouse, datetime(2021, 3, 3)) == {"a": 0}, "of two that day, the one that occurred later"


def test_a_label_by_prediction_waits_until_the_prediction_is_known(warehouse, case, folder, tmp_path):
    log = prediction_log.PredictionLog(tmp_path / "log")
    scorer = prediction_log.Scorer(1, "abc", 0.5)
    ids = log.append(members(2), case.feature_names, [0.1, 0.9], scorer, WRITTEN)
    log.close()
    land(folder, "l.csv", f"prediction_id,label\n{ids[1]},1\nnever-given,1\n")
    assert ingest(warehouse, folder).rows_added == 2
    later = WRITTEN + timedelta(seconds=1)
    assert known(warehouse, later) == {}
    log_ingestion.ingest(warehouse, case, tmp_path / "log")
    assert known(warehouse, later) == {"m1": 1}
    assert known(warehouse, WRITTEN) == {}

    land(folder, "by_case.csv", f"entity_id,label,recorded_at\nm1,0,{later.isoformat()}\n")
    ingest(warehouse, folder)
    assert known(warehouse, later) == {"m1": 1}
    assert known(warehouse, later + timedelta(seconds=1)) == {"m1": 0}, "both names mean the same case"


def test_where_both_names_are_given_the_case_counts(warehouse, folder):
    land(folder, "l.jsonl", '{"entity_id": "a", "prediction_id": "unknown", "label": 1}\n')
    ingest(warehouse, folder)
    assert known(warehouse, datetime(2022, 1, 1)) == {"a": 1}


# --- Seen again -------------------------------------------------------------------------------


def test_the_same_labels_again_add_nothing(warehouse, folder):
    content = "entity_id,label,occurred_at,recorded_at,source\na,1,2021-01-01,2021-02-01,crm\n"
    for name, added in (("l.csv", 1), ("l.csv", 0), ("other.csv", 0)):
        land(folder, name, content + content.splitlines()[1])
        done = ingest(warehouse, folder)
        assert (done.rows_read, done.rows_added) == (2, added)
    assert len(ledger(warehouse)) == 1


def test_a_file_that_a_crash_left_behind_adds_nothing(warehouse, folder):
    landed = land(folder, "l.csv", "entity_id,label\na,1\nb,7\n")
    ingest(warehouse, folder)
    os.rename(folder / "ingested" / "l.csv", landed)  # committed, but not yet moved
    done = ingest(warehouse, folder)
    assert (done.rows_read, done.rows_added, done.rows_rejected) == (2, 0, 1)
    assert len(ledger(warehouse)) == 1


def test_a_kill_at_any_moment_of_the_ingestion_loses_and_doubles_nothing(warehouse, folder):
    for n in range(60):
        land(folder, f"{n:03}.csv", f"entity_id,label\nm{n},1\n")
    for delay in (0.05, 0.2):
        with process(INGESTER, warehouse.path, warehouse.published, folder) as ingester:
            kill_after(ingester, delay)
        assert any(folder.glob("*.csv")), "killed too late to show anything"
    ingest(warehouse, folder)
    assert sorted(row[1] for row in ledger(warehouse)) == sorted(f"m{n}" for n in range(60))
    assert len(list((folder / "ingested").iterdir())) == 60


def test_a_name_that_comes_again_replaces_neither_file_nor_dead_letters(warehouse, folder):
    contents = [f"entity_id,label\nm{n},1\nm{n},bad{n}\n" for n in range(3)]
    for content in contents:
        land(folder, "daily.csv", content)
        assert ingest(warehouse, folder).rows_added == 1
    kept = sorted((folder / "ingested").iterdir())
    assert [p.read_text() for p in kept] == [contents[1], contents[2], contents[0]]
    assert [p.name for p in kept] == ["daily-2.csv", "daily-3.csv", "daily.csv"]
    assert [dead_letters(folder, p.name)[0]["label"] for p in kept] == ["bad1", "bad2", "bad0"]
    assert ledger(warehouse)[0][5] == "daily.csv"


# --- Bad rows ---------------------------------------------------------------------------------

HEADER = "entity_id,prediction_id,label,occurred_at,recorded_at"


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (",,1,2021-01-01,2021-02-01", "neither entity_id nor prediction_id is given"),
        ('"","",1,2021-01-01,2021-02-01', "neither entity_id nor prediction_id is given"),
        ("a,,,2021-01-01,2021-02-01", "label must be 0 or 1"),
        ("a,,2,2021-01-01,2021-02-01", "label must be 0 or 1"),
        ("a,,0.5,2021-01-01,2021-02-01", "label must be 0 or 1"),
        ("a,,nan,2021-01-01,2021-02-01", "label must be 0 or 1"),
        ("a,,bad,2021-01-01,2021-02-01", "label must be 0 or 1"),
        ("a,,1,soon,2021-02-01", "occurred_at is not a date or time (ISO 8601)"),
        ("a,,1,2021-02-30,2021-03-01", "occurred_at is not a date or time (ISO 8601)"),
        ("a,,1,2021-01-01,01/02/2021", "recorded_at is not a date or time (ISO 8601)"),
        ("a,,1,2021-01-01,9999-12-31T23:59:59-10:00", "recorded_at is not a date or time (ISO 8601)"),
        ("a,,1,2021-02-01,2021-01-31", "recorded_at is before occurred_at"),
        (
            "a,,1,2021-06-01 12:30:01,",
            "recorded_at is before occurred_at",
        ),  # learned when the file was written
    ],
)
def test_a_bad_row_is_set_aside_with_its_number_and_reason(warehouse, folder, row, reason):
    good = "x,,1,2021-01-01,2021-02-01\n"
    land(folder, "l.csv", f"{HEADER}\n{good}{row}\n{good.replace('x', 'y')}")
    assert ingest(warehouse, folder) == LabelIngestion(1, 3, 2, 1, 0)
    assert [r[1] for r in ledger(warehouse)] == ["x", "y"]
    (letter,) = dead_letters(folder, "l.csv")
    assert letter["row_id"] == 2
    assert letter["reason"].startswith(reason)
    given = [text.strip('"') or None for text in row.split(",")]
    assert [letter[name] for name in HEADER.split(",")] == given
    assert (folder / "ingested" / "l.csv").exists()


def test_mended_dead_letters_are_taken_when_they_are_landed(warehouse, folder):
    land(
        folder, "l.csv", f"{HEADER},source\na,,1,2021-01-01,2021-02-01,crm\nb,,x,2021-01-01,2021-02-01,crm\n"
    )
    ingest(warehouse, folder)
    letters = folder / "rejected" / "l.csv.jsonl"
    land(folder, "again.jsonl", letters.read_text().replace('"x"', '"1"'))
    assert ingest(warehouse, folder).rows_added == 1
    row = (datetime(2021, 1, 1), datetime(2021, 2, 1), "crm")
    assert ledger(warehouse) == [(None, "a", 1, *row), (None, "b", 1, *row)]


# --- Broken files -----------------------------------------------------------------------------

GOOD = "entity_id,label,recorded_at\na,1,2021-02-01\nb,0,2021-02-01\n"
GOOD_LINES = '{"entity_id": "a", "label": 1}\n{"entity_id": "b", "label": 0}\n'
GOOD_PARQUET = parquet(pl.DataFrame({"entity_id": [f"m{n}" for n in range(500)], "label": [1] * 500}))


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("l.csv", b"\x89PNG\r\n\x1a\n" + bytes(range(256)), "line 1: byte 0x89 is not UTF-8 text"),
        ("l.csv", "", "not a readable csv file"),
        ("l.csv", GOOD.replace("a,1", "M\xfcller,1").encode("latin-1"), "line 2: byte 0xFC ('ü' in Latin-1)"),
        ("l.csv", GOOD[: GOOD.rindex(",")], "row 3: 2 fields, but the header has 3: is the file complete?"),
        ("l.csv", GOOD.replace("a,1", "a,1,1"), "row 2: 4 fields, but the header has 3"),
        ("l.csv", GOOD.replace(",", ";"), "has entity_id;label;recorded_at"),
        (
            "l.csv",
            GOOD.replace("label", "left"),
            "has the columns 'label' and 'entity_id' or 'prediction_id'",
        ),
        ("l.csv", GOOD.replace("entity_id", "member"), "this one has member, label, recorded_at"),
        ("l.parquet", b"PAR1 not quite", "not a readable parquet file"),
        ("l.parquet", "", "not a readable parquet file"),
        ("l.parquet", GOOD_PARQUET[: len(GOOD_PARQUET) // 2], "not a readable parquet file"),
        ("l.parquet", GOOD_PARQUET[:50] + GOOD_PARQUET[90:], ""),
        ("l.parquet", parquet(pl.DataFrame({"x": [1]})), "this one has x"),
        ("l.parquet", parquet(pl.DataFrame({"entity_id": [b"\xff"], "label": [1]})), "utf8"),
        ("l.jsonl", GOOD_LINES[:-10], "line 2: not JSON: is the file complete?"),
        ("l.jsonl", "", ""),
        ("l.jsonl", "[1, 2]\n", ""),
        ("l.jsonl", b'{"entity_id": "\xff", "label": 1}\n', "line 1: not JSON"),
        ("l.jsonl", '{"entity_id": ["a"], "label": 1}\n', "List"),
        ("l.jsonl", '{"label": 1}\n', "this one has label"),
    ],
)
def test_a_broken_file_is_set_aside_whole_and_blocks_no_other(warehouse, folder, name, content, reason):
    land(folder, f"b{name}", content)
    for other in ("a.csv", "c.csv"):
        land(folder, other, f"entity_id,label\n{other},1\n")
    assert ingest(warehouse, folder) == LabelIngestion(3, 2, 2, 0, 1)
    assert [row[1] for row in ledger(warehouse)] == ["a.csv", "c.csv"]

    aside = folder / "rejected" / f"b{name}"
    assert aside.read_bytes() == (content if isinstance(content, bytes) else content.encode())
    (letter,) = dead_letters(folder, f"b{name}")
    assert reason in letter["reason"]
    assert f"nothing of it was taken: mend the file and move it back into {folder}" in letter["reason"]
    assert [p.name for p in sorted(folder.iterdir())] == ["ingested", "rejected"]
    assert ingest(warehouse, folder) == LabelIngestion(0, 0, 0, 0, 0)


def test_a_mended_file_is_taken_when_it_is_moved_back(warehouse, folder):
    land(folder, "l.csv", GOOD[:-4] + "\nc")
    assert ingest(warehouse, folder).files_rejected == 1
    (folder / "rejected" / "l.csv").write_text(GOOD)
    os.rename(folder / "rejected" / "l.csv", folder / "l.csv")
    assert ingest(warehouse, folder).rows_added == 2


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("ocurred_at", "occurred_at"),
        ("occured_at", "occurred_at"),
        ("Occurred_At", "occurred_at"),
        ("occurred", "occurred_at"),
        ("occurred on", "occurred_at"),
        ("recorded", "recorded_at"),
        ("sorce", "source"),
        ("predictionid", "prediction_id"),
    ],
)
def test_a_misspelt_column_is_named_and_its_file_set_aside(warehouse, folder, given, meant):
    land(folder, "l.csv", f"entity_id,label,{given}\na,1,2021-01-01\n")
    assert ingest(warehouse, folder) == LabelIngestion(1, 0, 0, 0, 1)
    (letter,) = dead_letters(folder, "l.csv")
    assert f"column '{given}' looks like '{meant}'" in letter["reason"]


@pytest.mark.parametrize(
    "other", ["note", "prediction", "row_id", "reason", "branch", "amount", "entity_type"]
)
def test_other_columns_are_left_alone(warehouse, folder, other):
    land(folder, "l.csv", f"entity_id,label,occurred_at,recorded_at,{other}\na,1,2021-01-01,2021-01-02,1\n")
    assert ingest(warehouse, folder).rows_added == 1


@pytest.mark.parametrize("spoiled", ["entity_id", "prediction_id", "source"])
def test_a_nul_is_set_aside(warehouse, folder, spoiled):
    row = {"entity_id": "a", "prediction_id": "p", "source": "s", "label": 1}
    land(folder, "l.jsonl", json.dumps(row) + "\n" + json.dumps(row | {spoiled: "x\0y"}) + "\n")
    assert ingest(warehouse, folder) == LabelIngestion(1, 2, 1, 1, 0)
    (letter,) = dead_letters(folder, "l.jsonl")
    assert (letter["row_id"], letter["reason"]) == (2, "an id or the source holds a NUL character")


def test_a_note_never_replaces_a_file_that_has_its_name(warehouse, folder):
    land(folder, "l.csv.jsonl", "no json")
    ingest(warehouse, folder)
    land(folder, "l.csv", "entity_id,label\na,x\n")
    ingest(warehouse, folder)
    assert (folder / "rejected" / "l.csv.jsonl").read_text() == "no json"
    assert dead_letters(folder, "l-2.csv")[0]["reason"] == "label must be 0 or 1"
