{{ config(meta={
    'description': 'Every champion prediction is in exactly one cohort.',
    'dagster': {'ref': {'name': 'fct_cohort_maturity'}}
}) }}
select *
from
    (select count(*) as predictions from {{ ref('fct_labelled_predictions') }}),
    (select coalesce(sum(rows), 0) as rows from {{ ref('fct_cohort_maturity') }})
where predictions <> rows
