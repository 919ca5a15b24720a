{{ config(materialized='standing_view') }}
select
    p.cohort,
    p.model_version,
    coalesce(b.cell, 0) as band,
    coalesce(any_value(b.name), 'no band') as band_name,
    count(*) as rows,
    count(*) filter (where p.prediction = 1) as flagged,
    count(*) filter (where p.is_mature and p.label is not null) as matured,
    coalesce(sum(p.probability) filter (where p.is_mature and p.label is not null), 0) as expected_positives,
    count(*) filter (where p.is_mature and p.label = 1) as positives
from {{ ref('fct_labelled_predictions') }} as p
asof left join (
    select * from {{ source('warehouse', 'reference_cells') }}
    where variable = 'score' and lower is not null
) as b
    on p.model_version = b.model_version and p.probability >= b.lower
group by p.cohort, p.model_version, coalesce(b.cell, 0)
