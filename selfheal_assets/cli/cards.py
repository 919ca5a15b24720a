"""``selfheal card``: a registered version's model card, as a page."""

from pathlib import Path
from typing import Annotated

import typer

from selfheal_assets.cli.plainly import told_plainly
from selfheal_assets.settings import read_settings


class NoCard(LookupError):
    """There is no version to tell of; the message says how to get one."""


def card(
    version: Annotated[
        int | None, typer.Argument(help="As `selfheal decisions` names it. Default: the champion.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="One file to hand on, with everything in it (4.6 MB). Default: among the reports.",
        ),
    ] = None,
) -> None:
    """Write a version's model card: data, metrics with intervals, segments, calibration, effects, limits, decisions.

    Each is written when its version is decided on; this writes it anew, with what is known by now. Prints the file.
    """
    from selfheal_assets.reports.card_file import save_card
    from selfheal_assets.stores.model_registry import ModelRegistry, NoSuchVersion
    from selfheal_assets.stores.warehouse import Warehouse

    settings = read_settings()
    with told_plainly(NoCard, NoSuchVersion):
        if not settings.warehouse_path.exists():
            raise NoCard(f"no version is registered yet (looked in {settings.root}): run `selfheal replay`")
        warehouse = Warehouse(settings.warehouse_path, settings.published, settings.lock_timeout_s)
        registry = ModelRegistry(settings)
        wanted = version or registry.champion()
        if wanted is None:
            raise NoCard("there is no champion: give a VERSION, or promote one")
        typer.echo(save_card(settings, warehouse, registry, wanted, settings.now(), output))
