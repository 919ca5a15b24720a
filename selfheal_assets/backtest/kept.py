"""What a backtest keeps in its folder, so that one that was interrupted goes on: values by name, as JSON files."""

import json
import os
from base64 import b64decode, b64encode
from importlib.metadata import version
from pathlib import Path
from typing import Any

from selfheal_assets.core import fingerprint
from selfheal_assets.core.bundle import Bundle


def code_fingerprint() -> str:
    """Names the code that computes: what another version kept is not this one's."""
    package = Path(__file__).resolve().parent.parent
    folders = [package / name for name in ("core", "stores", "backtest")]
    sources = sorted(path for folder in folders for path in folder.rglob("*.py"))
    return fingerprint.of_bytes(version("xgboost").encode(), *(path.read_bytes() for path in sources))


class Kept:
    """Values by kind and name, in memory and, where there is a folder, in files.

    A file is written beside its place and renamed: what is there is whole.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
        self._values: dict[tuple[str, str], Any] = {}

    def get(self, kind: str, name: str) -> Any | None:
        """The value of that name, or ``None``."""
        if (kind, name) not in self._values and self.folder:
            path = self.folder / kind / f"{name}.json"
            if path.exists():
                self._values[kind, name] = json.loads(path.read_text(encoding="utf-8"))
        return self._values.get((kind, name))

    def put(self, kind: str, name: str, value: Any) -> None:
        """Keep a value that JSON can hold."""
        self._values[kind, name] = value
        if self.folder:
            path = self.folder / kind / f"{name}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            hidden = path.with_name(f".{path.name}.{os.getpid()}")
            hidden.write_text(json.dumps(value), encoding="utf-8")
            os.replace(hidden, path)


def bundle_to_json(bundle: Bundle) -> dict[str, str]:
    """A bundle's files as text."""
    return {name: b64encode(content).decode() for name, content in bundle.to_files().items()}


def bundle_from_json(saved: dict[str, str]) -> Bundle:
    """The inverse of :func:`bundle_to_json`."""
    return Bundle.from_files({name: b64decode(content) for name, content in saved.items()})
