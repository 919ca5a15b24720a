"""The decisions ledger: append-only rows, each chained by hash to the one before."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl

from selfheal_assets.core.decision import Action, Decision, chain_hash
from selfheal_assets.stores.warehouse import Warehouse, one

GENESIS = "0" * 16
PUBLISHED = "decisions"


def record(warehouse: Warehouse, decision: Decision) -> int:
    """Append a decision and publish the ledger; returns its number."""
    now = datetime.now(UTC).replace(tzinfo=None)
    whole = decision.payload() | {"recorded_at": now.isoformat()}
    payload = json.loads(json.dumps(whole, default=str))
    with warehouse.write() as connection:
        last = one(connection, "select id, hash from decisions order by id desc limit 1")
        number, previous = (last[0] + 1, last[1]) if last else (1, GENESIS)
        connection.execute(
            "insert into decisions values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [
                number,
                now,
                decision.as_of,
                decision.action.value,
                decision.champion,
                decision.challenger,
                decision.reason,
                _text(payload),
                previous,
                chain_hash(previous, payload),
            ],
        )
    warehouse.publish(PUBLISHED, history(warehouse))
    return number


def catch_up(warehouse: Warehouse) -> bool:
    """Publish the ledger where its snapshot is behind; returns whether it was.

    A process that dies between a decision's commit and its publishing leaves the snapshot one decision short,
    perhaps until the next decision years later. Whoever opens the warehouse for a run calls this first.
    """
    last = warehouse.query("select hash from decisions order by id desc limit 1")["hash"].to_list()
    if last == _last_published(warehouse.published / f"{PUBLISHED}.parquet"):
        return False
    warehouse.publish(PUBLISHED, history(warehouse))
    return True


def _last_published(path: Path) -> list[str] | None:
    """The newest published decision's hash, in a list that is empty where there is none; ``None`` if unreadable."""
    if not path.exists():
        return []
    try:
        return pl.read_parquet(path, columns=["hash"])["hash"].tail(1).to_list()
    except pl.exceptions.PolarsError:
        return None


def history(warehouse: Warehouse) -> pl.DataFrame:
    """All decisions, oldest first, without their payloads."""
    return warehouse.query("select * exclude (payload) from decisions order by id")


def recorded(warehouse: Warehouse, until: datetime | None = None) -> list[dict[str, Any]]:
    """All decisions whose own time is not after ``until``, oldest first, with their payloads parsed."""
    rows = warehouse.query(
        "select * from decisions where as_of <= coalesce(cast(? as timestamp), as_of) order by id", [until]
    ).to_dicts()
    return [row | {"payload": json.loads(row["payload"])} for row in rows]


def latest(warehouse: Warehouse) -> dict[str, Any] | None:
    """The newest decision with its payload parsed, or ``None``."""
    rows = warehouse.query("select * from decisions order by id desc limit 1").to_dicts()
    return rows[0] | {"payload": json.loads(rows[0]["payload"])} if rows else None


def last_promotion(warehouse: Warehouse, before: datetime) -> datetime | None:
    """When a challenger was last promoted, as of the decision's own time; ``None`` if never."""
    found = warehouse.query(
        "select max(as_of) as at from decisions where action = ? and as_of <= ?",
        [Action.promote.value, before],
    )
    return found["at"][0]


def broken_links(warehouse: Warehouse) -> list[int]:
    """Numbers of the decisions that are not as they were recorded: number, contents, or link to the row before.

    Rows cut off at the end leave no trace here: compare the last hash with one that was written down elsewhere.
    """
    rows = warehouse.query("select * from decisions order by id")
    broken, expected = [], GENESIS
    for number, row in enumerate(rows.iter_rows(named=True), 1):
        if row["id"] != number or row["previous_hash"] != expected or not _is_intact(row):
            broken.append(row["id"])
        expected = row["hash"]
    return broken


def _is_intact(row: dict[str, Any]) -> bool:
    """Whether the hash follows from the payload, and the columns, which the hash does not cover, repeat it."""
    try:
        payload = json.loads(row["payload"])
    except ValueError:
        return False
    if row["hash"] != chain_hash(row["previous_hash"], payload):
        return False
    shown = {name: row[name] for name in ("action", "champion", "challenger", "reason")}
    shown |= {name: row[name].isoformat() for name in ("as_of", "recorded_at") if name in payload}
    return row["payload"] == _text(payload) and shown == {name: payload[name] for name in shown}


def _text(payload: dict[str, Any]) -> str:
    return json.dumps(payload, sort_keys=True)
