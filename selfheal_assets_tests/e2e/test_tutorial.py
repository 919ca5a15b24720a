"""The tutorial as written: its files and its commands, by a script, in an empty folder."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from selfheal_assets_tests.conftest import environment
from selfheal_assets_tests.e2e.conftest import README

pytestmark = [pytest.mark.e2e, pytest.mark.long]

PAGE = README.parent / "docs" / "tutorial.md"


def test_a_newcomer_who_types_what_is_written_has_a_healed_model(tmp_path: Path):
    page = PAGE.read_text()
    files = re.findall(r"<!-- file: (\S+) -->\n```\w+\n(.*?)```", page, re.DOTALL)
    assert [name for name, _ in files] == ["make_data.py", "magazine.yaml"]
    for name, text in files:
        (tmp_path / name).write_text(text)
    commands = re.findall(r"```sh\n(.*?)```", page, re.DOTALL)
    assert len(commands) == 4
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        ["sh", "-eu", "-c", "\n".join(commands)],
        cwd=tmp_path, env=environment(PATH=path), capture_output=True, text=True, timeout=400,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    summary = next(json.loads(line) for line in done.stdout.splitlines() if line.startswith("{"))
    assert summary["promotions"] >= 1  # beside the first model
    assert summary["auc_healed"] > summary["auc_never_retrained"] + 0.2
    assert (tmp_path / "home" / "magazine" / "reports" / "replay.html").is_file()
    scored = (tmp_path / "scored.csv").read_text().splitlines()
    assert len(scored) == 200
    assert "probability" in scored[0]
