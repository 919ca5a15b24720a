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
        (replaced("end: 2020-10-01", "end: 2021-10-01"), "reference:", "reference.end", "after go_live"),
        (replaced("end: 2020-10-01", "end: 2020-01-01"), "reference:", "reference", "before end"),
        (replaced("feature: tenure,", "feature: size,"), "segments:", "segments", "'size'"),
        (replaced("\n  gates: {min_rows: 300}", " []"), "policy:", "policy", "must be a mapping"),
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


POLICY = "  gates: {min_rows: 300}"


@pytest.mark.parametrize(
    ("text", "fragment", "key", "message"),
    [
        (
            replaced("go_live: 2021-01-01", "go_live: 2021-13-01"),
            "go_live",
            "go_live",
            "month must be in 1..12",
        ),
        (replaced("start: 2020-06-01", "start: 2020-06-31"), "reference", "reference.start", "out of range"),
        (
            replaced("go_live: 2021-01-01", "go_live: 9999-12-31"),
            "go_live",
            "go_live",
            "less than 2200-01-01",
        ),
        (
            replaced(POLICY, "  retrain_on: [drift]"),
            "[drift]",
            "policy.retrain_on.0",
            "'drift_within_limits'",
        ),
        (
            replaced(POLICY, "  retrain_on: [calibration_holds, calibration_holds]"),
            "retrain_on",
            "policy.retrain_on",
            "given twice",
        ),
        (
            replaced(POLICY, "  harm: {tolerated_ratio: [1.25, 0.8]}"),
            "harm",
            "policy.harm.tolerated_ratio",
            "around 1",
        ),
        (
            replaced(POLICY, "  harm: {tolerated_ratio: [-1, 2]}"),
            "harm",
            "policy.harm.tolerated_ratio",
            "positive",
        ),
        (
            replaced(POLICY, "  alarms: {jensen_shannon: 0.15}"),
            "alarms",
            "policy.alarms.jensen_shannon",
            "no such key",
        ),
        (
            replaced(POLICY, "  drift: {warn_hits: 4}"),
            "warn_hits",
            "policy.drift",
            "cannot happen in warn_window 3",
        ),
        (SOUND + "monitoring: {until: 2020-06-01}\n", "until", "monitoring.until", "at least 2021-02-01"),
        (
            SOUND + "monitoring: {until: 2021-01-02}\n",
            "until",
            "monitoring.until",
            "nothing would be monitored",
        ),
        (
            SOUND + "compared: {start: 2020-01-01, end: 2022-01-01}\n",
            "compared",
            "compared.start",
            "before go_live",
        ),
        (
            SOUND + "compared: {start: 2022-01-01, end: 2023-01-01}\nmonitoring: {until: 2022-06-01}\n",
            "compared",
            "compared.end",
            "after monitoring.until",
        ),
        (replaced("[basic, plus]", "[basic, basic]"), "[basic", "features.1.values", "given twice: basic"),
        (replaced("[basic, plus]", "[]"), "values: []", "features.1.values", "at least 1 item"),
        (replaced("[basic, plus]", "[basic, ' plus']"), "[basic", "features.1.values", "space"),
        (
            replaced("segments: [", "segments: [{name: tenure, feature: plan}, "),
            "segments",
            "segments",
            "declared twice: tenure",
        ),
        (replaced("feature: tenure,", "feature: plan,"), "segments", "segments", "'cuts' are for numbers"),
        (replaced("end: 2020-10-01", "end: 2020-11-01"), "reference", "reference.end", "at most 2020-10-01"),
        (
            replaced("end: 2020-10-01", "end: 2020-06-02"),
            "reference",
            "reference.end",
            "shorter than one month",
        ),
        (replaced("type: integer", "type: float"), "float", "features.0.type", "'integer'"),
        (SOUND.replace("name: plan", "name: größe"), "größe", "features.1.name", "pattern"),
        (replaced("name: plan", "name: p" + "l" * 64 + "an"), "values", "features.1.name", "at most 64"),
        (replaced("min_rows: 300", f"min_rows: {10**30}"), "gates", "policy.gates.min_rows", "too large"),
        (
            replaced("min_rows: 300", f"min_rows: 1{'0' * 5000}"),
            "gates",
            "policy.gates.min_rows",
            "not an integer",
        ),
        (
            replaced("min_rows: 300", "cooldown_days: 9999999999"),
            "gates",
            "policy.gates.cooldown_days",
            "36500",
        ),
        (replaced("horizon_months: 3", "horizon_months: 1000000"), "label", "label.horizon_months", "600"),
        (replaced("horizon_months: 3", "horizon_months: true"), "label", "label.horizon_months", "integer"),
        (replaced("max: 600", "max: true"), "max", "features.0.max", "number"),
        (replaced("max: 600", "max: '600'"), "max", "features.0.max", "number"),
        (replaced("max: 600", "max: 10:00"), "max", "features.0.max", "base 60"),
        (replaced("max: 600", "max: !!float many"), "max", "features.0.max", "many is not a number"),
        (replaced("max: 600", "nullable: 'no'"), "nullable", "features.0.nullable", "boolean"),
        (replaced("max: 600", "nullable: !!bool maybe"), "nullable", "features.0.nullable", "truth value"),
        (replaced("title: Churn of subscribers", "title:"), "title", "title", "is empty"),
        (replaced("title: Churn of subscribers", "title: ' '"), "title", "title", "pattern"),
        (replaced(POLICY, ""), "policy:", "policy", "is empty"),
        (replaced("tenure: months", "tenur: months"), "columns", "source.columns", "'tenur' is no column"),
        (replaced("event_time: scored_on", "event_time: customer"), "entity_id", "entity_id", "at once"),
        (SOUND + "1: a\n", "1: a", "1", "quote it"),
        (SOUND + "description: &a [*a]\n", "description", "description.0", "inside its own anchor"),
        (
            SOUND + "description: !!binary aGVsbG8=\n",
            "description",
            "description",
            "!!binary is not supported",
        ),
        (SOUND + 'description: "a\\0b"\n', "description", "description", "U+0000"),
        (SOUND + 'description: "\\ud800"\n', "description", "description", "U+D800"),
        (SOUND + "training: {seed: -1}\n", "seed", "training.seed", "greater than or equal to 0"),
        (SOUND + "training: {rounds: 1000000000}\n", "rounds", "training.rounds", "10000"),
        (
            SOUND + "training: {family: [full_history, full_history]}\n",
            "family",
            "training.family",
            "given twice",
        ),
        (
            SOUND + "training: {family: [maturity_aware], gate_months: 2}\n",
            "family",
            "training.family",
            "say 'evidence: partial' in policy.gates, or remove it here",
        ),
        (
            replaced("min_rows: 300", "evidence: partial")
            + "training: {family: [maturity_aware], gate_months: 3}\n",
            "gate_months",
            "training.gate_months",
            "nothing is left for 'maturity_aware' to learn from; at most 2",
        ),
    ],
)
def test_a_value_that_would_fail_later_is_refused_here(written, text, fragment, key, message):
    path = written(text)
    with pytest.raises(UseCaseError) as caught:
        load_use_case(path)
    (only,) = str(caught.value).splitlines()
    assert only.startswith(f"{path}, line {line_of(text, fragment)}: {key}: ")
    assert message in only


