"""The page of one monitoring chunk: what moved, whether it hurts, and what is not known."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from selfheal_assets.core.spec import ChunkPeriod
from selfheal_assets.reports import drift_figures
from selfheal_assets.reports import drift_tables as tables
from selfheal_assets.reports.distributions import compare
from selfheal_assets.reports.page import (
    PLOTLY_JS,
    Block,
    Notice,
    Page,
    Section,
    Tone,
    render,
    write_atomically,
    write_shared_plotly,
)
from selfheal_assets.reports.text import count, listing, number

MOST_DISTRIBUTIONS = 6
MOST_UNALARMED = 2
NO_REASON = "its frame came without rows"


@dataclass(frozen=True, eq=False)
class DriftPage:
    """What the page of one chunk is made from. Any frame may be empty; then the page says 'not computed'.

    Attributes:
        title: title of the use case.
        chunk_label: name of the chunk, ``2007 Q3``.
        champion: version of the champion that scored it; None if there is none.
        findings: ``check`` (str), ``status`` (PASS, FAIL or INSUFFICIENT_DATA), ``statistic``, ``limit`` (f64),
            ``reason`` (str). One row per check.
        univariate: ``feature``, ``method`` (str), ``value``, ``threshold`` (f64), ``alert`` (bool), ``status``,
            ``reason`` (str). One row per feature and method.
        multivariate: ``method`` (str), ``value``, ``lower_threshold``, ``upper_threshold`` (f64), ``alert``.
        estimates: ``metric`` (str), ``value``, ``lower``, ``upper``, ``threshold_lower``, ``threshold_upper``
            (f64), ``alert`` (bool), ``status``, ``reason`` (str). One row per metric.
        cohort_evidence: ``cohort`` (Datetime), ``rows``, ``mean_age_days``, ``share_known`` (0..1),
            ``expected``, ``observed`` (counts so far).
        realized: ``cohort`` (Datetime), ``metric`` (str), ``value``, ``lower``, ``upper`` (f64), ``rows``,
            ``positives`` (int), ``status``, ``reason`` (str). One row per cohort and metric.
        reference_features: values of the features in the reference; only the drifted ones are drawn.
        analysis_features: the same columns in this chunk.
        outcome: plural of what the label means, ``defaults``.
        period: length of chunks and cohorts, to name these.
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
        notes=_in_words(report),
        sections=[
            Section("findings", "Checks", _findings(report)),
            Section("features", "What moved", _features(report)),
            Section("estimates", "Estimated performance", _estimates(report)),
            Section("cohorts", "Labels so far", _cohorts(report)),
            Section("realized", "Realized performance", _realized(report)),
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


def _in_words(report: DriftPage) -> list[str]:
    """What the frames say, in a sentence each."""
    said = []
    if not report.univariate.is_empty():
        drifted = report.univariate.filter(pl.col("alert"))["feature"].unique(maintain_order=True).to_list()
        of = report.univariate["feature"].n_unique()
        said.append(f"{len(drifted)} of {of} features drifted{': ' + listing(drifted) if drifted else ''}.")
    if not report.cohort_evidence.is_empty():
        expected, observed = report.cohort_evidence.select(pl.sum("expected", "observed")).row(0)
        ratio = f", {observed / expected:.2f} times as many" if expected else ""
        said.append(
            f"{count(observed)} {report.outcome} so far where {number(expected, 1)} were expected{ratio}."
        )
    return [" ".join(said)] if said else []


def _missing(report: DriftPage, frame: str, what: str) -> list[Block]:
    return [Notice(f"{what}: not computed, because {report.not_computed.get(frame, NO_REASON)}.")]


def _findings(report: DriftPage) -> list[Block]:
    if report.findings.is_empty():
        return _missing(report, "findings", "Checks")
    return [tables.findings_table(report.findings)]


def _features(report: DriftPage) -> list[Block]:
    if report.univariate.is_empty():
        blocks = _missing(report, "univariate", "Drift by feature")
    else:
        bars = drift_figures.ratio_figure(report.univariate)
        table = tables.univariate_table(report.univariate)
        blocks = [*([bars] if bars else []), *_distributions(report), table]
    if report.multivariate.is_empty():
        return [*blocks, *_missing(report, "multivariate", "Drift of all features together")]
    return [*blocks, tables.multivariate_table(report.multivariate)]


def _distributions(report: DriftPage) -> list[Block]:
    """Distributions of the features that moved most; of a few if none moved too far."""
    ranked = drift_figures.with_ratio(report.univariate)
    drifted = ranked.filter(pl.col("alert"))
    chosen = drifted if drifted.height else ranked.head(MOST_UNALARMED)
    reference, analysis = report.reference_features, report.analysis_features
    drawable = set(reference.columns) & set(analysis.columns)
    names = [n for n in chosen["feature"].unique(maintain_order=True) if n in drawable][:MOST_DISTRIBUTIONS]
    if not names or reference.is_empty() or analysis.is_empty():
        return _missing(report, "reference_features", "Distributions then and now")
    return [drift_figures.distribution_figure(compare(reference[name], analysis[name])) for name in names]


def _estimates(report: DriftPage) -> list[Block]:
    if report.estimates.is_empty():
        return _missing(report, "estimates", "Estimated performance")
    plot = drift_figures.estimates_figure(report.estimates)
    return [*([plot] if plot else []), tables.estimates_table(report.estimates)]


def _cohorts(report: DriftPage) -> list[Block]:
    if report.cohort_evidence.is_empty():
        return _missing(report, "cohort_evidence", "Evidence from partial labels")
    plot = drift_figures.cohort_figure(report.cohort_evidence, report.period, report.outcome)
    return [plot, tables.cohorts_table(report.cohort_evidence, report.period)]


def _realized(report: DriftPage) -> list[Block]:
    if report.realized.is_empty():
        return _missing(report, "realized", "Realized performance")
    plots = drift_figures.realized_figures(report.realized, report.period)
    return [*plots, tables.realized_table(report.realized, report.period)]
