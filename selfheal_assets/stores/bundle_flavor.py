"""MLflow loads a bundle through this module: ``mlflow.pyfunc.load_model`` calls ``_load_pyfunc``.

Imported by name from a model's MLmodel file; scoring goes through the same ``Bundle`` as everywhere.
"""

from pathlib import Path
from typing import Any

import polars as pl

from selfheal_assets.core.bundle import BOOSTER_FILE, SPEC_FILE, Bundle


def read_bundle(folder: Path) -> Bundle:
    """Read the bundle that lies in ``folder``."""
    return Bundle.from_files({name: (folder / name).read_bytes() for name in (BOOSTER_FILE, SPEC_FILE)})


class BundleModel:
    """What ``mlflow.pyfunc`` wraps: pandas frame in, probability and prediction out."""

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle

    def predict(self, frame: Any, params: dict[str, Any] | None = None) -> Any:
        """Pandas frame with the features by name; returns ``probability`` (f64) and ``prediction`` (0/1).

        NaN, as pandas writes a gap, is missing. So is a nullable feature that was left out; any other is refused
        by the model's signature before this is called.
        """
        columns = {
            f.name: pl.from_pandas(frame[f.name])
            if f.name in frame
            else pl.repeat(None, len(frame), eager=True)
            for f in self.bundle.features
        }
        probability = self.bundle.score(pl.DataFrame(columns))
        scored = {
            "probability": probability,
            "prediction": (probability >= self.bundle.threshold).astype(int),
        }
        return pl.DataFrame(scored).to_pandas()


def _load_pyfunc(path: str) -> BundleModel:
    return BundleModel(read_bundle(Path(path)))
