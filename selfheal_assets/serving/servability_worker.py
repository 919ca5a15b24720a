"""The process that serves a bundle on trial: ``python -m selfheal_assets.serving.servability_worker``.

For each line on its standard input, the path of a request (JSON: ``settings``, ``version``, ``columns``), it writes
one line of JSON: ``probability`` of each row, ``latency_ms`` (the median of rows scored one at a time) and the
bundle's ``fingerprint``, or ``error``. It ends with its input, and so with who started it.
"""

import logging
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from selfheal_assets.settings import Settings, prepare_environment

SINGLE_ROWS = 21
logger = logging.getLogger(__name__)


def _served(request: dict[str, Any]) -> dict[str, Any]:
    """Load the version anew and score, by the service's own code."""
    from selfheal_assets.serving.models import Model, made_ready
    from selfheal_assets.stores.model_registry import ModelRegistry

    settings = Settings(**request["settings"])
    version, columns = request["version"], request["columns"]
    model = made_ready(Model(version, ModelRegistry(settings).fetch(version)), settings.case)
    probability = model.bundle.score_matrix(model.encoder(columns))
    single, took = {name: values[:1] for name, values in columns.items()}, []
    for _ in range(SINGLE_ROWS):
        started = time.perf_counter()
        model.bundle.score_matrix(model.encoder(single))
        took.append(1000 * (time.perf_counter() - started))
    return {
        "probability": probability.tolist(),
        "latency_ms": float(np.median(took)),
        "fingerprint": model.bundle.fingerprint,
    }


def _answer(path: bytes) -> bytes:
    try:
        return orjson.dumps(_served(orjson.loads(Path(os.fsdecode(path)).read_bytes())))
    except Exception as error:  # whatever a bundle does is the trial's answer
        logger.exception("a bundle does not serve")
        return orjson.dumps({"error": f"{type(error).__name__}: {error}"})


def main() -> None:
    """Answer until the standard input ends, as it does when who started this is gone."""
    prepare_environment()
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # nothing that a library prints may be taken for an answer
    import xgboost  # noqa: F401
    from mlflow import MlflowClient  # noqa: F401

    for line in sys.stdin.buffer:
        answers.write(_answer(line.rstrip(b"\n")) + b"\n")
        answers.flush()


if __name__ == "__main__":
    main()
