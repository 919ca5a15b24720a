"""The backtest from end to end: it decides as the product does, sees no future label, and touches nothing."""

import json
import os
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal
from typer.testing import CliRunner

from selfheal_assets.backtest import life, shared
from selfheal_assets.backtest.gating import Verdict
from selfheal_assets.backtest.history import History, simulated_history
from selfheal_assets.backtest.policies import (
    BacktestPolicy,
    Kind,
    PolicyError,
    policies_from,
    standard_policies,
)
from selfheal_assets.backtest.run import Bounds, NothingToLiveThrough, run_backtest
from selfheal_assets.backtest.shared import Shared
from selfheal_assets.cli import app
from selfheal_assets.core.backtest import ACTIONS, CHUNKS, DIFFERENCES, MODELS, SUMMARY, Backtest
from selfheal_assets.core.bundle import Bundle, Calibrator
from selfheal_assets.core.decision import Action
from selfheal_assets.core.population import fit_population
from selfheal_assets.core.scenario import Scenario
from selfheal_assets.core.simulation import Simulation, simulate
from selfheal_assets.core.simulation_scores import regret
from selfheal_assets.stores.simulation_files import declaration, write
from selfheal_assets.stores.sources import read_cases
from selfheal_assets.use_case import UseCase
from selfheal_assets_tests import toy
from selfheal_assets_tests.conftest import Lived

pytestmark = pytest.mark.integration

POLICIES = ("never", "every 4 quarters", "on drift", "selfheal", "oracle")
FRAMES = ("chunks", "actions", "models", "alarms", "summary", "differences")


@pytest.fixture(scope="module")
def told(tmp_path_factory) -> tuple[History, UseCase]:
    settings = toy.settings(tmp_path_factory.mktemp("backtest"))
    cases = read_cases(settings.case, settings)
    return History(cases.frame, cases.labels), settings.case


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("kept")


@pytest.fixture(scope="module")
def done(told, folder) -> Backtest:
    history, case = told
    return run_backtest(history, case, standard_policies(case), folder=folder, resamples=50)


def alone(told, kind: Kind, **given) -> Backtest:
    history, case = told
    return run_backtest(history, case, [BacktestPolicy("it", kind, case)], resamples=0, **given)


def decided(backtest: Backtest, policy: str) -> pl.DataFrame:
    return backtest.actions.filter((pl.col("policy") == policy) & (pl.col("action") != life.RETRAIN))


def test_it_decides_as_the_replay_did(done: Backtest, lived: Lived):
    """The same actions on the same days, the same models bit for bit, the same model serving each chunk."""
    ledger = lived.states[-1].decisions
    mine = decided(done, "selfheal")
    assert mine["action"].to_list() == ledger["action"].to_list()
    assert mine["as_of"].to_list() == ledger["as_of"].to_list()
    prints = [json.loads(p)["fingerprints"]["challenger"] for p in ledger["payload"]]
    models = done.models.filter(pl.col("policy") == "selfheal")
    assert models["fingerprint"].to_list() == prints
    served = done.chunks.filter(pl.col("policy") == "selfheal").select("chunk", "champion")
    log = lived.states[-1].predictions.with_columns(chunk=pl.col("event_time").dt.truncate("1q"))
    assert served.rows() == log.group_by("chunk").agg(pl.col("model_version").first()).sort("chunk").rows()


def test_it_says_why_in_the_words_of_the_ledger(done: Backtest, lived: Lived):
    """Every figure that the gates read is the same: they are in the reasons."""
    ledger = lived.states[-1].decisions.filter(pl.col("champion").is_not_null())
    mine = decided(done, "selfheal").filter(pl.col("champion").is_not_null())
    assert mine["reason"].to_list() == ledger["reason"].to_list()


def test_no_label_is_known_before_its_time(told, done: Backtest):
    """What is recorded after a day changes nothing that was decided until then."""
    history, case = told
    day = datetime(2020, 7, 1)
    late = pl.col("recorded_at") >= day
    other = history.labels.with_columns(
        pl.when(late).then(1 - pl.col("label")).otherwise("label").alias("label")
    )
    gated = [p for p in standard_policies(case) if p.kind in (Kind.gated, Kind.on_drift)]
    wrong = run_backtest(replace(history, labels=other), case, gated, resamples=0)
    for policy in ("selfheal", "on drift"):
        before = [
            b.actions.filter((pl.col("policy") == policy) & (pl.col("as_of") <= day)) for b in (done, wrong)
        ]
        assert before[0].height > 0
        columns = ["as_of", "action", "champion", "challenger", "reason"]
        assert_frame_equal(before[0].select(columns), before[1].select(columns))


