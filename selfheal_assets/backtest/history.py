"""A history to live through, and what was known of it at any time: a private warehouse of all its cases and labels.

The loop's own queries run on it unchanged: ``labelled_cases(t)`` shows no case and no label from ``t`` on, so that
a policy cannot see what it could not have known.
"""

from dataclasses import dataclass
from datetime import date, datetime
from functools import cached_property
from pathlib import Path

import numpy as np
import polars as pl

from selfheal_assets.core import fingerprint
from selfheal_assets.core.periods import IN_THE_END, chunk_end, chunk_start, midnight
from selfheal_assets.core.simulation import Simulation
from selfheal_assets.stores.sources import EARLIEST
from selfheal_assets.stores.tables import create_tables, feature_list
from selfheal_assets.stores.warehouse import Warehouse
from selfheal_assets.use_case import UseCase


@dataclass(frozen=True)
class History:
    """Everything that happened.

    Attributes:
        cases: ``entity_id`` (String, unique), ``event_time`` (Datetime us), the features.
        labels: ``entity_id``, ``label`` (Int8), ``occurred_at``, ``recorded_at`` (Datetime us); corrections are rows.
        truth: what only a simulation knows, or ``None``.
    """

    cases: pl.DataFrame
    labels: pl.DataFrame
    truth: "Truth | None" = None


@dataclass(frozen=True)
class Truth:
    """What only a simulation knows; no policy sees it.

    Attributes:
        events: columns :data:`core.backtest.EVENTS`.
        in_force: by chunk, see ``core.simulation.Simulation.in_force``.
        chances: ``entity_id``, ``true_probability`` (f64) of each case.
    """

    events: pl.DataFrame
    in_force: pl.DataFrame
    chances: pl.DataFrame


def simulated_history(simulation: Simulation) -> History:
    """A simulated history with its truth; chunks are of the scenario's length, as its use case's are."""
    truth = truth_of(simulation.events, simulation.in_force(), simulation.truth)
    return History(simulation.cases, simulation.labels, truth)


def truth_of(events: pl.DataFrame, in_force: pl.DataFrame, truth: pl.DataFrame) -> Truth:
    """From a simulation's frames, or from the files of the same names that it wrote."""
    shown = events.select(
        pl.format("{} {}", "event", "kind").alias("event"),
        pl.col("start").alias("starts"),
        pl.col("end").alias("ends"),
        "touches",
    )
    return Truth(shown, in_force, truth.select("entity_id", "true_probability"))


class Known:
    """A history in a private warehouse, and what was known of it at a time.

    Args:
        history: what happened.
        case: of which use case; only what cannot differ between policies is read.
        path: of the warehouse's file; an old one is replaced.
    """

    def __init__(self, history: History, case: UseCase, path: Path) -> None:
        path.unlink(missing_ok=True)
        self.case, self.history = case, history
        self.warehouse = Warehouse(path, path.parent / "published")
        create_tables(self.warehouse, case)
        columns = ["entity_id", "event_time", *case.feature_names]
        self.warehouse.replace("applications", history.cases.select(columns))
        labels = history.labels.select(
            pl.lit(None, pl.String).alias("prediction_id"),
            "entity_id", "label", "occurred_at", "recorded_at",
            pl.lit("backtest").alias("source"),
        )  # fmt: skip
        self.warehouse.replace("labels", labels)
        self.go_live = midnight(case.go_live)

    @cached_property
    def fingerprint(self) -> str:
        """Names the history as this use case reads it."""
        read = self.case.model_dump(
            mode="json", include={"label", "features", "go_live", "monitoring", "segments"}
        )
        labels = self.history.labels.select("entity_id", "label", "occurred_at", "recorded_at")
        frames = [fingerprint.of_frame(self.history.cases, ["entity_id"])]
        frames.append(fingerprint.of_frame(labels, ["entity_id", "recorded_at", "occurred_at", "label"]))
        return fingerprint.of_value([read, *frames])

    @cached_property
    def traffic(self) -> pl.DataFrame:
        """The cases from go-live on, by time and id: ``entity_id``, ``event_time``, the features."""
        live = self.history.cases.filter(pl.col("event_time") >= self.go_live)
        return live.sort("event_time", "entity_id")

    @cached_property
    def chances(self) -> np.ndarray | None:
        """The true probability of each case of ``traffic``, where it is known."""
        if self.history.truth is None:
            return None
        known = self.traffic.select("entity_id").join(
            self.history.truth.chances, on="entity_id", how="left", maintain_order="left"
        )
        return known["true_probability"].to_numpy()

    @cached_property
    def outcomes(self) -> pl.DataFrame:
        """Of each case the label that was known in the end: ``entity_id``, ``event_time``, ``label`` (null: none)."""
        return self.warehouse.query(
            """select entity_id, event_time, label from labelled_cases(cast(? as timestamp))
               order by event_time, entity_id""",
            [IN_THE_END],
        )

    def chunks(self, until: datetime | None = None) -> list[datetime]:
        """Starts of the chunks that hold traffic; none that ends after ``monitoring.until`` or ``until``."""
        period, times = self.case.monitoring.chunk, self.traffic["event_time"]
        over = min(midnight(self.case.monitoring.until or date.max), until or datetime.max)
        starts, start = [], chunk_start(times[0], period)
        while start <= times[-1] and chunk_end(start, period) <= over:
            starts.append(start)
            start = chunk_end(start, period)
        return starts

    def answered(self, start: datetime, end: datetime) -> slice:
        """Where the cases of [start, end) lie in ``traffic``."""
        times = self.traffic["event_time"]
        return slice(*(int(times.search_sorted(at, side="left")) for at in (start, end)))

    def of_chunk(self, start: datetime) -> slice:
        """Where the cases of the chunk that begins at ``start`` lie in ``traffic``."""
        return self.answered(start, chunk_end(start, self.case.monitoring.chunk))

    def labelled(self, start: datetime, end: datetime) -> pl.DataFrame:
        """The answered cases of [start, end) as known at ``end``, by time and id.

        Returns:
            What ``stores.chunks.labelled_predictions`` gives, without what depends on a model: ``entity_id``,
            ``event_time``, the features, ``cohort``, ``age_days``, ``is_mature``, ``label``, ``recorded_at``.
        """
        return self.known(start, end, end)

    def known(
        self, start: datetime, end: datetime, as_of: datetime, answered_only: bool = True
    ) -> pl.DataFrame:
        """:meth:`labelled` as known at another time; of all cases, where those before go-live count too."""
        return self.warehouse.query(
            f"""select entity_id, event_time, {feature_list(self.case)}, cohort_of(event_time) as cohort,
                    (epoch_us(cast(? as timestamp)) - epoch_us(event_time)) / 86400e6 as age_days,
                    is_mature, label, recorded_at
                from labelled_cases(cast(? as timestamp)) where event_time >= ? and event_time < ?
                order by event_time, entity_id""",
            [as_of, as_of, max(start, self.go_live) if answered_only else EARLIEST, end],
        )

    def labels_before_their_case(self, as_of: datetime) -> float:
        """The share of answered cases whose label, as known, was recorded before the case happened."""
        found = self.warehouse.query(
            """select count(*) filter (where recorded_at < event_time) as n, count(*) as of
               from labelled_cases(cast(? as timestamp)) where event_time >= ?""",
            [as_of, self.go_live],
        ).row(0)
        return found[0] / max(found[1], 1)
