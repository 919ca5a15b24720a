"""The page of one monitoring chunk: what moved, whether it hurts, and what is not known."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from selfheal_assets.core.spec import ChunkPeriod
from selfheal_assets.reports import drift_figures
from selfheal_assets.reports import drift_tables as tables
from selfheal_assets.reports.credit import CreditView, credit_section
from selfheal_assets.reports.distributions import compare
from selfheal_assets.reports.drift_words import causes_words, change_words, changes_table, in_words, strongest
from selfheal_assets.reports.page import (
    PLOTLY_JS,
    Block,
    Notice,
    Page,
    Points,
    Section,
    Tone,
    render,
    write_atomically,
    write_shared_plotly,
)
from selfheal_assets.reports.text import listing

MOST_DISTRIBUTIONS = 6
MOST_UNALARMED = 2
NO_REASON = "no result was recorded for this chunk"
MEASURED = {
    "findings": "status",
    "univariate": "value",
    "multivariate": "value",
    "estimates": "value",
    "cohort_evidence": "expected",
    "realized": "value",
}


@dataclass(frozen=True, eq=False)
class DriftPage:
    """What the page of one chunk is made from.

    A frame may be empty, or hold rows without a value whose ``reason`` says why: then the page says
    'not computed', and why.

    Attributes:
        title: title of the use case.
        chunk_label: name of the chunk, ``2007 Q3``.
        champion: version of the champion that scored it; None if there is none.
        findings: ``check`` (str), ``status`` (PASS, FAIL or INSUFFICIENT_DATA), ``statistic``,
            ``limit`` (f64), ``reason`` (str). One row per check.
        univariate: ``feature``, ``method`` (str), ``value``, ``threshold`` (f64), ``alert`` (bool),
            ``reason`` (str). One row per feature and method.
        multivariate: ``method`` (str), ``value``, ``lower_threshold``, ``upper_threshold`` (f64), ``alert``.
        estimates: ``metric`` (str), ``value``, ``lower``, ``upper``, ``threshold_lower``,
            ``threshold_upper`` (f64), ``alert`` (bool), ``reason`` (str). One row per metric.
        cohort_evidence: ``cohort`` (Datetime), ``rows``, ``mean_age_days``, ``share_known`` (0..1),
            ``expected``, ``observed`` (counts so far).
        realized: ``cohort`` (Datetime), ``metric`` (str), ``value``, ``lower``, ``upper`` (f64), ``rows``,
            ``positives`` (int), ``status``, ``reason`` (str), and where more than one model is judged
            ``scored_by`` (str). One row per cohort, metric and model.
        reference_features: values of the features in the reference; only the drifted ones are drawn.
        analysis_features: the same columns in this chunk.
        outcome: plural of what the label means, ``defaults``.
        period: length of chunks and cohorts, to name these.
        alarms: the chunk's rows of ``core.drift_alarms``: what changed, since when, which way and how much.
        psi: the chunk's rows of ``core.drift.psi_readings``: PSI beside what chance alone would give.
        causes: the chunk's rows of ``core.attribution.attribute_change``.
        credit: the credit view; without one the page has no such part.
        least_drift: the policy's limit: a feature counts as drifted only beyond this and beyond its own
            threshold. None leaves ``threshold`` and ``alert`` as they are.
        not_computed: why a frame is empty, by the frame's name.
    """

    title: str
    chunk_label: str
    champion: int | None
    findings: pl.DataFrame
    univariate: pl.DataFrame
    multivariate: pl.DataFrame
    estimates: pl.DataFrame
    cohort_evidence: pl.DataFrame
    realized: pl.DataFrame
    reference_features: pl.DataFrame
    analysis_features: pl.DataFrame
    outcome: str = "defaults"
    period: ChunkPeriod = "quarter"
    least_drift: float | None = None
    credit: CreditView | None = None
    alarms: pl.DataFrame = field(default_factory=pl.DataFrame)
    psi: pl.DataFrame = field(default_factory=pl.DataFrame)
    causes: pl.DataFrame = field(default_factory=pl.DataFrame)
    not_computed: Mapping[str, str] = field(default_factory=dict)


def drift_page(report: DriftPage, plotly_js: str | None = PLOTLY_JS) -> str:
    """HTML of one chunk.

    Args:
        report: what was found.
        plotly_js: name of the plotly.js file beside the page; None puts plotly.js into the page (4.6 MB).
    """
    verdict, tone = _verdict(report.findings)
    champion = f"champion v{report.champion}" if report.champion is not None else "no champion"
    page = Page(
        title=f"{report.chunk_label}: drift and health",
        subtitle=f"{report.title} · {champion}",
        verdict=verdict,
        tone=tone,
        notes=in_words(_drift(report), _known(report, "cohort_evidence"), report.outcome),
        sections=[
            Section("findings", "Checks", _findings(report)),
            Section("features", "What moved", _features(report)),
            Section("estimates", "Estimated performance", _estimates(report)),
            Section("cohorts", "Labels so far", _cohorts(report)),
            Section("realized", "Realized performance", _realized(report)),
            *([credit_section(report.credit, report.period, report.outcome)] if report.credit else []),
        ],
    )
    return render(page, plotly_js)


def save_drift_page(report: DriftPage, path: Path) -> Path:
    """Write a chunk's page, and plotly.js beside it if it is not there yet."""
    write_shared_plotly(path.parent)
    return write_atomically(path, drift_page(report).encode())


