"""Rows of monitoring chunks, read from the log and the dbt marts."""

from datetime import datetime

import polars as pl

from selfheal_assets.stores.warehouse import Warehouse


def serving_version(warehouse: Warehouse, start: datetime, end: datetime) -> int | None:
    """The champion version that answered most of a chunk's cases; ``None`` where nothing was answered."""
    found = warehouse.query(
        """select model_version, count(*) as n from prediction_log
           where role = 'champion' and event_time >= ? and event_time < ?
           group by 1 order by n desc, model_version desc limit 1""",
        [start, end],
    )
    return int(found["model_version"][0]) if found.height else None


def champion_predictions(warehouse: Warehouse, start: datetime, end: datetime, version: int) -> pl.DataFrame:
    """Logged rows of one version in [start, end): the features, ``probability``, ``prediction``."""
    return warehouse.query(
        """select * from prediction_log
           where role = 'champion' and model_version = ? and event_time >= ? and event_time < ?
           order by event_time, prediction_id""",
        [version, start, end],
    )


def labelled_predictions(warehouse: Warehouse, start: datetime, end: datetime) -> pl.DataFrame:
    """Logged champion rows in [start, end) with their features and what ``fct_labelled_predictions`` knows.

    Adds ``cohort``, ``age_days``, ``is_mature``, ``label``, ``positive_so_far``, as of the warehouse's clock.
    """
    return warehouse.query(
        """select p.*, f.cohort, f.age_days::double as age_days, f.is_mature, f.label, f.positive_so_far
           from prediction_log p join fct_labelled_predictions f using (prediction_id)
           where p.event_time >= ? and p.event_time < ?
           order by p.event_time, p.prediction_id""",
        [start, end],
    )
