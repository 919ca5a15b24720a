"""How far training data and inputs may differ from their neighbours before they count as broken, not as changed."""

from typing import Annotated

from pydantic import Field

from selfheal_assets.core.spec import Name, Share, Spec


class Soundness(Spec):
    """Limits beyond which training data are held (FIX_DATA): no population changes so much at once.

    A real change is gradual: on ``sba_loans`` defaults rise sevenfold within five years, yet the odds of no quarter
    are twice those of the quarter before by more than chance allows. Hence neighbours are compared, never the first
    and the last, and a limit is on the size of the jump that is certain at ``confidence``.

    Attributes:
        min_rows: smaller groups are merged with their neighbour, or not judged.
        confidence: one-sided, of each bound.
        max_odds_jump: factor between the odds of a positive in neighbouring cohorts.
        max_timing_jump: distance between the shares of the positives that had become known by an age.
        tolerated_timing_shift: of those ages, as a share of the longest: a smaller shift is not a jump.
        max_changed_share: of rows that were trained on before and are no longer the same.
        max_corrected_share: of labels that the ledger corrected since the last training.
        max_late_share: of rows from before the end of the last training set that were not in it.
        max_duplicate_share: rise of the share of rows that equal another in event time and every feature.
        max_implausible_share: of labels from before their case happened.
        max_missing_rise: rise of a column's share of missing values.
        max_stuck_share: a column that holds one value only is stuck unless that value's share was higher before: a
            product that few still asked for may have ended.
        max_unseen_share: of values that no earlier row had: categories, or numbers out of the earlier range.
        max_scale: factor between medians of a number's size, as kilos for grams have.
        max_volume_jump: factor between the rows of neighbouring chunks (of weeks, where a chunk is a day).
        max_feature_auc: of one feature alone; beyond it, the feature is the label.
        ignored: features whose change somebody looked at and found right.
        accepted: fingerprints of held training sets that somebody looked at and found right.
    """

    min_rows: Annotated[int, Field(ge=20)] = 200
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.999
    max_odds_jump: Annotated[float, Field(gt=1)] = 2.5
    max_timing_jump: Share = 0.25
    tolerated_timing_shift: Share = 0.02
    max_changed_share: Share = 0.001
    max_corrected_share: Share = 0.02
    max_late_share: Share = 0.10
    max_duplicate_share: Share = 0.02
    max_implausible_share: Share = 0.005
    max_missing_rise: Share = 0.5
    max_stuck_share: Share = 0.9
    max_unseen_share: Share = 0.05
    max_scale: Annotated[float, Field(gt=1)] = 8.0
    max_volume_jump: Annotated[float, Field(gt=1)] = 4.0
    max_feature_auc: Annotated[float, Field(gt=0.5, le=1)] = 0.98
    ignored: tuple[Name, ...] = ()
    accepted: tuple[str, ...] = ()
