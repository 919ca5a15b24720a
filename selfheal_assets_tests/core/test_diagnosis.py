"""What a window's checks call for: each kind, and which goes before which."""

import pytest

from selfheal_assets.core.diagnosis import Remedy, diagnose
from selfheal_assets.core.monitoring import Status

DRIFT, ESTIMATE = "drift_within_limits", "estimated_performance_holds"
CALIBRATION, REALIZED = "calibration_holds", "realized_performance_holds"
SCHEMA, INTACT = "schema_is_valid", "inputs_are_intact"
EVENTS, LABELS = "event_times_are_plausible", "label_times_are_plausible"
RETRAIN_ON = (DRIFT, ESTIMATE, CALIBRATION, REALIZED)
FAIL, PASS, UNKNOWN = Status.failed, Status.passed, Status.insufficient


@pytest.mark.parametrize(
    ("checks", "remedy", "names"),
    [
        ({}, Remedy.none, ()),
        (dict.fromkeys(RETRAIN_ON, PASS), Remedy.none, ()),
        (dict.fromkeys(RETRAIN_ON, UNKNOWN), Remedy.none, ()),
        ({SCHEMA: FAIL}, Remedy.fix_data, (SCHEMA,)),
        ({INTACT: FAIL, REALIZED: FAIL, LABELS: FAIL}, Remedy.fix_data, (INTACT,)),
        ({EVENTS: FAIL, DRIFT: FAIL}, Remedy.hold, (EVENTS,)),
        ({LABELS: FAIL, REALIZED: FAIL, CALIBRATION: FAIL}, Remedy.hold, (LABELS,)),
        ({LABELS: FAIL, REALIZED: FAIL, DRIFT: FAIL}, Remedy.retrain, (DRIFT, REALIZED)),
        ({LABELS: FAIL}, Remedy.none, ()),
        ({CALIBRATION: FAIL, REALIZED: PASS}, Remedy.recalibrate, (CALIBRATION,)),
        ({CALIBRATION: FAIL, REALIZED: PASS, DRIFT: FAIL}, Remedy.recalibrate, (DRIFT, CALIBRATION)),
        ({CALIBRATION: FAIL, REALIZED: UNKNOWN}, Remedy.retrain, (CALIBRATION,)),
        ({CALIBRATION: FAIL}, Remedy.retrain, (CALIBRATION,)),
        ({CALIBRATION: FAIL, REALIZED: FAIL}, Remedy.retrain, (CALIBRATION, REALIZED)),
        ({DRIFT: FAIL, REALIZED: PASS}, Remedy.retrain, (DRIFT,)),
        ({ESTIMATE: FAIL}, Remedy.retrain, (ESTIMATE,)),
    ],
)
def test_each_kind_follows_from_the_checks(checks, remedy, names):
    found = diagnose(checks, RETRAIN_ON)
    assert (found.remedy, found.checks) == (remedy, names)
    assert all(name in found.reason for name in names)


def test_a_champion_that_was_taken_back_needs_no_retraining_but_broken_data_go_before():
    assert diagnose({REALIZED: FAIL}, RETRAIN_ON, rolled_back=True).remedy is Remedy.roll_back
    assert diagnose({REALIZED: PASS}, RETRAIN_ON, rolled_back=True).remedy is Remedy.none
    assert diagnose({REALIZED: FAIL, SCHEMA: FAIL}, RETRAIN_ON, rolled_back=True).remedy is Remedy.fix_data


def test_a_check_that_the_policy_does_not_name_calls_for_nothing():
    assert diagnose({DRIFT: FAIL}, (REALIZED,)).remedy is Remedy.none
