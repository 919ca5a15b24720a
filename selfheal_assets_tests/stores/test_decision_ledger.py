"""The decisions ledger: each decision once, in order, and no change of any of them goes unnoticed."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import polars as pl
import pytest

from selfheal_assets.core.decision import Action, Decision, chain_hash
from selfheal_assets.core.gate_evidence import Verdict
from selfheal_assets.stores import decision_ledger
from selfheal_assets.stores.decision_ledger import broken_links, history, last_promotion, latest, record
from selfheal_assets_tests.stores.conftest import lines_until_killed, process

pytestmark = pytest.mark.integration

PROMOTED = Decision(
    action=Action.promote,
    as_of=datetime(2007, 4, 1),
    reason="improvement: AUC 0.70 → 0.74",
    champion=3,
    challenger=4,
    evidence={
        "gates": [{"gate": "improvement", "verdict": Verdict.passed, "value": 1e-05, "limit": None}],
        "seen": datetime(2007, 3, 31),
    },
    fingerprints={"challenger": "abc", "champion": "def"},
)
FIRST = replace(PROMOTED, as_of=datetime(2007, 1, 1), champion=None, challenger=3)
REJECTED = replace(PROMOTED, action=Action.reject, as_of=datetime(2007, 7, 1), champion=4, challenger=5)

RECORDER = """
import sys
from pathlib import Path
from selfheal_assets.stores.decision_ledger import record
from selfheal_assets.stores.warehouse import Warehouse
from selfheal_assets_tests.stores.test_decision_ledger import PROMOTED
warehouse = Warehouse(Path(sys.argv[1]), Path(sys.argv[2]))
for _ in range(int(sys.argv[3])):
    print(record(warehouse, PROMOTED), flush=True)
"""

KILLED_BEFORE_PUBLISHING = """
import os, signal, sys
from pathlib import Path
from selfheal_assets.stores.decision_ledger import record
from selfheal_assets.stores.warehouse import Warehouse
from selfheal_assets_tests.stores.test_decision_ledger import PROMOTED
class Dying(Warehouse):
    def publish(self, name, frame):
        os.kill(os.getpid(), signal.SIGKILL)
