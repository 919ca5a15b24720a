{% test is_share(model, column_name) %}
{# A share or probability: known, and within 0..1. #}
select {{ column_name }}
from {{ model }}
where ({{ column_name }} between 0 and 1) is not true
{% endtest %}
