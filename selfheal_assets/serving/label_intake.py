"""Labels in: what clients tell of outcomes, landed durably, many requests at a time."""

import asyncio
from typing import Any

from selfheal_assets.serving.grouping import Grouped
from selfheal_assets.serving.scoring import LogNotDurable
from selfheal_assets.stores.label_log import LabelLog

Rows = list[dict[str, Any]]


class LabelIntake:
    """Lands labels in groups that share one flush to disk.

    Args:
        log: where they land.
    """

    def __init__(self, log: LabelLog) -> None:
        self._log = log
        self._group: Grouped[Rows, None] = Grouped("labels", self._land, idle=log.tend)

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin to take labels, for requests of ``loop``."""
        self._group.start(loop)

    def stop(self) -> None:
        """Land what waits, then hand the log over."""
        self._group.stop()
        self._log.close()

    async def land(self, rows: Rows) -> None:
        """Land the labels of one request; they are durable when this returns.

        Raises:
            LogNotDurable: they cannot be written; nothing was.
        """
        await self._group.done(rows)

    def _land(self, requests: list[Rows]) -> list[None]:
        try:
            self._log.append([row for rows in requests for row in rows])
        except OSError as error:
            raise LogNotDurable(
                f"the labels in {self._log.folder} cannot be written ({error.strerror or error}): free space, or "
                "mend the folder's rights; nothing was taken"
            ) from error
        return [None] * len(requests)
