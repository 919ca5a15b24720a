"""The command as a user runs it: in a process of its own."""

import json
import re
import socket
from datetime import datetime, timedelta

import pytest
from typer.testing import CliRunner

from selfheal_assets.cli import _forget, app
from selfheal_assets.defs.resources import Stores
from selfheal_assets.stores import decision_ledger
from selfheal_assets_tests import toy
from selfheal_assets_tests.conftest import Lived, selfheal

pytestmark = pytest.mark.integration

OPTIONS = {
    (): {
        "replay",
        "serve",
        "score",
        "dev",
        "data",
        "keys",
        "decisions",
        "audit",
        "asof",
        "rollback",
        "pending",
        "approve",
        "card",
        "simulate",
        "status",
        "notify",
    },
    ("status",): {"--json"},
    ("card",): {"VERSION", "--output"},
    ("notify",): {"--test"},
    ("rollback",): {"--to", "--reason", "--quarantine-rows", "--yes", "--json"},
    ("pending",): {"--json"},
    ("approve",): {"ID", "--by", "--json"},
    ("decisions",): {"show", "--json"},
    ("decisions", "show"): {"ID", "--json"},
    ("audit", "verify"): {"--last", "--json"},
    ("asof",): {"DATE", "--json"},
    ("replay",): {"--fresh", "--full", "--until"},
    ("simulate",): {
        "--out",
        "--use-case",
        "--scenario",
        "--seed",
        "--months",
        "--cases-per-month",
        "--list",
        "--json",
    },
    ("serve",): {"--host", "--port", "--workers", "--durability"},
    ("dev",): {"--port"},
    ("keys",): {"create", "revoke", "list"},
    ("keys", "create"): {"--name", "--expires-in"},
    ("keys", "revoke"): {"ID|NAME"},
    ("keys", "list"): {"--json"},
    ("data",): {"fetch", "sample"},
    ("data", "fetch"): {"USE_CASE", "sba_loans"},
    ("data", "sample"): {"USE_CASE", "sba_loans"},
}
SUMMARY = {
    "auc_healed", "auc_never_retrained", "auc_within_healed", "auc_within_never_retrained",
    "expected_over_observed_healed",
    "expected_over_observed_never_retrained", "promotions", "refusals", "seconds",
}  # fmt: skip


def is_one_message(result, *words: str) -> None:
    """Exit code 2, and stderr says these words to a user."""
    assert result.returncode == 2, result.stderr
    assert "Traceback" not in result.stderr + result.stdout
    for word in words:
        assert word in result.stderr


@pytest.mark.parametrize("command", OPTIONS, ids=lambda c: " ".join(c) or "selfheal")
def test_help_names_what_can_be_given(command):
    result = CliRunner().invoke(app, [*command, "--help"], env={"SELFHEAL_USE_CASE": "no_such_use_case"})
    assert result.exit_code == 0, f"help needs no use case: {result.output}"
    plain = re.sub(r"\x1b\[[0-9;]*m", "", result.stdout)
    assert {word for word in OPTIONS[command] if word.lower() not in plain.lower()} == set()


def test_help_in_a_process_of_its_own():
    result = selfheal("--help", SELFHEAL_USE_CASE="no_such_use_case")
    assert result.returncode == 0, result.stderr
    assert "replay" in result.stdout


def test_an_unknown_use_case_is_told_with_those_there_are(tmp_path):
    result = selfheal("replay", SELFHEAL_USE_CASE="no_such_use_case", SELFHEAL_HOME=str(tmp_path / "home"))
    is_one_message(result, "selfheal: no use case 'no_such_use_case'", "sba_loans", "SELFHEAL_USE_CASE")
    assert not (tmp_path / "home").exists()


def test_a_mistake_in_the_use_case_is_told_with_its_line(tmp_path):
    path = toy.make(tmp_path)
    path.write_text(path.read_text().replace("horizon_months: 6", "horizon_months: 0"))
    line = 1 + path.read_text().splitlines().index(
        next(text for text in path.read_text().splitlines() if "horizon_months" in text)
    )
    result = selfheal("replay", SELFHEAL_USE_CASE=str(path), SELFHEAL_HOME=str(tmp_path / "home"))
    is_one_message(result, f"{path}, line {line}: label.horizon_months:")


def test_a_missing_source_is_told_with_where_it_was_looked_for(tmp_path):
    path = toy.make(tmp_path)
    source = tmp_path / "toy.parquet"
    source.unlink()
    result = selfheal("replay", SELFHEAL_USE_CASE=str(path), SELFHEAL_HOME=str(tmp_path / "home"))
    is_one_message(result, "selfheal: use case 'toy': no source file; looked for", str(source))


