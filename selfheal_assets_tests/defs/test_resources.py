"""The time a run stands at."""

from datetime import datetime

import dagster as dg
import pytest

from selfheal_assets.defs.resources import AS_OF_TAG, Stores, as_of_of
from selfheal_assets.settings import Settings


@pytest.mark.parametrize(
    ("tag", "expected"),
    [
        ("2021-04-01", datetime(2021, 4, 1)),
        ("2021-04-01T00:00:00", datetime(2021, 4, 1)),
        ("2021-04-01T00:00:00+02:00", datetime(2021, 3, 31, 22)),
        ("2021-04-01T00:00:00Z", datetime(2021, 4, 1)),
    ],
)
def test_a_tag_with_an_offset_is_told_in_utc(tmp_path, tag, expected):
    """With it, the time would compare with no other, or DuckDB would turn it into the machine's own."""
    stores, found = Stores(Settings(use_case="sba_loans", home=tmp_path)), []

    @dg.asset
    def asks(context: dg.AssetExecutionContext) -> None:
        found.append(as_of_of(context, stores))

    assert dg.materialize([asks], tags={AS_OF_TAG: tag}).success
    assert found == [expected]


def test_a_tag_that_is_no_time_says_what_is_asked_for(tmp_path):
    stores = Stores(Settings(use_case="sba_loans", home=tmp_path))

    @dg.asset
    def asks(context: dg.AssetExecutionContext) -> None:
        as_of_of(context, stores)

    with pytest.raises(dg.Failure, match="selfheal/as_of: 'last week' is no date or time"):
        dg.materialize([asks], tags={AS_OF_TAG: "last week"})
