"""Labels that are reported, and what is answered about them."""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, ConfigDict, Discriminator, Field, Tag, model_validator

from selfheal_assets.serving.schemas import MAX_ROWS, Answer, Moment, Request, Text, whole


class LabelIn(Request):
    """An outcome that has become known. ``recorded_at``, when we learned it, is the time of the request."""

    model_config = ConfigDict(
        json_schema_extra={
            "anyOf": [
                {"required": [name], "properties": {name: {"type": "string"}}}
                for name in ("prediction_id", "entity_id")
            ]
        }
    )
    prediction_id: Text | None = Field(None, description="The answer that the label belongs to")
    entity_id: Text | None = Field(None, description="Or the case; give at least one of the two")
    label: Annotated[int, Field(strict=True, ge=0, le=1), BeforeValidator(whole)] = Field(
        description="1 positive, 0 negative", examples=[1]
    )
    occurred_at: Moment | None = Field(None, description="When it became true, ISO 8601 (UTC); default: now")
    source: Text = Field("api", description="Who reports it")

    @model_validator(mode="after")
    def _names_a_case(self) -> Self:
        if self.prediction_id is None and self.entity_id is None:
            raise ValueError("give prediction_id or entity_id: the label must belong to a case")
        return self


class LabelBatch(Request):
    """Several labels; all are taken or none."""

    labels: Annotated[list[LabelIn], Field(min_length=1, max_length=MAX_ROWS)]


def _label_kind(body: Any) -> str:
    return "batch" if isinstance(body, dict) and "labels" in body else "single"


LabelBody = Annotated[
    Annotated[LabelIn, Tag("single")] | Annotated[LabelBatch, Tag("batch")], Discriminator(_label_kind)
]


class LabelsAccepted(Answer):
    """Labels that are on disk, waiting for the next ingestion."""

    accepted: int


class LabelsWaiting(Answer):
    """Labels that have landed and are not in the ledger yet."""

    rows: int = Field(description="Sent to this API")
    files: int = Field(description="Dropped into the landing folder; their rows are not counted yet")
    oldest_file_landed_at: datetime | None


class LabelsIngested(Answer):
    """The ledger as the last ingestion left it."""

    published_at: datetime
    rows: int
    unmatched: int = Field(description="Rows for a case or prediction that is not known (yet); they are kept")
    newest_recorded_at: datetime | None


class LabelCoverage(Answer):
    """Of the cases that a champion has scored, how many have a label."""

    cases: int
    labelled_cases: int
    share: float | None


class RejectedLabel(Answer):
    """Why a row, or where `row` is null a whole file, was set aside."""

    file: str
    row: int | None
    reason: str
    at: datetime | None


class LabelsRejected(Answer):
    """What was set aside, in `rejected/` of the landing folder."""

    rows: int
    files: int
    newest: list[RejectedLabel]


class LabelStatus(Answer):
    """Where labels stand. All times are UTC."""

    waiting: LabelsWaiting
    ingested: LabelsIngested | None = Field(description="Null before the first ingestion")
    coverage: LabelCoverage | None
    rejected: LabelsRejected


def label_rows(labels: Sequence[LabelIn], now: datetime) -> list[dict[str, Any]]:
    """Validated labels in the shape of the ledger, learned at ``now`` (naive UTC)."""
    return [
        label.model_dump() | {"recorded_at": now, "occurred_at": label.occurred_at or now} for label in labels
    ]
