{{ config(materialized='table') }}
-- The macro labels_as_of (stores/tables.py) reads:
-- depends_on: {{ source('warehouse', 'labels') }}
-- depends_on: {{ source('warehouse', 'prediction_log') }}
{% set as_of = "(select as_of from " ~ source('warehouse', 'clock') ~ ")" %}
select
    entity_id,
    label,
    occurred_at,
    recorded_at,
    source,
    {{ as_of }} as as_of
from labels_as_of({{ as_of }})
