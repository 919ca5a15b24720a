"""What a client is told of its scored cases, in the shape of ``schemas.Prediction``."""

from typing import Any

from selfheal_assets.serving.group_commit import Answered
from selfheal_assets.serving.metrics import Metrics


def answers(answered: Answered) -> list[dict[str, Any]]:
    """Each case's answer, in the order of the request."""
    scored, cases, encoder = answered.scored, answered.cases, answered.encoder
    bundle = scored.champion.bundle
    probability, prediction = scored.probability, scored.prediction
    return [
        {
            "prediction_id": scored.prediction_ids[i],
            "entity_id": cases.entity_id[i],
            "probability": float(probability[i]),
            "prediction": int(prediction[i]),
            "threshold": bundle.threshold,
            "model_version": scored.version,
            "model_fingerprint": bundle.fingerprint,
            "warnings": [_unseen(n, cases.features[n][i]) for n in encoder.unseen(cases.features, i)],
        }
        for i in range(answered.start, answered.start + answered.rows)
    ]


def _unseen(name: str, value: str) -> str:
    return f"{name}: category '{value}' was not seen in training and is treated as missing"


def count(counters: Metrics, given: list[dict[str, Any]], requests: int = 1) -> None:
    """Count the answers to one request, or to several."""
    counters.add("requests", requests)
    counters.add("predictions", len(given))
    counters.add("positive_predictions", sum(a["prediction"] for a in given))
    counters.add("predictions_with_warnings", sum(1 for a in given if a["warnings"]))
    if unseen := sum(len(a["warnings"]) for a in given):  # there is no other warning
        counters.add("unseen_categories_as_missing", unseen)
