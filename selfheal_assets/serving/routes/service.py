"""What the endpoints share."""

from dataclasses import dataclass
from typing import Any

from selfheal_assets.serving.careful import CarefulPath
from selfheal_assets.serving.group_commit import GroupCommit
from selfheal_assets.serving.label_intake import LabelIntake
from selfheal_assets.serving.metrics import Metrics
from selfheal_assets.serving.scoring import ScoringService
from selfheal_assets.settings import Settings
from selfheal_assets.stores.api_keys import KeyRing

UNAVAILABLE: dict[int | str, dict[str, Any]] = {
    503: {"description": "No production model, or the log cannot be written"}
}


@dataclass(frozen=True)
class Service:
    """One installation, and what this process knows and counts of it."""

    settings: Settings
    scoring: ScoringService
    group: GroupCommit
    careful: CarefulPath
    labels: LabelIntake
    counters: Metrics
    keys: KeyRing
