"""The warehouse's base tables, created from the use case. Derived tables are made by those who fill them."""

from datetime import datetime

import duckdb
import polars as pl

from selfheal_assets.core.spec import FeatureType
from selfheal_assets.stores.credit_cells import credit_macros
from selfheal_assets.stores.warehouse import Warehouse, columns_made_by
from selfheal_assets.use_case import UseCase

_SQL_TYPE = {FeatureType.number: "double", FeatureType.integer: "bigint", FeatureType.category: "varchar"}


def feature_columns(case: UseCase) -> str:
    """The features as SQL column definitions."""
    return ", ".join(f'"{f.name}" {_SQL_TYPE[f.type]}' for f in case.features)


def feature_list(case: UseCase, prefix: str = "") -> str:
    """The features as a SQL select list."""
    return ", ".join(f'{prefix}"{name}"' for name in case.feature_names)


def create_tables(warehouse: Warehouse, case: UseCase) -> None:
    """Create what is missing; does nothing on a warehouse that has its tables."""
    with warehouse.write() as connection:
        _create(connection, case)


def _create(connection: duckdb.DuckDBPyConnection, case: UseCase) -> None:
    for statement in _base_tables(case):
        connection.execute(statement)
    connection.execute(_cohort_of(case))
    connection.execute(_LABELS_AS_OF)
    connection.execute(_labelled_cases(case))
    for macro in credit_macros(case):
        connection.execute(macro)


def base_columns(case: UseCase) -> dict[str, dict[str, str]]:
    """The base tables' columns with their SQL types, by table; made nowhere but in memory."""
    return columns_made_by(_base_tables(case))


def _base_tables(case: UseCase) -> tuple[str, ...]:
    # The log's ids are all different: what DuckDB would choose for them costs more to write and more room than zstd.
    # Ingestion keeps them unique; see there for why no index does.
    features = feature_columns(case)
    return (
        f"""create table if not exists applications (
            entity_id varchar not null, event_time timestamp not null, {features})""",
        f"""create table if not exists prediction_log (
            prediction_id varchar not null using compression 'zstd',
            entity_id varchar not null using compression 'zstd', predicted_at timestamp not null,
            event_time timestamp not null, model_version integer not null, model_fingerprint varchar not null,
            role varchar not null, {features}, probability double not null, prediction tinyint not null,
            threshold double not null, segment_file varchar not null)""",
        """create table if not exists ingested_segments (
            segment_file varchar primary key, rows_added bigint not null, torn_bytes bigint not null)""",
        """create table if not exists labels (
            prediction_id varchar, entity_id varchar, label tinyint not null, occurred_at timestamp not null,
            recorded_at timestamp not null, source varchar not null)""",
        """create table if not exists clock (
            as_of timestamp not null, chunk varchar not null, horizon_months integer not null,
            implicit_negatives boolean not null)""",
        """create table if not exists sources (
            name varchar primary key, fingerprint varchar not null, row_count bigint not null, scope varchar)""",
        f"""create table if not exists reference_data (
            reference_fingerprint varchar not null, entity_id varchar not null, event_time timestamp not null,
            {features}, label tinyint not null)""",
        """create table if not exists reference_cells (
            model_version integer not null, variable varchar not null, cell integer not null, name varchar not null,
            lower double, category varchar, "rows" bigint not null, positives bigint not null)""",
        """create table if not exists decisions (
            id integer primary key, recorded_at timestamp not null, as_of timestamp not null,
            action varchar not null, champion integer, challenger integer, reason varchar not null,
            payload varchar not null, previous_hash varchar not null, hash varchar not null)""",
        """create table if not exists promotion_journal (
            decision integer not null, step varchar not null, reached_at timestamp not null, version integer not null,
            previous integer)""",
        """create table if not exists quarantined_rows (
            decision integer not null, as_of timestamp not null, from_time timestamp not null,
            until_time timestamp not null, reason varchar not null)""",
    )


def _cohort_of(case: UseCase) -> str:
    """Macro: start of the chunk that holds t. A literal period is ten times as fast as one from the clock's row."""
    return f"create or replace macro cohort_of(t) as date_trunc('{case.monitoring.chunk}', t)::timestamp"


# What was known just before t, one row per case: the newest record wins, a correction is a newer record.
# A label that names a prediction belongs to that prediction's case; it waits unmatched until the log has it.
_LABELS_AS_OF = """create or replace macro labels_as_of(t) as table
    with known as (
        select entity_id, label, occurred_at, recorded_at, source
        from labels where entity_id is not null and recorded_at < t
        union all
        select p.entity_id, l.label, l.occurred_at, l.recorded_at, l.source
        from labels l join prediction_log p on l.prediction_id = p.prediction_id
        where l.entity_id is null and l.recorded_at < t)
    select * from known
    qualify row_number() over (
        partition by entity_id order by recorded_at desc, occurred_at desc, label desc) = 1"""


def _labelled_cases(case: UseCase) -> str:
    """Macro: every case before t, from history and log, with its label as known at t (null: not known).

    A positive counts only if it happened within the horizon; a mature case without a label is negative where
    the use case says that nobody reports the good ones.
    """
    horizon = f"to_months({case.label.horizon_months})"
    silent = "0" if case.label.implicit_negatives else "null"
    return f"""create or replace macro labelled_cases(t) as table
    select c.entity_id, c.event_time, {feature_list(case, "c.")},
        c.event_time + {horizon} < t as is_mature,
        case when l.label = 1 and l.occurred_at > c.event_time + {horizon} then 0
             when l.label is not null then l.label
             when c.event_time + {horizon} < t then {silent} end::tinyint as label,
        l.recorded_at
    from (
        select entity_id, event_time, {feature_list(case)} from applications
        union all by name
        select entity_id, event_time, {feature_list(case)} from prediction_log where role = 'champion') c
    left join labels_as_of(t) l using (entity_id)
    where c.event_time < t"""


def set_clock(warehouse: Warehouse, case: UseCase, as_of: datetime) -> None:
    """Tell the dbt models at which time they stand; they read this table instead of the wall clock."""
    row = {
        "as_of": [as_of],
        "chunk": [case.monitoring.chunk],
        "horizon_months": [case.label.horizon_months],
        "implicit_negatives": [case.label.implicit_negatives],
    }
    warehouse.replace("clock", pl.DataFrame(row))
