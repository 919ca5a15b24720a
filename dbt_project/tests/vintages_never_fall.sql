{{ config(meta={'description': 'A cohort has no fewer positives at a later age, and no more of them than cases.'}) }}
select *
from (
    select *, lag(positives) over (partition by cohort order by months_on_book) as before
    from {{ ref('fct_vintage_curves') }}
)
where positives < before or positives > rows
