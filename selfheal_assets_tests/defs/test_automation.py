"""From failed checks to one retraining: Dagster's own records, no daemon."""

import json
import os
import subprocess
from collections.abc import Iterator
from datetime import datetime

import dagster as dg
import pytest
from dagster._core.definitions.asset_checks.asset_check_evaluation import AssetCheckEvaluationPlanned
from dagster._core.events import EngineEventData
from dagster._core.remote_origin import (
    RegisteredCodeLocationOrigin,
    RemoteJobOrigin,
    RemoteRepositoryOrigin,
)
from dagster._core.utils import make_new_run_id

from selfheal_assets.core.decision import Action, Decision
from selfheal_assets.core.diagnosis import Remedy
from selfheal_assets.core.monitoring import Finding, Status
from selfheal_assets.core.periods import chunk_end
from selfheal_assets.defs import automation
from selfheal_assets.defs.orphans import GRPC_TAG
from selfheal_assets.defs.resources import (
    CHECKS_TAG,
    DECIDED_TAG,
    HELD_TAG,
    REMEDY_TAG,
    WINDOW_TAG,
    Chunk,
    Stores,
    check_result,
)
from selfheal_assets.defs.retraining_rule import (
    CHECK_ASSETS,
    DATA_CHECKS,
    RETRAIN_JOB,
    RUNNING,
    Retraining,
    Withheld,
    due_retraining,
    next_retraining,
)
from selfheal_assets.settings import Settings
from selfheal_assets.stores import decision_ledger
from selfheal_assets.use_case import UseCase, load_use_case
from selfheal_assets_tests import toy

pytestmark = pytest.mark.integration

DRIFT, REALIZED = "drift_within_limits", "realized_performance_holds"
CALIBRATION = "calibration_holds"
ASSETS = CHECK_ASSETS | DATA_CHECKS
NOTHING = "no check that starts a retraining has failed"
PASS, FAIL, UNKNOWN = Status.passed, Status.failed, Status.insufficient


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as made:
        yield made


@pytest.fixture(scope="module")
def case(toy_folder) -> UseCase:
    """Quarters, with a cooldown of 80 days."""
    return load_use_case(str(toy_folder / "toy.yaml"))


@pytest.fixture
def stores(tmp_path) -> Stores:
    """Of a toy installation on which nothing was done yet."""
    return Stores(toy.settings(tmp_path))


def allowing(case: UseCase, **policy: object) -> UseCase:
    """The use case with other limits."""
    return case.model_copy(update={"policy": case.policy.model_copy(update=policy)})


