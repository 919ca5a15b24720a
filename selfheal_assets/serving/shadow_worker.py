"""The process in which a shadow scores: ``python -m selfheal_assets.serving.shadow_worker``, started by ``shadow``.

It is told over its standard input, a socket, who scores and what was answered, writes its own segments of the
prediction log, and says how many rows it scored. Whatever it does, it can keep no answer waiting; when its parent
goes, it goes.

A message is its length (4 bytes, big-endian) and its contents. The parent sends a header (JSON: ``folder``,
``version``, ``role``), the two files of the bundle, then batches: lines of the champion's log, joined by line breaks.
"""

import logging
import os
import select
import signal
import socket
import struct
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from selfheal_assets.core.bundle import BOOSTER_FILE, SPEC_FILE, Bundle
from selfheal_assets.core.encoding import ColumnEncoder
from selfheal_assets.stores.prediction_log import Role, Scorer, rescored
from selfheal_assets.stores.segment_writer import Durability, SegmentWriter

BUNDLE_FILES = (BOOSTER_FILE, SPEC_FILE)
_LENGTH = struct.Struct(">I")
_IDLE_S, _ORPHAN_GRACE_S = 1.0, 5.0
logger = logging.getLogger(__name__)


def send_message(to: socket.socket, content: bytes) -> None:
    """Send one message whole; the socket's timeout is for all of it."""
    to.sendall(_LENGTH.pack(len(content)) + content)


def receive_message(source: socket.socket) -> bytes:
    """The next message.

    Raises:
        EOFError: the other side is gone.
    """
    (length,) = _LENGTH.unpack(_exactly(source, _LENGTH.size))
    return _exactly(source, length)


def _exactly(source: socket.socket, size: int) -> bytes:
    content = bytearray()
    while len(content) < size:
        part = source.recv(min(size - len(content), 1 << 20))
        if not part:
            raise EOFError("the other side is gone")
        content += part
    return bytes(content)


class ShadowScorer:
    """Scores logged groups again, and logs them in its role.

    Args:
        bundle: the shadow.
        scorer: how it is named in the log.
        segments: its own. They promise no power cut to be survived: no answer hangs on them, and a flush would
            compete with the champion's.
    """

    def __init__(self, bundle: Bundle, scorer: Scorer, segments: SegmentWriter) -> None:
        self._bundle, self._scorer, self._segments = bundle, scorer, segments
        self._encoder = ColumnEncoder(bundle.features, bundle.vocabulary)

    def score(self, lines: Sequence[bytes]) -> int:
        """Score and log the groups of some lines of the champion's; returns how many rows."""
        groups: list[dict[str, Any]] = [orjson.loads(line) for line in lines]
        columns = {f.name: [v for g in groups for v in g["features"][f.name]] for f in self._bundle.features}
        probability = self._bundle.score_matrix(self._encoder(columns))
        ends = np.cumsum([len(g["entity_id"]) for g in groups])
        for group, part in zip(groups, np.split(probability, ends[:-1]), strict=True):
            self._segments.append(rescored(group, part, self._scorer))
        return int(ends[-1])


def run(parent: socket.socket) -> None:
    """Score what the parent sends until it closes the socket."""
    header = orjson.loads(receive_message(parent))
    bundle = Bundle.from_files({name: receive_message(parent) for name in BUNDLE_FILES})
    segments = SegmentWriter(Path(header["folder"]), Durability.os)
    scorer = Scorer(header["version"], bundle.fingerprint, bundle.threshold, Role(header["role"]))
    shadow = ShadowScorer(bundle, scorer, segments)
    send_message(parent, orjson.dumps({"ready": header["version"]}))
    try:
        while True:
            while not select.select([parent], [], [], _IDLE_S)[0]:
                segments.tend()
            lines = receive_message(parent).split(b"\n")
            send_message(parent, orjson.dumps(_scored(shadow, lines)))
    except (EOFError, ConnectionError):
        pass  # told to end, or left alone
    finally:
        segments.close()


def _scored(shadow: ShadowScorer, lines: Sequence[bytes]) -> dict[str, Any]:
    try:
        return {"scored": shadow.score(lines)}
    except Exception as error:
        logger.exception("a shadow cannot score")
        return {"failed": f"{type(error).__name__}: {error}"}


def _end_with(parent: int) -> None:
    """End this process some seconds after its parent, even if it hangs."""
    while os.getppid() == parent:
        time.sleep(_IDLE_S)
    time.sleep(_ORPHAN_GRACE_S)
    os._exit(1)


def main() -> None:
    """Score for the process that started this one."""
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # Ctrl-C reaches the whole group; the parent says when to end
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s shadow: %(message)s")
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    with suppress(EOFError), socket.socket(fileno=0) as parent:
        run(parent)


if __name__ == "__main__":
    main()
