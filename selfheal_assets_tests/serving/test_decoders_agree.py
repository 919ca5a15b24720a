"""The compiled decoder is never more lenient than the models that word the refusals, and reads the same values."""

import json
import math
from typing import Any

import pytest
from hypothesis import event, example, given, settings
from hypothesis import strategies as st

from selfheal_assets.serving.case_schemas import CaseRequest, InvalidCase, build_schemas, case_columns
from selfheal_assets.serving.compiled import CaseDecoder, duplicate_key
from selfheal_assets.serving.schemas import INT64_MAX
from selfheal_assets.stores.prediction_log import CaseColumns
from selfheal_assets.use_case import UseCase
from selfheal_assets_tests.serving.conftest import GOOD, settings_in

MANY = settings(max_examples=1000, deadline=None, database=None)

NUMBERS = st.one_of(
    st.sampled_from(
        [
            "0",
            "-0",
            "-0.0",
            "0.0",
            "1",
            "1.0",
            "1e0",
            "1E2",
            "1e-400",
            "-1e-400",
            "1e400",
            "-1e400",
            "1e308",
            "3.4e38",
            "3.41e38",
            "3.4028236e38",
            "5e-324",
            "0.1",
            "500",
            "500.0",
            "500.0000000000001",
            "499.99999999999994",
            "9223372036854775807",
            "9223372036854775808",
            "9.223372036854776e18",
            "-9223372036854775808",
            "-9223372036854775807",
            "18446744073709551616",
            "1e18",
            "1.5",
            "01",
            "1.",
            ".5",
            "+1",
            "1_0",
            "NaN",
            "Infinity",
            "-Infinity",
            "123456789012345678901234567890",
            "0.30000000000000004",
            "1e22",
            "1e23",
        ]
    ),
    st.integers(-(2**70), 2**70).map(str),
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.from_regex(r"\A-?(0|[1-9][0-9]{0,25})(\.[0-9]{1,25})?([eE][+-]?[0-9]{1,3})?\Z"),
)
WORDS = [
    "basic",
    "family",
    "Oslo",
    "",
    " ",
    "x" * 200,
    "x" * 201,
    "ß" * 200,
    "😀" * 200,
    "a\x00b",
    "a\nb",
    "\x7f",
]
TIMES = [
    "2021-02-03",
    "2021-02-03T04:05:06.789+02:00",
    "20210203",
    "2021-W05-3",
    "0001-01-01T00:00+14:00",
    "24:00",
]
TEXTS = st.one_of(
    st.sampled_from([*WORDS, *TIMES]).map(lambda t: json.dumps(t, ensure_ascii=False)),
    st.text(max_size=6).map(json.dumps),
    st.text(max_size=6).map(lambda t: json.dumps(t, ensure_ascii=False)),
    st.sampled_from(['"\\ud800"', '"\\u0041"', '"\\u0000"', '"\\/"', '"a', '"\x00"', '"\x1f"']),
)
VALUES = st.one_of(
    NUMBERS, TEXTS, st.sampled_from(["null", "true", "false", "[]", "{}", "[1]", '{"a": 1}', ""])
)
FIELDS = st.one_of(
    st.sampled_from([*GOOD, "entity_id", "event_time"]), st.sampled_from(["prediction_id", "fee", "", "agé"])
)
LIKELY = {
    "monthly_fee": NUMBERS,
    "visits": NUMBERS,
    "balance": NUMBERS,
    "age": NUMBERS,
    "plan": TEXTS,
    "city": TEXTS,
    "entity_id": TEXTS,
    "event_time": TEXTS,
}
SPACE = st.sampled_from(["", " ", "\n\t", "\ufeff", "\u00a0"])


@st.composite
def cases(draw: st.DrawFn) -> str:
    """The text of a case: a good one, of which some fields are changed, left out, given twice or invented."""
    members = [(name, json.dumps(value)) for name, value in GOOD.items()]
    for name in draw(st.lists(st.sampled_from(list(LIKELY)), max_size=4)):
        members = [m for m in members if m[0] != name]
        if draw(st.integers(0, 3)):
            members.append((name, draw(LIKELY[name])))
    if not draw(st.integers(0, 4)):
        members.append((draw(FIELDS), draw(VALUES)))
    if draw(st.booleans()):
        members = draw(st.permutations(members))
    space = draw(SPACE) if not draw(st.integers(0, 9)) else ""
    return "{" + ", ".join(f"{space}{json.dumps(n, ensure_ascii=False)}: {v}" for n, v in members) + "}"


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> UseCase:
    return settings_in(tmp_path_factory.mktemp("case")).case


def same(decoded: CaseColumns, rows: list[CaseRequest], case: UseCase) -> bool:
    """Equal values of equal types; ids that were made up for cases without one aside."""
    slow = case_columns(case, rows)
    given = [row.entity_id for row in rows]
    fast_ids = [i if g else None for i, g in zip(decoded.entity_id, given, strict=True)]

    def shown(columns: CaseColumns) -> Any:
        return {n: [repr(v) for v in values] for n, values in columns.features.items()}, columns.event_time

    return fast_ids == given and shown(decoded) == shown(slow) and slow.prediction_id is None


@MANY
@given(text=cases())
@example(json.dumps(GOOD))
@example(json.dumps(GOOD)[:-1] + ', "age": 41}')
@example(json.dumps(GOOD)[:-1] + ', "entity_id": "a\\u0000"}')
@example(json.dumps(GOOD)[:-1] + ', "entity_id": ",\\"age\\":"}')
def test_what_the_decoder_takes_the_models_take_with_equal_values(case: UseCase, text: str):
    body = text.encode("utf-8", errors="surrogatepass")
    decoded = CaseDecoder(case).single(body)
    event("taken" if decoded else "left to the models")
    if decoded is None:
        return
    row = build_schemas(case).single.model_validate(json.loads(body))  # as FastAPI does
    assert same(decoded, [row], case)
    assert duplicate_key(body) is None
    assert all(
        math.isfinite(v) for values in decoded.features.values() for v in values if isinstance(v, float)
    )


@settings(max_examples=400, deadline=None, database=None)
@given(texts=st.lists(cases(), max_size=4), end=st.sampled_from(["]}", "]", '], "cases": []}', '], "x": 1}']))
def test_so_it_is_with_batches(case: UseCase, texts: list[str], end: str):
    body = ('{"cases": [' + ", ".join(texts) + end).encode("utf-8", errors="surrogatepass")
    decoded = CaseDecoder(case).batch(body)
    event("taken" if decoded else "left to the models")
    if decoded is None:
        return
    rows = build_schemas(case).batch.model_validate(json.loads(body)).cases
    assert not any(isinstance(row, InvalidCase) for row in rows)
    assert same(decoded, rows, case)
    assert duplicate_key(body) is None


@settings(max_examples=300, deadline=None, database=None)
@given(
    values=st.fixed_dictionaries(
        {"monthly_fee": st.floats(0, 500), "age": st.integers(-INT64_MAX, INT64_MAX)}
    )
)
def test_plain_requests_are_taken(case: UseCase, values: dict[str, Any]):
    """Else the tests above would show nothing."""
    body = json.dumps(GOOD | values).encode()
    decoded = CaseDecoder(case).single(body)
    assert decoded is not None
    assert {n: decoded.features[n][0] for n in values} == values


@settings(max_examples=300, deadline=None, database=None)
@given(body=st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
def test_no_bytes_make_the_decoder_fail(case: UseCase, body: bytes):
    decoder = CaseDecoder(case)
    assert decoder.single(body) is None
    assert decoder.batch(body) is None
    duplicate_key(body)
