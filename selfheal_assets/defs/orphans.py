"""Retrainings whose process died with everything around it: marked as failed, so that the loop goes on.

A run worker that dies alone is noticed by its code server. Where both die at once (a power failure, ``kill -9``)
Dagster's default launcher cannot ask anybody, and the run would count as running for ever.
"""

import json
import os
from pathlib import Path

import dagster as dg

GRPC_TAG = ".dagster/grpc_info"  # where the code server listened that started the run


def settle_orphans(instance: dg.DagsterInstance, job: str) -> list[str]:
    """Report the job's started runs as failed whose process and whose code server are gone; returns their ids."""
    started = instance.get_runs(dg.RunsFilter(job_name=job, statuses=[dg.DagsterRunStatus.STARTED]))
    gone = [run for run in started if _is_orphan(instance, run)]
    for run in gone:
        instance.report_run_failed(run, "its process and its code server were killed")
    return [run.run_id for run in gone]


def _is_orphan(instance: dg.DagsterInstance, run: dg.DagsterRun) -> bool:
    """Only what a code server of this host started (it listened on a socket file) can be told; else no."""
    socket = json.loads(run.tags.get(GRPC_TAG, "{}")).get("socket")
    pid = _process(instance, run.run_id)
    return socket is not None and pid is not None and not _is_alive(pid)


def _process(instance: dg.DagsterInstance, run_id: str) -> int | None:
    """The newest process that the run's events name."""
    events = [e.dagster_event for e in instance.all_logs(run_id, of_type=dg.DagsterEventType.ENGINE_EVENT)]
    named = [
        e.engine_event_data.metadata["pid"].value
        for e in events
        if e and "pid" in e.engine_event_data.metadata
    ]
    return int(str(named[-1])) if named else None


def _is_alive(pid: int) -> bool:
    """Whether the process runs; one that is dead and not yet waited for does not."""
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except ProcessLookupError:
        return False
    except OSError:  # another user's, or no /proc: it is there
        return True
