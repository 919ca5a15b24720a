"""Dagster's own home: its storage and how its daemon treats runs that die."""

from pathlib import Path

import dagster as dg
from dagster._core.instance import InstanceRef

INSTANCE = """\
# Written by selfheal when this folder was made; change it as you like, it is not written again.
telemetry:
  enabled: false
# One database for all runs: a file per run, Dagster's default, costs most of a second at the start of each.
event_log_storage:
  module: selfheal_assets.defs.event_log
  class: EventLog
  config:
    base_dir: storage
run_coordinator:
  module: dagster.core.run_coordinator
  class: QueuedRunCoordinator
  config:
    max_concurrent_runs: 2
    tag_concurrency_limits:
      - key: selfheal/window
        limit: 1
run_monitoring:
  enabled: true
  poll_interval_seconds: 5
  free_slots_after_run_end_seconds: 5
run_retries:
  enabled: true
  max_retries: 1
"""


# A replay's runs print nothing worth keeping, and capturing it starts four processes a run.
REPLAY_OVERRIDES = {
    "compute_logs": {
        "module": "dagster.core.storage.noop_compute_log_manager",
        "class": "NoOpComputeLogManager",
    }
}


def replay_instance(folder: Path) -> dg.DagsterInstance:
    """The instance whose home is ``folder``, for a process that runs many jobs by itself."""
    return dg.DagsterInstance.from_ref(InstanceRef.from_dir(str(folder), overrides=REPLAY_OVERRIDES))


def prepare_dagster_home(folder: Path) -> Path:
    """Make the folder and its ``dagster.yaml`` where they are missing; an operator's own file is kept."""
    folder.mkdir(parents=True, exist_ok=True)
    config = folder / "dagster.yaml"
    if not config.exists():
        config.write_text(
            INSTANCE.replace("base_dir: storage", f"base_dir: {folder / 'storage'}"), encoding="utf-8"
        )
    return folder
