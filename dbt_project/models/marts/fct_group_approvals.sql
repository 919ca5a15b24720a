{{ config(materialized='standing_view') }}
-- The macro logged_groups (stores/credit_cells.py) reads the rows of:
-- depends_on: {{ ref('stg_predictions') }}
select
    cohort,
    model_version,
    segment,
    group_name,
    fairness,
    count(*) as rows,
    count(*) filter (where prediction = 0) as approved,
    approved / rows as approval_rate
from logged_groups()
group by cohort, model_version, segment, group_name, fairness
