{{ config(materialized='standing_view') }}
-- Gini = 2 AUC - 1 with DeLong's standard error (Biometrics 44(3), 1988), on cases grouped by equal probability:
-- a positive's placement is the share of negatives below it, ties counted half, and the other way round.
with matured as (
    select
        cohort,
        model_version,
        probability,
        (count(*) filter (where label = 1))::double as positive,  -- a window's sum of integers is slow
        (count(*) filter (where label = 0))::double as negative
    from {{ ref('fct_labelled_predictions') }}
    where is_mature and label is not null
    group by all
),

totals as (
    select cohort, model_version, sum(positive) as positives, sum(negative) as negatives
    from matured
    group by all
),

so_far as (
    select
        *,
        sum(positive) over up_to as positives_to,
        sum(negative) over up_to as negatives_to
    from matured
    window up_to as (partition by cohort, model_version order by probability rows unbounded preceding)
),

placed as (
    select
        *,
        (negatives_to - negative / 2) / nullif(negatives, 0) as below_positive,
        1 - (positives_to - positive / 2) / nullif(positives, 0) as above_negative
    from so_far
    inner join totals using (cohort, model_version)
),

measured as (
    select
        cohort,
        model_version,
        max(positives)::bigint as positives,
        max(negatives)::bigint as negatives,
        max(abs(positives_to / nullif(positives, 0) - negatives_to / nullif(negatives, 0))) as ks,
        sum(positive * below_positive) / nullif(max(positives), 0) as auc,
        sum(positive * below_positive ** 2) as squares_of_positives,
        sum(negative * above_negative ** 2) as squares_of_negatives
    from placed
    group by cohort, model_version
)

select
    cohort,
    model_version,
    positives,
    negatives,
    ks,
    2 * auc - 1 as gini,
    case when positives > 1 and negatives > 1 then 2 * sqrt(
        greatest(squares_of_positives - positives * auc ** 2, 0) / (positives - 1) / positives
        + greatest(squares_of_negatives - negatives * auc ** 2, 0) / (negatives - 1) / negatives
    ) end as gini_error
from measured
