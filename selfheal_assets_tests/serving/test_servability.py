"""A registered bundle on trial, in a real process: what serves, what does not, and that nothing but scores passes."""

import math
import os
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from selfheal_assets.core.bundle import BOOSTER_FILE, Calibrator
from selfheal_assets.core.gate_evidence import Servability
from selfheal_assets.serving.servability import ServingTrials, Trial
from selfheal_assets_tests.serving.conftest import Installation, generate, register

pytestmark = pytest.mark.integration
PATIENCE_S = 60.0


@pytest.fixture(scope="module")
def trials() -> Iterator[ServingTrials]:
    """One process for the module's trials, as a Dagster process has."""
    running = ServingTrials()
    yield running
    running.stop()


def trial_of(installation: Installation, which: int = 0, rows: int = 300) -> Trial:
    bundle, version = installation.bundles[which], installation.versions[which]
    frame = generate(rows, 7).with_columns(visits=pl.when(pl.col("visits") > 3).then("visits"))
    return Trial(installation.settings, version, frame, bundle.score(frame), bundle.fingerprint)


def process_of(trials: ServingTrials) -> int:
    assert trials._process is not None
    return trials._process.pid


def faked(script: str) -> ServingTrials:
    """A process that does what the script says."""
    return ServingTrials((sys.executable, "-c", script))


def answering(answer: str) -> ServingTrials:
    return faked(f"import sys\nfor line in sys.stdin: print('''{answer}''', flush=True)")


def refused(found: Servability) -> str:
    assert not found.loads
    assert (found.largest_difference, found.latency_ms) == (math.inf, math.inf)
    return found.error


def test_a_registered_bundle_serves_its_trained_scores(registered, trials):
    for which in (0, 1):
        found = trials.run(trial_of(registered, which), PATIENCE_S, 0.5)
        assert (found.loads, found.largest_difference, found.size_mb, found.error) == (True, 0.0, 0.5, "")
        assert 0 < found.latency_ms < 1000


