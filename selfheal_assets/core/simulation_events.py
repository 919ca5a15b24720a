"""What can happen in a simulated history: each kind of event, when it holds, and how strongly.

Only declarations and their arithmetic over time belong here; what an event does to the cases is in
``simulated_cases``, to the labels in ``simulated_labels``.
"""

from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from selfheal_assets.core.spec import Spec, Text

Touched = Literal["inputs", "outcomes", "labels", "traffic", "record"]
_Factor = Annotated[float, Field(gt=0, le=1e6)]
_Odds = Annotated[float, Field(ge=1e-3, le=1e3)]


class TimedEvent(Spec):
    """An event from ``start`` (included) to ``end`` (not), in months after go-live; without an end it stays.

    ``touches`` says what an alarm may see of it: the ``inputs`` of the world, its ``outcomes`` (how inputs turn into
    outcomes), the ``labels`` that come back, the ``traffic``, or only the ``record`` of the inputs.
    """

    touches: ClassVar[Touched]
    start: Annotated[int, Field(ge=0, le=600)]
    end: Annotated[int, Field(ge=1, le=1200)] | None = None

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.end is not None and self.end <= self.start:
            raise ValueError(f"end: {self.end} must be after start {self.start} (months after go-live)")
        return self

    def strength(self, elapsed: np.ndarray) -> np.ndarray:
        """How much of the event is in force, 0 to 1, at each time (f64: months after go-live)."""
        until = np.inf if self.end is None else self.end
        return ((elapsed >= self.start) & (elapsed < until)).astype(np.float64)

    def at(self, strength: Any) -> dict[str, Any]:
        """The parameters in force at a strength (a number or an array); those that do not move are left out."""
        return {}

    @property
    def named_features(self) -> tuple[str, ...]:
        """Features that the event names, possibly by role (see ``population``)."""
        feature = getattr(self, "feature", None)
        return (feature,) if feature else ()


class CourseEvent(TimedEvent):
    """An event that may come at once (``sudden``), grow in a line over ``ramp_months`` (``gradual``), or be on in the
    first half of each ``period_months`` and off in the second (``recurring``).
    """

    course: Literal["sudden", "gradual", "recurring"] = "sudden"
    ramp_months: Annotated[int, Field(ge=1, le=600)] = 6
    period_months: Annotated[int, Field(ge=2, le=600)] = 12

    def strength(self, elapsed: np.ndarray) -> np.ndarray:
        """See :meth:`TimedEvent.strength`."""
        on = super().strength(elapsed)
        if self.course == "gradual":
            return on * np.clip((elapsed - self.start) / self.ramp_months, 0.0, 1.0)
        if self.course == "recurring":
            return on * ((elapsed - self.start) % self.period_months < self.period_months / 2)
        return on


class Scaling(CourseEvent):
    """Covariate shift: a number's values are multiplied by ``factor``; outcomes follow the new values."""

    kind: Literal["scaling"]
    touches: ClassVar[Touched] = "inputs"
    feature: Text
    factor: _Factor

    def at(self, strength: Any) -> dict[str, Any]:
        """``factor``, growing geometrically."""
        return {"factor": self.factor**strength}


class Location(CourseEvent):
    """Covariate shift: ``sd`` standard deviations of the population are added to a number."""

    kind: Literal["location"]
    touches: ClassVar[Touched] = "inputs"
    feature: Text
    sd: Annotated[float, Field(ge=-100, le=100)]

    def at(self, strength: Any) -> dict[str, Any]:
        """``sd``, growing in a line."""
        return {"sd": self.sd * strength}


class Mix(CourseEvent):
    """Covariate shift: other cases come. The odds of a case of a group are multiplied by ``odds``.

    The group: ``values`` of a category (by default its commonest), or numbers from ``above`` on (by default, the
    population's median).
    """

    kind: Literal["mix"]
    touches: ClassVar[Touched] = "inputs"
    feature: Text
    odds: _Odds
    values: tuple[Text, ...] = ()
    above: float | None = None

    def at(self, strength: Any) -> dict[str, Any]:
        """``odds``, growing geometrically."""
        return {"odds": self.odds**strength}


class PriorShift(CourseEvent):
    """Prior shift: the odds of a positive are multiplied by ``odds``, and positives look as they always did.

    P(inputs | outcome) stays: cases are drawn in proportion to p·odds + 1 − p, and log odds grow by log(odds).
    """

    kind: Literal["prior_shift"]
    touches: ClassVar[Touched] = "outcomes"
    odds: _Odds

    def at(self, strength: Any) -> dict[str, Any]:
        """``odds``, growing geometrically."""
        return {"odds": self.odds**strength}


class ConceptDrift(CourseEvent):
    """Concept drift: the effect of ``features`` (all, if none are named) on the log odds is multiplied by ``factor``.

    0 makes them meaningless, −1 turns them round. ``log_odds`` is added for every case. The inputs stay as they are.
    """

    kind: Literal["concept_drift"]
    touches: ClassVar[Touched] = "outcomes"
    features: tuple[Text, ...] = ()
    factor: Annotated[float, Field(ge=-10, le=10)] = 1.0
    log_odds: Annotated[float, Field(ge=-10, le=10)] = 0.0

    @model_validator(mode="after")
    def _does_something(self) -> Self:
        if self.factor == 1.0 and self.log_odds == 0.0:
            raise ValueError(
                "factor: give a factor other than 1, or log_odds other than 0; else nothing drifts"
            )
        return self

    def at(self, strength: Any) -> dict[str, Any]:
        """``factor`` from 1 and ``log_odds`` from 0, each in a line."""
        return {"factor": 1.0 + (self.factor - 1.0) * strength, "log_odds": self.log_odds * strength}

    @property
    def named_features(self) -> tuple[str, ...]:
        """See :attr:`TimedEvent.named_features`."""
        return self.features
