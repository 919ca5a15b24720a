"""The careful path: cases with keys (``Idempotency-Key``, ids of the client's own), and batches that skip bad rows.

A request that was answered before gets the first answer again, byte for byte; ``stores.answers`` says how and what is
promised. Requests without such wishes never come here, and share neither thread nor log file with it.
"""

import asyncio
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import Any

import orjson
from fastapi.exceptions import RequestValidationError

from selfheal_assets.serving import answers
from selfheal_assets.serving.case_schemas import CaseRequest, case_columns
from selfheal_assets.serving.champion import NoChampion
from selfheal_assets.serving.errors import ReusedKey, told
from selfheal_assets.serving.group_commit import Answered
from selfheal_assets.serving.grouping import Grouped
from selfheal_assets.serving.metrics import Metrics
from selfheal_assets.serving.scoring import LogNotDurable, Scored, ScoringService
from selfheal_assets.stores.answers import AnswerStore, HeldAnswers, Kept
from selfheal_assets.stores.dead_letters import DeadLetters
from selfheal_assets.stores.prediction_log import PredictionLog
from selfheal_assets.use_case import UseCase

_OTHER_BODY = (
    "was used before, with another {what}: it belongs to what it was first sent with; take a new one"
)


@dataclass(frozen=True)
class Row:
    """A valid case of a request, at its place there."""

    index: int
    case: CaseRequest

    @property
    def key(self) -> str | None:
        """Under which its answer is kept, where the client gave the case an id of its own."""
        return f"case {self.case.prediction_id}" if self.case.prediction_id else None

    @cached_property
    def digest(self) -> bytes:
        """Of what was asked, however it was written."""
        asked = self.case.model_dump(mode="json", exclude={"prediction_id"})
        return hashlib.sha256(orjson.dumps(asked, option=orjson.OPT_SORT_KEYS)).digest()


@dataclass(frozen=True)
class Refused:
    """A case of a batch that is not answered: its place, itself as it was sent, and what is wrong with it."""

    index: int
    given: Any
    problems: list[dict[str, Any]]


@dataclass(frozen=True)
class CarefulRequest:
    """What one client asks for.

    Attributes:
        rows: the cases that may be answered.
        single: one case, and not a batch of one.
        skip: answer the others where a case cannot be; else all or none.
        refused: cases that cannot be answered, for the same reasons that would refuse a whole request.
        key: the ``Idempotency-Key``.
        digest: of everything that the key stands for.
    """

    rows: list[Row]
    single: bool
    skip: bool = False
    refused: list[Refused] = field(default_factory=list)
    key: str | None = None
    digest: bytes = b""

    @cached_property
    def keys(self) -> set[str]:
        """Everything under which answers to this request are kept."""
        return {k for k in (self.request_key, *(row.key for row in self.rows)) if k}

    @property
    def request_key(self) -> str | None:
        """Under which the whole answer is kept."""
        return f"request {self.key}" if self.key else None

    def problem(self, index: int, kind: str, name: str, message: str) -> dict[str, Any]:
        """What is wrong with a field of a case, in FastAPI's shape."""
        place = () if self.single else ("cases", index)
        return {"type": kind, "loc": ("body", *place, name), "msg": message}


@dataclass(frozen=True)
class CarefulAnswer:
    """The body of an answer, and whether it was given before."""

    body: bytes
    again: bool


@dataclass(frozen=True)
class _Fresh:
    """A request that is to be answered now: what is known of it, and the cases that are not."""

    request: CarefulRequest
    known: dict[int, bytes]
    rows: list[Row]
    refused: list[Refused]


