"""The policy: every threshold of the loop as a value. The thresholds of evidence are ``evidence_policy``'s."""

from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from selfheal_assets.core.evidence_policy import (
    Attribution,
    DriftAlarms,
    DriftFigures,
    Estimation,
    HarmAlarms,
)
from selfheal_assets.core.soundness_policy import Soundness
from selfheal_assets.core.spec import Days, Share, Spec, Text, require_distinct

CheckName = Literal[
    "drift_within_limits", "estimated_performance_holds", "calibration_holds", "realized_performance_holds"
]


class Costs(Spec):
    """What a decision is worth, per case, in one currency: what ``business_value`` adds up.

    A positive is the bad outcome, and a case predicted positive is refused. ``missed_positive`` is lost on each
    positive that was accepted, ``refused_good`` on each good case that was refused; ``caught_positive`` is gained by
    each positive refused, ``accepted_good`` by each good case accepted. ``retraining`` is what one retraining costs,
    which a backtest adds up. ``currency`` is only shown.
    """

    missed_positive: Annotated[float, Field(ge=0)]
    refused_good: Annotated[float, Field(ge=0)] = 0.0
    caught_positive: float = 0.0
    accepted_good: float = 0.0
    retraining: Annotated[float, Field(ge=0)] = 0.0
    currency: Text = "units"

    @property
    def worth(self) -> tuple[float, float, float, float]:
        """Of a true positive, a false positive, a false negative and a true negative."""
        return self.caught_positive, -self.refused_good, -self.missed_positive, self.accepted_good


class GatePolicy(Spec):
    """Limits that a challenger must meet before it replaces the champion. All must hold.

    ``primary_metric`` decides about improvement and segments: F1 at each model's own threshold, or ROC AUC where
    positives are so rare that F1 has no power. ``approval``: a challenger that passes waits, for at most
    ``approval_days``, until somebody other than who asked for it approves it. ``min_power``: where a gain of
    ``min_improvement_pct`` would have shown with a smaller chance, no proof of a gain is INCONCLUSIVE, not a refusal.

    ``evidence``: ``matured`` labels of the reference, or ``partial``: what is known so far of the newest
    ``training.gate_months``. Then the log loss so far must improve, ROC AUC fall by no more than
    ``max_ranking_loss``, and |log(expected / observed)| rise by no more than ``max_calibration_loss``, each by its
    bound; ``primary_metric`` and ``max_brier_degradation`` do not count, and ``min_improvement_pct`` is only the gain
    that ``min_power`` asks about.

    A served score may differ from the trained one by ``max_score_difference``. The process that serves on trial must
    answer within ``serving_timeout_s``, its start included.
    """

    evidence: Literal["matured", "partial"] = "matured"
    primary_metric: Literal["f1", "roc_auc"] = "f1"
    min_rows: Annotated[int, Field(ge=1)] = 200
    min_positives: Annotated[int, Field(ge=1)] = 50
    min_label_coverage: Share = 0.30
    cooldown_days: Days = 7
    min_improvement_pct: float = 2.0
    max_brier_degradation: Annotated[float, Field(ge=0)] = 0.01
    max_ranking_loss: Annotated[float, Field(ge=0)] = 0.02
    max_calibration_loss: Annotated[float, Field(ge=0)] = 0.10
    max_segment_degradation_pct: Annotated[float, Field(ge=0)] = 5.0
    min_segment_rows: Annotated[int, Field(ge=1)] = 500
    min_segment_positives: Annotated[int, Field(ge=1)] = 50
    min_adverse_impact_ratio: Share = 0.80
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    min_power: Annotated[float, Field(gt=0.05, lt=1)] = 0.80
    resamples: Annotated[int, Field(ge=200, le=100_000)] = 2000
    max_latency_ms: Annotated[float, Field(gt=0)] = 50.0
    max_size_mb: Annotated[float, Field(gt=0)] = 50.0
    approval: bool = False
    approval_days: Annotated[Days, Field(ge=1)] = 14
    max_score_difference: Annotated[float, Field(ge=0)] = 1e-7
    serving_timeout_s: Annotated[float, Field(gt=0)] = 60.0


class AlarmPolicy(Spec):
    """What a chunk must have to be judged at all, and how far ROC AUC may fall below the reference's.

    ``min_rows`` predictions or labels, ``min_positives`` of each class where labels matter.
    """

    min_rows: Annotated[int, Field(ge=1)] = 200
    min_positives: Annotated[int, Field(ge=1)] = 20
    max_auc_drop: Annotated[float, Field(gt=0)] = 0.05


