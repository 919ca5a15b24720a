"""The use case's file: what it declares reaches the model, what is wrong is named by file, line and key."""

from datetime import date

import pytest

from selfheal_assets.settings import Settings
from selfheal_assets.use_case import SHIPPED, UseCaseError, load_use_case

SOUND = """\
name: churn
title: Churn of subscribers
source:
  reader: table
  paths: [data/churn.csv]
  columns: {tenure: months_as_customer, left_on: cancelled}
entity_id: customer
event_time: scored_on
go_live: 2021-01-01
features:
  - {name: tenure, type: integer, min: 0, max: 600}
  - {name: plan, type: category, values: [basic, plus]}
label: {name: churned, positive_at: left_on, horizon_months: 3}
segments: [{name: tenure, feature: tenure, cuts: [12]}]
reference: {start: 2020-06-01, end: 2020-10-01}
policy:
  gates: {min_rows: 300}
"""


@pytest.fixture(autouse=True)
def no_overrides(monkeypatch):
    for field in Settings.model_fields.values():
        if isinstance(field.validation_alias, str):
            monkeypatch.delenv(field.validation_alias, raising=False)
    monkeypatch.delenv("SELFHEAL_USE_CASE", raising=False)


@pytest.fixture
def written(tmp_path):
    def write(text: str) -> str:
        path = tmp_path / "churn.yaml"
        path.write_text(text, encoding="utf-8")
        return str(path)

    return write


def line_of(text: str, fragment: str) -> int:
    return next(i for i, line in enumerate(text.splitlines(), 1) if fragment in line)


def replaced(old: str, new: str) -> str:
    assert SOUND.count(old) == 1, old
    return SOUND.replace(old, new)


def test_a_sound_file_is_read(written):
    case = load_use_case(written(SOUND))
    assert case.feature_names == ["tenure", "plan"]
    assert case.policy.gates.min_rows == 300
    assert case.go_live == date(2021, 1, 1)


@pytest.mark.parametrize(
    ("text", "fragment", "key", "message"),
    [
        (replaced("min_rows: 300", "min_rowz: 300"), "min_rowz", "policy.gates.min_rowz", "not permitted"),
        (replaced("max: 600", "max: many"), "max: many", "features.0.max", "valid number"),
        (replaced("max: 600", "max: .nan"), "max: .nan", "features.0.max", "finite"),
        (
            replaced("values: [basic, plus]", "values: [no, yes]"),
            "[no, yes]",
            "features.1.values.0",
            "string",
        ),
        (replaced(", horizon_months: 3", ""), "label:", "label.horizon_months", "required"),
        (replaced("end: 2020-10-01", "end: 2021-10-01"), "reference:", "reference", "after go_live"),
        (replaced("end: 2020-10-01", "end: 2020-01-01"), "reference:", "reference", "before end"),
        (replaced("feature: tenure,", "feature: size,"), "segments:", "segments", "'size'"),
        (replaced("\n  gates: {min_rows: 300}", " []"), "policy:", "policy", "dictionary"),
        (SOUND + "title: Again\n", "title: Again", "title", "given twice"),
    ],
)
def test_a_malformed_file_is_named_with_line_and_key(written, text, fragment, key, message):
    path = written(text)
    with pytest.raises(UseCaseError) as caught:
        load_use_case(path)
    first = str(caught.value).splitlines()[0]
    assert first.startswith(f"{path}, line {line_of(text, fragment)}: {key}: ")
    assert message in first


def test_every_problem_of_a_file_is_listed(written):
    text = replaced("max: 600", "max: many").replace("min_rows: 300", "min_rowz: 300")
    with pytest.raises(UseCaseError) as caught:
        load_use_case(written(text))
    assert len(str(caught.value).splitlines()) == 2


def test_what_is_not_yaml_is_named_with_its_line(written):
    path = written(replaced("policy:", "policy: ["))
    with pytest.raises(UseCaseError, match=r"line \d+: not valid YAML") as caught:
        load_use_case(path)
    assert str(caught.value).startswith(path)
    with pytest.raises(UseCaseError, match="line 1: a use case is a mapping"):
        load_use_case(written("- a\n"))


