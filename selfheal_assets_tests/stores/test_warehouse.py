"""The warehouse: one writer at a time, transactions that a kill cannot tear, snapshots that are never half."""

import time
from contextlib import nullcontext
from datetime import datetime
from pathlib import Path

import duckdb
import polars as pl
import pytest
import yaml
from polars.testing import assert_frame_equal

from selfheal_assets.stores.snapshots import read_rows
from selfheal_assets.stores.warehouse import Warehouse, WarehouseBusy, WarehouseDamaged
from selfheal_assets_tests.stores.conftest import lines_until_killed, process

pytestmark = pytest.mark.integration

OPEN = """
import sys, time
from pathlib import Path
import polars as pl
from selfheal_assets.stores.warehouse import Warehouse
warehouse = Warehouse(Path(sys.argv[1]), Path(sys.argv[2]))
"""
# Changes the only row, and stays in the transaction for as long as told.
HOLD = (
    OPEN
    + """
with warehouse.write() as connection:
    connection.execute("update t set a = 2")
    connection.execute("insert into t select 3 from range(300000)")
    print("holding", flush=True)
    time.sleep(float(sys.argv[3]))
"""
)
# Replaces everything again and again; says which generation is committed.
REPLACE = (
    OPEN
    + """
for generation in range(1, 100000):
    warehouse.replace("t", pl.DataFrame({"a": [generation] * 20000}))
    print(generation, flush=True)
"""
)
PUBLISH = (
    OPEN
    + """
for generation in range(1, 100000):
    warehouse.publish("t", pl.DataFrame({"a": [generation] * (100 + generation % 2 * 5000)}))
    print(generation, flush=True)
"""
)
LOOK_INSIDE = """
import sys, time, duckdb
looking = duckdb.connect(sys.argv[1], read_only=True)
print("looking", flush=True)
time.sleep(float(sys.argv[2]))
"""


@pytest.fixture
def one(tmp_path) -> Warehouse:
    """A warehouse that holds one row."""
    warehouse = Warehouse(tmp_path / "warehouse.duckdb", tmp_path / "published", timeout_s=30)
    warehouse.replace("t", pl.DataFrame({"a": [1]}))
    return warehouse


def rows(warehouse: Warehouse, table: str = "t") -> list:
    return warehouse.query(f"select * from {table} order by all").rows()


def impatient(warehouse: Warehouse) -> Warehouse:
    """The same warehouse, as another process sees it that does not wait."""
    return Warehouse(warehouse.path, warehouse.published, timeout_s=0.2)


def test_a_second_process_waits_and_sees_what_the_first_has_written(one):
    with process(HOLD, one.path, one.published, 0.7) as holder:
        assert holder.stdout.readline() == "holding\n"
        started = time.monotonic()
        assert one.query("select count(*) as n, min(a) as a from t").rows() == [(300001, 2)]
        assert time.monotonic() - started > 0.5
        assert holder.wait() == 0


def test_who_waits_too_long_is_told_what_to_do(one):
    with process(HOLD, one.path, one.published, 60) as holder:
        holder.stdout.readline()
        with pytest.raises(WarehouseBusy) as caught:
            impatient(one).query("select 1")
    assert isinstance(caught.value, TimeoutError)
    for expected in (str(one.path), "0.2 s", "wait for the other run", "SELFHEAL_LOCK_TIMEOUT_S"):
        assert expected in str(caught.value)


def test_a_killed_holder_leaves_the_old_rows_and_is_not_waited_for(one):
    with process(HOLD, one.path, one.published, 60) as holder:
        lines_until_killed(holder, 1)
        started = time.monotonic()
        assert rows(impatient(one)) == [(1,)]
        assert time.monotonic() - started < 2


def test_a_kill_at_any_moment_leaves_one_whole_generation(one):
    for already in (1, 2, 7):
        with process(REPLACE, one.path, one.published) as writer:
            acknowledged = int(lines_until_killed(writer, already)[-1])
        ((generation, count),) = one.query("select a, count(*) from t group by a").rows()
        assert count == 20000
        assert acknowledged <= generation <= acknowledged + 1


def test_a_program_that_looks_into_the_file_is_waited_for_too(one):
    with process(LOOK_INSIDE, one.path, 0.7) as reader:
        assert reader.stdout.readline() == "looking\n"
        one.replace("t", pl.DataFrame({"a": [2]}))
        assert rows(one) == [(2,)]
    with process(LOOK_INSIDE, one.path, 60) as reader:
        reader.stdout.readline()
        with pytest.raises(WarehouseBusy, match=r"open in another program for more than 0\.2 s: close it"):
            impatient(one).query("select 1")
    assert rows(impatient(one)) == [(2,)]


