{{ config(meta={
    'description': 'Each variable of the newest cohort is counted once for every prediction.',
    'dagster': {'ref': {'name': 'fct_stability'}}
}) }}
select counted.*
from {{ ref('fct_stability') }} as counted
left join {{ ref('fct_label_coverage') }} as every using (cohort, model_version)
where cohort = {{ newest_cohort() }} and counted.rows is distinct from every.rows
