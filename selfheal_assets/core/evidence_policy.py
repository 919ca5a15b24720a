"""The policy of evidence: how figures of drift, estimates and tests of outcomes are made, and what they may spend.

Only value types belong here; each is used by the module of the core that it is named after.
"""

from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from selfheal_assets.core.spec import Share, Spec

Above1 = Annotated[float, Field(gt=1, le=100)]


class DriftAlarms(Spec):
    """When drift of inputs and scores warns, and when it asks for action, with a bounded chance of false alarms.

    ``false_alarm_budget``: the chance of *any* false drift alarm in a year of ``chunks_per_year`` chunks, over all
    features, both tiers and all looks; ``warn_share`` of it is the warning tier's. A feature warns when ``warn_hits``
    of the last ``warn_window`` chunks differ from what came before; the level of each test follows from the budget.
    ``cells`` is the most cells a feature is judged on (neighbours, or the rarest categories, are merged; missing and
    unseen values stay apart); the warning's χ² groups cells until each expects ``min_expected`` rows in both samples.
    ``effect_sizes`` (Cohen's w) are the sizes of change that the acting tier bets on, ``max_starts`` the chunks
    at which it supposes the change to have begun: the first, and the newest. ``min_reference_rows``: with
    fewer nothing is judged. ``min_mass_moved``: a change of fewer rows than this share is no alarm, however certain.
    ``change_confidence``: of the interval around the change point and of the cells named as grown or shrunk.
    """

    false_alarm_budget: Annotated[float, Field(gt=0, lt=0.5)] = 0.05
    chunks_per_year: Annotated[int, Field(ge=1, le=100_000)] = 52
    warn_share: Annotated[float, Field(gt=0, lt=1)] = 0.5
    warn_hits: Annotated[int, Field(ge=1, le=10)] = 2
    warn_window: Annotated[int, Field(ge=1, le=10)] = 3
    cells: Annotated[int, Field(ge=2, le=100)] = 10
    min_expected: Annotated[float, Field(gt=0)] = 5.0
    effect_sizes: Annotated[tuple[Annotated[float, Field(gt=0, le=10)], ...], Field(min_length=1)] = (
        0.05,
        0.1,
        0.2,
        0.4,
    )
    max_starts: Annotated[int, Field(ge=12, le=10_000)] = 100
    min_reference_rows: Annotated[int, Field(ge=1)] = 500
    min_mass_moved: Share = 0.02
    change_confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.9

    @model_validator(mode="after")
    def _hits_fit_the_window(self) -> Self:
        if self.warn_hits > self.warn_window:
            raise ValueError(
                f"warn_hits {self.warn_hits} cannot happen in warn_window {self.warn_window} chunks"
            )
        return self


class Attribution(Spec):
    """How a change of score or of estimated performance is put down to the features that drifted.

    ``max_features``: the effects of that many are told apart (each subset of them is one reweighting of the
    reference, 2ⁿ in all). ``min_effective_rows``: a reweighting that leaves fewer says nothing.
    """

    max_features: Annotated[int, Field(ge=1, le=10)] = 6
    min_effective_rows: Annotated[int, Field(ge=1)] = 200


class DriftFigures(Spec):
    """How drift figures are taken and read; which of them raise an alarm is the alarms' policy.

    ``min_segment_rows``: a segment's value with fewer rows in the reference is pooled with the other small ones.
    ``max_segment_values``: of a segment's values, at most this many of the largest are told apart.
    ``psi_bands``: from the first on PSI says 'watch', from the second on 'moved', as is usual in credit.
    ``psi_confidence``: the share of unchanged samples whose PSI stays below the cut-off for their size.
    """

    min_segment_rows: Annotated[int, Field(ge=1)] = 500
    max_segment_values: Annotated[int, Field(ge=1, le=100)] = 20
    psi_bands: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]] = (0.10, 0.25)
    psi_confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95

    @field_validator("psi_bands")
    @classmethod
    def _bands_ascend(cls, bands: tuple[float, float]) -> tuple[float, float]:
        if bands[0] >= bands[1]:
            raise ValueError(f"{list(bands)} must ascend: 'watch' begins below 'moved'")
        return bands


