"""A scenario: the history to simulate, how long and how large it is, and what happens in it.

Only the declaration belongs here; ``simulation.simulate`` makes the history, ``stores.scenarios`` reads the files.
"""

from datetime import date, datetime
from typing import Annotated, Self

import numpy as np
import polars as pl
from pydantic import Field, model_validator

from selfheal_assets.core.periods import add_months, midnight
from selfheal_assets.core.simulation_label_events import Event
from selfheal_assets.core.spec import ChunkPeriod, Day, Days, Months, Name, Spec


class Scenario(Spec):
    """A history with known truth. Months count from ``go_live``, the first day of a month.

    ``history_months`` before it and ``months`` of traffic after it, ``cases_per_month`` on average. Events fall into
    the traffic only: what the first model learns from is unchanged. ``horizon_months`` is the simulated horizon (the
    ages of the population's positives are scaled to it); of the history, ``reference_months`` that end a horizon
    before ``go_live`` judge the first model. ``positive_rate`` moves the population's own by a constant log odds.
    Every label is recorded ``reporting_delay_days`` after it became true.
    """

    name: Name
    description: str = ""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    go_live: Day = date(2016, 1, 1)
    history_months: Months = 24
    months: Months = 36
    cases_per_month: Annotated[int, Field(ge=1, le=1_000_000)] = 1000
    horizon_months: Months = 6
    reference_months: Months = 6
    reporting_delay_days: Days = 0
    positive_rate: Annotated[float, Field(gt=0, lt=1)] | None = None
    chunk: ChunkPeriod = "month"
    events: tuple[Event, ...] = ()

    @model_validator(mode="after")
    def _history_is_long_enough(self) -> Self:
        if self.go_live.day != 1:
            raise ValueError(
                f"go_live: {self.go_live} must be the first day of a month, as events count in months"
            )
        if self.go_live.year - self.history_months // 12 - 1 < 1900:
            raise ValueError(
                f"history_months: {self.history_months} months before {self.go_live} are before 1900"
            )
        needed = self.horizon_months + self.reference_months + 1
        if self.history_months < needed:
            raise ValueError(
                f"history_months: {self.history_months} is too short: horizon_months {self.horizon_months} + "
                f"reference_months {self.reference_months} + at least one month to train on = {needed}"
            )
        return self

    @model_validator(mode="after")
    def _events_fall_into_the_traffic(self) -> Self:
        for number, event in enumerate(self.events):
            if event.start >= self.months:
                raise ValueError(
                    f"events.{number}.start: month {event.start} is after the traffic, as months is {self.months}"
                )
        return self

    def moment(self, months: int) -> datetime:
        """The beginning of a month, counted from go-live."""
        return add_months(midnight(self.go_live), months)

    @property
    def begins(self) -> datetime:
        """Begin of the history, included."""
        return self.moment(-self.history_months)

    @property
    def ends(self) -> datetime:
        """End of the traffic, not included."""
        return self.moment(self.months)

    @property
    def size(self) -> int:
        """Number of cases, those that an outage loses included."""
        return self.cases_per_month * (self.history_months + self.months)

    def elapsed(self, times: pl.Series) -> np.ndarray:
        """Months after go-live (f64, negative before), calendar month by calendar month, of times (Datetime us)."""
        t = pl.col("t")
        begun = t.dt.truncate("1mo")
        length = (begun.dt.offset_by("1mo") - begun).dt.total_microseconds()
        whole = (
            (t.dt.year().cast(pl.Int64) - self.go_live.year) * 12
            + t.dt.month().cast(pl.Int64)
            - self.go_live.month
        )
        months = whole + (t - begun).dt.total_microseconds() / length
        return times.rename("t").to_frame().select(months.cast(pl.Float64)).to_series().to_numpy()
