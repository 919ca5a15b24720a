{{ config(meta={
    'description': 'The join to the labels neither drops nor doubles a prediction.',
    'dagster': {'ref': {'name': 'fct_labelled_predictions'}}
}) }}
select *
from
    (select count(*) as predictions from {{ ref('stg_predictions') }}),
    (select count(*) as rows from {{ ref('fct_labelled_predictions') }})
where predictions <> rows
