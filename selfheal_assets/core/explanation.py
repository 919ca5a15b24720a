"""Why a case scored as it did: the booster's own contributions, and the features that raised the score most.

Contributions are those of TreeSHAP on the booster's margin, carried through the calibrator, which is linear on that
scale. So they add up to the calibrated log odds, and by way of these to the probability.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from selfheal_assets.core.bundle import Bundle
from selfheal_assets.core.spec import Feature

# More than four reasons are not likely to help an applicant: 12 CFR 1002 (Regulation B), comment 9(b)(2)-1.
MAX_REASONS = 4


@dataclass(frozen=True)
class Reason:
    """A feature that raised the score: its value as given, and by how much it raised the log odds."""

    feature: str
    value: Any
    contribution: float
    text: str


@dataclass(frozen=True)
class Explanation:
    """One case's log odds, taken apart.

    ``base`` + the reasons' contributions + ``rest`` = ``log_odds``, and the probability is
    1 / (1 + exp(-``log_odds``)). ``base`` is what the model says of nobody in particular; ``rest`` sums the features
    that are no reason, most of which lower the score.
    """

    base: float
    reasons: tuple[Reason, ...]
    rest: float
    log_odds: float


def reason_texts(features: Sequence[Feature]) -> dict[str, str]:
    """What a client is told when a feature raised the score: its reason, else its description, else its name."""
    return {f.name: f.reason or f.description or f.name for f in features}


def explain(
    bundle: Bundle, matrix: np.ndarray, columns: Mapping[str, Sequence[Any]], texts: Mapping[str, str]
) -> list[Explanation]:
    """Explanations of cases, with at most :data:`MAX_REASONS` reasons each.

    Args:
        bundle: the model that scored.
        matrix: the encoded cases, float32 (rows, features).
        columns: the same cases' values as given, by feature; each of ``rows`` values.
        texts: by feature, see :func:`reason_texts`.

    Source: Lundberg, Erion, Lee, Consistent Individualized Feature Attribution for Tree Ensembles, 2018.
    """
    contributions, log_odds = bundle.contributions(matrix), bundle.log_odds(matrix)
    names = [f.name for f in bundle.features]
    ranked = np.argsort(-contributions[:, :-1], axis=1, kind="stable")[:, :MAX_REASONS]
    explained = []
    for row, (each, total) in enumerate(zip(contributions, log_odds, strict=True)):
        reasons = tuple(
            Reason(names[i], columns[names[i]][row], float(each[i]), texts.get(names[i], names[i]))
            for i in ranked[row]
            if each[i] > 0
        )
        base = float(each[-1])
        # The booster sums contributions in float32, in another order than the margin: the rounding goes here too.
        rest = float(total) - base - sum(r.contribution for r in reasons)
        explained.append(Explanation(base, reasons, rest, float(total)))
    return explained
