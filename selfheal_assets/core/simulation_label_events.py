"""What can happen to the labels, the traffic and the record of a simulated history; the world stays as it is.

Declarations only, like ``simulation_events``.
"""

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from selfheal_assets.core.simulation_events import (
    ConceptDrift,
    CourseEvent,
    Location,
    Mix,
    PriorShift,
    Scaling,
    TimedEvent,
    Touched,
)
from selfheal_assets.core.spec import Share, Text


class ReportingDelay(CourseEvent):
    """Labels that become true in the period are recorded ``days`` later, and an exponential wait of mean
    ``spread_days`` after that.
    """

    kind: Literal["reporting_delay"]
    touches: ClassVar[Touched] = "labels"
    days: Annotated[int, Field(ge=0, le=3650)] = 0
    spread_days: Annotated[float, Field(ge=0, le=3650)] = 0.0

    @model_validator(mode="after")
    def _does_something(self) -> Self:
        if not self.days and not self.spread_days:
            raise ValueError("days: give days or spread_days above 0; else no label comes later")
        return self

    def at(self, strength: Any) -> dict[str, Any]:
        """``days`` and ``spread_days``, growing in a line."""
        return {"days": self.days * strength, "spread_days": self.spread_days * strength}


class TimingChange(CourseEvent):
    """Positives of the period's cases become true later (``slower`` above 1) or sooner; as many in the end.

    An age that is the share a of the horizon becomes a^(1/slower): at 2, what came after a quarter of the horizon
    comes after half of it.
    """

    kind: Literal["timing_change"]
    touches: ClassVar[Touched] = "labels"
    slower: Annotated[float, Field(gt=0, le=100)]

    def at(self, strength: Any) -> dict[str, Any]:
        """``slower``, growing geometrically."""
        return {"slower": self.slower**strength}


class LabelNoise(CourseEvent):
    """Labels of the period's cases are recorded wrongly: a share ``missed`` of the positives as negative, at the
    horizon, and a share ``false_alarms`` of the negatives as positive.
    """

    kind: Literal["label_noise"]
    touches: ClassVar[Touched] = "labels"
    missed: Share = 0.0
    false_alarms: Share = 0.0

    @model_validator(mode="after")
    def _does_something(self) -> Self:
        if not self.missed and not self.false_alarms:
            raise ValueError("missed: give missed or false_alarms above 0; else no label is wrong")
        return self

    def at(self, strength: Any) -> dict[str, Any]:
        """``missed`` and ``false_alarms``, growing in a line."""
        return {"missed": self.missed * strength, "false_alarms": self.false_alarms * strength}


class Outage(TimedEvent):
    """Nothing arrives in the period: no case (``predictions``), or no ``labels``.

    Labels come on the day the outage ends (``backlog``), or never. It must end.
    """

    kind: Literal["outage"]
    touches: ClassVar[Touched] = "traffic"
    of: Literal["predictions", "labels"]
    backlog: bool = True

    @model_validator(mode="after")
    def _ends(self) -> Self:
        if self.end is None:
            raise ValueError("end: an outage must end: give the month in which what is missing comes back")
        return self


class MissingColumn(TimedEvent):
    """Schema break: a feature is empty in the record; the world, and so the outcomes, know its value."""

    kind: Literal["missing_column"]
    touches: ClassVar[Touched] = "record"
    feature: Text


class NewCategory(TimedEvent):
    """Schema break: a ``share`` of the cases is recorded under a category that was never there before."""

    kind: Literal["new_category"]
    touches: ClassVar[Touched] = "record"
    feature: Text
    value: Text = "new_code"
    share: Annotated[float, Field(gt=0, le=1)] = 0.2


class UnitChange(TimedEvent):
    """Schema break: a number is recorded in another unit, ``factor`` times what it was (0.001: in thousands)."""

    kind: Literal["unit_change"]
    touches: ClassVar[Touched] = "record"
    feature: Text
    factor: Annotated[float, Field(gt=0, le=1e6)]

    @model_validator(mode="after")
    def _does_something(self) -> Self:
        if self.factor == 1.0:
            raise ValueError("factor: 1 changes no unit; give 0.001 for thousands")
        return self


Event = Annotated[
    Scaling
    | Location
    | Mix
    | PriorShift
    | ConceptDrift
    | ReportingDelay
    | TimingChange
    | LabelNoise
    | Outage
    | MissingColumn
    | NewCategory
    | UnitChange,
    Field(discriminator="kind"),
]
