"""What a replay must remember between its legs: the use case it lives through, and the time it has taken.

One small JSON file beside the warehouse, replaced whole. What was lived through is in the warehouse itself.
"""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class ReplayState:
    """``use_case``: the declaration, as JSON-like data. ``seconds``: of all legs, up to the last finished chunk."""

    use_case: dict[str, Any]
    seconds: float


def load(path: Path) -> ReplayState | None:
    """What was kept, or ``None`` before the first leg."""
    return ReplayState(**json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else None


def save(path: Path, state: ReplayState) -> None:
    """Replace what was kept."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    unfinished.write_text(json.dumps(asdict(state)), encoding="utf-8")
    unfinished.replace(path)
