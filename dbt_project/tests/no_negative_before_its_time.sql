{{ config(meta={'description': 'Without a recorded label, only a mature case is negative.'}) }}
select prediction_id, event_time, label
from {{ ref('fct_labelled_predictions') }}
where label is not null and recorded_at is null and (label = 1 or not is_mature)
