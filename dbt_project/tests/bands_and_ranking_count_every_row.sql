{{ config(meta={
    'description': 'Every prediction is in one score band, and every matured label is ranked (newest mature cohort).',
    'dagster': {'ref': {'name': 'fct_score_bands'}}
}) }}
with banded as (
    select cohort, model_version, sum(rows) as rows, sum(matured) as matured
    from {{ ref('fct_score_bands') }}
    where cohort = {{ newest_cohort(mature=true) }}
    group by all
)

select banded.*
from banded
left join {{ ref('fct_label_coverage') }} as every using (cohort, model_version)
left join {{ ref('fct_ranking') }} as ranked using (cohort, model_version)
where banded.rows is distinct from every.rows or banded.matured <> coalesce(ranked.positives + ranked.negatives, 0)
