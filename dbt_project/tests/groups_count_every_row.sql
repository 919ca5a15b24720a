{{ config(meta={
    'description': 'Each segment of the newest cohort holds every prediction once.',
    'dagster': {'ref': {'name': 'fct_group_approvals'}}
}) }}
with counted as (
    select cohort, model_version, segment, sum(rows) as rows
    from {{ ref('fct_group_approvals') }}
    where cohort = {{ newest_cohort() }}
    group by all
)

select counted.*
from counted
left join {{ ref('fct_label_coverage') }} as every using (cohort, model_version)
where counted.rows is distinct from every.rows
