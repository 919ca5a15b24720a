"""Outcomes, as they become known."""

from datetime import datetime

from fastapi import APIRouter
from fastapi.exceptions import RequestValidationError

from selfheal_assets.serving.routes.service import Service
from selfheal_assets.serving.schemas import LabelBody, LabelIn, LabelsAccepted, labels_frame
from selfheal_assets.stores import label_ledger


def label_router(service: Service) -> APIRouter:
    """Outcomes, as they become known."""
    router = APIRouter(tags=["labels"])

    @router.post("/labels", status_code=202)
    def labels(body: LabelBody) -> LabelsAccepted:
        """Take one label, or `{"labels": [...]}`. They are on disk when this answers, and in the ledger after
        the next ingestion. A correction is a new label for the same case."""
        given = [body] if isinstance(body, LabelIn) else body.labels
        now = service.settings.now()
        _refuse_future(given, now, single=isinstance(body, LabelIn))
        label_ledger.drop(service.settings.label_landing, labels_frame(given, now))
        service.counters.add("labels", len(given))
        return LabelsAccepted(accepted=len(given))

    return router


def _refuse_future(labels: list[LabelIn], now: datetime, single: bool) -> None:
    """A label cannot be known before it is true: the ledger would set such a row aside later, unseen."""
    message = f"occurred_at is after now ({now.isoformat(timespec='seconds')}Z): leave it out, or correct it"
    errors = [
        {
            "type": "in_the_future",
            "loc": ("body", *(["single"] if single else ["batch", "labels", i]), "occurred_at"),
            "msg": message,
        }
        for i, label in enumerate(labels)
        if label.occurred_at and label.occurred_at > now
    ]
    if errors:
        raise RequestValidationError(errors)
