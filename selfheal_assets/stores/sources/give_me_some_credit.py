"""Give Me Some Credit (Kaggle, 2011): reads the competition's cs-training.csv, or the same table as Parquet.

The file has no time. Only its column names, its way to say 'missing' and the synthetic application dates
belong here.
"""

from datetime import datetime
from pathlib import Path

import polars as pl

from selfheal_assets.stores.sources import SourceError
from selfheal_assets.stores.sources.table import column_names, read_columns
from selfheal_assets.use_case import UseCase

# Synthetic: the rows, in the file's order, are spread evenly over this span. Sixteen years leave room for the
# label's 24 months between the first model's reference period and its go-live, and three years of traffic.
FIRST_MOMENT = datetime(1997, 1, 1)
END_MOMENT = datetime(2013, 1, 1)
ID_NAMES = ("", "id", "Unnamed: 0")
KAGGLE_NAMES = {
    "serious_delinquency": "SeriousDlqin2yrs",
    "revolving_utilization": "RevolvingUtilizationOfUnsecuredLines",
    "age": "age",
    "past_due_30_59": "NumberOfTime30-59DaysPastDueNotWorse",
    "debt_ratio": "DebtRatio",
    "monthly_income": "MonthlyIncome",
    "open_credit_lines": "NumberOfOpenCreditLinesAndLoans",
    "past_due_90": "NumberOfTimes90DaysLate",
    "real_estate_loans": "NumberRealEstateLoansOrLines",
    "past_due_60_89": "NumberOfTime60-89DaysPastDueNotWorse",
    "dependents": "NumberOfDependents",
}


def read(path: Path, case: UseCase) -> pl.DataFrame:
    """The competition's columns under our names, with the row's id and a synthetic ``applied_at``.

    The competition's table has neither dates nor an order in time. ``applied_at`` is made up from the row's
    position, so that a replay has something to go by: no drift in it is real.

    Raises:
        SourceError: columns are missing; names all of them.
    """
    found = column_names(path)
    missing = [theirs for theirs in KAGGLE_NAMES.values() if theirs not in found]
    if missing or found[0] not in ID_NAMES:
        wanted = ["the row number as the first column, unnamed or 'id'"] if found[0] not in ID_NAMES else []
        raise SourceError(f"{path}: missing {', '.join([*missing, *wanted])}. {case.source.help}")
    table = read_columns(path, [found[0], *KAGGLE_NAMES.values()])
    named = table.select(
        pl.col(found[0]).cast(pl.String).alias(case.entity_id),
        *(pl.col(theirs).alias(ours) for ours, theirs in KAGGLE_NAMES.items()),
    )
    unknown = pl.col(pl.String).str.strip_chars()
    return named.with_columns(
        pl.when(unknown != "NA").then(unknown), _applied_at(named.height).alias(case.event_time)
    )


def _applied_at(rows: int) -> pl.Series:
    """Evenly spaced moments, by whole seconds, in [FIRST_MOMENT, END_MOMENT)."""
    span = int((END_MOMENT - FIRST_MOMENT).total_seconds())
    seconds = pl.int_range(rows, eager=True) * span // max(rows, 1)
    return pl.Series([FIRST_MOMENT]).dt.cast_time_unit("us") + (seconds * 1_000_000).cast(pl.Duration("us"))
