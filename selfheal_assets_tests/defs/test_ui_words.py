"""What the Dagster UI shows explains itself: every asset, check, schedule and sensor of both shipped use cases."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from pydantic import ValidationError

from selfheal_assets.core.monitoring import Finding, Status
from selfheal_assets.definitions import build_definitions
from selfheal_assets.defs import automation
from selfheal_assets.defs.catalogue import ASSETS, STAGE_TAG, STAGES, described
from selfheal_assets.defs.check_catalogue import CHECKS, WAIT, described_test
from selfheal_assets.defs.resources import Chunk, check_result, chunk_partitions
from selfheal_assets.settings import Settings

pytestmark = pytest.mark.integration

SHIPPED = ("sba_loans", "give_me_some_credit")
PARTS = ("\n\n**A failure means:** ", "\n\n**What to do:** ")
NO_TABLE = {"drift_report", "model_card", "production_model"}
CHUNK = Chunk(datetime(2007, 7, 1), datetime(2007, 10, 1), "2007 Q3")


@pytest.fixture(scope="module", params=SHIPPED)
def shipped(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dg.Definitions:
    home = tmp_path_factory.mktemp(request.param)
    return build_definitions(Settings(use_case=request.param, home=home))


def missing_parts(words: str | None) -> list[str]:
    """What a description lacks: a part, or words in it."""
    said = words or ""
    what, *rest = said.split(PARTS[0])
    lacking = [part.strip() for part in PARTS if said.count(part) != 1]
    texts = [what, *(rest[0].split(PARTS[1]) if rest else [])]
    return lacking + ["too few words" for text in texts if len(text.strip()) < 15]


def test_every_asset_says_what_it_is_whose_and_what_to_do(shipped: dg.Definitions):
    specs = list(shipped.resolve_all_asset_specs())
    assert {s.key.to_user_string() for s in specs} == set(ASSETS)
    for spec in specs:
        assert missing_parts(spec.description) == [], spec.key
        assert spec.owners == ["team:ml-platform"], spec.key
        assert spec.kinds, spec.key
        assert spec.tags[STAGE_TAG] == f"{STAGES.index(spec.group_name or '') + 1}_{spec.group_name}"


def test_the_stages_sort_as_the_loop_runs(shipped: dg.Definitions):
    stage = {s.key.path[-1]: s.tags[STAGE_TAG] for s in shipped.resolve_all_asset_specs()}
    way = ["applications", "labels", "drift_alarms", "health_report", "shadow_models", "promotion_decision"]
    assert [stage[name] for name in way] == sorted(set(stage.values()))


def test_every_table_shows_its_columns_in_words(shipped: dg.Definitions):
    for spec in shipped.resolve_all_asset_specs():
        if spec.key.path[-1] in NO_TABLE:
            continue
        schema = spec.metadata["dagster/column_schema"]
        nameless = [c.name for c in schema.columns if not c.description]
        assert schema.columns and not nameless, (spec.key, nameless)
        assert spec.metadata["dagster/table_name"], spec.key


def test_every_check_says_what_it_states_and_what_to_do(shipped: dg.Definitions):
    specs = [c for a in shipped.assets or [] for c in getattr(a, "check_specs", [])]
    assert {c.name for c in specs} >= set(CHECKS) and len(specs) > 25
    for spec in specs:
        assert missing_parts(spec.description) == [], spec.name


def test_every_sensor_and_schedule_says_what_it_does_and_whose_it_is(shipped: dg.Definitions):
    told: list[Any] = [*(shipped.sensors or []), *(shipped.schedules or [])]
    assert len(told) == 5
    for one in told:
        assert missing_parts(one.description) == [], one.name
        assert one.owners == ["team:ml-platform"], one.name
    assert all(job.description for job in shipped.jobs or [])


def test_an_asset_or_test_without_words_is_refused():
    with pytest.raises(LookupError, match="'orphan' says nothing of its failures: add it to"):
        described(dg.AssetSpec("orphan"), [], {})
    with pytest.raises(LookupError, match="dbt test 'odd' has no description"):
        described_test(dg.AssetCheckSpec("odd", asset="labels"))


@pytest.mark.parametrize("wrong", ["nobody", "team:", "a@b", "team:risk,,team:x"])
def test_who_cannot_own_is_refused(wrong: str):
    with pytest.raises(ValidationError, match=r"owns nothing: give team:NAME or an e-mail address"):
        Settings(owners=wrong)


def test_owners_are_the_installations(toy_folder: Path, recwarn: pytest.WarningsRecorder):
    owners = "team:risk-models, ada@example.com"
    settings = Settings(owners=owners, use_case=str(toy_folder / "toy.yaml"), home=toy_folder / "home")
    definitions = build_definitions(settings)
    assert not [w for w in recwarn if "owners" in str(w.message)], (
        "Dagster's beta warning is no user's business"
    )
    assert {tuple(s.owners) for s in definitions.resolve_all_asset_specs()} == {
        ("team:risk-models", "ada@example.com")
    }


@pytest.mark.parametrize("check", sorted(CHECKS))
def test_a_failed_check_says_the_numbers_what_to_do_and_where_the_report_is(check: str, tmp_path: Path):
    settings = Settings(home=tmp_path)
    finding = Finding(check, Status.failed, "0.61 is below 0.63", 0.61, 0.63)
    result = check_result(finding, CHUNK, dg.AssetCheckSeverity.ERROR, settings)
    assert result.description == f"0.61 is below 0.63. What to do: {CHECKS[check].mend}."
    assert result.metadata["report"].value == str(settings.reports / "drift_2007-07-01.html")
    assert (result.metadata["statistic"].value, result.metadata["limit"].value) == (0.61, 0.63)


def test_unknown_says_that_there_is_nothing_to_do_yet_and_a_pass_says_nothing(tmp_path: Path):
    def told(status: Status) -> dg.AssetCheckResult:
        found = Finding("calibration_holds", status, "12 rows")
        return check_result(found, CHUNK, dg.AssetCheckSeverity.ERROR, Settings(home=tmp_path))

    assert told(Status.insufficient).description == f"12 rows. What to do: {WAIT}."
    assert told(Status.passed).description == "12 rows"
    assert "what_to_do" not in told(Status.passed).metadata


@pytest.fixture(scope="module")
def schedules(toy_folder: Path) -> dict[str, dg.ScheduleDefinition]:
    case = Settings(use_case=str(toy_folder / "toy.yaml")).case
    jobs, partitions = automation.build_jobs(), chunk_partitions(case)
    return {s.name: s for s in automation.build_schedules(jobs, case, partitions, ["team:x"])}


@pytest.mark.parametrize("name", ["ingest_each_day", "monitor_each_chunk"])
def test_a_schedule_says_why_it_does_not_act_yet(schedules: dict[str, dg.ScheduleDefinition], name: str):
    at = datetime(2019, 9, 30, 5, tzinfo=UTC)
    skipped = schedules[name](dg.build_schedule_context(scheduled_execution_time=at))
    assert isinstance(skipped, dg.SkipReason)
    assert skipped.skip_message == (
        "the first chunk, which begins 2019-07-01, is not over at 2019-09-30 05:00"
    )


@pytest.mark.parametrize(("name", "key"), [("ingest_each_day", None), ("monitor_each_chunk", "2019-07-01")])
def test_a_schedule_asks_for_the_chunk_that_was_over_at_its_tick(
    schedules: dict[str, dg.ScheduleDefinition], name: str, key: str | None
):
    at = datetime(2019, 10, 1, 5, tzinfo=UTC)
    asked = schedules[name](dg.build_schedule_context(scheduled_execution_time=at))
    assert isinstance(asked, dg.RunRequest)
    assert (asked.partition_key, asked.run_key) == ("2019-07-01", key)
