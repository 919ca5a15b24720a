"""The bridge to NannyML, and the only module that imports it: frames in, tidy Polars frames out.

NannyML fits a reference and judges a chunk against it. Its import takes seconds and would call home, so it
happens inside functions, with usage logging switched off first. What NannyML leaves as NaN comes back as a
row with a reason; what it returns is validated before anything else sees it.
"""

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from selfheal_assets.core.spec import Feature, FeatureType
from selfheal_assets.core.tables import validated
from selfheal_assets.settings import prepare_environment

REFERENCE_CHUNKS = 10
ESTIMATED_METRICS = ("roc_auc", "f1")
UNIVARIATE_METHOD = "jensen_shannon"
MULTIVARIATE_METHOD = "pca_reconstruction_error"
DOMAIN_CLASSIFIER = "domain_classifier_auroc"


@contextmanager
def _nannyml() -> Iterator[Any]:
    """NannyML with its usage logging and its chatter off."""
    prepare_environment()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import nannyml

        logging.getLogger("nannyml").setLevel(logging.ERROR)
        yield nannyml


def _chunker(rows: int) -> Any:
    """Chunks of exactly ``rows`` rows; an incomplete one is dropped, as it would inflate the thresholds."""
    from nannyml.chunk import SizeBasedChunker

    return SizeBasedChunker(max(rows, 1), incomplete="drop")


def _pandas(frame: pl.DataFrame, features: Sequence[Feature]) -> Any:
    """Pandas frame in the types that NannyML handles: float64 (infinite counts as missing) and category."""
    return frame.select(
        pl.col(f.name).cast(pl.Categorical) if f.type is FeatureType.category else _finite(f.name)
        for f in features
    ).to_pandas()


def _finite(name: str) -> pl.Expr:
    """The numbers as floats; what is no finite number is null."""
    number = pl.col(name).cast(pl.Float64)
    return pl.when(number.is_finite()).then(number).alias(name)


def _known(frame: pl.DataFrame, feature: Feature) -> pl.Series:
    """The values of a feature that are neither missing nor infinite."""
    column = pl.col(feature.name) if feature.type is FeatureType.category else _finite(feature.name)
    return frame.select(column.drop_nulls()).to_series()


def _number(value: Any) -> float | None:
    return None if value is None or not np.isfinite(value) else float(value)


def _alert(cell: Any, value: float | None) -> bool | None:
    """NannyML's alert; unknown, not quiet, where there is no value."""
    return None if value is None else bool(cell["alert"])


_DRIFT_SCHEMA = {
    "feature": pl.String,
    "method": pl.String,
    "value": pl.Float64,
    "threshold": pl.Float64,
    "alert": pl.Boolean,
    "reason": pl.String,
}
_MULTIVARIATE_SCHEMA = {
    "method": pl.String,
    "value": pl.Float64,
    "lower_threshold": pl.Float64,
    "upper_threshold": pl.Float64,
    "alert": pl.Boolean,
    "reason": pl.String,
}
_ESTIMATE_SCHEMA = {
    "metric": pl.String,
    "value": pl.Float64,
    "lower": pl.Float64,
    "upper": pl.Float64,
    "threshold_lower": pl.Float64,
    "threshold_upper": pl.Float64,
    "alert": pl.Boolean,
    "reason": pl.String,
}


def _judge_one_chunk(calculator: Any, frame: Any, method: str) -> Any:
    """Result of a fitted calculator for ``frame`` taken as one chunk.

    The thresholds stay those of the smaller reference chunks, whose scatter is wider: the larger chunk is
    judged by the more lenient limit.
    """
    calculator.chunker = _chunker(len(frame))
    return getattr(calculator, method)(frame).filter(period="analysis").to_df()