def test_the_oracle_does_see_them(told, done: Backtest):
    history, case = told
    late = pl.col("recorded_at") >= datetime(2020, 7, 1)
    other = history.labels.with_columns(
        pl.when(late).then(1 - pl.col("label")).otherwise("label").alias("label")
    )
    found = alone((replace(history, labels=other), case), Kind.oracle)
    mine = done.models.filter(pl.col("policy") == "oracle")["fingerprint"].to_list()
    assert found.models["fingerprint"].to_list()[1:] != mine[1:]


def test_the_frames_are_as_declared(done: Backtest):
    declared = dict(
        zip(
            ("chunks", "actions", "models", "summary", "differences"),
            (CHUNKS, ACTIONS, MODELS, SUMMARY, DIFFERENCES),
            strict=True,
        )
    )
    for name, schema in declared.items():
        assert dict(getattr(done, name).schema) == schema, name
    assert done.policies == POLICIES
    assert done.summary["policy"].to_list() == list(POLICIES)
    assert set(done.differences["against"]) == {"selfheal"}


def test_the_policies_differ_as_they_must(done: Backtest):
    by = {row["policy"]: row for row in done.summary.to_dicts()}
    assert by["never"]["retrainings"] == by["never"]["promotions"] == 0
    assert by["every 4 quarters"]["retrainings"] == 1
    assert by["oracle"]["auc"] > by["selfheal"]["auc"] > by["never"]["auc"]
    assert by["oracle"]["brier"] < by["selfheal"]["brier"] < by["never"]["brier"]
    assert {row["rows"] for row in by.values()} == {done.chunks.filter(policy="never")["rows"].sum()}


def test_once_more_gives_the_same(done: Backtest, told):
    history, case = told
    again = run_backtest(history, case, standard_policies(case), resamples=50)
    for name in FRAMES:
        assert_frame_equal(getattr(again, name), getattr(done, name))


def test_an_interrupted_one_goes_on_where_it_stopped(done: Backtest, told, folder, tmp_path, monkeypatch):
    """What was trained before the interruption is not trained again, and the result is that of one run."""
    history, case = told

    class Interrupted(Exception):
        pass

    def interrupt(policy: str, number: int, of: int) -> None:
        if (policy, number) == ("selfheal", 5):
            raise Interrupted

    with pytest.raises(Interrupted):
        run_backtest(history, case, standard_policies(case), folder=tmp_path, told=interrupt)
    kept = {p.name for p in (tmp_path / "models").iterdir()}
    fitted: list[str] = []

    def fit(member: str, material) -> Bundle:
        fitted.append(shared._fit_name(member, material))  # type: ignore[arg-type]
        return original(member, material)  # type: ignore[arg-type]

    original = shared.fitted
    monkeypatch.setattr(shared, "fitted", fit)
    resumed = run_backtest(history, case, standard_policies(case), folder=tmp_path, resamples=50)
    assert fitted, "the rest is still to be trained"
    assert not {f"{name}.json" for name in fitted} & kept
    for name in FRAMES:
        assert_frame_equal(getattr(resumed, name), getattr(done, name))


def test_policies_that_would_train_the_same_train_once(told, folder, done: Backtest):
    """Two policies deploy the same model here, and it was fitted once: a file for each fit."""
    prints = done.models.group_by("fingerprint").agg(pl.col("policy").n_unique())
    assert prints["policy"].max() == 4, "all but the oracle begin with the same model"
    names = [p.name for p in (folder / "models").iterdir()]
    assert len(names) == len(set(names)) > 0


def test_regret_is_told_of_promotions_alone(done: Backtest):
    replacing = (pl.col("action") == "PROMOTE") & pl.col("champion").is_not_null()
    moved = done.actions.filter(replacing & (pl.col("as_of") < done.until))
    assert moved["regretted"].to_list() == (moved["regret"] > 0).to_list()
    assert done.actions.filter(~(replacing & (pl.col("as_of") < done.until)))["regretted"].null_count() == (
        done.actions.height - moved.height
    ), "one at the end has served nobody"
    healed = moved.filter(policy="selfheal")
    assert healed["regretted"].to_list() == [False], "the world had turned round, and the new model knew it"


def test_bounds_are_kept(told):
    found = alone(told, Kind.never, bounds=Bounds(datetime(2020, 1, 1), datetime(2020, 7, 15)))
    assert found.chunks["chunk"].max() == datetime(2020, 4, 1), "no chunk that ends after --until"
    assert (
        found.summary["rows"][0] == found.chunks.filter(pl.col("chunk") >= datetime(2020, 1, 1))["rows"].sum()
    )
    with pytest.raises(NothingToLiveThrough, match="2019-07-01"):
        alone(told, Kind.never, bounds=Bounds(until=datetime(2019, 8, 1)))


