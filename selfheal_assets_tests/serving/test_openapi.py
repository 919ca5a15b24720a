"""The OpenAPI document holds: schemathesis asks a running service thousands of times, with every check on."""

import json
import os
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from selfheal_assets_tests.serving.test_hot_swap import Server, server  # noqa: F401 - a fixture

pytestmark = pytest.mark.integration

HOOKS = "selfheal_assets_tests.serving.openapi_hooks"


def schemathesis(url: str, folder: Path, examples: int) -> tuple[int, str]:
    """Exit code and output of a run against the document at ``url``."""
    options = ["--checks", "all", "--phases", "examples,coverage,fuzzing,stateful", "--continue-on-failure"]
    options += ["--max-examples", str(examples), "--seed", "1", "--no-shrink", "--request-timeout", "30"]
    command = [str(Path(sys.executable).with_name("schemathesis")), "run", f"{url}/openapi.json", *options]
    ran = subprocess.run(
        [*command, "--report-json-path", str(folder / "report.json")],
        cwd=folder,
        env=os.environ | {"SCHEMATHESIS_HOOKS": HOOKS},
        capture_output=True,
        text=True,
        timeout=300,
    )
    return ran.returncode, ran.stdout + ran.stderr


@pytest.mark.parametrize(("examples", "cases"), [(15, 300), pytest.param(100, 1000, marks=pytest.mark.long)])
def test_every_answer_is_one_that_the_document_promises(
    server: Server,  # noqa: F811
    tmp_path: Path,
    examples: int,
    cases: int,
):
    code, printed = schemathesis(server.url, tmp_path, examples)
    assert code == 0, printed[-8000:]
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["test_cases"]["generated"] >= cases and report["test_cases"]["errored"] == 0
    assert report["operations"]["tested"] == report["operations"]["total"] >= 10
    assert report["failures"] == report["errors"] == []
    assert httpx.get(f"{server.url}/health").status_code == 200
