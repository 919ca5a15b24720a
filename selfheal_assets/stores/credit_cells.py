"""What the credit marts need and dbt cannot know: the use case's columns as macros, and each version's cells.

The dbt project is one for all use cases, so it names no feature: it reads these macros. A version's cells are frozen
once, when the version is first judged against its reference.
"""

from collections.abc import Sequence

import polars as pl

from selfheal_assets.core.evaluation import band_names
from selfheal_assets.core.spec import Feature, FeatureType, Segment
from selfheal_assets.core.stability import SCORE
from selfheal_assets.stores.prediction_log import SHADOW_MARK
from selfheal_assets.stores.warehouse import Warehouse, one, replace_rows
from selfheal_assets.use_case import UseCase

CELLS = "reference_cells"


def freeze_cells(warehouse: Warehouse, version: int, cells: pl.DataFrame) -> bool:
    """Keep a version's cells, as ``core.stability.reference_cells`` made them; whether they were not there yet."""
    with warehouse.write() as connection:
        known = one(connection, f"select 1 from {CELLS} where model_version = ? limit 1", [version])
        if not known:
            rows = cells.select(pl.lit(version, dtype=pl.Int32).alias("model_version"), pl.all())
            replace_rows(connection, CELLS, rows, {"model_version": version})
    return not known


def credit_macros(case: UseCase) -> list[str]:
    """Statements that create the macros the credit marts read, from the use case's features and segments.

    - ``logged_values()``: one row per champion prediction before ``clock.as_of`` and variable: ``kind`` (``score`` or
      ``feature``), ``cohort``, ``model_version``, ``variable``, ``number`` (double; NaN is null), ``category``.
    - ``logged_groups()``: one row per champion prediction before ``clock.as_of`` and segment: ``cohort``,
      ``model_version``, ``prediction``, ``segment``, ``fairness``, ``group_name`` (see ``evaluation.segment_of``).
    - ``shadow_id(id, version)``: the id under which a shadow's row of that prediction is logged.
    """
    return [
        _logged_values(case.features),
        _logged_groups(case.segments),
        f"create or replace macro shadow_id(id, version) as id || '{SHADOW_MARK}' || version",
    ]


# The cohort is computed before a row is multiplied: then a filter on it reaches the scan. No feature's name begins
# with an underscore.
_LOGGED = """with logged as not materialized (
    select p.*, cohort_of(p.event_time) as _cohort
    from prediction_log p cross join clock
    where p.role = 'champion' and p.event_time < clock.as_of)"""


def _logged_values(features: Sequence[Feature]) -> str:
    values = ", ".join(map(_value, features))
    return f"""create or replace macro logged_values() as table {_LOGGED}
    select 'score' as kind, _cohort as cohort, model_version, {_text(SCORE)} as variable,
        {_number("probability")} as number, null::varchar as category
    from logged
    union all
    select 'feature', _cohort, model_version, v.variable, v.number, v.category
    from (select _cohort, model_version, unnest([{values}]) as v from logged)"""


def _value(feature: Feature) -> str:
    column = f'"{feature.name}"'
    is_category = feature.type is FeatureType.category
    number, category = ("null::double", column) if is_category else (_number(column), "null::varchar")
    return f"{{variable: {_text(feature.name)}, number: {number}, category: {category}}}"


def _number(column: str) -> str:
    return f"case when not isnan({column}::double) then {column}::double end"


def _logged_groups(segments: Sequence[Segment]) -> str:
    nothing = "{segment: null::varchar, fairness: null::boolean, group_name: null::varchar}"
    groups = (
        f"[{', '.join(map(_group, segments))}]" if segments else f"list_filter([{nothing}], lambda g: false)"
    )
    return f"""create or replace macro logged_groups() as table {_LOGGED}
    select _cohort as cohort, model_version, prediction, g.segment, g.fairness, g.group_name
    from (select _cohort, model_version, prediction, unnest({groups}) as g from logged)"""


def _group(segment: Segment) -> str:
    column = f'"{segment.feature}"'
    name = f"{column}::varchar"
    if segment.cuts:
        *below, last = band_names(segment.cuts)
        number = _number(column)
        cuts = zip(segment.cuts, below, strict=True)
        steps = " ".join(f"when {number} < {cut!r}::double then {_text(band)}" for cut, band in cuts)
        name = f"case {steps} when {number} is not null then {_text(last)} end"
    fairness = str(segment.fairness).lower()
    return (
        f"{{segment: {_text(segment.name)}, fairness: {fairness}, group_name: coalesce({name}, 'missing')}}"
    )


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"
