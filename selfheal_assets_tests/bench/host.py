"""Starts services for ``crash_log`` quickly: imports everything once, then forks a service whenever told to.

A line ``PORT`` on stdin starts one on that port; its process id is the answer on stdout. The parent has neither
threads nor an event loop, nor any open store, so a child is as good as a process started from scratch.
"""

import os
import signal
import sys

from selfheal_assets.settings import Settings, prepare_environment

prepare_environment()


def _import_all() -> None:
    import mlflow.artifacts
    import mlflow.pyfunc
    import mlflow.store.artifact.local_artifact_repo
    import mlflow.store.tracking.sqlalchemy_store  # noqa: F401
    import uvicorn.protocols.http.httptools_impl  # noqa: F401
    import xgboost  # noqa: F401

    import selfheal_assets.serving.run  # noqa: F401


def main() -> None:
    """Fork a service for each line of stdin, until it ends."""
    _import_all()
    settings = Settings()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # who is killed is reaped by the kernel
    for line in sys.stdin:
        port = int(line)
        child = os.fork()
        if child == 0:
            _serve(settings, port)
        print(child, flush=True)


def _serve(settings: Settings, port: int) -> None:
    from selfheal_assets.serving.run import serve

    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    try:
        serve(settings, port=port)
    finally:
        os._exit(1)


if __name__ == "__main__":
    main()
