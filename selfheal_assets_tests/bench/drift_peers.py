"""NannyML's and Evidently's default drift alarms: their definitions on arrays, and their own code beside it.

The definitions are fast enough for hundreds of histories; ``disagreements`` counts where they differ from what the
libraries themselves say on the same rows.
"""

import warnings
from typing import Any

import numpy as np

from selfheal_assets_tests.bench.drift_streams import CATEGORIES, FEATURES, NUMBERS, Stream

NANNYML_SDS = 3
EVIDENTLY_LIMIT = 0.1


def jensen_shannon(one: np.ndarray, other: np.ndarray, base: float) -> np.ndarray:
    """Jensen–Shannon distance of shares, along the last axis."""
    from scipy.special import rel_entr

    middle = (one + other) / 2
    divergence = (rel_entr(one, middle) + rel_entr(other, middle)).sum(axis=-1) / 2
    return np.sqrt(np.maximum(divergence, 0.0) / np.log(base))


def nannyml_alerts(stream: Stream) -> np.ndarray:
    """Alerts of ``UnivariateDriftCalculator``'s defaults, shape (chunks, features).

    Jensen–Shannon distance (base 2) to the reference, on Doane's bins or by category; the threshold is the mean
    plus three standard deviations of the reference's own chunks.
    """
    return np.stack([_nannyml_feature(stream, name) for name in FEATURES], axis=1)


def _nannyml_feature(stream: Stream, name: str) -> np.ndarray:
    reference, rows = stream.reference[name], stream.rows[name]
    size = len(rows) // stream.chunks
    if name in CATEGORIES:
        bins = np.arange(-0.5, len(CATEGORIES[name]))
    else:
        bins = np.histogram_bin_edges(reference, bins="doane")
    whole = np.histogram(reference, bins)[0] / len(reference)

    def distances(values: np.ndarray) -> np.ndarray:
        parts = values[: len(values) // size * size].reshape(-1, size)
        shares = np.stack([np.histogram(part, bins)[0] for part in parts]) / size
        outside = np.maximum(1 - shares.sum(axis=1, keepdims=True), 0.0)  # beyond the reference's range
        return jensen_shannon(np.append(whole, 0.0), np.hstack([shares, outside]), 2)

    own = distances(reference)
    return distances(rows) > own.mean() + NANNYML_SDS * own.std()


def evidently_alerts(stream: Stream) -> np.ndarray:
    """Columns that Evidently's default tests call drifted, shape (chunks, features).

    With more than 1,000 reference rows: numbers by the Wasserstein distance divided by the reference's standard
    deviation, categories by the Jensen–Shannon distance (natural logarithm), both from 0.1.
    """
    return np.stack([_evidently_feature(stream, name) for name in FEATURES], axis=1)


def _evidently_feature(stream: Stream, name: str) -> np.ndarray:
    reference = stream.reference[name]
    chunks = [stream.chunk(name, n) for n in range(stream.chunks)]
    if name in CATEGORIES:
        k = len(CATEGORIES[name])
        whole = np.bincount(reference, minlength=k) / len(reference)
        shares = np.stack([np.bincount(c, minlength=k) / len(c) for c in chunks])
        return jensen_shannon(whole, shares, np.e) >= EVIDENTLY_LIMIT
    ordered, spread = np.sort(reference), max(float(reference.std()), 0.001)
    return np.array([_wasserstein(ordered, c) / spread >= EVIDENTLY_LIMIT for c in chunks])


def _wasserstein(ordered: np.ndarray, sample: np.ndarray) -> float:
    """Mean distance of equal quantiles, where one size divides the other; else by SciPy."""
    if len(ordered) % len(sample):
        from scipy.stats import wasserstein_distance

        return float(wasserstein_distance(ordered, sample))
    return float(np.abs(ordered.reshape(len(sample), -1) - np.sort(sample)[:, None]).mean())


def evidently_small_alerts(stream: Stream, reference: int) -> np.ndarray:
    """Columns that Evidently calls drifted if the reference is its first rows only, shape (chunks, features).

    Up to 1,000 reference rows its defaults are p-values below 0.05; its own code chooses and computes them.
    """
    import pandas as pd
    from evidently.legacy.calculations.stattests import get_stattest
    from evidently.legacy.core import ColumnType

    def column(name: str) -> list[bool]:
        kind = ColumnType.Numerical if name in NUMBERS else ColumnType.Categorical
        small, answers = pd.Series(stream.reference[name][:reference]), []
        for n in range(stream.chunks):
            chunk = pd.Series(stream.chunk(name, n))
            test = get_stattest(small, chunk, kind, None)
            answers.append(bool(test(small, chunk, kind, None).drifted))
        return answers

    return np.array([column(name) for name in FEATURES]).T


def disagreements(stream: Stream, evidently_chunks: int) -> dict[str, int]:
    """Cells (chunk, feature) compared with the libraries' own answers, and how many differ.

    NannyML judges the whole history, Evidently the first ``evidently_chunks`` chunks.
    """
    nannyml = nannyml_alerts(stream) != _nannyml_itself(stream)
    evidently = evidently_alerts(stream)[:evidently_chunks] != _evidently_itself(stream, evidently_chunks)
    return {
        "nannyml_compared": nannyml.size,
        "nannyml_differ": int(nannyml.sum()),
        "evidently_compared": evidently.size,
        "evidently_differ": int(evidently.sum()),
    }


def _frame(rows: dict[str, np.ndarray]) -> Any:
    import pandas as pd

    frame = pd.DataFrame({name: rows[name] for name in NUMBERS})
    for name in CATEGORIES:
        frame[name] = pd.Series([f"c{v:02d}" for v in rows[name]], dtype="category")
    return frame


def _nannyml_itself(stream: Stream) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import nannyml as nml

        calculator = nml.UnivariateDriftCalculator(
            column_names=list(FEATURES), chunk_size=len(stream.rows["normal"]) // stream.chunks
        )
        calculator.fit(_frame(stream.reference))
        result = calculator.calculate(_frame(stream.rows)).filter(period="analysis").to_df()
    return np.stack([result[name]["jensen_shannon"]["alert"].to_numpy(bool) for name in FEATURES], axis=1)


def _evidently_itself(stream: Stream, chunks: int) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from evidently import DataDefinition, Dataset, Report
        from evidently.presets import DataDriftPreset

        definition = DataDefinition(numerical_columns=list(NUMBERS), categorical_columns=list(CATEGORIES))
        reference = Dataset.from_pandas(_frame(stream.reference), data_definition=definition)
        found = []
        for n in range(chunks):
            rows = {name: stream.chunk(name, n) for name in FEATURES}
            chunk = Dataset.from_pandas(_frame(rows), data_definition=definition)
            metrics = Report([DataDriftPreset()]).run(chunk, reference).dict()["metrics"]
            found.append(_evidently_answers(metrics))
    return np.array(found)


def _evidently_answers(metrics: list[dict[str, Any]]) -> list[bool]:
    by_column = {m["config"]["column"]: m for m in metrics if "column" in m.get("config", {})}
    return [float(by_column[n]["value"]) >= by_column[n]["config"]["threshold"] for n in FEATURES]
