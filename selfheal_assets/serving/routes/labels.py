"""Outcomes, as they become known, and where they stand."""

from datetime import datetime
from typing import Any

from fastapi import APIRouter
from fastapi.exceptions import RequestValidationError

from selfheal_assets.serving.label_schemas import LabelBody, LabelIn, LabelsAccepted, LabelStatus, label_rows
from selfheal_assets.serving.routes.service import Service
from selfheal_assets.stores import label_status
from selfheal_assets.stores.snapshots import read_rows

_UNAVAILABLE: dict[int | str, dict[str, Any]] = {503: {"description": "The labels cannot be written"}}


def label_router(service: Service) -> APIRouter:
    """Outcomes, as they become known, and where they stand."""
    router = APIRouter(tags=["labels"])

    @router.post("/labels", status_code=202, responses=_UNAVAILABLE)
    async def labels(body: LabelBody) -> LabelsAccepted:
        """Take one label, or `{"labels": [...]}`: all or none. They are on disk when this answers, and in the ledger
        after the next ingestion. A correction is a new label for the same case. A label for a case that is not known
        is kept, and belongs to it once it is: `/labels/status` counts those."""
        given = [body] if isinstance(body, LabelIn) else body.labels
        now = service.settings.now()
        _refuse_future(given, now, single=isinstance(body, LabelIn))
        await service.labels.land(label_rows(given, now))
        service.counters.add("labels", len(given))
        return LabelsAccepted(accepted=len(given))

    @router.get("/labels/status")
    def status() -> LabelStatus:
        """What has landed and waits, what the ledger held after the last ingestion, and what was rejected."""
        return _status(service)

    return router


def _status(service: Service) -> LabelStatus:
    folder = service.settings.label_landing
    published = read_rows(service.settings.published, label_status.SNAPSHOT, 1)
    ledger = published[0] if published else None
    taken = {s["segment"]: s["rows"] for s in ledger["live"]} if ledger else {}
    share = ledger["labelled_cases"] / ledger["cases"] if ledger and ledger["cases"] else None
    return LabelStatus.model_validate(
        {
            "waiting": label_status.waiting(folder, taken),
            "ingested": ledger,
            "coverage": ledger and ledger | {"share": share},
            "rejected": label_status.rejected(folder),
        }
    )


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