def test_a_promotion_that_fails_is_taken_back(told, monkeypatch):
    """The gates let everything through, and a challenger ranks backwards: the slow path gives the alias back."""
    history, case = told
    sound = Shared.challenger

    def backwards(self: Shared, case: UseCase, plan, champion, preferred=None):
        bundle, rows = sound(self, case, plan, champion, preferred)
        turned = Calibrator(-bundle.calibrator.slope, bundle.calibrator.intercept)
        return (replace(bundle, calibrator=turned) if champion else bundle), rows

    monkeypatch.setattr(Shared, "challenger", backwards)
    monkeypatch.setattr(life, "verdict_on", lambda *_: Verdict(Action.promote, "waved through"))
    turned_back = pl.col("event_time") >= datetime(2020, 7, 1)
    known = pl.when(turned_back).then(-pl.col("distance")).otherwise("distance").alias("distance")
    found = alone((replace(history, cases=history.cases.with_columns(known)), case), Kind.gated)
    back = found.actions.filter(pl.col("action") == "ROLL_BACK").row(0, named=True)
    assert (back["as_of"], back["champion"], back["challenger"]) == (datetime(2020, 10, 1), 2, 1)
    assert found.chunks["champion"].to_list() == [1, 1, 1, 1, 2, 1]
    assert found.summary["rollbacks"].to_list() == [1]
    promoted = found.actions.filter((pl.col("action") == "PROMOTE") & (pl.col("challenger") == 2))
    assert promoted["regretted"].to_list() == [True]


def test_nothing_of_the_installation_is_touched(told, tmp_path):
    before = {p: p.stat().st_mtime_ns for p in Path(toy.PROJECT / "data").rglob("*") if p.is_file()}
    alone(told, Kind.never, folder=tmp_path / "kept")
    assert sorted(os.listdir(tmp_path)) == ["kept"]
    assert {p: p.stat().st_mtime_ns for p in Path(toy.PROJECT / "data").rglob("*") if p.is_file()} == before


def command(monkeypatch, told_folder: Path, *arguments: str):
    for name in list(os.environ):
        if name.startswith("SELFHEAL_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("SELFHEAL_HOME", str(told_folder / "home"))
    return CliRunner().invoke(app, ["backtest", "--use-case", str(toy.make(told_folder)), *arguments])


def test_the_command_prints_a_table_or_one_line_of_json(monkeypatch, tmp_path):
    file = tmp_path / "eager.yaml"
    file.write_text("policy: {costs: {missed_positive: 5, retraining: 3}, gates: {min_improvement_pct: 0.0}}")
    short = ["--until", "2020-01-01", "--resamples", "20", "--policy", str(file)]
    found = command(monkeypatch, tmp_path, *short, "--json")
    assert found.exit_code == 0, found.output
    line = json.loads(found.stdout.splitlines()[-1])
    assert list(line["policies"]) == [*POLICIES, "eager"]
    figures = {
        "auc", "brier", "expected_over_observed", "retrainings", "promotions", "regretted_promotions", "differences",
    }  # fmt: skip
    assert figures <= set(line["policies"]["never"])
    assert line["policies"]["eager"]["cost"] is not None and line["policies"]["never"]["cost"] is None
    assert line["policies"]["oracle"]["differences"]["selfheal"]["auc"]["difference"] != 0
    assert "[  2/2] oracle" in found.stderr, "where no terminal is, progress is lines"
    (kept,) = (tmp_path / "home" / "backtests").iterdir()
    assert json.loads((kept / "backtest.json").read_text()) == line
    assert "would have ranked" in (kept / "backtest.html").read_text(encoding="utf-8"), "the page to look at"
    table = command(monkeypatch, tmp_path, *short).stdout
    for expected in (*POLICIES, "eager", "AUC within", "regretted", "95% intervals", str(kept)):
        assert expected in table
    assert not (tmp_path / "home" / "toy" / "warehouse.duckdb").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("policy: {gates: {min_rowz: 3}}", r"policy\.gates\.min_rowz"),
        ("label: {horizon_months: 3}", "give 'policy' and 'training'"),
        ("- 3", "give 'policy' and 'training'"),
        ("policy: [", "cannot be read as YAML"),
    ],
)
def test_a_policy_that_cannot_be_is_told_with_its_key(told, tmp_path, text, message):
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    with pytest.raises(PolicyError, match=f"mine.yaml.*{message}"):
        policies_from(told[1], [file])


