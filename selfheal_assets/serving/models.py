"""A version as it is served: its bundle, warmed, and the role in which it answers."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import polars as pl

from selfheal_assets.core.bundle import Bundle
from selfheal_assets.core.encoding import ColumnEncoder, polars_type
from selfheal_assets.core.explanation import explain
from selfheal_assets.stores.prediction_log import Role
from selfheal_assets.use_case import UseCase


class UnusableBundle(ValueError):
    """A version that loads, but cannot answer this use case's cases."""


@dataclass(frozen=True)
class Model:
    """A registered version, ready to score: its bundle, and the role in which it answers."""

    version: int
    bundle: Bundle
    role: Role = Role.champion

    @cached_property
    def encoder(self) -> ColumnEncoder:
        """From columns of plain values to the bundle's matrix."""
        return ColumnEncoder(self.bundle.features, self.bundle.vocabulary)


def made_ready(model: Model, case: UseCase) -> Model:
    """The model, warmed: one row by each way of scoring, so that the first request finds everything loaded.

    Raises:
        UnusableBundle: it cannot answer this use case's cases.
    """
    bundle, version = model.bundle, model.version
    declared = {f.name: f.type for f in case.features}
    if unknown := [f.name for f in bundle.features if declared.get(f.name) != f.type]:
        raise UnusableBundle(
            f"version {version} reads {', '.join(unknown)}, which '{case.name}' does not declare "
            "with that type: restore the feature in the YAML file, or train a new version"
        )
    blank = pl.DataFrame({f.name: pl.Series([None], dtype=polars_type(f)) for f in bundle.features})
    columns = blank.to_dict(as_series=False)
    matrix = model.encoder(columns)
    for probability in (bundle.score(blank), bundle.score_matrix(matrix)):
        if not np.isfinite(probability).all():
            raise UnusableBundle(f"version {version} answers {probability[0]} instead of a probability")
    explain(bundle, matrix, columns, {})
    return model
