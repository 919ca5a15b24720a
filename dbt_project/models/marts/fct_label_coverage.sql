select
    cohort,
    model_version,
    count(*) as rows,
    count(label) as labelled,
    count(label) / count(*) as coverage,
    count(*) filter (where label = 1) as positives,
    count(*) filter (where label = 0) as negatives,
    min(recorded_at) as first_recorded_at,
    max(recorded_at) as last_recorded_at
from {{ ref('fct_labelled_predictions') }}
group by cohort, model_version
order by cohort, model_version