@pytest.mark.parametrize(("chunk", "a_year"), [("day", 365), ("week", 52), ("month", 12), ("quarter", 4)])
def test_alarms_are_budgeted_over_the_chunks_of_a_year(written, chunk, a_year):
    text = replaced(POLICY, "  drift: {cells: 7}\n  harm: {budget: 0.01}")
    case = load_use_case(written(f"{text}monitoring: {{chunk: {chunk}}}\n"))
    assert case.drift_alarms.chunks_per_year == case.harm_alarms.horizon_chunks == a_year
    assert (case.drift_alarms.cells, case.harm_alarms.budget) == (7, 0.01)
    assert case.harm_alarms.model_copy(update={"horizon_chunks": 52}) == case.policy.harm


def test_labels_so_far_let_the_family_learn_from_immature_cases(written):
    training = "training: {family: [maturity_aware, recalibrated], gate_months: 2, hazard: {bands: 6}}\n"
    case = load_use_case(written(replaced("min_rows: 300", "evidence: partial") + training))
    assert case.training.family == ("maturity_aware", "recalibrated")
    assert (case.training.hazard.bands, case.policy.gates.evidence) == (6, "partial")
    assert load_use_case(written(SOUND)).policy.gates.evidence == "matured"


def test_a_policy_that_says_over_how_many_chunks_is_kept(written):
    """Also where it says what would hold if it said nothing."""
    text = replaced(POLICY, "  drift: {chunks_per_year: 52}\n  harm: {horizon_chunks: 30}")
    case = load_use_case(written(f"{text}monitoring: {{chunk: quarter}}\n"))
    assert (case.drift_alarms.chunks_per_year, case.harm_alarms.horizon_chunks) == (52, 30)


def test_anchors_and_numbers_as_people_write_them_are_read(written):
    text = replaced("max: 600", "max: 6e2") + "monitoring: {until: &end 2022-06-01}\n"
    text += "compared: {start: 2021-06-01, end: *end}\n"
    case = load_use_case(written("\ufeff" + text.replace("\n", "\r\n")))
    assert case.feature("tenure").max == 600
    assert case.compared.end == case.monitoring.until == date(2022, 6, 1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (SOUND + f"description: {'[' * 3000}{']' * 3000}\n", "nested too deeply"),
        (
            SOUND
            + "description: {a0: &a0 [x], "
            + ", ".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 10))
            + "}\n",
            "more than 100,000 values",
        ),
        (SOUND + "---\nname: other\n", "line 18: not valid YAML: but found another document"),
        (SOUND + "? [a, b]\n: c\n", "line 18: a key must be a text"),
        (replaced("  reader: table", "\treader: table"), "line 4: not valid YAML: found character '\\t'"),
        (SOUND + "description: a\0b\n", "not valid YAML: unacceptable character"),
        ("", "line 1: must be a mapping of keys"),
    ],
)
def test_what_yaml_allows_and_nobody_means_is_refused(written, text, message):
    with pytest.raises(UseCaseError) as caught:
        load_use_case(written(text))
    assert message in str(caught.value)


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
    with pytest.raises(UseCaseError, match="line 1: must be a mapping"):
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
