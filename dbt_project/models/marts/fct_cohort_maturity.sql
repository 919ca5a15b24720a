select
    cohort,
    count(*) as rows,
    count(*) filter (where is_mature) as mature_rows,
    count(label) as labelled_rows,
    count(label) / count(*) as share_labelled,
    avg(age_days) as mean_age_days,
    sum(probability) as expected_positives,
    sum(positive_so_far)::bigint as observed_positives
from {{ ref('fct_labelled_predictions') }}
group by cohort
order by cohort
