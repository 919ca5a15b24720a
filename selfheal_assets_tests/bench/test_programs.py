"""The programs run, small, and what they count is what is there."""

import json
import subprocess
import sys

import pytest

from selfheal_assets_tests.bench.crash_log import Crashes

pytestmark = [pytest.mark.integration, pytest.mark.long]


def test_a_million_rows_in_small(tmp_path):
    command = [sys.executable, "-m", "selfheal_assets_tests.bench.ingest", "--rows", "30000", "--rounds", "1"]
    ran = subprocess.run([*command, "--folder", str(tmp_path)], capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr
    told = json.loads(ran.stdout.splitlines()[-1])
    assert told["wrong"] == [] and told["rows"] == 30000 and told["rows_per_second"] > 0
    assert 50 < told["peak_mb"] < 1000
    assert list(tmp_path.iterdir()) == [], "it removes what it wrote"


def test_estimates_are_held_against_labels():
    command = [sys.executable, "-m", "selfheal_assets_tests.bench.estimators", "--only", "car_loan"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=300)
    told = json.loads(ran.stdout.splitlines()[-1])
    assert (ran.returncode == 0) == (told["failed"] == []), ran.stderr
    for metric in ("roc_auc", "f1", "accuracy"):
        found = told["car_loan"][metric]
        better = min(found["mae_cbpe"], found["mae_weighted"])
        assert found["mae_chosen"] <= 1.05 * better < found["mae_constant"], metric
    assert told["untrusted"]["car_loan"]["untrusted"] > 0
    assert told["nannyml_difference"] is None


def test_early_harm_in_small():
    command = [sys.executable, "-m", "selfheal_assets_tests.bench.early_harm", "--histories", "1"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert ran.returncode == 0, ran.stderr
    told = json.loads(ran.stdout.splitlines()[-1])
    assert "2006-01-01" < told["alarm_partial"] < told["alarm_matured"]
    assert min(told["lead_months"], told["later_champion"]["lead_months"]) >= 12
    assert (told["unchanged_histories"], told["ever_false_alarm"]) == (1, 0)


def test_what_immature_cohorts_teach_in_one_year():
    command = [sys.executable, "-m", "selfheal_assets_tests.bench.maturity", "--no-full", "--year", "2003"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    told = json.loads(ran.stdout.splitlines()[-1])
    found = told["2003"]
    assert (told["years"], told["failed"], found["loans"]) == ([2003], [], 20694)
    assert (
        found["auc_stale"] < found["auc_matured"] + 0.02 < found["auc_maturity_aware"] < found["auc_oracle"]
    )
    assert found["brier_oracle"] < found["brier_maturity_aware"] < found["brier_matured"]
    aware, matured = (found[f"expected_over_observed_{m}"] for m in ("maturity_aware", "matured"))
    assert abs(aware - 1) < abs(matured - 1)


def test_gates_on_a_few_trials():
    command = [sys.executable, "-m", "selfheal_assets_tests.bench.gates", "--trials", "20"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    told = json.loads(ran.stdout.splitlines()[-1])
    for named in ("promoted_identical", "promoted_worse"):
        assert told[named] <= 0.25 and told[f"{named}_so_far"] <= 0.25, named
    # Gates that promote nobody would have no error either.
    assert told["power_plus_two"] >= 0.6 and told["power_plus_two_so_far"] >= 0.3


def test_alarms_on_a_few_short_histories():
    # Evidently is a peer that only the program itself installs: its own code is left out, its definitions are not.
    sizes = ["--histories", "3", "--changed", "2", "--chunks", "24", "--real", "0", "--small", "0"]
    command = [sys.executable, "-m", "selfheal_assets_tests.bench.alarms", *sizes]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr
    told = json.loads(ran.stdout.splitlines()[-1])
    assert told["histories"] == 3 and told["delay_drift_chunks"] <= 2 and told["delay_harm_chunks"] <= 12
    assert told["ever_false_alarm_nannyml"] == 1 and told["ever_false_alarm_drift"] < 1


def test_probations_in_small():
    sizes = ["--simulations", "5", "--bad", "4"]
    command = [sys.executable, "-m", "selfheal_assets_tests.bench.rollback", *sizes]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert ran.returncode == 0, ran.stderr
    told = json.loads(ran.stdout.splitlines()[-1])
    assert (told["false_rollbacks"], told["simulations"], told["bad_taken_back"]) == (0, 5, 4)
    assert told["plain_delay"] <= told["delay"] <= 730


def test_policies_in_one_small_world():
    sizes = [
        "--seeds",
        "1",
        "--unchanged",
        "1",
        "--months",
        "12",
        "--cases-per-month",
        "250",
        "--workers",
        "1",
    ]
    command = [sys.executable, "-m", "selfheal_assets_tests.bench.policy", *sizes, "--first-seed", "1000"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert ran.returncode == 0, ran.stderr
    told = json.loads(ran.stdout.splitlines()[-1])
    found = told["policies"]
    assert list(found) == ["never", "every 4 months", "on drift", "selfheal"]
    assert all(p["mean_regret"] > 0 and p["seeds"] == 1 for p in found.values())
    assert found["every 4 months"]["promotions"] > 0 == found["never"]["promotions"]
    assert found["selfheal"]["ever_false_alarm"] in (0, 1) and found["never"]["ever_false_alarm"] is None


def test_the_crash_test_counts_what_is_lost_doubled_and_changed(tmp_path):
    crashes = Crashes(tmp_path, connections=3, load_s=0.5, command_every=100, workers=1, seed=1)
    counted = crashes.run(rounds=3, lanes=1)
    assert (counted["forked"], counted["command"]) == (3, 0)
    assert counted["acknowledged"] > 3 and counted["ingestions"] >= 2
    assert counted["lost"] == counted["duplicated"] == counted["corrupted"] == 0

    first, second, third, fourth, *_ = sorted(crashes.count.said)
    with crashes.warehouse.write() as connection:
        connection.execute("delete from prediction_log where prediction_id = ?", [first])
        connection.execute("update prediction_log set amount = amount + 1 where prediction_id = ?", [second])
        connection.execute(
            "update prediction_log set probability = probability / 2 where prediction_id = ?", [third]
        )
        connection.execute(
            "insert into prediction_log select * from prediction_log where prediction_id = ?", [fourth]
        )
    spoilt = crashes._counted()
    assert [spoilt[n] for n in ("lost", "corrupted", "duplicated")] == [1, 2, 1]