def test_bytes_that_are_not_utf8_are_refused(tmp_path):
    path = tmp_path / "churn.yaml"
    path.write_bytes(b"name: \xff")
    with pytest.raises(UseCaseError, match="not UTF-8"):
        load_use_case(str(path))


@pytest.mark.parametrize(
    "feature",
    [
        "{name: left_on, type: category}",
        "{name: churned, type: integer}",
        "{name: cancelled, type: category}",
        "{name: refund, type: number, known_at: outcome}",
    ],
)
def test_a_feature_that_knows_the_outcome_is_refused(written, feature):
    text = replaced("features:\n", f"features:\n  - {feature}\n")
    with pytest.raises(
        UseCaseError, match=rf"line {line_of(text, 'features:')}: features: .*after the outcome"
    ):
        load_use_case(written(text))


def test_renaming_does_not_smuggle_the_outcome_in(written):
    text = replaced("columns: {", "columns: {plan: cancelled, ")
    with pytest.raises(UseCaseError, match="'plan' is only known after the outcome"):
        load_use_case(written(text))


def test_an_unknown_name_lists_what_is_shipped():
    with pytest.raises(UseCaseError, match="Shipped: give_me_some_credit, sba_loans"):
        load_use_case("nope")


@pytest.mark.parametrize("name", ["sba_loans", "give_me_some_credit"])
def test_shipped_files_load_and_are_named_after_their_file(name):
    assert (SHIPPED / f"{name}.yaml").is_file()
    case = load_use_case(name)
    assert case.name == name
    assert case.source.help


@pytest.mark.parametrize("name", ["sba_loans", "give_me_some_credit"])
def test_a_shipped_reference_is_mature_at_go_live(name):
    case = load_use_case(name)
    months = (
        (case.go_live.year - case.reference.end.year) * 12 + case.go_live.month - case.reference.end.month
    )
    assert months >= case.label.horizon_months


def test_the_environment_overrides_the_policy(written, monkeypatch):
    before = Settings(use_case=written(SOUND)).case
    for name, value in {
        "MONITORING_INTERVAL": "week",
        "MONITORING_LOOKBACK": "5",
        "MIN_F1_IMPROVEMENT_PCT": "3.5",
        "MAX_BRIER_DEGRADATION": "0.002",
        "MIN_SAMPLES_FOR_DECISION": "777",
    }.items():
        monkeypatch.setenv(name, value)
    after = Settings(use_case=written(SOUND)).case
    assert (after.monitoring.chunk, after.monitoring.lookback) == ("week", 5)
    gates = after.policy.gates
    assert (gates.min_improvement_pct, gates.max_brier_degradation, gates.min_rows) == (3.5, 0.002, 777)
    assert before.policy.gates.min_rows == 300
    assert before.fingerprint != after.fingerprint
    assert after.policy.gates.confidence == before.policy.gates.confidence


def test_overrides_reach_a_file_without_those_sections(written, monkeypatch):
    monkeypatch.setenv("MIN_SAMPLES_FOR_DECISION", "777")
    text = replaced("policy:\n  gates: {min_rows: 300}\n", "")
    assert Settings(use_case=written(text)).case.policy.gates.min_rows == 777
    with pytest.raises(UseCaseError, match="policy: "):
        load_use_case(written(text + "policy:\n"), {"policy.gates.min_rows": 777})


def test_an_override_out_of_bounds_is_refused(written, monkeypatch):
    monkeypatch.setenv("MIN_SAMPLES_FOR_DECISION", "0")
    with pytest.raises(UseCaseError, match=r"policy\.gates\.min_rows"):
        _ = Settings(use_case=written(SOUND)).case


def test_the_use_case_comes_from_the_environment_by_name_or_path(written, monkeypatch):
    monkeypatch.setenv("SELFHEAL_USE_CASE", written(SOUND))
    assert Settings().case.name == "churn"
    monkeypatch.setenv("SELFHEAL_USE_CASE", "give_me_some_credit")
    assert Settings().case.name == "give_me_some_credit"
