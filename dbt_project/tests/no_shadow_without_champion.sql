{{ config(severity='warn', meta={
    'description': 'A case that a shadow scored was scored by the champion before; the log may lag behind.',
    'dagster': {'ref': {'name': 'fct_swap_set'}}
}) }}
select *
from (
    select count(*) as shadows
    from {{ source('warehouse', 'prediction_log') }} as p
    cross join {{ source('warehouse', 'clock') }} as clock
    where p.role in ('challenger', 'predecessor') and p.event_time < clock.as_of
), (select coalesce(sum(rows), 0) as compared from {{ ref('fct_swap_set') }})
where shadows <> compared