def evaluate(instance: dg.DagsterInstance, window: str, **statuses: Status) -> None:
    """Materialize monitor assets whose checks find these statuses, reported as the product does."""
    partitions = dg.StaticPartitionsDefinition([window])

    def one(check: str, status: Status):
        @dg.asset(
            name=ASSETS[check],
            partitions_def=partitions,
            check_specs=[dg.AssetCheckSpec(check, asset=ASSETS[check])],
        )
        def monitored(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
            start = datetime.fromisoformat(context.partition_key)
            chunk = Chunk(start, chunk_end(start, "quarter"), "")
            finding = Finding(check, status, "as the test says", 0.5, 0.4)
            return dg.MaterializeResult(
                check_results=[check_result(finding, chunk, dg.AssetCheckSeverity.WARN, Settings())]
            )

        return monitored

    assets = [one(check, status) for check, status in statuses.items()]
    assert dg.materialize(assets, instance=instance, partition_key=window).success


def retrain(
    instance: dg.DagsterInstance, tags: dict[str, str], status: dg.DagsterRunStatus | None = None
) -> None:
    """A run of the retraining job with these tags: executed, or only recorded with a status."""

    @dg.op
    def nothing() -> None: ...

    @dg.job(name=RETRAIN_JOB)
    def job() -> None:
        nothing()

    if status is None:
        assert job.execute_in_process(instance=instance, tags=tags).success
    else:
        code = RemoteRepositoryOrigin(RegisteredCodeLocationOrigin("here"), "definitions")
        origin = RemoteJobOrigin(code, RETRAIN_JOB)  # without one, no run can be queued
        instance.add_run(
            dg.DagsterRun(
                RETRAIN_JOB, run_id=make_new_run_id(), status=status, tags=tags, remote_job_origin=origin
            )
        )


def test_nothing_is_due_before_anything_was_checked(instance, case):
    assert NOTHING in next_retraining(instance, case)


@pytest.mark.parametrize("check", sorted(CHECK_ASSETS))
def test_a_failure_of_each_check_is_due_with_its_window_and_name(instance, case, check):
    evaluate(instance, "2020-01-01", **{check: FAIL})
    due = next_retraining(instance, case)
    assert due == Retraining("2020-01-01", (check,))
    assert due.tags == {
        WINDOW_TAG: "2020-01-01",
        CHECKS_TAG: check,
        REMEDY_TAG: "RETRAIN",
        "dagster/max_retries": "0",
    }


@pytest.mark.parametrize("status", [PASS, UNKNOWN])
def test_what_passes_or_cannot_be_told_starts_nothing(instance, case, status):
    evaluate(instance, "2020-01-01", **dict.fromkeys(CHECK_ASSETS, status))
    assert NOTHING in next_retraining(instance, case)


def test_a_check_that_the_policy_does_not_name_starts_nothing(instance, case):
    policy = case.policy.model_copy(update={"retrain_on": (CALIBRATION,)})
    evaluate(instance, "2020-01-01", **{DRIFT: FAIL, CALIBRATION: PASS})
    reason = next_retraining(instance, case.model_copy(update={"policy": policy}))
    assert NOTHING in reason


def test_all_failed_checks_of_a_window_are_one_retraining(instance, case):
    evaluate(instance, "2020-01-01", **{DRIFT: FAIL, REALIZED: FAIL, CALIBRATION: PASS})
    due = next_retraining(instance, case)
    assert due == Retraining("2020-01-01", (DRIFT, REALIZED))
    assert due.tags[CHECKS_TAG] == f"{DRIFT},{REALIZED}"


def test_the_newest_failing_window_is_the_one_that_is_due(instance, case):
    evaluate(instance, "2020-04-01", **{DRIFT: FAIL})
    evaluate(instance, "2020-01-01", **{REALIZED: FAIL})  # monitored later: a backfill
    assert next_retraining(instance, case) == Retraining("2020-04-01", (DRIFT,))


def test_a_window_is_answered_once(instance, case):
    evaluate(instance, "2020-01-01", **{DRIFT: FAIL})
    due = next_retraining(instance, case)
    assert isinstance(due, Retraining)
    retrain(instance, due.tags)
    answered = "the failure of 2020-01-01 was answered by a retraining for 2020-01-01"
    assert next_retraining(instance, case) == answered
    evaluate(instance, "2020-01-01", **{DRIFT: FAIL})
    assert next_retraining(instance, case) == answered, "monitoring it again is no new failure"
    evaluate(instance, "2019-10-01", **{DRIFT: FAIL})
    assert next_retraining(instance, case) == answered, "nor is an older window"


def test_a_later_window_waits_for_the_cooldown(instance, case):
    retrain(instance, {WINDOW_TAG: "2020-01-01"})
    evaluate(instance, "2020-04-01", **{DRIFT: FAIL})
    assert next_retraining(instance, case) == Retraining("2020-04-01", (DRIFT,)), "91 days later"
    policy = case.policy.model_copy(update={"retraining_cooldown_days": 100})
    withheld = next_retraining(instance, case.model_copy(update={"policy": policy}))
    assert withheld == Withheld(
        "2020-04-01",
        Action.suppress,
        "cooldown",
        "cooldown: 2020-04-01 follows the retraining for 2020-01-01 within 100 days",
    )


@pytest.mark.parametrize("status", RUNNING)
def test_a_running_retraining_holds_the_next_one_back(instance, case, status):
    evaluate(instance, "2020-04-01", **{DRIFT: FAIL})
    retrain(instance, {WINDOW_TAG: "2020-01-01"}, status)
    assert next_retraining(instance, case) == "a retraining is running; 2020-04-01 waits for it"


@pytest.mark.parametrize(
    "status", [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED]
)
def test_a_finished_retraining_holds_nothing_back(instance, case, status):
    evaluate(instance, "2020-04-01", **{DRIFT: FAIL})
    retrain(instance, {WINDOW_TAG: "2020-01-01"}, status)
    assert next_retraining(instance, case) == Retraining("2020-04-01", (DRIFT,))


FAILURE = dg.DagsterRunStatus.FAILURE


def test_a_failed_retraining_is_no_answer_and_is_tried_again_as_often_as_the_policy_allows(instance, case):
    evaluate(instance, "2020-01-01", **{DRIFT: FAIL})
    keys = []
    for _ in range(case.policy.retraining_attempts):
        due = next_retraining(instance, case)
        assert isinstance(due, Retraining)
        keys.append(due.run_key)
        retrain(instance, due.tags, FAILURE)
    assert keys == ["retrain:2020-01-01", "retrain:2020-01-01:1"], "the daemon starts each key once"
    given_up = next_retraining(instance, case)
    assert (given_up.action, given_up.cause) == (Action.hold, "retraining_attempts")
    assert given_up.reason.startswith(
        "the retraining for 2020-01-01 failed 2 times (policy.retraining_attempts)"
    )
    evaluate(instance, "2020-04-01", **{DRIFT: FAIL})
    policy = case.policy.model_copy(update={"retraining_cooldown_days": 100})
    later = next_retraining(instance, case.model_copy(update={"policy": policy}))
    assert later == Retraining("2020-04-01", (DRIFT,)), "what failed starts no cooldown"


def test_a_retraining_that_succeeds_after_a_failure_is_an_answer(instance, case):
    evaluate(instance, "2020-01-01", **{DRIFT: FAIL})
    retrain(instance, {WINDOW_TAG: "2020-01-01"}, FAILURE)
    retrain(instance, {WINDOW_TAG: "2020-01-01"})
    assert "was answered" in next_retraining(instance, case)


@pytest.mark.parametrize(
    ("status", "tags"),
    [(dg.DagsterRunStatus.CANCELED, {}), (FAILURE, {DECIDED_TAG: "true"})],
    ids=["canceled by somebody", "died after its decision"],
)
def test_what_ended_otherwise_is_not_tried_again(instance, case, status, tags):
    evaluate(instance, "2020-01-01", **{DRIFT: FAIL})
    retrain(instance, {WINDOW_TAG: "2020-01-01"} | tags, status)
    assert "was answered" in next_retraining(instance, case)


def test_a_later_evaluation_that_passes_supersedes_the_failure(instance, case):
    evaluate(instance, "2020-01-01", **{DRIFT: FAIL, REALIZED: FAIL})
    evaluate(instance, "2020-01-01", **{DRIFT: PASS})
    assert next_retraining(instance, case) == Retraining("2020-01-01", (REALIZED,))
    evaluate(instance, "2020-01-01", **{REALIZED: PASS})
    assert NOTHING in next_retraining(instance, case)


def test_a_healthy_window_after_it_does_not_hide_a_failure(instance, case):
    evaluate(instance, "2020-01-01", **{DRIFT: FAIL})
    evaluate(instance, "2020-04-01", **{DRIFT: PASS})
    assert next_retraining(instance, case) == Retraining("2020-01-01", (DRIFT,))


def test_the_sensor_asks_for_the_retraining_once_and_says_why_not(instance, case, stores):
    [sensor] = automation.build_sensors(automation.build_jobs(), case, ["team:ml-platform"])
    assert sensor.job_name == RETRAIN_JOB

    def tick():
        return sensor(dg.build_sensor_context(instance=instance, resources={"stores": stores}))

    silent = tick()
    assert isinstance(silent, dg.SkipReason)
    assert NOTHING in str(silent.skip_message) and "no window judged yet" in str(silent.skip_message)
    evaluate(instance, "2019-10-01", **{DRIFT: PASS})
    assert str(tick().skip_message).endswith(": 1 windows judged, the newest 2019-10-01")
    evaluate(instance, "2020-01-01", **{DRIFT: FAIL, CALIBRATION: FAIL})
    first, second = tick(), tick()
    for request in (first, second):
        assert isinstance(request, dg.RunRequest)
        assert request.run_key == "retrain:2020-01-01", "the daemon drops the second by its key"
        tags = {WINDOW_TAG: "2020-01-01", CHECKS_TAG: f"{DRIFT},{CALIBRATION}", REMEDY_TAG: "RETRAIN"}
        assert request.tags == tags | {"dagster/max_retries": "0"}, "the rule retries by itself"
    retrain(instance, first.tags)
    answered = tick()
    assert isinstance(answered, dg.SkipReason)
    assert "was answered" in answered.skip_message


def test_the_sensor_tells_in_its_tick_why_it_acts():
    assert Retraining("2020-01-01", (DRIFT, CALIBRATION), 1, Remedy.recalibrate).said(3) == (
        "RECALIBRATE for the window 2020-01-01: drift_within_limits, calibration_holds failed; attempt 2 of 3 "
        "(policy.retraining_attempts)"
    )


def test_broken_data_never_retrain(instance, case):
    evaluate(instance, "2020-01-01", **{DRIFT: FAIL, "inputs_are_intact": FAIL})
    withheld = next_retraining(instance, case)
    assert (withheld.action, withheld.cause) == (Action.fix_data, "inputs_are_intact")
    evaluate(instance, "2020-01-01", **{"inputs_are_intact": PASS})
    assert next_retraining(instance, case) == Retraining("2020-01-01", (DRIFT,)), "once the data are mended"
    evaluate(instance, "2020-04-01", **{"inputs_are_intact": FAIL})
    assert next_retraining(instance, case).action is Action.fix_data, "nor for an older failure meanwhile"


@pytest.mark.parametrize("doubt", ["label_times_are_plausible", "label_ids_agree"])
def test_outcomes_that_are_not_to_be_trusted_are_held(instance, case, doubt):
    evaluate(instance, "2020-01-01", **{CALIBRATION: FAIL, doubt: FAIL})
    withheld = next_retraining(instance, case)
    assert (withheld.action, withheld.cause) == (Action.hold, doubt)


def test_calibration_off_with_ranking_intact_asks_for_a_recalibration(instance, case):
    evaluate(instance, "2020-01-01", **{CALIBRATION: FAIL, REALIZED: PASS})
    due = next_retraining(instance, case)
    assert (due.remedy, due.tags[REMEDY_TAG]) == (Remedy.recalibrate, "RECALIBRATE")
    evaluate(instance, "2020-01-01", **{REALIZED: FAIL})
    assert next_retraining(instance, case).remedy is Remedy.retrain


def test_a_window_whose_champion_was_taken_back_starts_nothing(instance, case, stores):
    evaluate(instance, "2020-01-01", **{CALIBRATION: FAIL})
    back = Decision(Action.roll_back, datetime(2020, 4, 1), "worse", 2, 1, {}, {})
    decision_ledger.record(stores.warehouse, back)
    said = due_retraining(instance, stores)
    assert said == "ROLL_BACK: the champion that calibration_holds speaks of was taken back"


def test_a_check_must_persist_as_the_policy_asks(instance, case):
    strict = allowing(case, failing_windows=2, among_windows=3)
    evaluate(instance, "2020-01-01", **{DRIFT: FAIL})
    assert next_retraining(instance, strict).cause == "hysteresis"
    evaluate(instance, "2020-04-01", **{DRIFT: PASS})
    evaluate(instance, "2020-07-01", **{DRIFT: FAIL})
    assert next_retraining(instance, strict) == Retraining("2020-07-01", (DRIFT,)), "two of three"
    retrain(instance, {WINDOW_TAG: "2020-07-01"})
    evaluate(instance, "2020-10-01", **{DRIFT: FAIL})
    assert next_retraining(instance, strict).cause == "hysteresis", "what was answered does not count again"


def test_a_year_has_a_budget(instance, case):
    frugal = allowing(case, max_retrainings_per_year=2)
    for window in ("2020-01-01", "2020-04-01"):
        retrain(instance, {WINDOW_TAG: window})
    evaluate(instance, "2020-07-01", **{DRIFT: FAIL})
    assert next_retraining(instance, frugal).cause == "budget"
    evaluate(instance, "2021-01-01", **{DRIFT: FAIL})
    assert next_retraining(instance, frugal) == Retraining("2021-01-01", (DRIFT,)), "365 days later"


def test_a_held_retraining_answers_its_window_and_starts_no_cooldown(instance, case):
    evaluate(instance, "2020-01-01", **{DRIFT: FAIL})
    retrain(instance, {WINDOW_TAG: "2020-01-01", HELD_TAG: "true"})
    assert "was answered" in next_retraining(instance, case)
    evaluate(instance, "2020-04-01", **{DRIFT: FAIL})
    patient = allowing(case, retraining_cooldown_days=3650)
    assert next_retraining(instance, patient) == Retraining("2020-04-01", (DRIFT,))


def test_what_is_withheld_is_recorded_once_however_often_the_sensor_ticks(instance, case, stores):
    evaluate(instance, "2020-01-01", **{DRIFT: FAIL, "schema_is_valid": FAIL})
    [sensor] = automation.build_sensors(automation.build_jobs(), case, ["team:ml-platform"])
    for cursor in (None, None, "of an older sensor"):
        tick = dg.build_sensor_context(instance=instance, cursor=cursor, resources={"stores": stores})
        assert isinstance(sensor(tick), dg.SkipReason)
    evaluate(instance, "2020-01-01", **{DRIFT: FAIL, "schema_is_valid": FAIL})
    assert isinstance(due_retraining(instance, Stores(stores.settings)), str), "nor from another process"
    [row] = decision_ledger.recorded(stores.warehouse)
    assert (row["action"], row["as_of"]) == ("FIX_DATA", datetime(2020, 4, 1))
    assert row["payload"]["evidence"] == {"window": "2020-01-01", "cause": "schema_is_valid"}
    assert decision_ledger.latest(stores.warehouse) is None, "it is not about a model"
    assert decision_ledger.broken_links(stores.warehouse) == []


def test_a_check_that_is_only_planned_neither_hides_nor_makes_a_failure(instance, case):
    """A slow check overlaps the tick: its row is there, its answer is not."""
    evaluate(instance, "2020-01-01", **{DRIFT: FAIL})
    planned = dg.DagsterEvent(
        "ASSET_CHECK_EVALUATION_PLANNED",
        "loop",
        event_specific_data=AssetCheckEvaluationPlanned(
            asset_key=dg.AssetKey(CHECK_ASSETS[DRIFT]), check_name=DRIFT
        ),
    )
    instance.report_dagster_event(planned, run_id=make_new_run_id())
    assert next_retraining(instance, case) == Retraining("2020-01-01", (DRIFT,))
    evaluate(instance, "2020-01-01", **{DRIFT: PASS})
    assert NOTHING in next_retraining(instance, case)


def test_every_check_that_can_start_a_retraining_is_one_of_the_products(tmp_path):
    from selfheal_assets.definitions import build_definitions

    settings = toy.settings(tmp_path)
    definitions = build_definitions(settings)
    keys = definitions.resolve_asset_graph().asset_check_keys
    ours = {dg.AssetCheckKey(dg.AssetKey(asset), check) for check, asset in ASSETS.items()}
    assert ours <= keys
    assert set(settings.case.policy.retrain_on) == set(CHECK_ASSETS)


@pytest.mark.parametrize(("socket", "alive"), [("gone", False), ("gone", True), (None, False)])
def test_a_retraining_that_was_killed_with_its_code_server_is_tried_again(
    instance, case, stores, socket, alive
):
    """Its process is gone, and nobody is left to say so; what lives, or runs on another host, is let be."""
    dead = subprocess.Popen(["true"])
    dead.wait()
    evaluate(instance, "2020-01-01", **{DRIFT: FAIL})
    tags = {WINDOW_TAG: "2020-01-01"} | ({GRPC_TAG: json.dumps({"socket": socket})} if socket else {})
    retrain(instance, tags, dg.DagsterRunStatus.STARTED)
    [run] = instance.get_runs(dg.RunsFilter(job_name=RETRAIN_JOB))
    pid = os.getpid() if alive else dead.pid
    instance.report_engine_event(
        "Started", run, EngineEventData(metadata={"pid": dg.MetadataValue.text(str(pid))})
    )
    [sensor] = automation.build_sensors(automation.build_jobs(), case, ["team:ml-platform"])
    asked = sensor(dg.build_sensor_context(instance=instance, resources={"stores": stores}))
    if socket and not alive:
        assert isinstance(asked, dg.RunRequest) and asked.run_key == "retrain:2020-01-01:1"
        assert instance.get_run_by_id(run.run_id).status is FAILURE
    else:
        assert isinstance(asked, dg.SkipReason) and "is running" in str(asked.skip_message)
