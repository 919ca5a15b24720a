"""A history simulated over the toy's cases, and lived through by the loop, both by their commands."""

import json

import polars as pl
import pytest
from typer.testing import CliRunner

from selfheal_assets.cli import app
from selfheal_assets_tests import toy
from selfheal_assets_tests.conftest import selfheal

pytestmark = pytest.mark.e2e


def run(*arguments: str) -> str:
    """What the command prints, in this process."""
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.mark.long
def test_a_simulated_history_is_one_that_the_loop_can_live_through(tmp_path):
    base, out = toy.make(tmp_path / "toy"), tmp_path / "simulated"
    given = ["--use-case", str(base), "--scenario", str(tmp_path / "late.yaml"), "--seed", "3"]
    (tmp_path / "late.yaml").write_text(
        "name: late\nmonths: 2\ncases_per_month: 300\nevents:\n"
        "  - {kind: missing_column, feature: '@category', start: 1, end: 2}\n"
        "  - {kind: reporting_delay, days: 10, start: 0}\n"
    )
    told, summed = (run("simulate", *given, "--out", str(out), *more) for more in ((), ("--json",)))
    assert "missing_column" in told and "·█\n" in told
    summary = json.loads(summed)
    assert summary["cases"] == 26 * 300 and [e["features"] for e in summary["events"]] == ["plan", ""]
    parsed = tmp_path / "toy" / "home" / "toy" / "dbt"
    home = tmp_path / "home"
    (home / summary["name"]).mkdir(parents=True)
    parsed.rename(home / summary["name"] / "dbt")
    lived = selfheal("replay", SELFHEAL_HOME=str(home), SELFHEAL_USE_CASE=summary["use_case"])
    assert lived.returncode == 0, lived.stderr
    health = pl.read_parquet(home / summary["name"] / "published" / "replay.parquet")
    truth = pl.read_parquet(out / "truth.parquet").filter(pl.col("event_time") >= pl.datetime(2016, 1, 1))
    assert health["rows"].sum() == truth.height
    assert health["observed"].sum() == truth["true_label"].sum()


def test_the_scenarios_are_listed_and_a_folder_is_asked_for():
    listed = json.loads(run("simulate", "--list", "--json"))
    assert {"unchanged", "mixed"} <= {s["name"] for s in listed}
    asked = selfheal("simulate", "--scenario", "unchanged")
    assert asked.returncode == 2 and "--list" in asked.stderr


def test_a_scenario_that_the_options_break_is_one_message(tmp_path):
    result = selfheal("simulate", "--scenario", "mixed", "--months", "9", "--out", str(tmp_path / "out"))
    assert result.returncode == 2 and "Traceback" not in result.stderr
    assert "scenario 'mixed' with --months 9: events.2.start: month 9 is after the traffic" in result.stderr
    assert not (tmp_path / "out").exists()
