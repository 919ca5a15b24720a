"""The credit view of a chunk: stability, score bands, ranking, vintages, swap set, adverse impact."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import polars as pl

from selfheal_assets.core.spec import ChunkPeriod
from selfheal_assets.reports import credit_figures as figures
from selfheal_assets.reports import credit_tables as tables
from selfheal_assets.reports.page import Block, Notice, Section

LEAD = (
    "What credit risk people look at, on the decisions as they were served. None of these figures starts a "
    "retraining; what each means is in docs/monitoring.md."
)


@dataclass(frozen=True, eq=False)
class CreditView:
    """What the credit view is made from: counts of the marts, judged by ``core.credit`` and ``core.stability``.

    A frame may be empty; then the view says 'not computed', and why.

    Attributes:
        stability: ``core.stability.stability_table`` of this chunk: one row per variable and version.
        score_stability: the same of the score alone, one row per cohort and version, this chunk's the last.
        bands: ``core.credit.score_bands``, pooled over the cohorts of ``banded``.
        ranking: ``core.credit.ranking``: one row per matured cohort and version.
        vintages: ``core.credit.vintages``: one row per cohort and months on book.
        impact: ``core.credit.adverse_impact`` of this chunk.
        swap: ``core.credit.swap_set``.
        psi_bands: the policy's limits for PSI.
        least_ratio: the policy's least adverse impact ratio.
        banded: names of the first and the last cohort in ``bands``.
        swapped: which two models ``swap`` compares, on which cases.
        not_computed: why a frame is empty, by the frame's name.
    """

    stability: pl.DataFrame = field(default_factory=pl.DataFrame)
    score_stability: pl.DataFrame = field(default_factory=pl.DataFrame)
    bands: pl.DataFrame = field(default_factory=pl.DataFrame)
    ranking: pl.DataFrame = field(default_factory=pl.DataFrame)
    vintages: pl.DataFrame = field(default_factory=pl.DataFrame)
    impact: pl.DataFrame = field(default_factory=pl.DataFrame)
    swap: pl.DataFrame = field(default_factory=pl.DataFrame)
    psi_bands: tuple[float, float] = (0.1, 0.25)
    least_ratio: float = 0.8
    banded: tuple[str, str] = ("", "")
    swapped: str = ""
    not_computed: Mapping[str, str] = field(default_factory=dict)


def credit_section(view: CreditView, period: ChunkPeriod, outcome: str) -> Section:
    """The part 'Credit view' of a chunk's page.

    Args:
        view: what was found.
        period: length of chunks and cohorts, to name these.
        outcome: plural of what the label means.
    """
    drawn: list[tuple[str, str, Callable[[], list[Block | None]]]] = [
        (
            "stability",
            "Stability (PSI, CSI)",
            lambda: [
                figures.psi_figure(view.score_stability, view.psi_bands, period),
                tables.stability_table(view.stability, view.psi_bands),
            ],
        ),
        (
            "bands",
            "Score bands",
            lambda: [
                figures.bands_figure(view.bands, outcome, view.banded),
                tables.bands_table(view.bands, outcome),
            ],
        ),
        (
            "ranking",
            "KS and Gini by cohort",
            lambda: [
                figures.ranking_figure(view.ranking, period),
                tables.ranking_table(view.ranking, period),
            ],
        ),
        (
            "vintages",
            "Vintage curves",
            lambda: [
                figures.vintage_figure(view.vintages, period, outcome),
                tables.vintage_table(view.vintages, period),
            ],
        ),
        ("impact", "Adverse impact", lambda: [tables.impact_table(view.impact, view.least_ratio)]),
        ("swap", "Swap set", lambda: [tables.swap_table(view.swap, outcome, view.swapped)]),
    ]
    blocks = [block for name, what, draw in drawn for block in _drawn(view, name, what, draw)]
    return Section("credit", "Credit view", blocks, LEAD)


def _drawn(view: CreditView, name: str, what: str, draw: Callable[[], list[Block | None]]) -> list[Block]:
    """A part's blocks, or a notice that says why there are none."""
    if getattr(view, name).is_empty():
        reason = view.not_computed.get(name) or "no result was recorded for this chunk"
        return [Notice(f"{what}: not computed, because {reason.rstrip('.')}.")]
    return [block for block in draw() if block is not None]