class CarefulPath:
    """Answers careful requests in groups, from a thread of its own.

    Args:
        case: the use case.
        scoring: scores.
        log: of this path alone.
        store: where first answers are kept.
        letters: where skipped cases go.
        counters: of this process.
        now: the time of an answer, naive UTC.
        wall_clock: from which the age of a key is counted, naive UTC.
    """

    def __init__(
        self,
        case: UseCase,
        scoring: ScoringService,
        log: PredictionLog,
        store: AnswerStore,
        letters: DeadLetters,
        counters: Metrics,
        now: Callable[[], datetime],
        wall_clock: Callable[[], datetime],
    ) -> None:
        self._case, self._scoring, self._log = case, scoring, log
        self._store, self._letters, self._counters = store, letters, counters
        self._now, self._wall_clock = now, wall_clock
        self._group = Grouped("careful-path", self._handle, idle=log.tend)

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin to answer requests of ``loop``."""
        self._group.start(loop)

    def stop(self) -> None:
        """Answer what waits, then hand the log over."""
        self._group.stop()
        self._log.close()
        self._store.close()

    async def answer(self, request: CarefulRequest) -> CarefulAnswer:
        """Answer; the rows are durable when this returns.

        Raises:
            ReusedKey: a key or an id was used for something else.
            RequestValidationError: a case cannot be answered.
            NoChampion, LogNotDurable: nothing was answered.
        """
        return await self._group.done(request)

    def _handle(self, requests: list[CarefulRequest]) -> Sequence[CarefulAnswer | Exception]:
        try:
            with self._store.held(self._wall_clock()) as held:
                if promised := held.promised():  # whoever made them has died, or could not write the log
                    for line in promised:
                        self._log.append_line(line)
                    held.keep_promises()
                return self._outcomes(held, requests)
        except OSError as error:
            raise LogNotDurable(
                f"nothing can be kept in {self._log.folder} ({error.strerror or error}): free space, or mend the "
                "folder's rights; nothing was answered"
            ) from error

    def _outcomes(self, held: HeldAnswers, requests: list[CarefulRequest]) -> list[CarefulAnswer | Exception]:
        """Each request's outcome. Requests that share a key are answered one after another."""
        outcomes: dict[int, CarefulAnswer | Exception] = {}
        fresh: dict[int, _Fresh] = {}
        taken: set[str] = set()
        later = []
        for n, request in enumerate(requests):
            if taken & request.keys:
                later.append(n)
                continue
            judged = self._judged(held, request)
            if isinstance(judged, _Fresh):
                fresh[n] = judged
                taken |= request.keys
            else:
                outcomes[n] = judged
        outcomes |= zip(fresh, self._answered(held, list(fresh.values())), strict=True)
        if later:
            outcomes |= zip(later, self._outcomes(held, [requests[n] for n in later]), strict=True)
        return [outcomes[n] for n in range(len(requests))]

    def _judged(self, held: HeldAnswers, request: CarefulRequest) -> "_Fresh | CarefulAnswer | Exception":
        """What was answered before, why it cannot be answered, or what is left to do."""
        if request.request_key and (kept := held.recall(request.request_key)):
            if kept.digest == request.digest:
                self._counters.add("answers_given_again")
                return CarefulAnswer(kept.answer, again=True)
            message = "Idempotency-Key " + _OTHER_BODY.format(what="path, query or body")
            return ReusedKey([{"type": "reused_key", "loc": ("header", "Idempotency-Key"), "msg": message}])
        known: dict[int, bytes] = {}
        rows: list[Row] = []
        refused = list(request.refused)
        for row in request.rows:
            kept = held.recall(row.key) if row.key else None
            if kept is None:
                rows.append(row)
            elif kept.digest == row.digest:
                known[row.index] = kept.answer
            else:
                message = "prediction_id " + _OTHER_BODY.format(what="case")
                problem = request.problem(row.index, "reused_id", "prediction_id", message)
                refused.append(Refused(row.index, _as_sent(row), [problem]))
        try:
            rows, unseen = self._without_unseen(request, rows)
        except NoChampion as error:
            return error
        refused += unseen
        if refused and not request.skip:
            problems = [problem for r in refused for problem in r.problems]
            used = all(p["type"] == "reused_id" for p in problems)
            return ReusedKey(problems) if used else RequestValidationError(problems)
        return _Fresh(request, known, rows, sorted(refused, key=lambda r: r.index))

    def require_seen(self, request: CarefulRequest) -> None:
        """See that a request holds no category that the use case refuses.

        Raises:
            RequestValidationError: it does.
        """
        _, refused = self._without_unseen(request, request.rows)
        if refused:
            raise RequestValidationError([problem for r in refused for problem in r.problems])

    def _without_unseen(self, request: CarefulRequest, rows: list[Row]) -> tuple[list[Row], list[Refused]]:
        """Cases without and with categories that the champion has never seen, where the use case refuses those."""
        if self._case.serving.unseen_category != "refuse" or not rows:
            return rows, []
        columns = case_columns(self._case, [row.case for row in rows])
        unseen = self._scoring.unseen(columns)
        seen, refused = [], []
        for number, row in enumerate(rows):
            if not (names := unseen.get(number)):
                seen.append(row)
                continue
            self._counters.add("unseen_categories_refused", len(names))
            message = "this category was not seen in training, and the use case refuses such cases"
            problems = [
                request.problem(row.index, "unseen_category", name, message)
                | {"input": getattr(row.case, name)}
                for name in names
            ]
            refused.append(Refused(row.index, _as_sent(row), problems))
        return seen, refused

    def _answered(self, held: HeldAnswers, fresh: list[_Fresh]) -> Sequence[CarefulAnswer | Exception]:
        """Answers to requests, none of which shares a key with another."""
        try:
            bodies = self._committed(held, fresh)
        except (NoChampion, LogNotDurable) as error:
            return [error] * len(fresh)
        return [
            CarefulAnswer(body, again=not f.rows and bool(f.known))
            for f, body in zip(fresh, bodies, strict=True)
        ]

    def _committed(self, held: HeldAnswers, fresh: list[_Fresh]) -> list[bytes]:
        received_at = self._wall_clock()
        if letters := [_letter(r, received_at) for f in fresh for r in f.refused]:
            self._letters.append(letters)
            self._counters.add("rejected_rows", len(letters))
        rows = [row.case for f in fresh for row in f.rows]
        bodies: list[bytes] = []
        if not rows:
            bodies += self._kept(held, fresh, [], None)
            return bodies
        columns = case_columns(self._case, rows)

        def write(scored: Scored, line: bytes) -> None:
            given = answers.answers(Answered(columns, scored, 0, columns.rows))
            bodies.extend(self._kept(held, fresh, given, line))
            self._log.append_line(line)
            held.keep_promises()
            answers.count(self._counters, given, requests=len(fresh))

        self._scoring.score_columns(columns, self._now(), write=write)
        return bodies

    def _kept(
        self, held: HeldAnswers, fresh: list[_Fresh], given: list[answers.Told], line: bytes | None
    ) -> list[bytes]:
        """The bodies of the requests, promised under their keys; ``given`` are the answers to all their cases."""
        bodies: list[bytes] = []
        promised: dict[str, Kept] = {}
        parts = iter(given)
        for f in fresh:
            told = dict(f.known)
            for row in f.rows:
                told[row.index] = answers.encoded(next(parts))
                if row.key:
                    promised[row.key] = Kept(row.digest, told[row.index])
            bodies.append(_body(f, told))
            if f.request.request_key:
                promised[f.request.request_key] = Kept(f.request.digest, bodies[-1])
            self._counters.add("answers_given_again", len(f.known))
        if promised:
            held.promise(line, promised)
        return bodies


def _body(fresh: _Fresh, given: dict[int, bytes]) -> bytes:
    """The whole answer, of the answers to its cases by their index."""
    if fresh.request.single:
        return given[0]
    indices = sorted(given)
    content: dict[str, Any] = {
        "count": len(given),
        "predictions": [orjson.Fragment(given[i]) for i in indices],
    }
    if fresh.request.skip:
        rejected = [
            {"index": r.index, "problems": len(r.problems)} | told(r.problems[0]) for r in fresh.refused
        ]
        content |= {"indices": indices, "rejected_count": len(rejected), "rejected": rejected}
    return orjson.dumps(content)


def _as_sent(row: Row) -> Any:
    return row.case.model_dump(mode="json", exclude_unset=True)


def _letter(refused: Refused, received_at: datetime) -> dict[str, Any]:
    problems = [told(p) for p in refused.problems]
    reason = "; ".join(f"{'.'.join(map(str, p['loc'][1:]))}: {p['msg']}" for p in problems)
    moment = received_at.isoformat(timespec="milliseconds") + "Z"
    return {"received_at": moment, "index": refused.index, "reason": reason, "case": refused.given}
