"""The bundle: everything one model version needs to score, as one value.

Booster, calibrator, threshold, feature specification, vocabulary and the window of its reference data belong
together: they are promoted together and rolled back together. A bundle is a plain mapping of file names to
bytes on disk (``to_files``/``from_files``); where those bytes live is the registry's business.
"""

import json
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl

from selfheal_assets.core import fingerprint
from selfheal_assets.core.encoding import Vocabulary, encode
from selfheal_assets.core.spec import Feature

BOOSTER_FILE = "booster.ubj"
SPEC_FILE = "bundle.json"


@dataclass(frozen=True)
class Calibrator:
    """Platt scaling of the booster's margin: p = 1 / (1 + exp(-(slope * margin + intercept)))."""

    slope: float = 1.0
    intercept: float = 0.0

    @property
    def keeps_the_ranking(self) -> bool:
        """Whether a higher margin is a higher probability. A slope of zero, below, or NaN says 'learned nothing'."""
        return self.slope > 0

    def __call__(self, margin: np.ndarray) -> np.ndarray:
        """Probabilities (float64) of margins."""
        return 1.0 / (1.0 + np.exp(-self.log_odds(margin)))

    def log_odds(self, margin: np.ndarray) -> np.ndarray:
        """Calibrated log odds (float64) of margins."""
        return self.slope * margin.astype(np.float64) + self.intercept


@dataclass(frozen=True)
class ReferenceWindow:
    """The held-out cases a version is judged against: event times [start, end), labels known at ``as_of``."""

    start: datetime
    end: datetime
    as_of: datetime


@dataclass(frozen=True)
class Bundle:
    """A model version, ready to score. Immutable; ``fingerprint`` names its contents."""

    use_case: str
    features: tuple[Feature, ...]
    vocabulary: Vocabulary
    booster: bytes
    calibrator: Calibrator
    threshold: float
    trained_from: datetime
    trained_until: datetime
    reference: ReferenceWindow
    training_fingerprint: str
    candidate: str
    notes: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def _model(self) -> Any:
        import xgboost

        return xgboost.Booster({"nthread": 1}, model_file=bytearray(self.booster))

    @cached_property
    def fingerprint(self) -> str:
        """Names the contents: equal bundles have equal fingerprints."""
        return fingerprint.of_bytes(*self.to_files().values())

    def score_matrix(self, matrix: np.ndarray) -> np.ndarray:
        """Probabilities (float64, shape (rows,)) of an encoded float32 matrix (rows, features)."""
        return self.calibrator(self._margin(matrix))

    def log_odds(self, matrix: np.ndarray) -> np.ndarray:
        """Calibrated log odds (float64, shape (rows,)) of an encoded matrix; see :meth:`score_matrix`."""
        return self.calibrator.log_odds(self._margin(matrix))

    def margins(self, frame: pl.DataFrame) -> np.ndarray:
        """Log odds before calibration (float64, shape (rows,)) of a frame that holds the features by name."""
        return self._margin(encode(frame, self.features, self.vocabulary)).astype(np.float64)

    def _margin(self, matrix: np.ndarray) -> np.ndarray:
        return self._model.inplace_predict(matrix, predict_type="margin")

    def contributions(self, matrix: np.ndarray) -> np.ndarray:
        """What each feature adds to the calibrated log odds of an encoded float32 matrix (rows, features).

        Returns:
            float64, shape (rows, features + 1): the last column is the base. A row adds up to its
            :meth:`log_odds` but for float32 rounding (some 1e-6).
        """
        import xgboost

        data = xgboost.DMatrix(matrix, nthread=1)
        shares = self._model.predict(data, pred_contribs=True).astype(np.float64) * self.calibrator.slope
        shares[:, -1] += self.calibrator.intercept
        return shares

    def score(self, frame: pl.DataFrame) -> np.ndarray:
        """Probabilities (float64, shape (rows,)) of a frame that holds the features by name."""
        if frame.is_empty():
            return np.empty(0, dtype=np.float64)
        return self.score_matrix(encode(frame, self.features, self.vocabulary))

    def to_files(self) -> dict[str, bytes]:
        """File name to contents; the inverse of :meth:`from_files`."""
        window = self.reference
        spec = {
            "use_case": self.use_case,
            "features": [f.model_dump(mode="json") for f in self.features],
            "vocabulary": self.vocabulary,
            "calibrator": {"slope": self.calibrator.slope, "intercept": self.calibrator.intercept},
            "threshold": self.threshold,
            "trained_from": self.trained_from.isoformat(),
            "trained_until": self.trained_until.isoformat(),
            "reference": {k: getattr(window, k).isoformat() for k in ("start", "end", "as_of")},
            "training_fingerprint": self.training_fingerprint,
            "candidate": self.candidate,
            "notes": self.notes,
        }
        return {BOOSTER_FILE: self.booster, SPEC_FILE: json.dumps(spec, indent=1, sort_keys=True).encode()}

    @classmethod
    def from_files(cls, files: dict[str, bytes]) -> "Bundle":
        """Rebuild a bundle from the contents written by :meth:`to_files`."""
        spec = json.loads(files[SPEC_FILE])
        spec["features"] = tuple(Feature.model_validate(f) for f in spec["features"])
        spec["calibrator"] = Calibrator(**spec["calibrator"])
        spec["reference"] = ReferenceWindow(
            **{k: datetime.fromisoformat(v) for k, v in spec["reference"].items()}
        )
        for key in ("trained_from", "trained_until"):
            spec[key] = datetime.fromisoformat(spec[key])
        return cls(booster=files[BOOSTER_FILE], **spec)
