{{ config(meta={'description': 'A label that was recorded at or after as_of was not known then.'}) }}
select entity_id, recorded_at, as_of
from {{ ref('stg_labels') }}
where recorded_at >= as_of
