"""A model card as a file in the folder of the reports: where it lies, and its writing."""

from datetime import datetime
from pathlib import Path

from selfheal_assets.reports.card import REPLAY, card_page
from selfheal_assets.reports.page import PLOTLY_JS, write_atomically, write_shared_plotly
from selfheal_assets.settings import Settings
from selfheal_assets.stores.model_cards import card_file, model_card
from selfheal_assets.stores.model_registry import ModelRegistry
from selfheal_assets.stores.warehouse import Warehouse


def save_card(
    settings: Settings,
    warehouse: Warehouse,
    registry: ModelRegistry,
    version: int,
    as_of: datetime,
    target: Path | None = None,
) -> Path:
    """Write a version's card.

    Args:
        settings: of the installation.
        warehouse, registry: its stores.
        version: which.
        as_of: which labels are known of what it answered.
        target: a file to hand on, with plotly.js in it (4.6 MB). Default: ``model_<version>.html`` among the reports,
            which share one plotly.js.

    Returns:
        The file.

    Raises:
        NoSuchVersion: the registry does not have it.
    """
    case, folder = settings.case, settings.reports
    card = model_card(warehouse, registry, case, version, as_of)
    if target:
        return write_atomically(target, card_page(card, case.title, case.label.outcome, None))
    write_shared_plotly(folder)
    replayed = (folder / REPLAY).is_file()
    page = card_page(card, case.title, case.label.outcome, PLOTLY_JS, replayed)
    return write_atomically(folder / card_file(version), page)
