"""Replay: recorded history through the same assets, with a simulated clock.

Each chunk is lived once: the champion of its first day scores its cases and logs them, the labels that became
known in it land, the monitoring job runs, and a failed check starts one retraining, decided as of the chunk's
end. Nothing here computes evidence or decides: it moves the clock and runs Dagster's jobs in process.
"""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl

from selfheal_assets.core import hindsight
from selfheal_assets.core.changes import Change, changes
from selfheal_assets.core.periods import IN_THE_END, chunk_end, chunk_label, chunk_start, midnight
from selfheal_assets.core.spec import ChunkPeriod
from selfheal_assets.definitions import build_definitions
from selfheal_assets.defs.automation import MONITOR_JOB
from selfheal_assets.defs.promote import follow_ledger
from selfheal_assets.defs.resources import AS_OF_TAG, DECIDED_TAG, Stores
from selfheal_assets.defs.retraining_rule import RETRAIN_JOB, RUNNING, due_retraining
from selfheal_assets.reports.card_file import save_card
from selfheal_assets.reports.page import write_atomically
from selfheal_assets.reports.replay import replay_page
from selfheal_assets.serving.scoring import ScoringService
from selfheal_assets.settings import Settings
from selfheal_assets.stores import decision_ledger, label_ledger, log_ingestion, replay_state
from selfheal_assets.stores.applications import require_reference, split_at_go_live
from selfheal_assets.stores.model_cards import card_file
from selfheal_assets.stores.prediction_log import PredictionLog
from selfheal_assets.stores.sources import SourceError, read_cases

REPLAY_TAG = "selfheal/replay"


class ReplayFailed(RuntimeError):
    """A run of the replay failed; the message names the step and the error."""


@dataclass(frozen=True)
class ChunkOutcome:
    """What one replayed chunk came to, as known on its last day."""

    chunk: datetime
    label: str
    rows: int
    labels_known: int
    estimated_auc: float | None
    estimated_lower: float | None
    estimated_upper: float | None
    failed_checks: str
    decision: str
    reason: str
    champion: int | None


