-- A view: each cohort is read once, when its report is made, and few others ever.
{{ config(materialized='standing_view') }}
-- The macro logged_values (stores/credit_cells.py) reads the rows of:
-- depends_on: {{ ref('stg_predictions') }}
with cells as (
    select model_version, variable, cell, sum(rows) as rows
    from {{ source('warehouse', 'reference_cells') }}
    group by all
),

counted as (
    select
        v.kind,
        v.cohort,
        v.model_version,
        v.variable,
        case
            when v.number is not null then n.cell
            when v.category is null then 0  -- missing
            else coalesce(c.cell, -1)  -- not in the reference
        end as cell,
        count(*) as rows
    from logged_values() as v
    asof left join (
        select * from {{ source('warehouse', 'reference_cells') }} where lower is not null
    ) as n
        on v.model_version = n.model_version and v.variable = n.variable and v.number >= n.lower
    left join (
        select * from {{ source('warehouse', 'reference_cells') }} where category is not null
    ) as c
        on v.model_version = c.model_version and v.variable = c.variable and v.category = c.category
    group by all
),

totals as (
    select kind, cohort, model_version, variable, sum(rows) as rows
    from counted
    group by all
),

-- Every cell of the reference for every cohort, also those that nobody is in any more.
compared as (
    select
        t.kind,
        t.cohort,
        t.model_version,
        t.variable,
        t.rows as total,
        sum(r.rows) over one_variable as reference_total,
        coalesce(o.rows, 0) as observed,
        r.rows as reference
    from totals as t
    left join cells as r using (model_version, variable)
    left join counted as o using (kind, cohort, model_version, variable, cell)
    window one_variable as (partition by t.kind, t.cohort, t.model_version, t.variable)
)

-- The same as core.distances.population_stability_index: a cell that one side leaves empty counts as half a row.
select
    kind,
    cohort,
    model_version,
    variable,
    max(total)::bigint as rows,
    coalesce(max(reference_total), 0)::bigint as reference_rows,
    count(*) filter (where observed + reference > 0) as cells,
    sum(
        (greatest(observed, 0.5e0) / total - greatest(reference, 0.5e0) / reference_total)
        * ln((greatest(observed, 0.5e0) / total) / (greatest(reference, 0.5e0) / reference_total))
    ) filter (where observed + reference > 0 and reference_total > 0) as psi
from compared
group by kind, cohort, model_version, variable
