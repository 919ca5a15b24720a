"""A sample of rows that break their schema, for people to look at, without what belongs to a person."""

from collections.abc import Sequence

import polars as pl

from selfheal_assets.core.schemas import SHOWN, InvalidRows
from selfheal_assets.core.spec import Feature


def failing_rows(
    frame: pl.DataFrame, error: InvalidRows, features: Sequence[Feature], first_row: int = 1
) -> pl.DataFrame:
    """A sample of the rows that an error names, to look at: no id of a case, no personal value.

    Args:
        frame: what was validated.
        error: what was found in it.
        features: those that are ``personal`` are left out, and so is ``entity_id``.
        first_row: as it was validated.

    Returns:
        At most ten rows in order: ``row`` (i64), ``problems`` (str), and the frame's other columns.
    """
    told: dict[int, list[str]] = {}
    for problem in error.problems:
        if problem.row is not None:
            told.setdefault(problem.row, []).append(f"column '{problem.column}': {problem.text}")
    shown = sorted(told)[:SHOWN]
    hidden = {"entity_id", *(f.name for f in features if f.personal)}
    rows = frame[[row - first_row for row in shown]].select(c for c in frame.columns if c not in hidden)
    named = {"row": shown, "problems": ["; ".join(told[row]) for row in shown]}
    return pl.DataFrame(named, schema={"row": pl.Int64, "problems": pl.String}).hstack(rows)