@pytest.mark.parametrize("command", ["replay", "serve", "dev"])
@pytest.mark.parametrize("home", ["file", "under a file", "/proc"])
def test_a_home_that_cannot_be_written_to_is_told_in_one_line(tmp_path, command, home):
    path = toy.make(tmp_path)
    (tmp_path / "file").write_text("no folder")
    given = {"file": str(tmp_path / "file"), "under a file": str(tmp_path / "file" / "home")}.get(home, home)
    result = selfheal(command, SELFHEAL_USE_CASE=str(path), SELFHEAL_HOME=given)
    is_one_message(result, "selfheal: SELFHEAL_HOME: cannot write into", given)
    assert len(result.stderr.splitlines()) == 1
    assert (tmp_path / "file").read_text() == "no folder"


def test_a_dagster_home_that_cannot_be_written_to_is_told_in_one_line(tmp_path):
    path = toy.make(tmp_path)
    home = str(tmp_path / "home")
    result = selfheal("dev", SELFHEAL_USE_CASE=str(path), SELFHEAL_HOME=home, DAGSTER_HOME="/proc/dagster")
    is_one_message(result, "selfheal: DAGSTER_HOME: cannot write into /proc/dagster")


def test_a_variable_that_cannot_be_read_is_named():
    result = selfheal("replay", SELFHEAL_AS_OF="yesterday", MONITORING_INTERVAL="hour")
    is_one_message(result, "SELFHEAL_AS_OF=yesterday: ", "MONITORING_INTERVAL=hour: ")


@pytest.mark.parametrize("command", ["serve", "dev"])
def test_a_port_that_does_not_exist_is_refused(command: str):
    result = selfheal(command, "--port", "99999")
    is_one_message(result, "Invalid value for '--port'")


@pytest.mark.parametrize("workers", ["1", "2"])
def test_an_address_that_is_taken_is_told_before_anything_is_loaded(tmp_path, workers):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        result = selfheal("serve", "--port", port, "--workers", workers, SELFHEAL_HOME=str(tmp_path))
    is_one_message(result, f"cannot listen on 127.0.0.1, port {port}", "--port")
    assert len(result.stderr.strip().splitlines()) == 1


def test_only_the_loans_can_be_fetched():
    result = selfheal("data", "fetch", "titanic")
    is_one_message(result, "'titanic' cannot be fetched")


@pytest.mark.long
def test_a_use_case_that_changed_between_two_legs_is_told(tmp_path):
    path = toy.make(tmp_path)
    values = {"SELFHEAL_USE_CASE": str(path), "SELFHEAL_HOME": str(tmp_path / "home")}
    sound = path.read_text()

    def leg(until: str, *changes: tuple[str, str]):
        text = sound
        for old, new in changes:
            assert text.count(old) == 1, old
            text = text.replace(old, new)
        path.write_text(text)
        return selfheal("replay", "--until", until, **values)

    first = leg("2019-10-01")
    assert first.returncode == 0, first.stderr
    gates = ("min_rows: 150, min_positives", "min_rows: 160, min_positives")
    second = leg("2020-01-01", gates)
    assert second.returncode == 0, second.stderr
    said = "(policy.gates.min_rows: 150 → 160): this applies from here on, the 1 chunks lived through stay"
    assert said in second.stderr
    seconds = [json.loads(r.stdout.strip().splitlines()[-1])["seconds"] for r in (first, second)]
    alone = float(re.findall(r"\((\d+) s\)", second.stderr)[-1])
    assert seconds[1] > seconds[0] + alone / 2, "both legs count"

    is_one_message(leg("2020-01-01"), "policy.gates.min_rows: 160 → 150", "--fresh starts anew")
    is_one_message(
        leg("2020-04-01", gates, ("horizon_months: 6", "horizon_months: 5")),
        "label.horizon_months: 6 → 5",
        "what is replayed does not follow from it",
    )
    is_one_message(
        leg("2020-04-01", gates, ("  - {name: age, type: number, min: -10, max: 10}\n", "")),
        "features.age",
        "--fresh starts anew",
    )
    retitled = leg("2020-01-01", gates, ("title: Members", "title: Those"))
    assert retitled.returncode == 0, retitled.stderr
    assert "Those who leave" in (tmp_path / "home" / "toy" / "reports" / "replay.html").read_text()
    again = leg("2020-01-01", gates, ("title: Members", "title: Those"))
    assert again.stdout.startswith("Nothing is to be done")


