{# The newest cohort, or the newest whose cases are all mature, as a literal: a filter by a literal reaches the scan
   below a view, one by a subquery does not. #}
{% macro newest_cohort(mature=false) %}
{%- set cohorts = ref('fct_cohort_maturity') -%}
{%- set which = "where rows = mature_rows" if mature else "" -%}
{%- set found = run_query("select max(cohort)::varchar from " ~ cohorts ~ " " ~ which).rows[0][0] if execute -%}
{{ "timestamp '" ~ found ~ "'" if found else "null::timestamp" }}
{%- endmacro %}