@dataclass(frozen=True)
class DriftJudge:
    """Drift of chunks against one fitted reference."""

    features: tuple[Feature, ...]
    univariate: Any
    multivariate: Any
    unusable: dict[str, str]
    domain_classifier: Any = None

    def univariate_drift(self, chunk: pl.DataFrame) -> pl.DataFrame:
        """Jensen-Shannon distance of each feature.

        Returns:
            One row per feature: ``feature``, ``method``, ``value`` (0..1), ``threshold``, ``alert``, ``reason``
            (why there is no value; null otherwise).
        """
        usable = [f for f in self.features if f.name not in self.unusable]
        rows: list[tuple[Any, ...]] = [
            (name, UNIVARIATE_METHOD, None, None, None, why) for name, why in self.unusable.items()
        ]
        empty = [f.name for f in usable if _known(chunk, f).is_empty()]
        with _nannyml():
            result = _judge_one_chunk(self.univariate, _pandas(chunk, usable), "calculate").iloc[0]
        for f in usable:
            cell = result[f.name][UNIVARIATE_METHOD]
            value = None if f.name in empty else _number(cell["value"])
            why = None if value is not None else "NannyML could not compute it"
            why = "all values are missing in this chunk" if f.name in empty else why
            limit = _number(cell["upper_threshold"])
            rows.append((f.name, UNIVARIATE_METHOD, value, limit, _alert(cell, value), why))
        return validated("nannyml_drift", pl.DataFrame(rows, schema=_DRIFT_SCHEMA, orient="row"))

    def multivariate_drift(self, chunk: pl.DataFrame) -> pl.DataFrame:
        """Drift of all features together, in the whole chunk.

        Returns:
            One row per method: ``method``, ``value``, ``lower_threshold``, ``upper_threshold``, ``alert``. The PCA
            reconstruction error is a mean distance in standardized units; the domain classifier's is the ROC AUC
            (0.5: chunk and reference cannot be told apart) of a boosted classifier, cross-validated.
        """
        usable = [f for f in self.features if f.name not in self.unusable]
        frame = _pandas(chunk, usable)
        found = {MULTIVARIATE_METHOD: (self.multivariate, "reconstruction_error")}
        if self.domain_classifier is not None:
            found[DOMAIN_CLASSIFIER] = (self.domain_classifier, DOMAIN_CLASSIFIER)
        rows = []
        with _nannyml():
            for method, (calculator, column) in found.items():
                cell = _judge_one_chunk(calculator, frame, "calculate").iloc[0][column]
                limits = _number(cell["lower_threshold"]), _number(cell["upper_threshold"])
                value = _number(cell["value"])
                why = None if value is not None else "NannyML could not compute it"
                rows.append((method, value, *limits, _alert(cell, value), why))
        return validated("multivariate_drift", pl.DataFrame(rows, schema=_MULTIVARIATE_SCHEMA, orient="row"))


def fit_drift(
    reference: pl.DataFrame,
    features: Sequence[Feature],
    domain_classifier: bool = False,
    univariate: bool = True,
) -> DriftJudge:
    """Fit the drift calculators on the reference rows (the features by name).

    Args:
        reference: the champion's reference.
        features: that it holds.
        domain_classifier: whether chunks are judged by one, too: five boosted classifiers for each.
        univariate: whether single features are judged; the push-down engine does without.

    Raises:
        ValueError: no feature varies in the reference.
    """
    unusable = {
        f.name: "constant or missing in the reference"
        for f in features
        if _known(reference, f).n_unique() < 2
    }
    usable = [f for f in features if f.name not in unusable]
    if not usable:
        raise ValueError(
            f"drift cannot be judged: each of the {len(unusable)} features is constant or missing in the reference "
            f"({reference.height} rows); check 'reference' in the use case"
        )
    frame = _pandas(reference, usable)
    size = len(frame) // REFERENCE_CHUNKS
    names = [f.name for f in usable]
    categories = [f.name for f in usable if f.type is FeatureType.category]
    with _nannyml() as nml:
        single = (
            nml.UnivariateDriftCalculator(
                column_names=names,
                treat_as_categorical=categories,
                continuous_methods=[UNIVARIATE_METHOD],
                categorical_methods=[UNIVARIATE_METHOD],
                chunker=_chunker(size),
            ).fit(frame)
            if univariate
            else None
        )
        multivariate = nml.DataReconstructionDriftCalculator(column_names=names, chunker=_chunker(size)).fit(
            frame
        )
        domain = _domain_classifier(nml, frame, names, categories) if domain_classifier else None
    return DriftJudge(tuple(features), single, multivariate, unusable, domain)