def test_two_policies_of_one_name_are_refused(told, tmp_path):
    file = tmp_path / "selfheal.yaml"
    file.write_text("training: {rounds: 7}")
    with pytest.raises(PolicyError, match="another policy called 'selfheal'"):
        policies_from(told[1], [file])


def test_a_policy_file_changes_its_keys_alone(told, tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("policy: {gates: {min_rows: 151}}\ntraining: {rounds: 7}")
    (mine,) = policies_from(told[1], [file])
    ours = told[1]
    assert mine.name == "mine" and mine.kind is Kind.gated
    assert (mine.case.policy.gates.min_rows, mine.case.training.rounds) == (151, 7)
    assert mine.case.policy.gates.min_positives == ours.policy.gates.min_positives == 30
    assert mine.case.model_copy(update={"policy": ours.policy, "training": ours.training}) == ours


TURNED = {"kind": "concept_drift", "start": 4, "factor": -1.0}


def of_members(told, *events: dict, cases_per_month: int = 150) -> tuple[Simulation, UseCase]:
    """A year over the toy's members."""
    history, case = told
    population = fit_population(history.cases, history.labels, case.features, case.label)
    scenario = Scenario.model_validate(
        {
            "name": "turned", "history_months": 18, "months": 12, "cases_per_month": cases_per_month,
            "horizon_months": 3, "reference_months": 6, "events": events,
        }
    )  # fmt: skip
    made = simulate(population, scenario, seed=1)
    return made, UseCase.model_validate(declaration(made.scenario, case, Path("nowhere.parquet")))


@pytest.fixture(scope="module")
def simulated(told) -> tuple[Simulation, UseCase]:
    """Who leaves changes at once after four months."""
    return of_members(told, TURNED)


def test_what_is_held_waits_for_ever_or_until_somebody_has_looked(told):
    """A month without a column among the months that are to be trained on."""
    made, case = of_members(
        told,
        {"kind": "missing_column", "start": 1, "end": 2, "feature": "@number"},
        TURNED,
        cases_per_month=300,
    )
    policies = [
        BacktestPolicy(name, Kind.gated, case, looked_at_after=after)
        for name, after in (("nobody", None), ("two", 2), ("never_yet", 100))
    ]
    found = run_backtest(simulated_history(made), case, policies, resamples=0)
    assert found.to_json()["policies"]["two"]["looked_at_after"] == 2
    of = {p: found.actions.filter(pl.col("policy") == p) for p in found.policies}
    assert_frame_equal(of["nobody"].drop("policy"), of["never_yet"].drop("policy"))
    held = {p: f.filter(pl.col("reason").str.contains("training set is held")) for p, f in of.items()}
    trained = {p: f.filter(pl.col("action") == life.RETRAIN) for p, f in of.items()}
    first = held["nobody"]["as_of"].to_list()
    assert len(first) >= 3 and held["two"]["as_of"].to_list() == first[:2]
    assert not trained["nobody"].filter(pl.col("as_of").is_between(first[0], first[-1])).height
    accepted = trained["two"].filter(pl.col("as_of") >= first[0]).row(0, named=True)
    assert accepted["as_of"] == first[2] and "found right" in accepted["reason"]


def test_a_simulated_history_is_lived_through_in_memory_and_scored_by_its_truth(simulated):
    made, case = simulated
    found = run_backtest(simulated_history(made), case, standard_policies(case), resamples=0)
    by = {row["policy"]: row for row in found.summary.to_dicts()}
    expected = regret(made.truth["true_probability"].to_numpy(), made.truth["true_probability"].to_numpy())
    assert expected.brier == 0 < by["oracle"]["regret_brier"] < by["never"]["regret_brier"]
    assert by["never"]["false_alarms"] is None, "it does not watch"
    assert by["selfheal"]["events"] == 1
    assert found.events["event"].to_list() == ["1 concept_drift"]
    assert found.alarms["false_alarm"].null_count() == 0
    early = found.alarms.filter(pl.col("chunk") < found.events["starts"][0])
    assert early["false_alarm"].all()


def test_the_command_knows_the_truth_of_a_simulated_folder(simulated, told, monkeypatch, tmp_path):
    made, _ = simulated
    written = write(made, told[1], tmp_path / "sim")
    monkeypatch.setenv("SELFHEAL_HOME", str(tmp_path / "home"))
    given = ["--use-case", str(written.use_case), "--resamples", "0", "--json"]
    until = f"{made.scenario.moment(2):%Y-%m-%d}"
    line = CliRunner().invoke(app, ["backtest", *given, "--until", until]).stdout.splitlines()[-1]
    figures = json.loads(line)["policies"]
    assert figures["never"]["regret_brier"] > 0
    assert figures["on drift"]["false_alarms"] == figures["on drift"]["alarms"]
