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

CASES, EXAMPLES = 1000, 100
HOOKS = "selfheal_assets_tests.serving.openapi_hooks"


def schemathesis(url: str, folder: Path) -> tuple[int, str]:
    """Exit code and output of a run against the document at ``url``."""
    options = ["--checks", "all", "--phases", "examples,coverage,fuzzing,stateful", "--continue-on-failure"]
    options += ["--max-examples", str(EXAMPLES), "--seed", "1", "--no-shrink", "--request-timeout", "30"]
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


def test_every_answer_is_one_that_the_document_promises(server: Server, tmp_path: Path):  # noqa: F811
    code, printed = schemathesis(server.url, tmp_path)
    assert code == 0, printed[-8000:]
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["test_cases"]["generated"] >= CASES and report["test_cases"]["errored"] == 0
    assert report["operations"]["tested"] == report["operations"]["total"] >= 10
    assert report["failures"] == report["errors"] == []
    assert httpx.get(f"{server.url}/health").status_code == 200
