"""What a client is told of its scored cases, in the shape of ``schemas.Prediction``."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import msgspec

from selfheal_assets.core.explanation import explain
from selfheal_assets.serving.group_commit import Answered
from selfheal_assets.serving.metrics import Metrics

UNSEEN = "{}: category '{}' was not seen in training and is treated as missing"


class Told(msgspec.Struct, gc=False):
    """One case's answer. No dict: Python's collector, woken by a batch of them, would take longer than scoring."""

    prediction_id: str
    entity_id: str
    probability: float
    prediction: int
    threshold: float
    model_version: int
    model_fingerprint: str
    warnings: tuple[str, ...] = ()


encoded = msgspec.json.Encoder().encode


def answers(answered: Answered) -> list[Told]:
    """Each case's answer, in the order of the request."""
    scored, cases, encoder = answered.scored, answered.cases, answered.encoder
    bundle, version = scored.model.bundle, scored.version
    threshold, fingerprint = bundle.threshold, bundle.fingerprint
    numbers = range(answered.start, answered.start + answered.rows)
    own, unseen = slice(numbers.start, numbers.stop), encoder.unseen(cases.features, numbers)
    rows = zip(
        scored.prediction_ids[own],
        cases.entity_id[own],
        scored.probability[own].tolist(),
        scored.prediction[own].tolist(),
        strict=True,
    )
    given = [
        Told(prediction_id, entity_id, probability, prediction, threshold, version, fingerprint)
        for prediction_id, entity_id, probability, prediction in rows
    ]
    for i, names in unseen.items():
        given[i - numbers.start].warnings = tuple(_unseen(n, cases.features[n][i]) for n in names)
    return given


def explanations(answered: Answered, texts: Mapping[str, str]) -> list[dict[str, Any]]:
    """Why each case scored as it did, in the order of the request; takes about a quarter of a millisecond a case.

    Args:
        answered: one request's answers.
        texts: what is told of a feature that raised the score, see ``core.explanation.reason_texts``.
    """
    model, end = answered.scored.model, answered.start + answered.rows
    own = {name: values[answered.start : end] for name, values in answered.cases.features.items()}
    return [asdict(e) for e in explain(model.bundle, model.encoder(own), own, texts)]


def _unseen(name: str, value: str) -> str:
    return UNSEEN.format(name, value)


def count(counters: Metrics, given: list[Told], requests: int = 1) -> None:
    """Count the answers to one request, or to several."""
    counters.add("requests", requests)
    counters.add("predictions", len(given))
    counters.add("positive_predictions", sum(a.prediction for a in given))
    counters.add("predictions_with_warnings", sum(1 for a in given if a.warnings))
    if unseen := sum(len(a.warnings) for a in given):  # there is no other warning
        counters.add("unseen_categories_as_missing", unseen)