class Replay:
    """One replay over one installation.

    Args:
        settings: of the installation; its home receives everything.
        instance: Dagster's; its history is what ``selfheal dev`` shows.

    Raises:
        ReplayFailed: the use case changed in something that the chunks already lived through rest on.
        SourceError: the source cannot be used.
    """

    def __init__(self, settings: Settings, instance: dg.DagsterInstance) -> None:
        self._began = time.perf_counter()
        self.settings, self.case, self.instance = settings, settings.case, instance
        self.go_live = midnight(self.case.go_live)
        self.period: ChunkPeriod = self.case.monitoring.chunk
        self._kept = replay_state.load(settings.replay_state)
        if never := [c for c in self.changed_since() if not c.applies_from_here_on]:
            raise ReplayFailed(
                f"the use case changed since this replay began ({listed(never)}), and what is replayed does not "
                "follow from it: --fresh starts anew"
            )
        # First of all: nothing is to be written for a file that cannot be used.
        history, self.traffic = split_at_go_live(read_cases(self.case, settings), self.go_live)
        require_reference(self.case, history)
        if self.traffic.frame.is_empty():
            raise SourceError(
                f"{history.path}: no case on or after go_live {self.case.go_live}, so nothing can be replayed; the "
                f"last one is of {history.frame['event_time'].max():%Y-%m-%d}: move go_live back"
            )
        self.stores = Stores(settings)
        self.definitions = build_definitions(settings, self.stores)
        self.log = PredictionLog(settings.prediction_log)
        self.service = ScoringService(self.stores.registry, self.log, self.case)

    @property
    def seconds(self) -> float:
        """Time taken by all legs of this replay, this one included."""
        return (self._kept.seconds if self._kept else 0.0) + time.perf_counter() - self._began

    def changed_since(self) -> list[Change]:
        """What was changed in the use case since the replay's last leg."""
        return changes(self._kept.use_case, self.case.model_dump(mode="json")) if self._kept else []

    def remember(self) -> None:
        """Keep what the next leg must know."""
        state = replay_state.ReplayState(self.case.model_dump(mode="json"), self.seconds)
        replay_state.save(self.settings.replay_state, state)

    def chunks(self, until: datetime | None = None) -> list[datetime]:
        """Starts of the chunks that hold traffic, in order; none that ends after ``monitoring.until``."""
        times = self.traffic.frame["event_time"]
        start, last = chunk_start(times.min(), self.period), times.max()  # type: ignore[arg-type]
        over = midnight(self.case.monitoring.until or date.max)
        starts = []
        while start <= last and chunk_end(start, self.period) <= over and (until is None or start < until):  # type: ignore[operator]
            starts.append(start)
            start = chunk_end(start, self.period)
        return starts

    def finished(self) -> set[datetime]:
        """Chunks that were lived through: monitored with answers in them."""
        if not self.stores.warehouse.has("health_report"):
            return set()
        return set(
            self.stores.warehouse.query("select chunk from health_report where champion is not null")[
                "chunk"
            ].to_list()
        )

    def run(self, until: datetime | None = None) -> Iterator[tuple[int, int, ChunkOutcome]]:
        """Live through the chunks that are not done yet; yields (number, of how many, outcome)."""
        self.remember()
        self._take_over()
        done, starts = self.finished(), self.chunks(until)
        if not starts:
            raise ReplayFailed(
                f"no {self.period} to live through: the first case is of "
                f"{self.traffic.frame['event_time'].min():%Y-%m-%d}; --until and monitoring.until must be later"
            )
        if self.stores.registry.champion() is None:
            self._retrain(max(starts[0], self.go_live), {})
            if self.stores.registry.champion() is None:
                last = decision_ledger.latest(self.stores.warehouse)
                raise ReplayFailed(
                    f"no first champion: {last['reason'] if last else 'no decision was recorded'}"
                )
        if done:
            self._heal(chunk_end(max(done), self.period))
        for number, start in enumerate(starts, 1):
            if start not in done:
                outcome = self._live_through(start)
                self.remember()
                yield number, len(starts), outcome

    def _take_over(self) -> None:
        """Settle the runs of a replay that was killed: what was decided is followed, what was not is due again."""
        left = self.instance.get_runs(dg.RunsFilter(tags={REPLAY_TAG: self.case.name}, statuses=RUNNING))
        if not left:
            return
        decided = {at.isoformat() for at in decision_ledger.about_models(self.stores.warehouse)["as_of"]}
        for run in left:
            if run.job_name == RETRAIN_JOB and run.tags[AS_OF_TAG] not in decided:
                self.instance.delete_run(run.run_id)
            else:
                if run.job_name == RETRAIN_JOB:
                    self.instance.add_run_tags(run.run_id, {DECIDED_TAG: "true"})
                self.instance.report_run_failed(run, "its replay was killed")
        follow_ledger(self.stores)

    def _live_through(self, start: datetime) -> ChunkOutcome:
        end = chunk_end(start, self.period)
        self._serve(start, end)
        self._land_labels(start, end)
        self._job(MONITOR_JOB, partition_key=f"{start:%Y-%m-%d}", tags={})
        decision = self._heal(end)
        row = self.stores.load_chunk("health_report", start).row(0, named=True)
        return ChunkOutcome(
            start,
            chunk_label(start, self.period),
            row["rows"],
            row["labels_known"],
            row["estimated_auc"],
            row["estimated_lower"],
            row["estimated_upper"],
            row["failed_checks"],
            decision["action"] if decision else "",
            decision["reason"] if decision else "",
            self.stores.registry.champion(),
        )

    def _heal(self, as_of: datetime) -> dict[str, Any] | None:
        """Start the retraining that is due; returns its decision, or ``None`` where none is due."""
        due = due_retraining(self.instance, self.stores)
        if isinstance(due, str):
            return None
        self._retrain(as_of, due.tags)
        return decision_ledger.latest(self.stores.warehouse)

    def _serve(self, start: datetime, end: datetime) -> None:
        """Score the chunk's cases with the champion, through the service's own code path.

        A chunk that was cut off in the middle is resumed: a case that was answered is not asked again.
        """
        self.service.refresh()
        if self.service.problem:
            raise ReplayFailed(self.service.problem)
        cases = self.traffic.frame.filter((pl.col("event_time") >= start) & (pl.col("event_time") < end))
        # What was logged just before the replay was killed is not in the warehouse yet.
        log_ingestion.ingest(self.stores.warehouse, self.case, self.settings.prediction_log)
        answered = self.stores.warehouse.query(
            "select entity_id from prediction_log where event_time >= ? and event_time < ?", [start, end]
        )
        cases = cases.join(answered, on="entity_id", how="anti")
        if not cases.is_empty():
            self.service.score(cases, predicted_at=start)
        self.log.close()

    def _land_labels(self, start: datetime, end: datetime) -> None:
        """Drop the labels that became known in [start, end) where the service's users would drop them."""
        known = self.traffic.labels.filter((pl.col("recorded_at") >= start) & (pl.col("recorded_at") < end))
        if not known.is_empty():
            label_ledger.drop(self.settings.label_landing, known)

    def _retrain(self, as_of: datetime, tags: dict[str, str]) -> None:
        self._job(RETRAIN_JOB, partition_key=None, tags=tags | {AS_OF_TAG: as_of.isoformat()})

    def _job(self, name: str, partition_key: str | None, tags: dict[str, str]) -> None:
        job = self.definitions.resolve_job_def(name)
        result = job.execute_in_process(
            run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
            instance=self.instance,
            partition_key=partition_key,
            tags=tags | {REPLAY_TAG: self.case.name},
            raise_on_error=False,
        )
        if not result.success:
            raise ReplayFailed(f"{name} at {partition_key or tags[AS_OF_TAG]}: {_first_failure(result)}")

    def let_labels_arrive(self) -> None:
        """Ingest every label still to come, so that the whole replay can be judged; nothing is decided."""
        finished = self.finished()
        if not finished:
            return
        last = chunk_end(max(finished), self.period)
        known = self.traffic.labels.filter(pl.col("recorded_at") >= last)
        if not known.is_empty():
            label_ledger.drop(self.settings.label_landing, known)
            label_ledger.ingest(self.stores.warehouse, self.settings.label_landing)

    def outcomes(self, scored: pl.DataFrame) -> pl.DataFrame:
        """One row per replayed chunk, with what the labels said in the end, for both models.

        Adds to :class:`ChunkOutcome` the columns of ``hindsight.by_chunk`` and ``hindsight.with_calibration``.
        """
        confidence = self.case.policy.realized.confidence
        health = self.stores.warehouse.query(
            "select * exclude (realized_auc, reason) from health_report order by chunk"
        )
        lived = health.join(self._decisions(), on="chunk", how="left").join(
            hindsight.by_chunk(scored, confidence), on="chunk", how="left"
        )
        return hindsight.with_calibration(lived, confidence)

    def _decisions(self) -> pl.DataFrame:
        """The last decision taken at each chunk's end: ``chunk``, ``decision``, ``reason``."""
        ledger = decision_ledger.history(self.stores.warehouse)
        starts = self.chunks()
        ends = {chunk_end(s, self.period): s for s in starts}
        at = ledger.filter(pl.col("as_of").is_in(list(ends))).with_columns(
            chunk=pl.col("as_of").replace_strict(ends, return_dtype=pl.Datetime("us"))
        )
        return at.group_by("chunk").agg(decision=pl.col("action").last(), reason=pl.col("reason").last())

    def scored(self) -> pl.DataFrame:
        """Every replayed case with its label, the probability it was given, and the first model's.

        Returns:
            ``chunk``, ``event_time``, ``label`` (0/1), ``probability``, ``first`` (f64).
        """
        log = self.stores.warehouse.query(
            "select * from prediction_log where role = 'champion' order by event_time, prediction_id"
        )
        first = self.stores.registry.load(1)
        log = log.with_columns(first=pl.Series(first.score(log)))
        labels = self.stores.warehouse.query(
            "select entity_id, label from labelled_cases(cast(? as timestamp)) where label is not null",
            [IN_THE_END],
        )
        every = {s: chunk_end(s, self.period) for s in self.chunks()}
        starts = pl.DataFrame({"chunk": list(every)}).sort("chunk")
        joined = log.join(labels, on="entity_id").sort("event_time")
        return joined.join_asof(starts, left_on="event_time", right_on="chunk").select(
            "chunk", "event_time", "label", "probability", "first"
        )


