"""From failed checks to one retraining: Dagster's own records, no daemon."""

from collections.abc import Iterator
from datetime import datetime

import dagster as dg
import pytest
from dagster._core.remote_origin import (
    RegisteredCodeLocationOrigin,
    RemoteJobOrigin,
    RemoteRepositoryOrigin,
)
from dagster._core.utils import make_new_run_id

from selfheal_assets.core.monitoring import Finding, Status
from selfheal_assets.core.periods import chunk_end
from selfheal_assets.defs import automation
from selfheal_assets.defs.automation import CHECK_ASSETS, RETRAIN_JOB, Retraining, next_retraining
from selfheal_assets.defs.resources import CHECKS_TAG, DECIDED_TAG, WINDOW_TAG, Chunk, check_result
from selfheal_assets.use_case import UseCase, load_use_case
from selfheal_assets_tests import toy

pytestmark = pytest.mark.integration

DRIFT, REALIZED = "drift_within_limits", "realized_performance_holds"
CALIBRATION = "calibration_holds"
PASS, FAIL, UNKNOWN = Status.passed, Status.failed, Status.insufficient


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as made:
        yield made


@pytest.fixture(scope="module")
def case(toy_folder) -> UseCase:
    """Quarters, with a cooldown of 80 days."""
    return load_use_case(str(toy_folder / "toy.yaml"))


def evaluate(instance: dg.DagsterInstance, window: str, **statuses: Status) -> None:
    """Materialize monitor assets whose checks find these statuses, reported as the product does."""
    partitions = dg.StaticPartitionsDefinition([window])

    def one(check: str, status: Status):
        @dg.asset(
            name=CHECK_ASSETS[check],
            partitions_def=partitions,
            check_specs=[dg.AssetCheckSpec(check, asset=CHECK_ASSETS[check])],
        )
        def monitored(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
            start = datetime.fromisoformat(context.partition_key)
            chunk = Chunk(start, chunk_end(start, "quarter"), "")
            finding = Finding(check, status, "as the test says", 0.5, 0.4)
            return dg.MaterializeResult(
                check_results=[check_result(finding, chunk, dg.AssetCheckSeverity.WARN)]
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
    assert next_retraining(instance, case) == "no check that starts a retraining has failed"


@pytest.mark.parametrize("check", sorted(CHECK_ASSETS))
def test_a_failure_of_each_check_is_due_with_its_window_and_name(instance, case, check):
    evaluate(instance, "2020-01-01", **{check: FAIL})
    due = next_retraining(instance, case)
    assert due == Retraining("2020-01-01", (check,))
    assert due.tags == {WINDOW_TAG: "2020-01-01", CHECKS_TAG: check, "dagster/max_retries": "0"}


@pytest.mark.parametrize("status", [PASS, UNKNOWN])
def test_what_passes_or_cannot_be_told_starts_nothing(instance, case, status):
    evaluate(instance, "2020-01-01", **dict.fromkeys(CHECK_ASSETS, status))
    assert next_retraining(instance, case) == "no check that starts a retraining has failed"


def test_a_check_that_the_policy_does_not_name_starts_nothing(instance, case):
    policy = case.policy.model_copy(update={"retrain_on": (CALIBRATION,)})
    evaluate(instance, "2020-01-01", **{DRIFT: FAIL, CALIBRATION: PASS})
    reason = next_retraining(instance, case.model_copy(update={"policy": policy}))
    assert reason == "no check that starts a retraining has failed"


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
    reason = next_retraining(instance, case.model_copy(update={"policy": policy}))
    assert reason == "cooldown: 2020-04-01 follows the retraining for 2020-01-01 within 100 days"


@pytest.mark.parametrize("status", automation.RUNNING)
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
    assert given_up.startswith("the retraining for 2020-01-01 failed 2 times (policy.retraining_attempts)")
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
    assert next_retraining(instance, case) == "no check that starts a retraining has failed"


def test_a_healthy_window_after_it_does_not_hide_a_failure(instance, case):
    evaluate(instance, "2020-01-01", **{DRIFT: FAIL})
    evaluate(instance, "2020-04-01", **{DRIFT: PASS})
    assert next_retraining(instance, case) == Retraining("2020-01-01", (DRIFT,))


def test_the_sensor_asks_for_the_retraining_once_and_says_why_not(instance, case):
    [sensor] = automation.build_sensors(automation.build_jobs(), case)
    assert sensor.job_name == RETRAIN_JOB

    def tick():
        return sensor(dg.build_sensor_context(instance=instance))

    silent = tick()
    assert isinstance(silent, dg.SkipReason)
    assert silent.skip_message == "no check that starts a retraining has failed"
    evaluate(instance, "2020-01-01", **{DRIFT: FAIL, CALIBRATION: FAIL})
    first, second = tick(), tick()
    for request in (first, second):
        assert isinstance(request, dg.RunRequest)
        assert request.run_key == "retrain:2020-01-01", "the daemon drops the second by its key"
        tags = {WINDOW_TAG: "2020-01-01", CHECKS_TAG: f"{DRIFT},{CALIBRATION}"}
        assert request.tags == tags | {"dagster/max_retries": "0"}, "the rule retries by itself"
    retrain(instance, first.tags)
    answered = tick()
    assert isinstance(answered, dg.SkipReason)
    assert "was answered" in answered.skip_message


def test_every_check_that_can_start_a_retraining_is_one_of_the_products(tmp_path):
    from selfheal_assets.definitions import build_definitions

    settings = toy.settings(tmp_path)
    definitions = build_definitions(settings)
    keys = definitions.resolve_asset_graph().asset_check_keys
    ours = {dg.AssetCheckKey(dg.AssetKey(asset), check) for check, asset in CHECK_ASSETS.items()}
    assert ours <= keys
    assert set(settings.case.policy.retrain_on) == set(CHECK_ASSETS)
