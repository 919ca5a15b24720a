"""Random scenarios: which events, when and how strongly, drawn from a seed, for benches over many histories.

The ranges are what the bench is made of, and stand in one table.
"""

from collections.abc import Collection
from typing import Any, Final

import numpy as np

from selfheal_assets.core.scenario import Scenario
from selfheal_assets.core.simulated_cases import stream

RANDOM: Final = "random"
_FEATURES = ("@feature", "@feature2", "@feature3")
_NUMBERS = ("@number", "@number2", "@number3")
_CATEGORIES = ("@category", "@category2")
# Of each kind: how often it is drawn relative to the others, whether it has a course, and how long it may last in
# months (None: may stay). The rest are ranges of its parameters: two ends for a number, else a choice.
_KINDS: Final[dict[str, tuple[float, bool, tuple[int, int] | None]]] = {
    "scaling": (1.0, True, None),
    "location": (1.0, True, None),
    "mix": (1.5, True, None),
    "prior_shift": (2.0, True, None),
    "concept_drift": (4.0, True, None),
    "reporting_delay": (1.0, True, (3, 12)),
    "timing_change": (1.0, True, None),
    "label_noise": (1.0, True, (3, 9)),
    "outage": (1.0, False, (1, 3)),
    "missing_column": (0.7, False, (1, 3)),
    "new_category": (0.7, False, (2, 8)),
    "unit_change": (0.7, False, (1, 3)),
}
_LEAST_EVENTS, _MOST_EVENTS = 2, 5


def random_scenario(
    seed: int,
    without: Collection[str] = (),
    months: int = 36,
    cases_per_month: int = 1000,
    horizon_months: int = 6,
) -> Scenario:
    """A scenario of two to five events of any kind.

    Args:
        seed: of the scenario, and of the history simulated from it.
        without: kinds not to draw; ``new_category`` where a use case has no category.
        months: of traffic; every event starts in its first three quarters.
        cases_per_month: on average.
        horizon_months: of the labels.
    """
    rng = stream(seed, "scenario")
    known = [kind for kind in _KINDS if kind not in without]
    weights = np.array([_KINDS[kind][0] for kind in known])
    count = min(int(rng.integers(_LEAST_EVENTS, _MOST_EVENTS + 1)), len(known))
    kinds = rng.choice(known, count, replace=False, p=weights / weights.sum())
    events = [_event(str(kind), rng, months) for kind in kinds]
    return Scenario.model_validate(
        {
            "name": RANDOM,
            "description": f"Drawn from seed {seed}: {', '.join(sorted(map(str, kinds)))}.",
            "seed": seed,
            "months": months,
            "cases_per_month": cases_per_month,
            "horizon_months": horizon_months,
            "events": sorted(events, key=lambda e: e["start"]),
        }
    )


def _event(kind: str, rng: np.random.Generator, months: int) -> dict[str, Any]:
    _, has_course, lasting = _KINDS[kind]
    start = int(rng.integers(1, max(2, 3 * months // 4)))
    event: dict[str, Any] = {"kind": kind, "start": start} | _parameters(kind, rng)
    if lasting:
        event["end"] = start + int(rng.integers(lasting[0], lasting[1] + 1))
    elif rng.random() < 0.3:
        event["end"] = start + int(rng.integers(6, 19))
    if has_course:
        event["course"] = str(rng.choice(["sudden", "gradual", "recurring"], p=[0.5, 0.35, 0.15]))
        event |= {"ramp_months": int(rng.integers(3, 13))} if event["course"] == "gradual" else {}
    return event


def _parameters(kind: str, rng: np.random.Generator) -> dict[str, Any]:
    def either(low: float, high: float) -> float:
        """A factor in [low, high], or its inverse."""
        value = rng.uniform(low, high)
        return float(value if rng.random() < 0.5 else 1 / value)

    number, category, feature = (str(rng.choice(names)) for names in (_NUMBERS, _CATEGORIES, _FEATURES))
    match kind:
        case "scaling":
            return {"feature": number, "factor": either(1.2, 2.0)}
        case "location":
            return {"feature": number, "sd": float(rng.uniform(0.2, 1.0) * rng.choice([-1, 1]))}
        case "mix":
            return {"feature": feature, "odds": either(1.5, 4.0)}
        case "prior_shift":
            return {"odds": either(1.3, 2.5)}
        case "concept_drift":
            named = list(_FEATURES[: int(rng.integers(1, 4))])
            moved = {"factor": float(rng.uniform(-1.0, 0.5)), "log_odds": float(rng.uniform(-0.3, 1.0))}
            return {"features": named} | moved
        case "reporting_delay":
            return {"days": int(rng.integers(15, 91)), "spread_days": float(rng.uniform(0, 20))}
        case "timing_change":
            return {"slower": either(1.2, 2.0)}
        case "label_noise":
            return {"missed": float(rng.uniform(0.05, 0.3)), "false_alarms": float(rng.uniform(0, 0.02))}
        case "outage":
            return {"of": str(rng.choice(["predictions", "labels"])), "backlog": bool(rng.random() < 0.7)}
        case "missing_column":
            return {"feature": feature}
        case "new_category":
            return {"feature": category, "share": float(rng.uniform(0.1, 0.5))}
        case "unit_change":
            return {"feature": number, "factor": float(rng.choice([0.001, 0.01, 100.0]))}
    raise ValueError(f"no kind of event '{kind}': one of {', '.join(_KINDS)}")