def test_a_file_that_is_no_database_is_not_waited_for(tmp_path):
    (tmp_path / "warehouse.duckdb").write_bytes(b"not a database" * 1000)
    started = time.monotonic()
    with pytest.raises(WarehouseDamaged, match=r"warehouse\.duckdb"):
        Warehouse(tmp_path / "warehouse.duckdb", tmp_path).query("select 1")
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_exception_rolls_back_and_gives_the_lock_back(one, error):
    with pytest.raises(error), one.write() as connection:
        connection.execute("delete from t")
        connection.execute("create table made as select 1")
        raise error
    assert rows(impatient(one)) == [(1,)]
    assert not one.has("made")


def test_a_failing_statement_rolls_back_what_went_before_it(one):
    with pytest.raises(duckdb.Error), one.write() as connection:
        connection.execute("insert into t values (2)")
        connection.execute("insert into t values ('many')")
    assert rows(one) == [(1,)]


def test_a_partition_is_replaced_and_no_other(one):
    def part(chunk: str, check: str, values: list[int]) -> pl.DataFrame:
        return pl.DataFrame({"chunk": [chunk] * len(values), "check": [check] * len(values), "v": values})

    for chunk in ("a", "b"):
        for check in ("x", "y"):
            one.replace("p", part(chunk, check, [1, 2]), {"chunk": chunk, "check": check})
    assert len(rows(one, "p")) == 8
    one.replace("p", part("a", "x", [7]), {"chunk": "a", "check": "x"})
    one.replace("p", part("b", "y", []), {"chunk": "b", "check": "y"})
    assert rows(one, "p") == [
        ("a", "x", 7), ("a", "y", 1), ("a", "y", 2), ("b", "x", 1), ("b", "x", 2),
    ]  # fmt: skip
    one.replace("p", part("a", "z", [5]), {"chunk": "a"})
    assert rows(one, "p") == [("a", "z", 5), ("b", "x", 1), ("b", "x", 2)]
    one.replace("p", part("c", "z", [6]))
    assert rows(one, "p") == [("c", "z", 6)]


def test_columns_go_by_name_and_partitions_by_time(one):
    first, second = datetime(2007, 1, 1), datetime(2007, 4, 1)
    one.replace("p", pl.DataFrame({"chunk": [first, second], "v": [1.5, 2.5], "text": ["a", None]}))
    one.replace("p", pl.DataFrame({"text": ["b"], "v": [3.5], "chunk": [second]}), {"chunk": second})
    assert rows(one, "p") == [(first, 1.5, "a"), (second, 3.5, "b")]


@pytest.mark.parametrize(
    "frame",
    [
        pl.DataFrame({"a": ["many"]}),  # does not fit the column
        pl.DataFrame({"b": [2]}),  # has no column
        pl.DataFrame({"a": [2, None]}),  # fails in its second row
    ],
)
def test_a_replacement_that_cannot_be_inserted_keeps_the_old_rows(one, frame):
    with one.write() as connection:
        connection.execute("alter table t alter a set not null")
    with pytest.raises(duckdb.Error):
        one.replace("t", frame)
    assert rows(one) == [(1,)]
    one.replace("t", pl.DataFrame({"a": [2]}))
    assert rows(one) == [(2,)]


def test_kept_open_lets_nobody_in_between_and_keeps_the_connection(one):
    with one.kept_open():
        with one.write() as first:
            first.execute("insert into t values (2)")
        with pytest.raises(WarehouseBusy):
            impatient(one).query("select 1")
        with one.write() as second:
            assert second is first
        with pytest.raises(ValueError, match="stop"), one.write() as third:
            third.execute("delete from t")
            raise ValueError("stop")
        assert rows(one) == [(1,), (2,)]
    assert rows(impatient(one)) == [(1,), (2,)]
    with one.write() as later:
        assert later is not first


def test_kept_open_lets_others_in_after_an_exception(one):
    with pytest.raises(ValueError, match="stop"), one.kept_open():
        one.replace("t", pl.DataFrame({"a": [2]}))
        raise ValueError("stop")
    assert rows(impatient(one)) == [(2,)]