def test_it_is_another_process_that_stays_warm_and_loads_anew(registered, trials, tmp_path):
    trials.run(trial_of(registered), PATIENCE_S, 0.5)
    before = process_of(trials)
    assert before != os.getpid()
    booster = booster_of(registered, registered.versions[0])
    kept = booster.read_bytes()
    try:
        booster.write_bytes(kept[: len(kept) // 2])
        error = refused(trials.run(trial_of(registered), PATIENCE_S, 0.5))
    finally:
        booster.write_bytes(kept)
    assert "XGBoostError" in error
    assert trials.run(trial_of(registered), PATIENCE_S, 0.5).loads
    assert process_of(trials) == before


def booster_of(installation: Installation, version: int) -> Path:
    source = installation.registry._source(version)
    return Path(source.removeprefix("file://")) / "data" / "bundle" / BOOSTER_FILE


def test_scores_that_differ_are_measured(registered, trials):
    trial = trial_of(registered)
    shifted = trial.trained.copy()
    shifted[5] -= 0.01
    found = trials.run(replace(trial, trained=shifted), PATIENCE_S, 0.5)
    assert found.loads and found.largest_difference == pytest.approx(0.01)


def test_other_contents_than_were_registered_do_not_serve(registered, trials):
    error = refused(trials.run(replace(trial_of(registered), fingerprint="another"), PATIENCE_S, 0.5))
    assert "registered was another" in error


def test_a_version_that_is_not_there_does_not_serve(registered, trials):
    error = refused(trials.run(replace(trial_of(registered), version=77), PATIENCE_S, 0.5))
    assert error.startswith("NoSuchVersion: model 'subscriptions' has no version 77")


def test_a_bundle_that_answers_no_number_does_not_serve(registered, trials):
    """The service would refuse to answer with it, so the trial does."""
    bundle = replace(registered.bundles[0], calibrator=Calibrator(math.nan, 0.0))
    version = register(registered.registry, registered.settings, bundle)
    trial = replace(trial_of(registered), version=version, fingerprint=bundle.fingerprint)
    try:
        error = refused(trials.run(trial, PATIENCE_S, 0.5))
    finally:  # the registry is shared by the files of this folder
        registered.registry._client.delete_model_version(registered.registry.model, str(version))
    assert error.startswith(f"UnusableBundle: version {version} answers nan")


def test_without_a_row_nothing_is_known(registered, trials):
    assert refused(trials.run(trial_of(registered, rows=0), PATIENCE_S, 0.5)) == "there is no row to score"


def test_a_process_that_was_killed_is_started_anew(registered, trials):
    trials.run(trial_of(registered), PATIENCE_S, 0.5)
    killed = process_of(trials)
    os.kill(killed, signal.SIGKILL)
    os.waitpid(killed, 0)
    assert trials.run(trial_of(registered), PATIENCE_S, 0.5).loads
    assert process_of(trials) != killed


@pytest.mark.parametrize(
    ("trials", "reason"),
    [
        (faked("import sys; sys.exit(3)"), "the process ended with exit code 3"),
        (faked("import sys; sys.stdin.readline(); sys.exit('no room')"), "exit code 1: no room"),
        (faked("import os; input(); os.kill(os.getpid(), 11)"), "exit code -11"),
        (answering("scores follow"), "JSONDecodeError"),
        (answering("[0.5]"), "which is no answer"),
        (answering("{}"), "cannot be used: KeyError"),
        (answering('{"probability": ["a"], "latency_ms": 1, "fingerprint": "f"}'), "cannot be used: ValueError"),
        (answering('{"probability": [0.5], "latency_ms": null, "fingerprint": "f"}'), "cannot be used: TypeError"),
        (answering('{"probability": [0.5], "latency_ms": 1, "fingerprint": "f"}'), "1 scores came for 2 rows"),
        (answering('{"error": "MemoryError: "}'), "MemoryError: "),
        (ServingTrials(("/no/such/program",)), "FileNotFoundError"),
    ],
)  # fmt: skip
def test_whatever_the_process_does_instead_fails_with_its_reason(registered, trials, reason):
    trial = replace(trial_of(registered, rows=2), fingerprint="f")
    assert reason in refused(trials.run(trial, 20.0, 0.5))
    trials.stop()


def test_scores_that_are_no_numbers_are_no_equal_scores(registered):
    trials = answering('{"probability": [0.5, null], "latency_ms": 1, "fingerprint": "f"}')
    found = trials.run(replace(trial_of(registered, rows=2), fingerprint="f"), 20.0, 0.5)
    assert math.isnan(found.largest_difference)
    trials.stop()


@pytest.mark.parametrize(
    "script",
    ["import time; time.sleep(60)", "import time; input(); print('{', end='', flush=True); time.sleep(60)"],
)
def test_silence_fails_in_time_and_the_process_is_ended(registered, script):
    trials = faked(script)
    trials.start()
    silent = process_of(trials)
    started = time.monotonic()
    error = refused(trials.run(trial_of(registered, rows=2), 1.0, 0.5))
    assert error == "no answer within 1 s (serving_timeout_s)"
    assert time.monotonic() - started < 10
    with pytest.raises(ProcessLookupError):
        os.kill(silent, 0)


def test_it_imports_neither_dagster_nor_nannyml(registered):
    """In the process itself, after a trial."""
    script = (
        "import json, sys; from selfheal_assets.serving import servability_worker as w; from pathlib import Path\n"
        "for line in sys.stdin:\n"
        "    w._served(json.loads(Path(line.strip()).read_bytes()))\n"
        "    print(json.dumps({'error': ' '.join(m for m in ('dagster', 'nannyml', 'xgboost') if m in sys.modules)}),"
        " flush=True)"
    )
    trials = faked(script)
    assert refused(trials.run(trial_of(registered), PATIENCE_S, 0.5)) == "xgboost"
    trials.stop()


def test_it_ends_with_who_started_it(registered):
    trials = ServingTrials()
    trials.start()
    process = trials._process
    assert process is not None and process.stdin is not None
    process.stdin.close()
    assert process.wait(PATIENCE_S) == 0


def test_the_scores_are_those_of_single_rows_too(registered, trials):
    """A batch scores as its rows do: what the trial compares is what a client gets."""
    trial, bundle = trial_of(registered, rows=20), registered.bundles[0]
    singles = np.concatenate([bundle.score(trial.rows[i : i + 1]) for i in range(20)])
    assert trials.run(replace(trial, trained=singles), PATIENCE_S, 0.5).largest_difference == 0
