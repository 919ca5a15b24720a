"""Cards: one page for each registered version, written when it was decided on."""

import dagster as dg

from selfheal_assets.defs.evaluate import challenger_of
from selfheal_assets.defs.promote import GROUP
from selfheal_assets.defs.resources import Context, StoresParam, as_of_of
from selfheal_assets.reports.card_file import save_card


@dg.asset(group_name=GROUP, kinds={"html"}, deps=["promotion_decision"])
def model_card(context: Context, stores: StoresParam) -> dg.MaterializeResult:
    """The newest challenger on one HTML page: data, metrics with intervals, segments, calibration curve, feature
    effects, limits, and the decisions that name it.
    """
    version, _ = challenger_of(stores)
    path = save_card(stores.settings, stores.warehouse, stores.registry, version, as_of_of(context, stores))
    return dg.MaterializeResult(metadata={"version": version, "card": dg.MetadataValue.path(str(path))})
