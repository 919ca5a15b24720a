{{ config(meta={'description': 'A known label is positive or negative, never both or neither.'}) }}
select *
from {{ ref('fct_label_coverage') }}
where positives + negatives <> labelled