def _verdict(findings: pl.DataFrame) -> tuple[str, Tone]:
    """The answer in a sentence. Unknown is not healthy."""
    if findings.is_empty():
        return "Not known to be healthy: no check was evaluated.", "unknown"
    failed = findings.filter(pl.col("status") == "FAIL")["check"].to_list()
    unclear = findings.filter(~pl.col("status").is_in(["PASS", "FAIL"]).fill_null(False))["check"].to_list()
    tail = f" {_checks(unclear)} could not be judged for lack of data." if unclear else ""
    if failed:
        return (
            f"Needs a look: {len(failed)} of {findings.height} checks failed ({listing(failed)}).{tail}",
            "bad",
        )
    if unclear:
        return f"Not known to be healthy.{tail}", "unknown"
    return f"Healthy: all {findings.height} checks passed.", "good"


def _checks(names: list[str]) -> str:
    return f"{listing(names)} ({len(names)} checks)" if len(names) > 1 else names[0]


def _known(report: DriftPage, name: str) -> pl.DataFrame:
    """The frame of that name; without rows if none of its rows holds a value."""
    frame: pl.DataFrame = getattr(report, name)
    measured = not frame.is_empty() and frame[MEASURED[name]].null_count() < frame.height
    return frame if measured else frame.clear()


def _drift(report: DriftPage) -> pl.DataFrame:
    """Drift by feature, judged as the policy judges it."""
    drift = _known(report, "univariate")
    if drift.is_empty() or report.least_drift is None:
        return drift
    limit = pl.max_horizontal("threshold", pl.lit(report.least_drift))
    return drift.with_columns(threshold=limit, alert=pl.col("value") > limit)


def _missing(report: DriftPage, name: str, what: str) -> list[Block]:
    """A notice in place of a figure: what is missing, and why."""
    frame: pl.DataFrame = getattr(report, name)
    said = frame["reason"].drop_nulls().to_list() if "reason" in frame.columns else []
    reason = report.not_computed.get(name) or next(iter(said), NO_REASON)
    return [Notice(f"{what}: not computed, because {str(reason).rstrip('.')}.")]


def _findings(report: DriftPage) -> list[Block]:
    findings = _known(report, "findings")
    if findings.is_empty():
        return _missing(report, "findings", "Checks")
    return [tables.findings_table(findings)]


def _features(report: DriftPage) -> list[Block]:
    drift, together = _drift(report), _known(report, "multivariate")
    if drift.is_empty():
        blocks = _missing(report, "univariate", "Drift by feature")
    else:
        bars = drift_figures.ratio_figure(drift, judged=bool(report.alarms.height))
        blocks = [
            *([bars] if bars else []),
            *([changes_table(drift, report.alarms, report.psi)] if report.alarms.height else []),
            *([Points(causes)] if (causes := causes_words(report.causes)) else []),
            *_distributions(report, drift),
            tables.univariate_table(drift, judged=bool(report.alarms.height)),
        ]
    if together.is_empty():
        return [*blocks, *_missing(report, "multivariate", "Drift of all features together")]
    return [*blocks, tables.multivariate_table(together)]


def _distributions(report: DriftPage, drift: pl.DataFrame) -> list[Block]:
    """Distributions of the features that moved most; of a few if none moved too far."""
    ranked = drift_figures.with_ratio(drift)
    drifted = ranked.filter(pl.col("alert"))
    chosen = drifted if drifted.height else ranked.head(MOST_UNALARMED)
    reference, analysis = report.reference_features, report.analysis_features
    drawable = set(reference.columns) & set(analysis.columns)
    names = [n for n in chosen["feature"].unique(maintain_order=True) if n in drawable][:MOST_DISTRIBUTIONS]
    if not names or reference.is_empty() or analysis.is_empty():
        return _missing(report, "reference_features", "Distributions then and now")
    told = {name: change_words(alarm) for name, alarm in strongest(report.alarms).items()}
    return [
        drift_figures.distribution_figure(compare(reference[name], analysis[name]), told.get(name, ""))
        for name in names
    ]


def _estimates(report: DriftPage) -> list[Block]:
    estimates = _known(report, "estimates")
    if estimates.is_empty():
        return _missing(report, "estimates", "Estimated performance")
    plot = drift_figures.estimates_figure(_on_one_scale(estimates))
    return [*([plot] if plot else []), tables.estimates_table(estimates)]


def _on_one_scale(estimates: pl.DataFrame) -> pl.DataFrame:
    """Those between -1 and 1: counts, nats and money would flatten them."""
    if "unit" not in estimates.columns:
        return estimates
    return estimates.filter(pl.col("unit").is_in(["share", "index", "probability", "squared probability"]))


def _cohorts(report: DriftPage) -> list[Block]:
    evidence = _known(report, "cohort_evidence")
    if evidence.is_empty():
        return _missing(report, "cohort_evidence", "Evidence from partial labels")
    evidence = evidence.drop_nulls(["cohort", "expected"])
    table = tables.cohorts_table(evidence, report.period)
    if max(evidence.select(pl.sum("expected", "observed")).row(0)) < 1:
        return [
            Notice(f"Too early to tell: less than one case of {report.outcome} is expected so far."),
            table,
        ]
    return [drift_figures.cohort_figure(evidence, report.period, report.outcome), table]


def _realized(report: DriftPage) -> list[Block]:
    """A line by cohort where there are several; one cohort's figures are a table."""
    realized = _known(report, "realized")
    if realized.is_empty():
        return _missing(report, "realized", "Realized performance")
    several = realized["cohort"].n_unique() > 1
    plots = drift_figures.realized_figures(realized, report.period) if several else []
    return [*plots, tables.realized_table(realized, report.period, folded=several)]
