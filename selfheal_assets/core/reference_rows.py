"""Reference rows as arrays, how well they stand for a chunk, and what both estimators would have said on them.

The backtest is what ``core.estimation`` chooses by. It sees the reference's labels and the chunk's inputs, never the
chunk's labels.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import polars as pl

from selfheal_assets.core.calibration import IsotonicMap, fit_isotonic
from selfheal_assets.core.density_ratio import Inputs, density_ratio, effective_rows, imbalance
from selfheal_assets.core.evidence_policy import Estimation
from selfheal_assets.core.expected import expected_metrics
from selfheal_assets.core.policies import Costs
from selfheal_assets.core.score_groups import groups_of_labels, groups_of_rows

Array = np.ndarray
CBPE: Final = "cbpe"
WEIGHTED: Final = "weighted"
# Kolmogorov's 95 % point: two equal distributions differ by less than this times √(1/n + 1/m).
KS_BY_CHANCE: Final = 1.36
MOST_DRAWN: Final = 10_000


@dataclass(frozen=True)
class ReferenceRows:
    """The champion's held-out, labelled cases: arrays over the same rows; ``label`` 0/1, ``flagged`` bool."""

    inputs: Inputs
    flagged: Array
    label: Array

    def take(self, rows: Array) -> "ReferenceRows":
        """These rows (positions or a mask)."""
        return ReferenceRows(self.inputs.take(rows), self.flagged[rows], self.label[rows])


@dataclass(frozen=True)
class Coverage:
    """How well the weighted reference stands for a chunk.

    Attributes:
        weight: of each reference row, mean 1.
        effective: effective rows of the rarer class.
        imbalance: largest difference left between weighted reference and chunk.
        column: where it is.
        limit: what is accepted of it.
        needed: effective rows of each class that are needed.
    """

    weight: Array
    effective: float
    imbalance: float
    column: str
    limit: float
    needed: int

    @property
    def balanced(self) -> bool:
        """Whether the weighted reference looks like the chunk."""
        return self.imbalance <= self.limit

    @property
    def usable(self) -> bool:
        """Whether a map may be fitted with these weights."""
        return self.balanced and self.effective >= self.needed

    def complaint(self) -> str | None:
        """What is wrong, in words."""
        if not self.balanced:
            return (
                f"the reference does not cover this chunk: '{self.column}' still differs by {self.imbalance:.3f} "
                f"after weighting (limit {self.limit:.3f})"
            )
        if self.effective < self.needed:
            return (
                f"weighted, the rarer class of the reference counts for {self.effective:.0f} rows; "
                f"{self.needed} are needed"
            )
        return None


def coverage(reference: ReferenceRows, chunk: Inputs, policy: Estimation, seed: int) -> Coverage:
    """Weights of the first of ``policy.ratios`` that is usable, else of the best balanced."""
    tried = []
    for ratio in policy.ratios:
        weight = density_ratio(reference.inputs, chunk, ratio, seed)
        left, column = imbalance(reference.inputs, chunk, weight)
        rarer = min(effective_rows(weight[reference.label == y]) for y in (0, 1))
        by_chance = KS_BY_CHANCE * np.sqrt(1 / len(chunk) + 1 / effective_rows(weight))
        limit = max(policy.max_imbalance, float(by_chance))
        tried.append(Coverage(weight, rarer, left, column, limit, policy.min_effective_rows))
        if tried[-1].usable:
            return tried[-1]
    return min(tried, key=lambda c: c.imbalance - c.limit)


def backtest(
    reference: ReferenceRows,
    cover: Coverage,
    rows: int,
    policy: Estimation,
    costs: Costs | None = None,
    seed: int = 0,
) -> pl.DataFrame:
    """Errors of both estimators on chunks of held-out reference rows, redrawn to look like the chunk at hand.

    Each fold in turn is held out; the maps are fitted on the others, and ``policy.draws`` chunks of ``rows`` rows
    (``MOST_DRAWN`` at most: of a larger chunk the errors are upper bounds) are drawn from it, by the weights if they
    are usable, evenly if not. Errors of counts are given for ``rows`` rows.

    Returns:
        ``metric``, ``cbpe`` and ``weighted``: mean absolute error of each (null where it was not measurable; the
        weighted one also where its weights are not usable).
    """
    rng = np.random.default_rng(seed + 1)
    fold = rng.permutation(len(reference.label)) % policy.folds
    weight = cover.weight if cover.usable else np.ones(len(cover.weight))
    found = []
    for k in range(policy.folds):
        fit, held = reference.take(fold != k), reference.take(fold == k)
        if min(fit.label.sum(), (1 - fit.label).sum()) < 2:
            continue
        maps = {CBPE: fit_isotonic(fit.inputs.score, fit.label)}
        if cover.usable:
            maps[WEIGHTED] = fit_isotonic(fit.inputs.score, fit.label, weight[fold != k])
        chance = weight[fold == k] / weight[fold == k].sum()
        for _ in range(policy.draws):
            drawn = held.take(rng.choice(len(chance), min(rows, MOST_DRAWN), p=chance))
            found.append(_errors(drawn, maps, costs))
    schema = {"metric": pl.String, CBPE: pl.Float64, WEIGHTED: pl.Float64}
    if not found:
        return pl.DataFrame(schema=schema)
    scale = pl.when(pl.col("unit") == "rows").then(rows / min(rows, MOST_DRAWN)).otherwise(1.0)
    means = (
        pl.concat(found).group_by("metric", "unit", maintain_order=True).agg(pl.col(CBPE, WEIGHTED).mean())
    )
    return means.with_columns(pl.col(CBPE, WEIGHTED) * scale).drop("unit")


def _errors(drawn: ReferenceRows, maps: dict[str, IsotonicMap], costs: Costs | None) -> pl.DataFrame:
    """Absolute error of each map's estimates on one redrawn chunk."""
    score, flagged = drawn.inputs.score, drawn.flagged
    truth = expected_metrics(groups_of_labels(score, drawn.label, flagged), costs)
    columns = []
    for name in (CBPE, WEIGHTED):
        if name in maps:
            estimate = expected_metrics(groups_of_rows(score, maps[name](score), flagged), costs)["value"]
            columns.append((estimate - truth["value"]).abs().alias(name))
        else:
            columns.append(pl.Series(name, [None] * truth.height, dtype=pl.Float64))
    return truth.select("metric", "unit").with_columns(columns)
