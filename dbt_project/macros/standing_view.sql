{# A view in one statement: dbt's own makes it beside, renames and drops, at thrice the cost, which each chunk would
   pay for each view. For views that were never tables. #}
{% materialization standing_view, adapter='duckdb' %}
{% set view = this.incorporate(type='view') %}
{% call statement('main') %}
create or replace view {{ view }} as ({{ sql }})
{% endcall %}
{% do adapter.commit() %}
{{ return({'relations': [view]}) }}
{% endmaterialization %}
