"""Grouping: what many requests ask for is done together by one thread, so that they share a flush to disk.

What a group is, and how it is made durable, belongs to its user: cases (``group_commit``), cases with keys
(``careful``), labels (``label_intake``). An outcome leaves only when its group is done.
"""

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

Item = TypeVar("Item")
Outcome = TypeVar("Outcome")
_IDLE_S = 1.0


class Grouped(Generic[Item, Outcome]):
    """Hands items over to ``handle`` in groups, from a thread of its own.

    Args:
        name: of the thread.
        handle: returns an outcome for each item of a group, in order; an exception is raised for that item.
        idle: called about once a second while nothing is asked.
        most: weight of a group; an item that is heavier makes a group alone.
        weight: of an item.
    """

    def __init__(
        self,
        name: str,
        handle: Callable[[list[Item]], Sequence[Outcome | Exception]],
        idle: Callable[[], None] = lambda: None,
        most: int = 256,
        weight: Callable[[Item], int] = lambda item: 1,
    ) -> None:
        self._handle, self._idle, self._most, self._weight = handle, idle, most, weight
        self._waiting: deque[tuple[Item, asyncio.Future[Outcome]]] = deque()
        self._wake = threading.Event()
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin to work; futures are resolved on ``loop``."""
        self._loop = loop
        self._thread.start()

    def stop(self) -> None:
        """Do what waits, then end."""
        self._stopped = True
        self._wake.set()
        self._thread.join()

    @property
    def waiting(self) -> int:
        """Items that wait behind the group in work."""
        return len(self._waiting)

    async def done(self, item: Item) -> Outcome:
        """Have an item handled; raises what its outcome is, where that is an exception."""
        future: asyncio.Future[Outcome] = self._loop.create_future()
        self._waiting.append((item, future))
        self._wake.set()
        return await future

    def _run(self) -> None:
        while True:
            if not self._wake.wait(_IDLE_S):
                self._idle()
                continue
            self._wake.clear()
            while group := self._take():
                self._work(group)
            if self._stopped:
                return

    def _take(self) -> "list[tuple[Item, asyncio.Future[Outcome]]]":
        group: list[tuple[Item, asyncio.Future[Outcome]]] = []
        room = self._most
        while self._waiting:
            room -= self._weight(self._waiting[0][0])
            if group and room < 0:
                break
            group.append(self._waiting.popleft())
        return group

    def _work(self, group: "list[tuple[Item, asyncio.Future[Outcome]]]") -> None:
        try:
            outcomes = self._handle([item for item, _ in group])
        except Exception as error:  # noqa: BLE001 - each request is told; the thread must go on
            outcomes = [error] * len(group)
        futures = [future for _, future in group]
        self._loop.call_soon_threadsafe(_resolve, futures, outcomes)


def _resolve(futures: "list[asyncio.Future[Outcome]]", outcomes: Sequence[Outcome | Exception]) -> None:
    for future, outcome in zip(futures, outcomes, strict=True):
        if future.done():  # its client is gone
            continue
        if isinstance(outcome, Exception):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)
