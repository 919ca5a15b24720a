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

    Adds ``cohort``, ``age_days``, ``is_mature``, ``label``, ``positive_so_far``, ``recorded_at``,
    as of the warehouse's clock.
    """
    return warehouse.query(
        """select p.*, f.cohort, f.age_days::double as age_days, f.is_mature, f.label, f.positive_so_far,
               f.recorded_at
           from prediction_log p join fct_labelled_predictions f using (prediction_id)
           where p.event_time >= ? and p.event_time < ?
           order by p.event_time, p.prediction_id""",
        [start, end],
    )


def prediction_stats(warehouse: Warehouse) -> pl.DataFrame:
    """All of the champions' predictions in one row, as ``fct_labelled_predictions`` was last built.

    ``as_of`` (Datetime), ``total`` and ``last_24h`` (before ``as_of``, by when they were answered), the shares
    ``mean_probability`` and ``predicted_positive``, ``labelled`` rows and their share ``label_coverage``, and
    ``labelled_positive``, the share of positives among them; a share of no rows is null.
    """
    return warehouse.query(
        """select
               (select as_of from clock) as as_of,
               count(*) as total,
               count(*) filter (where predicted_at >= (select as_of from clock) - interval 24 hours) as last_24h,
               avg(probability) as mean_probability,
               avg(prediction) as predicted_positive,
               count(label) as labelled,
               count(label) / nullif(count(*), 0) as label_coverage,
               avg(label) as labelled_positive
           from fct_labelled_predictions"""
    )