def test_locked_closes_the_file_but_keeps_others_out(one):
    with one.kept_open():
        one.replace("t", pl.DataFrame({"a": [2]}))
        with (
            one.locked()
        ):  # as dbt opens it: with a configuration of its own, which DuckDB refuses beside ours
            with duckdb.connect(str(one.path), config={"threads": 1}) as dbt:
                dbt.execute("insert into t values (3)")
            with pytest.raises(WarehouseBusy):
                impatient(one).query("select 1")
        assert rows(one) == [(2,), (3,)]
        with pytest.raises(WarehouseBusy):
            impatient(one).query("select 1")


@pytest.mark.parametrize("kept", [True, False])
def test_shared_lets_other_code_of_this_process_open_the_file_and_nobody_else(one, kept):
    profiles = Path(__file__).parents[2] / "dbt_project" / "profiles.yml"
    options = yaml.safe_load(profiles.read_text())["selfheal"]["outputs"]["warehouse"]["config_options"]
    with one.kept_open() if kept else nullcontext():
        one.replace("t", pl.DataFrame({"a": [2]}))
        with one.write() as before:
            pass
        with one.shared():
            with duckdb.connect(str(one.path), config=options) as dbt:
                dbt.execute("insert into t values (3)")
            with pytest.raises(WarehouseBusy):
                impatient(one).query("select 1")
        assert rows(one) == [(2,), (3,)]
        with one.write() as after:
            assert (after is before) == kept == one.is_kept


def test_asking_for_a_table_makes_no_file(tmp_path):
    warehouse = Warehouse(tmp_path / "deep" / "warehouse.duckdb", tmp_path / "published")
    assert not warehouse.has("t")
    assert not warehouse.path.exists()
    warehouse.replace("t", pl.DataFrame({"a": [1]}))
    assert warehouse.has("t") and not warehouse.has("u")


def test_queries_take_parameters(one):
    one.replace("u", pl.DataFrame({"a": [1, 2, 3], "b": ["x", "it's", None]}))
    assert one.query("select a from u where b = ? or a > ?", ["it's", 2])["a"].to_list() == [2, 3]
    assert one.query("select a from t where false").schema == {"a": pl.Int64}


def test_a_snapshot_is_read_whole_while_it_is_replaced(one):
    one.publish("t", pl.DataFrame({"a": [0] * 100}))
    with process(PUBLISH, one.path, one.published) as publisher:
        publisher.stdout.readline()
        seen, until = [], time.monotonic() + 1
        while time.monotonic() < until:
            seen.append(generation_of(read_rows(one.published, "t", 10_000)))
        acknowledged = int(lines_until_killed(publisher, 1)[-1])
    assert seen == sorted(seen) and len(set(seen)) > 20
    left = generation_of(read_rows(one.published, "t", 10_000))
    assert acknowledged <= left <= acknowledged + 1, "a killed publisher leaves a whole snapshot"


def generation_of(snapshot: list[dict]) -> int:
    (generation,) = {row["a"] for row in snapshot}
    assert len(snapshot) == 100 + generation % 2 * 5000
    return generation


def test_snapshots_need_no_lock_and_leave_no_other_file(one):
    with process(HOLD, one.path, one.published, 60) as holder:
        holder.stdout.readline()
        frame = pl.DataFrame({"a": [1, None], "at": [datetime(2007, 1, 1)] * 2})
        for shown in (frame, frame.head(1), frame):
            target = impatient(one).publish("t", shown)
            assert_frame_equal(pl.read_parquet(target), shown)
    assert list(one.published.iterdir()) == [target] == [one.published / "t.parquet"]


def test_a_table_of_an_earlier_version_takes_new_columns(tmp_path):
    warehouse = Warehouse(tmp_path / "w.duckdb", tmp_path)
    warehouse.replace("figures", pl.DataFrame({"chunk": [1, 2], "value": [0.1, 0.2]}))
    more = pl.DataFrame({"chunk": [2], "value": [0.3], "unit": ["share"], "rows": [7]})
    warehouse.replace("figures", more, {"chunk": 2})
    found = warehouse.query("select * from figures order by chunk")
    assert found.rows() == [(1, 0.1, None, None), (2, 0.3, "share", 7)]
    assert found.schema["rows"] == pl.Int64
    warehouse.replace("figures", more.drop("rows"), {"chunk": 2})
    assert warehouse.query("select rows from figures where chunk = 2").item() is None
