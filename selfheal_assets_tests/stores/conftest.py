"""A use case and a warehouse of its own for each test, and processes that may be killed."""

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from selfheal_assets.settings import Settings
from selfheal_assets.stores.tables import create_tables
from selfheal_assets.stores.warehouse import Warehouse
from selfheal_assets.use_case import UseCase
from selfheal_assets_tests.toy import PROJECT

YAML = """
name: gym
title: Members who leave
source: {reader: table, paths: [members.csv]}
entity_id: member
event_time: joined_on
go_live: 2021-01-01
features:
  - {name: fee, type: number}
  - {name: visits, type: integer, nullable: true}
  - {name: plan, type: category, nullable: true}
label: {name: left, positive_at: left_on, horizon_months: 6}
reference: {start: 2020-01-01, end: 2020-07-01}
"""
DAY = datetime(2020, 1, 1)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    (tmp_path / "gym.yaml").write_text(YAML)
    return Settings(use_case=str(tmp_path / "gym.yaml"), home=tmp_path / "home", project=tmp_path)


@pytest.fixture
def case(settings: Settings) -> UseCase:
    return settings.case


@pytest.fixture
def warehouse(settings: Settings) -> Warehouse:
    """With its tables; whoever must wait for long has found a mistake."""
    warehouse = Warehouse(settings.warehouse_path, settings.published, timeout_s=30)
    create_tables(warehouse, settings.case)
    return warehouse


def members(count: int, first: int = 0) -> pl.DataFrame:
    """Cases, one a day from ``DAY`` on, with a gap in each nullable feature."""
    numbers = range(first, first + count)
    return pl.DataFrame(
        {
            "entity_id": [f"m{n}" for n in numbers],
            "event_time": [DAY + timedelta(days=n) for n in numbers],
            "fee": [n / 7 for n in numbers],
            "visits": pl.Series([None if n % 3 == 1 else n for n in numbers], dtype=pl.Int64),
            "plan": pl.Series([None if n % 5 == 2 else "family" for n in numbers], dtype=pl.String),
        }
    )


@contextmanager
def process(program: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """A Python process of its own, talked to by lines; killed at the end if it lives on."""
    command = [sys.executable, "-c", program, *map(str, arguments)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=PROJECT, stdin=pipe, stdout=pipe, text=True, bufsize=1) as running:
        try:
            yield running
        finally:
            running.kill()


def kill_after(running: subprocess.Popen[str], seconds: float) -> None:
    """SIGKILL for a process that has said it is ready."""
    assert running.stdout.readline() == "ready\n"
    time.sleep(seconds)
    running.kill()
    running.wait()


def lines_until_killed(running: subprocess.Popen[str], count: int) -> list[str]:
    """Everything that a process said before SIGKILL took it, which comes after ``count`` lines."""
    said = [running.stdout.readline() for _ in range(count)]
    assert all(said), "ended before it could be killed"
    running.kill()
    rest = running.stdout.read()
    assert running.wait() == -9
    whole = "".join(said) + rest
    return whole[: whole.rindex("\n")].split("\n")