class DensityRatio(Spec):
    """How a chunk's rows are told from the reference's, for importance weights.

    ``classifier``: boosted trees, which see interactions, or logistic on standardised features and their squares,
    which matches the columns' means more closely. ``folds``: each reference row is judged by a classifier fitted on
    the others. ``largest`` cuts weights (mean 1) from above. ``rounds``, ``max_depth`` and ``learning_rate`` are the
    trees'.
    """

    classifier: Literal["logistic", "boosted"] = "boosted"
    folds: Annotated[int, Field(ge=2, le=10)] = 2
    largest: Annotated[float, Field(gt=1)] = 20.0
    rounds: Annotated[int, Field(ge=1, le=1000)] = 40
    max_depth: Annotated[int, Field(ge=1, le=10)] = 3
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 0.15


class Estimation(Spec):
    """When performance can be estimated without labels, by which estimator, and when to trust it.

    A chunk needs ``min_rows`` scored rows, the reference ``min_class_rows`` rows of each class. Importance weights
    are used only if the weighted reference keeps ``min_effective_rows`` effective rows of each class and differs from
    the chunk by at most ``max_imbalance`` in every column (see ``core.density_ratio.imbalance``; more where chance
    alone explains more); ``ratios`` are tried in turn until one does. ``folds`` and ``draws``: the backtest fits on
    all but one fold of the reference and redraws so many chunks from that one. Estimates of two estimators that
    differ by more than ``disagreement`` standard errors are not trusted. ``confidence`` is the intervals'.
    ``max_rows`` bounds the rows of either side that weights are learnt from.
    """

    min_rows: Annotated[int, Field(ge=1)] = 200
    min_class_rows: Annotated[int, Field(ge=2)] = 30
    min_effective_rows: Annotated[int, Field(ge=2)] = 100
    max_imbalance: Annotated[float, Field(gt=0, lt=1)] = 0.04
    ratios: Annotated[tuple[DensityRatio, ...], Field(min_length=1)] = (
        DensityRatio(),
        DensityRatio(classifier="logistic"),
    )
    folds: Annotated[int, Field(ge=2, le=10)] = 3
    draws: Annotated[int, Field(ge=1, le=200)] = 4
    disagreement: Annotated[float, Field(gt=0)] = 2.0
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    max_rows: Annotated[int, Field(ge=1000)] = 100_000


class HarmAlarms(Spec):
    """How much chance of a false alarm of harm is allowed, and what harm is looked for.

    ``budget``: chance of any false alarm of harm in a year of monitoring (``horizon_chunks`` looks), over the
    partial and the realized evidence together; ``partial_share`` of it is the partial labels'.
    ``first_share``: the part of a year's budget that is spent on harm from the first chunk on, as after a promotion.
    ``reference_share``: the part of the realized losses' budget that pays for the reference being a sample, where
    the losses are no counts.
    ``harm_ratios``: the realized loss (for 0–1 losses its odds) is suspected to be this many times the reference's.
    ``hazard_factors``: the hazard of a positive is suspected to be this many times what it should be, or one such
    part. ``tolerated_ratio``: expected over observed positives within this band is no harm. ``age_bands``: how
    many equal bands of age up to the horizon have a hazard of their own. ``min_rows``: fewer
    labelled rows, ``min_positives``: fewer expected and observed positives tell nothing.
    """

    budget: Annotated[float, Field(gt=0, lt=0.5)] = 0.05
    partial_share: Share = 0.5
    reference_share: Annotated[float, Field(gt=0, lt=1)] = 0.2
    horizon_chunks: Annotated[int, Field(ge=1, le=10_000)] = 52
    first_share: Annotated[float, Field(gt=0, lt=1)] = 0.75
    harm_ratios: Annotated[tuple[Above1, ...], Field(min_length=1)] = (1.3, 1.7)
    hazard_factors: Annotated[tuple[Above1, ...], Field(min_length=1)] = (1.25, 1.5, 2.0, 3.0)
    tolerated_ratio: tuple[float, float] = (0.8, 1.25)
    age_bands: Annotated[int, Field(ge=1, le=400)] = 24
    min_rows: Annotated[int, Field(ge=1)] = 200
    min_positives: Annotated[int, Field(ge=1)] = 20

    @field_validator("tolerated_ratio")
    @classmethod
    def _band_is_around_one(cls, band: tuple[float, float]) -> tuple[float, float]:
        low, high = band
        if not 0 < low <= 1 <= high:
            raise ValueError(f"[{low:g}, {high:g}] must be a band around 1 of two positive ratios")
        return band

    @property
    def partial_alpha(self) -> float:
        """Chance of a false alarm from partial labels in a year."""
        return self.budget * self.partial_share

    @property
    def realized_alpha(self) -> float:
        """Chance of a false alarm from realized losses in a year."""
        return self.budget * (1 - self.partial_share)
