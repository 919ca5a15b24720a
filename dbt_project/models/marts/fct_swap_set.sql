{{ config(materialized='standing_view') }}
select
    champion.cohort,
    champion.model_version as champion_version,
    other.model_version as challenger_version,
    other.role as challenger_role,
    champion.prediction = 0 as champion_approves,
    other.prediction = 0 as challenger_approves,
    count(*) as rows,
    count(*) filter (where champion.is_mature and champion.label is not null) as matured,
    count(*) filter (where champion.is_mature and champion.label = 1) as positives
from {{ ref('fct_labelled_predictions') }} as champion
inner join {{ source('warehouse', 'prediction_log') }} as other
    on
        other.role in ('challenger', 'predecessor')
        and other.prediction_id = shadow_id(champion.prediction_id, other.model_version)
group by all
