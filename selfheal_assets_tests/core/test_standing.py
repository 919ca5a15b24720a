"""How a use case stands: the state, what it waits for, and that unknown is never healthy."""

from datetime import date, datetime

import pytest

from selfheal_assets.core.policies import Policy
from selfheal_assets.core.spec import Monitoring
from selfheal_assets.core.standing import Standing, State, stand

CHUNK, END = datetime(2024, 3, 1), datetime(2024, 4, 1)
NOW = datetime(2024, 4, 10)
POLICY = Policy()


def health(status: str = "PASS", failed: str = "", chunk: datetime = CHUNK) -> list[dict]:
    row = {
        "chunk": chunk,
        "label": f"{chunk:%Y-%m}",
        "status": status,
        "reason": "so it is",
        "failed_checks": failed,
    }
    return [row, row | {"chunk": datetime(2024, 2, 1), "status": "FAIL"}]


def decision(action: str, as_of: datetime, challenger: int = 2) -> dict:
    return {"id": 1, "as_of": as_of, "action": action, "champion": 1, "challenger": challenger}


def standing(
    rows: list[dict], decisions: tuple = (), now: datetime = NOW, waiting: int = 0, **calendar
) -> Standing:
    return stand(rows, decisions, waiting, Monitoring(**calendar), POLICY, now)


@pytest.mark.parametrize(
    ("status", "state"),
    [("PASS", State.healthy), ("FAIL", State.attention), ("INSUFFICIENT_DATA", State.unknown)],
)
def test_the_newest_chunk_decides(status, state):
    found = standing(health(status))
    assert found.state is state
    assert found.reasons == (() if status == "PASS" else ("2024-03: so it is",))


def test_exit_codes_are_those_that_cron_is_told():
    assert [int(s) for s in (State.healthy, State.attention, State.unknown)] == [0, 1, 2]


def test_nothing_monitored_is_unknown_and_says_what_to_do():
    found = standing([])
    assert found.state is State.unknown
    assert "selfheal replay" in found.reasons[0]


def test_a_chunk_that_ended_unmonitored_makes_a_pass_unknown_and_keeps_a_failure_attention():
    on_time, late = datetime(2024, 4, 30, 23), datetime(2024, 5, 1)
    assert standing(health(), now=on_time).state is State.healthy
    behind = standing(health(), now=late)
    assert behind.state is State.unknown
    assert "the newest chunk is 2024-03, 2024-04 has ended too" in behind.reasons[0]
    assert standing(health("FAIL"), now=late).state is State.attention


def test_a_history_that_is_over_is_never_behind():
    found = standing(
        health(), (decision("PROMOTE", datetime(2024, 3, 2)),), datetime(2030, 1, 1), until=date(2024, 12, 1)
    )
    assert found.state is State.healthy
    assert found.champion is not None and found.champion["days"] == 30


def test_the_champion_is_whom_the_newest_promotion_or_rollback_names():
    promoted, back = (
        decision("PROMOTE", datetime(2024, 3, 1), 2),
        decision("ROLL_BACK", datetime(2024, 3, 20), 1),
    )
    rejected = decision("REJECT", datetime(2024, 4, 1), 3)
    assert standing(health(), (rejected, promoted)).champion == {
        "version": 2,
        "since": datetime(2024, 3, 1),
        "days": 40,
    }
    assert standing(health(), (rejected, back, promoted)).champion == {
        "version": 1, "since": datetime(2024, 3, 20), "days": 21,
    }  # fmt: skip
    assert standing(health()).champion is None


def test_a_failing_check_waits_for_its_retraining_until_it_is_decided():
    failing, running = health("FAIL", "calibration_holds, schema_is_valid"), ("the end of the running chunk",)
    due = ("a retraining is due, as calibration_holds failed: the sensor starts it",)
    assert standing(failing).waits == due
    assert standing(failing, (decision("REJECT", datetime(2024, 3, 20)),)).waits == due, (
        "that was another chunk's"
    )
    assert standing(failing, (decision("REJECT", END),)).waits == running
    assert standing(health("FAIL", "schema_is_valid")).waits == running


@pytest.mark.parametrize("action", ["SUPPRESS", "HOLD", "FIX_DATA"])
def test_a_withheld_retraining_is_no_answer_and_says_why(action):
    withheld = decision(action, END) | {"reason": "cooldown: 30 days"}
    (told,) = standing(health("FAIL", "calibration_holds"), (withheld,)).waits
    assert told == "a retraining for 2024-03 is withheld: cooldown: 30 days"


def test_a_promotion_that_waits_for_approval_is_named_until_another_takes_its_place():
    waiting = decision("PENDING", END) | {"id": 7}
    asked = "the approval of decision 7: selfheal approve 7 --by NAME"
    assert standing(health(), (decision("REJECT", END), waiting)).waits[0] == asked
    assert asked not in standing(health(), (decision("PROMOTE", END), waiting)).waits


def test_labels_that_landed_wait_for_ingestion():
    assert standing(health(), waiting=1200).waits[-1].startswith("1,200 labels that have landed")
