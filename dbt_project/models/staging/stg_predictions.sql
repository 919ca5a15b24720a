-- Interval arithmetic is the same as in the macro labelled_cases (stores/tables.py): calendar months.
select
    p.prediction_id,
    p.entity_id,
    p.predicted_at,
    p.event_time,
    cohort_of(p.event_time) as cohort,
    p.model_version,
    p.probability,
    p.prediction,
    p.threshold,
    (epoch_us(clock.as_of) - epoch_us(p.event_time)) / 86400e6 as age_days,
    p.event_time + to_months(clock.horizon_months) as horizon_at,
    p.event_time + to_months(clock.horizon_months) < clock.as_of as is_mature,
    clock.as_of
from {{ source('warehouse', 'prediction_log') }} as p
cross join {{ source('warehouse', 'clock') }} as clock
where p.role = 'champion' and p.event_time < clock.as_of
