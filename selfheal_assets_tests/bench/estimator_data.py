"""The data of `make bench-estimators`: references with labels, and chunks whose labels are only for the judge.

Two sets come with NannyML (scores of their own models), one is the shipped loans, scored by a model that the product
trains on what was mature before go-live.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from selfheal_assets.core.density_ratio import Inputs
from selfheal_assets.core.encoding import encode, learn_vocabulary
from selfheal_assets.core.estimation import ChunkRows
from selfheal_assets.core.fitting import Candidate, fit_bundle
from selfheal_assets.core.plan import plan_training
from selfheal_assets.core.reference_rows import ReferenceRows
from selfheal_assets.core.spec import Feature
from selfheal_assets.settings import Settings
from selfheal_assets.stores.sources import read_cases
from selfheal_assets_tests.bench.installation import USE_CASE
from selfheal_assets_tests.toy import PROJECT

CHUNK_ROWS = 5000
LOANS_FROM, LOANS_UNTIL = datetime(1999, 1, 1), datetime(2008, 1, 1)


@dataclass(frozen=True)
class Labelled:
    """A chunk, and the labels by which its estimates are judged."""

    name: str
    rows: ChunkRows
    label: np.ndarray


@dataclass(frozen=True)
class DataSet:
    """One labelled reference and what came after."""

    name: str
    reference: ReferenceRows
    chunks: list[Labelled]


def _number(name: str) -> Feature:
    return Feature(name=name, type="number", nullable=True)  # type: ignore[arg-type]


def _category(name: str) -> Feature:
    return Feature(name=name, type="category", nullable=True)  # type: ignore[arg-type]


CAR_LOAN = (
    _number("car_value"), _category("salary_range"), _number("debt_to_income_ratio"), _number("loan_length"),
    _category("repaid_loan_on_prev_car"), _category("size_of_downpayment"), _number("driver_tenure"),
)  # fmt: skip
EMPLOYMENT = (
    _number("agep"),
    *map(_category, ("schl", "mar", "relp", "dis", "esp", "cit", "mig", "mil", "anc", "nativity")),
    *map(_category, ("dear", "deye", "drem", "sex", "rac1p")),
)


def employment() -> DataSet:
    """Employment in Massachusetts, US census: real, reference one year, 208,892 rows of later years."""
    import nannyml

    reference, later, labels = nannyml.load_us_census_ma_employment_data()
    columns = {"predicted_probability": "score", "prediction": "flagged", "employed": "label"}
    later = later.merge(labels, on="id")
    return _from_nannyml("ma_employment", reference, later, columns, EMPLOYMENT)


def car_loan() -> DataSet:
    """NannyML's synthetic car loans: five chunks like the reference, five shifted."""
    import nannyml

    reference, later, labels = nannyml.load_synthetic_car_loan_dataset()
    columns = {"y_pred_proba": "score", "y_pred": "flagged", "repaid": "label"}
    return _from_nannyml("car_loan", reference, later.merge(labels, on="id"), columns, CAR_LOAN)


def _from_nannyml(
    name: str, reference: Any, later: Any, columns: dict[str, str], features: Sequence[Feature]
) -> DataSet:
    frames = []
    for pandas in (reference, later):
        wanted = [*columns, *(f.name for f in features)]
        lower = pandas.rename(columns=str.lower)
        frame = pl.from_pandas(lower[wanted].reset_index(drop=True)).rename(columns)
        frames.append(
            frame.with_columns(pl.col(f.name).cast(pl.String) for f in features if f.type == "category")
        )
    vocabulary = learn_vocabulary(frames[0], features)

    def rows(frame: pl.DataFrame) -> ReferenceRows:
        return _rows(frame, encode(frame, features, vocabulary), features)

    return DataSet(name, rows(frames[0]), list(_by_size(rows(frames[1]))))


def _rows(frame: pl.DataFrame, matrix: np.ndarray, features: Sequence[Feature]) -> ReferenceRows:
    """Frame with ``score``, ``flagged`` and ``label``."""
    score = frame["score"].to_numpy().astype(np.float64)
    names, kinds = [f.name for f in features], [f.type == "category" for f in features]
    flagged, label = (frame[c].to_numpy().astype(t) for c, t in (("flagged", bool), ("label", np.int64)))
    return ReferenceRows(Inputs(matrix, score, names, kinds), flagged, label)


def _by_size(rows: ReferenceRows) -> Iterator[Labelled]:
    for start in range(0, len(rows.label) - CHUNK_ROWS + 1, CHUNK_ROWS):
        yield _labelled(str(start // CHUNK_ROWS), rows.take(np.arange(start, start + CHUNK_ROWS)))


def _labelled(name: str, rows: ReferenceRows) -> Labelled:
    return Labelled(name, ChunkRows(rows.inputs, rows.flagged), rows.label)


def loans(full: bool) -> DataSet:
    """Small-business loans: reference the second half of 1998, chunks the quarters from 1999 to 2007.

    Labels are those known in the end: each chunk's are complete.
    """
    settings = Settings(use_case=USE_CASE, home=Path("unused"), project=PROJECT, as_of=None, full=full)
    case = settings.case
    cases = read_cases(case, settings)
    as_of = datetime.combine(case.go_live, datetime.min.time())
    plan = plan_training(as_of, case.label, case.training, None, case.reference)
    known = cases.labels.filter(pl.col("recorded_at") < as_of).select("entity_id", "label")
    history = cases.frame.join(known, on="entity_id").sort("event_time", "entity_id")
    everything = Candidate("full_history", history["event_time"][0])
    bundle = fit_bundle(history, everything, plan, case.features, case.training, case.name, cases.fingerprint)
    frame = cases.frame.join(cases.labels.select("entity_id", "label"), on="entity_id")
    frame = frame.sort("event_time", "entity_id")
    score = bundle.score(frame)
    frame = frame.with_columns(score=score, flagged=score >= bundle.threshold)

    def rows(part: pl.DataFrame) -> ReferenceRows:
        return _rows(part, encode(part, case.features, bundle.vocabulary), case.features)

    time = pl.col("event_time")
    reference = frame.filter((time >= plan.evaluate_from) & (time < plan.evaluate_until))
    later = frame.filter((time >= LOANS_FROM) & (time < LOANS_UNTIL))
    quarters = later.group_by(time.dt.truncate("1q").alias("quarter"), maintain_order=True)
    chunks = [_labelled(f"{day:%Y-%m}", rows(part)) for (day,), part in quarters]  # type: ignore[misc]
    return DataSet("sba_loans", rows(reference), chunks)
