"""What makes a file's name durable, for the stores that promise it."""

import os
from pathlib import Path


def sync_folder(folder: Path) -> None:
    """Flush a folder to disk: a file made or renamed in it is found again after a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