record(Dying(Path(sys.argv[1]), Path(sys.argv[2])), PROMOTED)
"""


@pytest.fixture
def ledger(warehouse):
    """Three decisions."""
    assert [record(warehouse, d) for d in (FIRST, PROMOTED, REJECTED)] == [1, 2, 3]
    return warehouse


def change(warehouse, statement: str) -> None:
    with warehouse.write() as connection:
        connection.execute(statement)


def test_before_the_first_decision_there_is_none(warehouse):
    assert latest(warehouse) is None
    assert last_promotion(warehouse, datetime(2100, 1, 1)) is None
    assert history(warehouse).is_empty()
    assert broken_links(warehouse) == []
    assert not warehouse.published.exists()


def test_decisions_are_kept_whole_and_in_order(ledger):
    before = datetime.now(UTC).replace(tzinfo=None)
    rows = history(ledger)
    columns = ("id", "action", "as_of", "champion", "challenger", "reason")
    assert rows.select(columns).rows() == [
        (n, d.action, d.as_of, d.champion, d.challenger, d.reason)
        for n, d in enumerate((FIRST, PROMOTED, REJECTED), 1)
    ]
    assert (
        rows["recorded_at"].is_sorted() and before - timedelta(minutes=5) < rows["recorded_at"][0] <= before
    )

    payload = latest(ledger)["payload"]
    assert latest(ledger)["id"] == 3
    assert payload["evidence"] == {
        "gates": [{"gate": "improvement", "verdict": "PASS", "value": 1e-05, "limit": None}],
        "seen": "2007-03-31 00:00:00",
    }
    assert payload["fingerprints"] == REJECTED.fingerprints


def test_each_decision_is_chained_to_the_one_before(ledger):
    rows = history(ledger)
    assert rows["previous_hash"].to_list() == [decision_ledger.GENESIS, *rows["hash"][:2]]
    assert rows["hash"].n_unique() == 3
    assert broken_links(ledger) == []


def test_the_published_snapshot_is_the_ledger(ledger):
    snapshot = pl.read_parquet(ledger.published / "decisions.parquet")
    assert snapshot.equals(history(ledger))
    assert snapshot.height == 3 and "payload" not in snapshot.columns


def test_a_decision_that_was_committed_and_not_published_is_published_by_the_next_run(ledger, settings):
    from selfheal_assets.defs.resources import Stores

    with process(KILLED_BEFORE_PUBLISHING, ledger.path, ledger.published) as running:
        assert running.wait() == -9
    snapshot = ledger.published / "decisions.parquet"
    assert history(ledger).height == 4
    assert pl.read_parquet(snapshot).height == 3, "killed in between"
    _ = Stores(settings).warehouse
    assert pl.read_parquet(snapshot).equals(history(ledger))
    assert decision_ledger.catch_up(ledger) is False, "nothing is left to do"
    for damage in (snapshot.unlink, lambda: snapshot.write_bytes(b"PAR1")):
        damage()
        assert decision_ledger.catch_up(ledger) is True
        assert pl.read_parquet(snapshot).equals(history(ledger))


def test_only_promotions_count_by_their_own_time(ledger):
    record(ledger, replace(REJECTED, action=Action.roll_back, as_of=datetime(2007, 10, 1)))
    record(
        ledger, replace(PROMOTED, as_of=datetime(2007, 2, 1))
    )  # recorded later, but decided about an earlier day
    asked = [datetime(2006, 12, 31), FIRST.as_of, datetime(2007, 3, 1), PROMOTED.as_of, datetime(2008, 1, 1)]
    assert [last_promotion(ledger, at) for at in asked] == [
        None, FIRST.as_of, datetime(2007, 2, 1), PROMOTED.as_of, PROMOTED.as_of,
    ]  # fmt: skip


# --- Tampering --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "broken"),
    [
        ("action = 'REJECT'", [2]),
        ("action = 'PROMOTe'", [2]),
        ("as_of = as_of + interval 1 microsecond", [2]),
        ("recorded_at = recorded_at - interval 1 day", [2]),
        ("champion = 4", [2]),
        ("champion = null", [2]),
        ("challenger = 5", [2]),
        ("reason = reason || ' '", [2]),
        ("payload = replace(payload, '0.74', '0.75')", [2]),
        ("payload = replace(payload, 'PASS', 'FAIL')", [2]),
        ("payload = payload || ' '", [2]),
        ("payload = 'gone'", [2]),
        ("payload = '{}'", [2]),
        ("reason = 'luck', payload = replace(payload, reason, 'luck')", [2]),
        ("previous_hash = reverse(previous_hash)", [2]),
        ("hash = reverse(hash)", [2, 3]),
        ("id = 4", [3, 4]),
    ],
)
def test_a_changed_column_is_found(ledger, changed, broken):
    change(ledger, f"update decisions set {changed} where id = 2")
    assert broken_links(ledger) == broken


@pytest.mark.parametrize(
    ("statement", "broken"),
    [
        ("delete from decisions where id = 1", [2, 3]),
        ("delete from decisions where id = 2", [3]),
        ("update decisions set id = id + 1 where id = 3", [4]),
        (
            "insert into decisions select id + 1, * exclude (id) from decisions where id = 3",
            [4],
        ),
        (
            "create temp table kept as select * from decisions; delete from decisions; "
            "insert into decisions select 4 - id, * exclude (id) from kept",
            [1, 2, 3],
        ),
    ],
    ids=["first removed", "middle removed", "renumbered", "repeated", "reversed"],
)
def test_a_removed_repeated_or_moved_decision_is_found(ledger, statement, broken):
    change(ledger, statement)
    assert broken_links(ledger) == broken


def test_a_change_of_any_byte_of_the_payload_is_found(ledger):
    payload = ledger.query("select payload from decisions where id = 2")["payload"][0]
    with ledger.kept_open():
        for at in range(len(payload)):
            changed = payload[:at] + chr(ord(payload[at]) ^ 1) + payload[at + 1 :]
            with ledger.write() as connection:
                connection.execute("update decisions set payload = ? where id = 2", [changed])
            assert broken_links(ledger) == [2], f"{payload[at]!r} at {at}"
        with ledger.write() as connection:
            connection.execute("update decisions set payload = ? where id = 2", [payload])
        assert broken_links(ledger) == []


def test_decisions_recorded_before_their_time_was_hashed_hold(warehouse):
    payload = json.loads(json.dumps(FIRST.payload(), default=str))
    row = [1, datetime(2024, 1, 1), FIRST.as_of, FIRST.action.value, None, 3, FIRST.reason]
    row += [
        json.dumps(payload, sort_keys=True),
        decision_ledger.GENESIS,
        chain_hash(decision_ledger.GENESIS, payload),
    ]
    with warehouse.write() as connection:
        connection.execute("insert into decisions values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", row)
    assert record(warehouse, PROMOTED) == 2
    assert broken_links(warehouse) == []


# --- Processes --------------------------------------------------------------------------------


def test_processes_that_record_at_once_make_one_chain(warehouse):
    where = (warehouse.path, warehouse.published, 5)
    with process(RECORDER, *where) as one, process(RECORDER, *where) as other:
        numbers = [int(line) for recorder in (one, other) for line in recorder.stdout]
    assert sorted(numbers) == list(range(1, 11))
    assert broken_links(warehouse) == []
    assert pl.read_parquet(warehouse.published / "decisions.parquet").height == 10


def test_a_kill_at_any_moment_leaves_a_whole_chain(warehouse):
    with process(RECORDER, warehouse.path, warehouse.published, 1000) as recorder:
        acknowledged = lines_until_killed(recorder, 5)
    decided = history(warehouse).height
    assert len(acknowledged) <= decided <= len(acknowledged) + 1
    assert broken_links(warehouse) == []
    assert record(warehouse, REJECTED) == decided + 1
    assert broken_links(warehouse) == []
    snapshot = pl.read_parquet(warehouse.published / "decisions.parquet")
    assert snapshot["id"].to_list() == list(range(1, decided + 2)), (
        "the next decision publishes what a kill kept back"
    )