def listed(found: list[Change], most: int = 5) -> str:
    """Changes in a line; the first few of many."""
    more = f" and {len(found) - most} more" if len(found) > most else ""
    return "; ".join(map(str, found[:most])) + more


def _first_failure(result: dg.ExecuteInProcessResult) -> str:
    """The step that failed first, with the error's own cause."""
    event = next(e for e in result.all_events if e.is_step_failure or e.is_failure)
    error = getattr(event.event_specific_data, "error", None)
    while error is not None and error.cause is not None:
        error = error.cause
    return f"{event.step_key or 'run'}: {error.message.strip() if error else event.message}"


@dataclass(frozen=True)
class ReplayResult:
    """What a replay came to: one row per chunk, the summary, the report's path."""

    chunks: pl.DataFrame
    summary: dict[str, Any]
    report: Path


def finish(replay: Replay) -> ReplayResult:
    """Judge the whole replay with the labels that are known in the end; publish it and write its report."""
    ledger = decision_ledger.history(replay.stores.warehouse)
    scored = replay.scored()
    chunks = replay.outcomes(scored)
    actions = ledger.filter(pl.col("champion").is_not_null())["action"].to_list()
    summary = hindsight.summarize(scored, actions, replay.case.compared) | {
        "seconds": round(replay.seconds, 1)
    }
    replay.stores.warehouse.publish("replay", chunks)
    report = replay.settings.reports / "replay.html"
    page = replay_page(
        chunks, ledger, summary, replay.case.title, replay.case.label.outcome, **_beside(replay, chunks)
    )
    write_atomically(report, page.encode())
    for version in replay.stores.registry.versions():
        save_card(
            replay.settings, replay.stores.warehouse, replay.stores.registry, version["version"], IN_THE_END
        )
    write_atomically(replay.settings.published / "replay.json", json.dumps(summary) + "\n")
    replay.remember()
    return ReplayResult(chunks, summary, report)


def _beside(replay: Replay, chunks: pl.DataFrame) -> dict[str, Any]:
    """What the page opens to: each decision's evidence, each version's card, each chunk's drift report."""
    versions = (version["version"] for version in replay.stores.registry.versions())
    reports = replay.settings.reports
    pages = {start: f"drift_{start:%Y-%m-%d}.html" for start in chunks["chunk"]}
    return {
        "evidence": {row["id"]: row["payload"] for row in decision_ledger.recorded(replay.stores.warehouse)},
        "cards": {version: card_file(version) for version in versions},
        "chunk_pages": {start: page for start, page in pages.items() if (reports / page).is_file()},
    }
