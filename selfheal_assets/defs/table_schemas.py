"""The columns of the warehouse's tables as Dagster shows them: name, SQL type, what it means.

Types come from where each table is declared (``stores.tables``, ``core.tables``, ``stores.chunk_tables``), words from
``core.column_words`` and, for features, from the use case.
"""

import dagster as dg

from selfheal_assets.core.column_words import words_for
from selfheal_assets.core.tables import TABLES
from selfheal_assets.stores.chunk_tables import chunk_table_columns, sql_type
from selfheal_assets.stores.tables import base_columns
from selfheal_assets.use_case import UseCase

_NO_CHUNK = ("shadow_models", "shadow_evaluation")  # belong to a retraining, not to a chunk


def table_schemas(case: UseCase) -> dict[str, dg.TableSchema]:
    """Every declared table's schema, by the table's name.

    Raises:
        LookupError: nobody says what a column means; it is to be added to ``core.column_words``.
    """
    features = {f.name: f.description or f"Feature of the use case, a {f.type}" for f in case.features}
    return {name: _schema(name, columns, features) for name, columns in _columns(case).items()}


def _columns(case: UseCase) -> dict[str, dict[str, str]]:
    base = base_columns(case)
    kept = ("applications", "prediction_log", "labels", "reference_data", "decisions")
    figures = {
        name: ({} if name in _NO_CHUNK else {"chunk": "timestamp"})
        | {column: sql_type(rule.dtype) for column, rule in table.columns.items()}
        for name, table in TABLES.items()
    }
    learned = {**base["applications"], "label": "tinyint", "positive_age_days": "double"}
    return (
        {name: base[name] for name in kept}
        | figures
        | {"training_set": learned, "chunk_statistics": chunk_table_columns("chunk_statistics")}
    )


def _schema(table: str, columns: dict[str, str], features: dict[str, str]) -> dg.TableSchema:
    shown = []
    for column, kind in columns.items():
        said = features.get(column) or words_for(table, column)
        shown.append(dg.TableColumn(column, kind, description=said or None))
    return dg.TableSchema(columns=shown)
