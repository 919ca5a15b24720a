{{ config(materialized='standing_view') }}
{% set next_cohort %}case clock.chunk
            when 'day' then to_days(1) when 'week' then to_days(7) when 'month' then to_months(1) else to_months(3)
        end{% endset %}
with turned as (
    select
        cohort,
        -- The first month end on the case's own calendar by which it was positive.
        greatest(date_sub('month', event_time, occurred_at), 0) as whole_months,
        whole_months + (event_time + to_months(whole_months::integer) < occurred_at)::integer as months_on_book,
        count(*) as turned
    from {{ ref('fct_labelled_predictions') }}
    where label = 1
    group by all
),

by_month as (
    select cohort, months_on_book, sum(turned) as turned
    from turned
    group by all
),

cohorts as (
    select cohort, count(*) as rows
    from {{ ref('fct_labelled_predictions') }}
    group by all
),

-- Ages that the whole cohort, its last possible case included, has reached. Age 0 is where each curve begins.
reached as (
    select c.cohort, c.rows, ages.months_on_book
    from cohorts as c
    cross join {{ source('warehouse', 'clock') }} as clock
    cross join lateral (select unnest(range(clock.horizon_months + 1)) as months_on_book) as ages
    where
        ages.months_on_book = 0
        or c.cohort + {{ next_cohort }} + to_months(ages.months_on_book::integer) <= clock.as_of
)

select
    r.cohort,
    r.months_on_book,
    r.rows,
    (sum(coalesce(b.turned, 0)) over (partition by r.cohort order by r.months_on_book))::bigint as positives,
    positives / r.rows as positive_share
from reached as r
left join by_month as b using (cohort, months_on_book)
