"""The chain of decisions: a change of any byte, anywhere, is found."""

import json
from dataclasses import replace
from datetime import datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfheal_assets.core.decision import Action, Decision, chain_hash, decide
from selfheal_assets.core.gates import GateResult, Verdict

DECISION = Decision(
    action=Action.reject,
    as_of=datetime(2007, 4, 1),
    reason="improvement: F1 0.30 → 0.31",
    champion=3,
    challenger=4,
    evidence={"gates": [{"gate": "improvement", "verdict": Verdict.failed, "value": 1.25, "limit": 2.0}]},
    fingerprints={"challenger": "abc", "champion": "def"},
)


def test_the_payload_is_plain_data_that_json_gives_back():
    payload = DECISION.payload()
    assert payload["action"] == "REJECT"
    assert payload["as_of"] == "2007-04-01T00:00:00"
    stored = json.loads(json.dumps(payload))
    assert chain_hash("", stored) == chain_hash("", payload)


@pytest.mark.parametrize(
    "change",
    [
        {"action": Action.promote},
        {"as_of": datetime(2007, 4, 1, 0, 0, 0, 1)},
        {"reason": DECISION.reason + " "},
        {"champion": None},
        {"challenger": 5},
        {"evidence": {}},
        {"fingerprints": {"challenger": "abd", "champion": "def"}},
    ],
    ids=lambda change: next(iter(change)),
)
def test_each_field_is_covered_by_the_hash(change):
    assert chain_hash("", replace(DECISION, **change).payload()) != chain_hash("", DECISION.payload())


def chained(payloads: list[dict]) -> list[str]:
    hashes, previous = [], ""
    for payload in payloads:
        previous = chain_hash(previous, payload)
        hashes.append(previous)
    return hashes


PAYLOADS = [replace(DECISION, challenger=n).payload() for n in (4, 5, 6)]


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.data())
def test_a_change_of_any_byte_breaks_the_chain_from_there_on(data):
    row = data.draw(st.integers(0, 2))
    text = bytearray(json.dumps(PAYLOADS[row], ensure_ascii=False).encode())
    at = data.draw(st.integers(0, len(text) - 1))
    text[at] = data.draw(st.integers(0, 255))
    try:
        changed = json.loads(text)
    except ValueError:  # no longer JSON or no longer UTF-8: that is found too
        return
    if changed == PAYLOADS[row]:
        return
    before, after = chained(PAYLOADS), chained([*PAYLOADS[:row], changed, *PAYLOADS[row + 1 :]])
    assert after[:row] == before[:row]
    assert all(a != b for a, b in zip(after[row:], before[row:], strict=True))


def test_leaving_out_or_reordering_decisions_breaks_the_chain():
    last = chained(PAYLOADS)[-1]
    assert chained(PAYLOADS[1:])[-1] != last
    assert chained([PAYLOADS[1], PAYLOADS[0], PAYLOADS[2]])[-1] != last


def result(gate: str, verdict: Verdict) -> GateResult:
    return GateResult(gate, verdict, f"because of {gate}")


PASS, FAIL, UNCLEAR = Verdict.passed, Verdict.failed, Verdict.inconclusive


@pytest.mark.parametrize(
    ("results", "action", "reason"),
    [
        ([], Action.reject, "no gate was evaluated"),
        ([("a", PASS), ("improvement", PASS), ("b", PASS)], Action.promote, "because of improvement"),
        (
            [("eligibility", PASS), ("servability", PASS)],
            Action.promote,
            "first champion: because of servability",
        ),
        ([("a", FAIL), ("improvement", PASS)], Action.reject, "a: because of a"),
        ([("a", FAIL), ("b", PASS), ("c", FAIL)], Action.reject, "a: because of a; c: because of c"),
        ([("a", PASS), ("b", UNCLEAR)], Action.inconclusive, "b: because of b"),
        ([("a", FAIL), ("b", UNCLEAR)], Action.inconclusive, "b: because of b"),
    ],
)
def test_one_answer_follows_from_all_gates(results, action, reason):
    assert decide([result(*r) for r in results]) == (action, reason)