class RollbackPolicy(Spec):
    """When a promotion is taken back during ``probation_days``.

    By evidence: ``alpha`` is the chance of ever taking back a champion that is no worse than its predecessor, over
    all looks; ``ranking_share`` of it is spent on the ranking, the rest on the likelihood, in which each case is
    judged once at each age of ``ages_days``, and at the horizon. ``largest_ratio``: no case speaks for one model more
    strongly than by this likelihood ratio. ``bets``: the shares of the wealth that are put on each case, all of them
    tried side by side.

    At once: of ``min_scores`` scores or more, a share above ``max_equal_share`` is one value, while the predecessor
    tells the same cases apart; or the median time to score, over ``min_timings`` calls, is above
    ``gates.max_latency_ms``.
    """

    alpha: Annotated[float, Field(gt=0, lt=0.5)] = 0.05
    ranking_share: Annotated[float, Field(gt=0, lt=1)] = 0.5
    ages_days: Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(min_length=1)] = (60, 180)
    largest_ratio: Annotated[float, Field(gt=1, le=1000)] = 4.0
    bets: Annotated[tuple[Annotated[float, Field(gt=0, lt=1)], ...], Field(min_length=1)] = (
        0.1,
        0.25,
        0.5,
        0.9,
    )
    max_equal_share: Annotated[float, Field(gt=0.5, le=1)] = 0.99
    min_scores: Annotated[int, Field(ge=2)] = 200
    min_timings: Annotated[int, Field(ge=1)] = 20

    @field_validator("ages_days", "bets")
    @classmethod
    def _ascend(cls, values: tuple[float, ...]) -> tuple[float, ...]:
        if list(values) != sorted(set(values)):
            raise ValueError(f"{list(values)} must ascend, each value once")
        return values


class RealizedFigures(Spec):
    """How the metrics on matured labels are computed.

    ``confidence`` is of each two-sided interval, ``resamples`` those of a bootstrap, ``calibration_bins`` the
    equal-count bins of the calibration error. ``half_width`` is the precision that is wanted of a metric between 0
    and 1: each figure says how many rows it would take.
    """

    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    half_width: Annotated[float, Field(gt=0, lt=0.5)] = 0.02
    resamples: Annotated[int, Field(ge=200, le=100_000)] = 1000
    calibration_bins: Annotated[int, Field(ge=2, le=100)] = 10


class CreditPolicy(Spec):
    """Conventions of credit monitoring; none of them starts a retraining.

    Attributes:
        bands: cells of equal size in the reference for score bands, PSI and CSI; ten are deciles.
        rare_share: categories with a smaller share of the reference share one cell.
        psi_bands: a PSI from the first on is called moderate, from the second on large.
        confidence: of every interval, and of the cut-off below which a PSI may be chance.
        cohorts: how many of the newest cohorts a report shows.
        min_group_rows: smaller groups are not compared for adverse impact.
        min_adverse_impact_ratio: a group approved less often than this share of the most approved group's rate is
            flagged; 0.8 is the four-fifths rule (29 CFR 1607.4(D)).
    """

    bands: Annotated[int, Field(ge=2, le=100)] = 10
    rare_share: Annotated[float, Field(ge=0, lt=1)] = 0.01
    psi_bands: tuple[float, float] = (0.1, 0.25)
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    cohorts: Annotated[int, Field(ge=1, le=100)] = 8
    min_group_rows: Annotated[int, Field(ge=1)] = 200
    min_adverse_impact_ratio: Share = 0.80

    @field_validator("psi_bands")
    @classmethod
    def _bands_ascend(cls, bands: tuple[float, float]) -> tuple[float, float]:
        moderate, large = bands
        if not 0 < moderate < large:
            raise ValueError(f"[{moderate:g}, {large:g}] must be two positive values that ascend")
        return bands


class Policy(Spec):
    """Every threshold of the loop: none lives in code.

    ``engine``: who computes drift figures and estimates: NannyML on the chunk's rows, or the push-down engine from
    counts where the rows lie; ``auto`` is the latter. ``costs`` turn confusion into business value.
    ``max_retrainings_per_year`` is the budget of any 365 days of windows. A check starts a retraining only if it
    failed in ``failing_windows`` of the newest ``among_windows`` windows since the last one (hysteresis).
    """

    retraining_cooldown_days: Days = 30
    retraining_attempts: Annotated[int, Field(ge=1, le=10)] = 2
    max_retrainings_per_year: Annotated[int, Field(ge=1, le=366)] = 12
    failing_windows: Annotated[int, Field(ge=1, le=50)] = 1
    among_windows: Annotated[int, Field(ge=1, le=50)] = 1
    probation_days: Annotated[Days, Field(ge=1)] = 365
    retrain_on: tuple[CheckName, ...] = (
        "drift_within_limits",
        "estimated_performance_holds",
        "calibration_holds",
        "realized_performance_holds",
    )
    engine: Literal["auto", "nannyml", "pushdown"] = "auto"
    costs: Costs | None = None
    gates: GatePolicy = GatePolicy()
    alarms: AlarmPolicy = AlarmPolicy()
    rollback: RollbackPolicy = RollbackPolicy()
    drift: DriftAlarms = DriftAlarms()
    drift_figures: DriftFigures = DriftFigures()
    attribution: Attribution = Attribution()
    harm: HarmAlarms = HarmAlarms()
    estimation: Estimation = Estimation()
    realized: RealizedFigures = RealizedFigures()
    credit: CreditPolicy = CreditPolicy()
    soundness: Soundness = Soundness()

    @model_validator(mode="after")
    def _can_persist(self) -> Self:
        if self.failing_windows > self.among_windows:
            raise ValueError(
                f"failing_windows {self.failing_windows} of among_windows {self.among_windows} can never be reached"
            )
        return self

    @field_validator("retrain_on")
    @classmethod
    def _checks_are_distinct(cls, checks: tuple[CheckName, ...]) -> tuple[CheckName, ...]:
        require_distinct(checks)
        return checks
