"""The decisions ledger: append-only rows, each chained by hash to the one before."""

import json
from datetime import UTC, datetime
from typing import Any

import polars as pl

from selfheal_assets.core.decision import Action, Decision, chain_hash
from selfheal_assets.stores.warehouse import Warehouse, one

GENESIS = "0" * 16


def record(warehouse: Warehouse, decision: Decision) -> int:
    """Append a decision and publish the ledger; returns its number."""
    payload = json.loads(json.dumps(decision.payload(), default=str))
    with warehouse.write() as connection:
        last = one(connection, "select id, hash from decisions order by id desc limit 1")
        number, previous = (last[0] + 1, last[1]) if last else (1, GENESIS)
        connection.execute(
            "insert into decisions values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [
                number,
                datetime.now(UTC).replace(tzinfo=None),
                decision.as_of,
                decision.action.value,
                decision.champion,
                decision.challenger,
                decision.reason,
                json.dumps(payload, sort_keys=True),
                previous,
                chain_hash(previous, payload),
            ],
        )
    warehouse.publish("decisions", history(warehouse))
    return number


def history(warehouse: Warehouse) -> pl.DataFrame:
    """All decisions, oldest first, without their payloads."""
    return warehouse.query("select * exclude (payload) from decisions order by id")


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
    """Numbers of the decisions whose hash does not follow from their contents and the row before."""
    rows = warehouse.query("select id, payload, previous_hash, hash from decisions order by id")
    broken, expected = [], GENESIS
    for row in rows.iter_rows(named=True):
        whole = chain_hash(row["previous_hash"], json.loads(row["payload"]))
        if row["previous_hash"] != expected or row["hash"] != whole:
            broken.append(row["id"])
        expected = row["hash"]
    return broken
