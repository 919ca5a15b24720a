"""What people are told of, once, and in which form."""

from datetime import datetime

import pytest

from selfheal_assets.core.notification import Told, news, of_decision, of_health

FEBRUARY, MARCH = datetime(2024, 2, 1), datetime(2024, 3, 1)


def chunk(start: datetime, status: str, reason: str = "so it is") -> dict:
    failed = "calibration_holds" if status == "FAIL" else ""
    return {
        "chunk": start,
        "label": f"{start:%Y-%m}",
        "status": status,
        "reason": reason,
        "failed_checks": failed,
    }


def decision(number: int, action: str) -> dict:
    return {
        "id": number, "action": action, "as_of": MARCH, "reason": "better by 0.02", "champion": 1, "challenger": 2,
    }  # fmt: skip


def test_a_failing_chunk_alarms_and_names_the_checks():
    told = of_health(chunk(MARCH, "FAIL"), chunk(FEBRUARY, "PASS"), "loans")
    assert told is not None
    assert (told.kind, told.severity) == ("alarm", "warning")
    assert told.facts == {"chunk": "2024-03", "failed_checks": "calibration_holds"}


def test_only_a_pass_after_a_failure_is_a_recovery():
    recovered = of_health(chunk(MARCH, "PASS"), chunk(FEBRUARY, "FAIL"), "loans")
    assert recovered is not None and recovered.kind == "recovery"
    assert of_health(chunk(MARCH, "PASS"), chunk(FEBRUARY, "PASS"), "loans") is None
    assert of_health(chunk(MARCH, "PASS"), None, "loans") is None
    assert of_health(chunk(MARCH, "INSUFFICIENT_DATA"), chunk(FEBRUARY, "FAIL"), "loans") is None


@pytest.mark.parametrize("action", ["ROLL_BACK", "HOLD", "FIX_DATA", "PENDING"])
def test_what_asks_for_a_look_is_a_warning(action):
    assert of_decision(decision(1, action), "loans").severity == "warning"


def test_a_promotion_asks_for_none():
    assert of_decision(decision(1, "PROMOTE"), "loans").severity == "info"


def test_news_are_what_came_after_what_was_told_oldest_first():
    health = [chunk(MARCH, "FAIL"), chunk(FEBRUARY, "FAIL")]
    decisions = [decision(2, "REJECT"), decision(1, "PROMOTE")]
    everything, reaches = news(health, decisions, Told(), "loans")
    assert [n.kind for n in everything] == ["alarm", "decision", "decision", "alarm"]
    assert reaches == Told(2, MARCH)
    later, _ = news(health, decisions, Told(1, FEBRUARY), "loans")
    assert [(n.kind, n.facts.get("id")) for n in later] == [("decision", 2), ("alarm", None)]
    assert news(health, decisions, reaches, "loans") == ([], reaches)
    assert news([], [], reaches, "loans") == ([], reaches)
    assert news([], [decision(3, "SUPPRESS")], reaches, "loans") == ([], Told(3, MARCH)), "the alarm was told"


def test_equal_messages_have_one_id_and_others_another():
    assert of_decision(decision(1, "PROMOTE"), "loans").id == of_decision(decision(1, "PROMOTE"), "loans").id
    assert of_decision(decision(1, "PROMOTE"), "loans").id != of_decision(decision(2, "PROMOTE"), "loans").id


def test_slack_gets_blocks_within_its_limits():
    body = of_decision(decision(1, "REJECT") | {"reason": "x" * 9000}, "loans").slack()
    section, context = body["blocks"]
    assert len(section["text"]["text"]) <= 3000
    assert "loans: REJECT (version 1 → 2)" in section["text"]["text"]
    assert context["elements"][0]["text"] == "loans, 2024-03-01"
    assert body["text"].startswith("loans: REJECT")
