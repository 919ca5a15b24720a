with decided as (
    select
        p.*,
        case
            when l.label = 1 and l.occurred_at > p.horizon_at then 0
            when l.label is not null then l.label
            when p.is_mature and clock.implicit_negatives then 0
        end::tinyint as label,
        l.occurred_at,
        l.recorded_at
    from {{ ref('stg_predictions') }} as p
    cross join {{ source('warehouse', 'clock') }} as clock
    left join {{ ref('stg_labels') }} as l on p.entity_id = l.entity_id
)

select
    prediction_id,
    entity_id,
    predicted_at,
    event_time,
    cohort,
    model_version,
    probability,
    prediction,
    threshold,
    age_days,
    is_mature,
    label,
    occurred_at,
    recorded_at,
    label is not null as is_labelled,
    coalesce(label, 0)::tinyint as positive_so_far
from decided
