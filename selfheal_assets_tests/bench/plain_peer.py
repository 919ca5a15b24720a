"""The plain peer of `make bench-serving`: a prediction service as it is written first, in an afternoon.

FastAPI, a pydantic model of the request, ``mlflow.pyfunc`` on a pandas frame, and a CSV file appended under a lock,
without fsync. Nothing in it is made slow on purpose: the model is loaded once, a batch is one frame and one call.
``PLAIN_PEER_MODEL`` is the model's address, ``PLAIN_PEER_LOG`` the file.
"""

import csv
import os
import threading
import uuid
from datetime import UTC, datetime
from typing import Any, Literal

import mlflow.pyfunc
import pandas as pd
from fastapi import FastAPI
from pydantic import BaseModel, Field

app = FastAPI(title="plain peer")
model = mlflow.pyfunc.load_model(os.environ["PLAIN_PEER_MODEL"])
log = open(os.environ["PLAIN_PEER_LOG"], "a", newline="")  # noqa: SIM115 - open as long as the service lives
writer = csv.writer(log)
lock = threading.Lock()


class Case(BaseModel):
    """A loan application."""

    entity_id: str
    state: str
    bank_state: str | None = None
    sector: str
    employees: int = Field(ge=0, le=10_000)
    business_age: Literal["existing", "new"] | None = None
    jobs_created: int = Field(ge=0, le=10_000)
    jobs_retained: int = Field(ge=0, le=10_000)
    franchise: Literal["no", "yes"]
    area: Literal["urban", "rural", "undefined"]
    revolving_line: Literal["no", "yes"] | None = None
    low_doc: Literal["no", "yes"] | None = None
    amount: float = Field(ge=0, le=10_000_000)
    guaranteed: float = Field(ge=0, le=10_000_000)


class Cases(BaseModel):
    """Several applications."""

    cases: list[Case]


class Prediction(BaseModel):
    """An answer."""

    prediction_id: str
    entity_id: str
    probability: float
    prediction: int


class Predictions(BaseModel):
    """Answers in the order of the cases."""

    predictions: list[Prediction]


@app.get("/health")
def health() -> dict[str, str]:
    """Whether it runs."""
    return {"status": "ok"}


@app.post("/predict")
def predict(case: Case) -> Prediction:
    """Score one case."""
    return scored([case])[0]


@app.post("/predict/batch")
def predict_batch(batch: Cases) -> Predictions:
    """Score several."""
    return Predictions(predictions=scored(batch.cases))


def scored(cases: list[Case]) -> list[Prediction]:
    """Predict on one frame, log, answer."""
    rows: list[dict[str, Any]] = [case.model_dump() for case in cases]
    frame = pd.DataFrame(rows).drop(columns="entity_id")
    result = model.predict(frame)
    answers = [
        Prediction(
            prediction_id=uuid.uuid4().hex, entity_id=case.entity_id, probability=float(p), prediction=int(y)
        )
        for case, p, y in zip(cases, result["probability"], result["prediction"], strict=True)
    ]
    now = datetime.now(UTC).isoformat()
    lines = [
        [a.prediction_id, now, *row.values(), a.probability, a.prediction]
        for a, row in zip(answers, rows, strict=True)
    ]
    with lock:
        writer.writerows(lines)
        log.flush()
    return answers