def test_a_replay_ends_with_its_figures_in_one_line_of_json(lived: Lived):
    *table, last = lived.finished.stdout.strip().splitlines()
    summary = json.loads(last)
    assert set(summary) >= SUMMARY
    assert summary["promotions"] >= 1, "the relation turns over in mid-history"
    decided = decision_ledger.history(Stores(lived.settings).warehouse)["champion"].drop_nulls().len()
    assert summary["promotions"] + summary["refusals"] == decided, "the first champion is no promotion"
    assert summary["auc_never_retrained"] < 0.35, (
        "where distance means the opposite, the old model is upside down"
    )
    assert summary["auc_healed"] > 0.65
    assert 0.8 < summary["expected_over_observed_healed"] < 1.25
    assert summary["seconds"] > 0
    printed = "\n".join(table)
    for quarter in ("2019 Q3", "2020 Q4"):
        assert quarter in printed
    assert str(lived.settings.reports / "replay.html") in printed.replace("\n", "")
    assert (lived.settings.reports / "replay.html").stat().st_size > 10_000
    assert "Traceback" not in lived.finished.stderr


def test_progress_is_on_stderr_and_only_of_what_was_left(lived: Lived):
    assert "2020 Q4" in lived.finished.stderr
    assert "2019 Q3" not in lived.finished.stderr, "lived through before the kill"


def test_a_second_replay_says_that_nothing_is_to_be_done(lived: Lived):
    assert lived.again.returncode == 0, lived.again.stderr
    first, last = lived.again.stdout.strip().splitlines()
    assert first == f"Nothing is to be done: all {toy.CHUNKS} chunks are replayed. --fresh starts anew."
    assert json.loads(last) == json.loads(lived.finished.stdout.strip().splitlines()[-1])


# --- API keys ---------------------------------------------------------------------------------


def test_a_key_is_made_listed_and_revoked(tmp_path):
    home = {"SELFHEAL_HOME": str(tmp_path / "home")}
    made = selfheal("keys", "create", "--name", "crm", "--expires-in", "90d", **home)
    assert made.returncode == 0, made.stderr
    key = made.stdout.strip()
    assert re.fullmatch(r"shk_[0-9a-f]{8}_[\w-]{43}", key), "stdout is the key and nothing else"
    [listed] = json.loads(selfheal("keys", "list", "--json", **home).stdout)
    assert (listed["name"], listed["state"]) == ("crm", "valid")
    assert listed["id"] in key and listed["id"] in made.stderr
    created, expires = (datetime.fromisoformat(listed[name]) for name in ("created_at", "expires_at"))
    assert expires - created == timedelta(days=90)
    assert selfheal("keys", "revoke", "crm", **home).returncode == 0
    shown = selfheal("keys", "list", **home).stdout
    assert f"{listed['id']}  revoked" in shown
    everything = shown + "".join(p.read_text() for p in tmp_path.rglob("*") if p.is_file())
    assert key.split("_", 2)[2] not in everything


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["create", "--name", ""], ["no name of a key"]),
        (["create", "--name", "a", "--expires-in", "90"], ["'90'", "90d"]),
        (["create", "--name", "a", "--expires-in", "0d"], ["'0d'"]),
        (["create", "--name", "a", "--expires-in", "99999999d"], ["ten years"]),
        (["revoke", "nobody"], ["'nobody'", "none to revoke"]),
    ],
)
def test_a_mistake_about_keys_is_one_message(tmp_path, arguments, words):
    is_one_message(selfheal("keys", *arguments, SELFHEAL_HOME=str(tmp_path)), "selfheal: ", *words)
    assert list(tmp_path.rglob("api_keys.json")) == []


def test_a_damaged_file_of_keys_is_told(tmp_path):
    file = tmp_path / "keys.json"
    file.write_text("{")
    for arguments in (["list"], ["create", "--name", "a"], ["revoke", "a"]):
        result = selfheal("keys", *arguments, SELFHEAL_API_KEYS=str(file))
        is_one_message(result, "selfheal: the API keys in", str(file))
    assert file.read_text() == "{"


def test_a_wrong_setting_is_told_with_its_variable():
    is_one_message(selfheal("serve", SELFHEAL_RATE_LIMIT="often"), "SELFHEAL_RATE_LIMIT", "600/minute")
    is_one_message(selfheal("serve", LOG_LEVEL="loud"), "LOG_LEVEL", "'INFO'")


def test_a_fresh_replay_keeps_the_keys_and_nothing_else(tmp_path):
    settings = toy.settings(tmp_path)
    for name in ("warehouse.duckdb", "api_keys.json", "published/old.parquet"):
        (settings.root / name).parent.mkdir(parents=True, exist_ok=True)
        (settings.root / name).write_text("x")
    _forget(settings)
    assert [p.name for p in settings.root.rglob("*")] == ["api_keys.json"]
