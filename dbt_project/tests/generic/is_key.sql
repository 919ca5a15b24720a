{% test is_key(model, column_name=none, columns=none) %}
{# Grain: every row has the key, and no two rows share it. One test in place of not_null and unique: each costs
   20 ms a build. #}
{% set key = columns or [column_name] %}
select {{ key | join(', ') }}, count(*) as rows
from {{ model }}
group by {{ key | join(', ') }}
having count(*) > 1 or {{ key | join(' is null or ') }} is null
{% endtest %}