def _domain_classifier(nml: Any, frame: Any, names: list[str], categories: list[str]) -> Any:
    """Fitted on two chunks of the reference, the fewest that it takes: its thresholds are constants."""
    calculator = nml.DomainClassifierCalculator(
        feature_column_names=names, treat_as_categorical=categories, chunker=_chunker(len(frame) // 2)
    )
    return calculator.fit(frame)


@dataclass(frozen=True)
class PerformanceJudge:
    """Performance without labels, by CBPE fitted on one labelled reference."""

    estimator: Any

    def estimate(self, chunk: pl.DataFrame) -> pl.DataFrame:
        """Estimated metrics of a chunk of predictions.

        Args:
            chunk: ``probability`` (f64), ``prediction`` (0/1).

        Returns:
            One row per metric: ``metric``, ``value``, ``lower`` and ``upper`` (NannyML's confidence band, three
            sampling errors), ``threshold_lower``, ``threshold_upper``, ``alert``, ``reason``: why there is no value,
            or how many scores it leaves out, as they are missing, NaN or infinite; null where neither is so.
        """
        scored = chunk.filter(pl.col("probability").is_finite().fill_null(False))
        lost = chunk.height - scored.height
        left_out = f"{lost} of {chunk.height} scores are no numbers and are left out" if lost else None
        if scored.is_empty():
            blank = [(m, *[None] * 6, left_out) for m in ESTIMATED_METRICS]
            return validated("nannyml_estimates", pl.DataFrame(blank, schema=_ESTIMATE_SCHEMA, orient="row"))
        frame = scored.select("probability", pl.col("prediction").cast(pl.Int64)).to_pandas()
        with _nannyml():
            result = _judge_one_chunk(self.estimator, frame, "estimate").iloc[0]
        rows = []
        for metric in ESTIMATED_METRICS:
            cell = result[metric]
            value = _number(cell["value"])
            band = _number(cell["lower_confidence_boundary"]), _number(cell["upper_confidence_boundary"])
            limits = _number(cell["lower_threshold"]), _number(cell["upper_threshold"])
            why = "NannyML could not estimate it: one predicted class only" if value is None else left_out
            rows.append((metric, value, *band, *limits, _alert(cell, value), why))
        return validated("nannyml_estimates", pl.DataFrame(rows, schema=_ESTIMATE_SCHEMA, orient="row"))


def fit_performance(reference: pl.DataFrame) -> PerformanceJudge:
    """Fit CBPE on reference rows: ``probability``, ``prediction``, ``label`` (0/1).

    Alerts are one-sided: only a fall below three standard deviations of the reference chunks is one.
    """
    frame = reference.select("probability", pl.col("prediction", "label").cast(pl.Int64)).to_pandas()
    with _nannyml() as nml:
        from nannyml.thresholds import StandardDeviationThreshold

        estimator = nml.CBPE(
            y_pred_proba="probability",
            y_pred="prediction",
            y_true="label",
            problem_type="classification_binary",
            metrics=list(ESTIMATED_METRICS),
            chunker=_chunker(len(frame) // REFERENCE_CHUNKS),
            thresholds={m: StandardDeviationThreshold(3, None) for m in ESTIMATED_METRICS},
        ).fit(frame)
    return PerformanceJudge(estimator)
