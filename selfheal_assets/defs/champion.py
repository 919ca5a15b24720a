"""A champion with its frozen reference, and what is fitted on it: cells to count in, judges, an estimator's rows."""

from dataclasses import dataclass
from functools import cached_property

import polars as pl

from selfheal_assets.core import metrics
from selfheal_assets.core.bundle import Bundle
from selfheal_assets.core.density_ratio import Inputs
from selfheal_assets.core.drift_limits import scatter_limits
from selfheal_assets.core.encoding import encode
from selfheal_assets.core.maturity import TimingCurve, aged_cases
from selfheal_assets.core.partial_counts import hazard_counts
from selfheal_assets.core.profile import Profile
from selfheal_assets.core.reference_rows import ReferenceRows
from selfheal_assets.core.spec import FeatureType
from selfheal_assets.core.watched_counts import watched_reference
from selfheal_assets.nannyml_bridge import (
    REFERENCE_CHUNKS,
    DriftJudge,
    PerformanceJudge,
    fit_drift,
    fit_performance,
)
from selfheal_assets.stores import cases
from selfheal_assets.stores.champion_counts import fit_cells, reference_chunks
from selfheal_assets.stores.warehouse import Warehouse
from selfheal_assets.use_case import UseCase


@dataclass(frozen=True)
class ChampionProfile:
    """A version with its frozen reference, scored, and what is fitted on it, once and when it is asked for.

    ``reference`` holds the features, ``entity_id``, ``event_time``, ``label``, ``probability``, ``prediction``;
    ``reference_auc`` is None where it holds one class only.
    """

    version: int
    bundle: Bundle
    reference: pl.DataFrame
    reference_fingerprint: str
    reference_auc: float | None
    warehouse: Warehouse
    case: UseCase

    @cached_property
    def positives(self) -> int:
        """Positives of the reference."""
        return int(self.reference["label"].sum())

    @cached_property
    def drift(self) -> DriftJudge:
        """NannyML's judge of drift."""
        by_nannyml = self.case.policy.engine == "nannyml"
        return fit_drift(
            self.reference, self.bundle.features, self.case.monitoring.domain_classifier, by_nannyml
        )

    @cached_property
    def performance(self) -> PerformanceJudge:
        """NannyML's estimator."""
        return fit_performance(self.reference)

    @cached_property
    def cells(self) -> Profile:
        """The reference as counts, in the cells in which chunks are counted."""
        return fit_cells(self.warehouse, self.case, self.reference)

    @cached_property
    def watched(self) -> pl.DataFrame:
        """The reference's counts as the drift alarms watch them."""
        return watched_reference(self.cells)

    @cached_property
    def timing(self) -> TimingCurve:
        """When positives become known, as it was known with the reference."""
        return cases.timing_curve(self.warehouse, self.case, self.bundle.reference.as_of)

    @cached_property
    def hazards(self) -> pl.DataFrame:
        """Counts of the reference's cases by age, all of them mature; see ``core.partial_counts``."""
        window = self.bundle.reference
        rows = cases.matured_cases(self.warehouse, self.case, window.as_of, window.start, window.end)
        rows = rows.filter(pl.col("label").is_not_null()).with_columns(
            cohort=pl.lit(window.start).cast(pl.Datetime("us")), age_days=pl.lit(self.timing.horizon_days)
        )
        aged = aged_cases(rows, self.bundle.score(rows))
        return hazard_counts(aged, self.timing, self.case.harm_alarms)

    @cached_property
    def limits(self) -> pl.DataFrame:
        """How far the reference's own chunks scatter, see ``core.drift_limits``."""
        cells = self.cells.whole
        return scatter_limits(
            cells, reference_chunks(self.warehouse, cells, self.reference, REFERENCE_CHUNKS)
        )

    def inputs(self, rows: pl.DataFrame) -> Inputs:
        """What tells this champion's chunks from its reference: encoded features and ``probability``."""
        features = self.bundle.features
        return Inputs(
            encode(rows, features, self.bundle.vocabulary),
            rows["probability"].to_numpy(),
            [f.name for f in features],
            [f.type is FeatureType.category for f in features],
        )

    @cached_property
    def labelled(self) -> ReferenceRows:
        """The reference as an estimator's labelled rows."""
        rows = self.reference
        return ReferenceRows(
            self.inputs(rows), rows["prediction"].to_numpy() == 1, rows["label"].to_numpy().astype("int8")
        )


def profile_of(
    version: int,
    bundle: Bundle,
    reference: pl.DataFrame,
    fingerprint: str,
    warehouse: Warehouse,
    case: UseCase,
) -> ChampionProfile:
    """A version with its reference (``entity_id``, ``event_time``, the features, ``label``), scored by it."""
    probability = bundle.score(reference)
    scored = reference.with_columns(
        probability=pl.Series(probability),
        prediction=pl.Series((probability >= bundle.threshold).astype("int8")),
    )
    label = scored["label"].to_numpy()
    auc = metrics.roc_auc(label, probability) if scored["label"].n_unique() == 2 else None
    return ChampionProfile(version, bundle, scored, fingerprint, auc, warehouse, case)
