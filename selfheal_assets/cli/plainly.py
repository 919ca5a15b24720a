"""Errors that the user can act on, in words."""

from collections.abc import Iterator
from contextlib import contextmanager

import typer


@contextmanager
def told_plainly(*errors: type[Exception]) -> Iterator[None]:
    """Turn errors that the user can act on into one message and exit code 2."""
    try:
        yield
    except errors as error:
        typer.echo(f"selfheal: {error}", err=True)
        raise typer.Exit(2) from error
