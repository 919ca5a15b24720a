"""What services found wrong with a champion: a file a version, written by the service, read and removed by the loop.

The service refuses such a version at once and answers with the one before; only the loop moves the alias.
"""

import os
from dataclasses import asdict, dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path

import orjson

from selfheal_assets.stores.durable import sync_folder


class Kind(StrEnum):
    """What failed. That a version does not load may be the service's own trouble, so the loop tries it too."""

    does_not_load = "does_not_load"
    scores = "scores"
    latency = "latency"


@dataclass(frozen=True)
class ChampionFailure:
    """A version that failed technically: what failed, in words, and when (naive UTC)."""

    version: int
    kind: Kind
    reason: str
    at: datetime


def report(folder: Path, failure: ChampionFailure) -> None:
    """Tell the loop of a failure; the newest one of a version counts."""
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"version_{failure.version}.json"
    temporary = folder / f".{target.name}.{os.getpid()}"
    temporary.write_bytes(orjson.dumps(asdict(failure)))
    os.replace(temporary, target)
    sync_folder(folder)


def reported(folder: Path) -> list[ChampionFailure]:
    """The failures that nobody has settled yet, by version; a file that cannot be read is none of ours."""
    found = []
    for path in sorted(folder.glob("version_*.json")):
        try:
            told = orjson.loads(path.read_bytes())
            known = {"kind": Kind(told["kind"]), "at": datetime.fromisoformat(told["at"])}
            found.append(ChampionFailure(**(told | known)))
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return found


def settle(folder: Path, version: int) -> None:
    """Forget what was told of a version."""
    (folder / f"version_{version}.json").unlink(missing_ok=True)
