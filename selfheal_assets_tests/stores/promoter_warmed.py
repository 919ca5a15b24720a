"""Imported by the server that forks promoters: whatever MLflow imports when a registry is first asked is there."""

import tempfile
from pathlib import Path

from selfheal_assets.stores.model_registry import ModelRegistry
from selfheal_assets_tests.serving.conftest import settings_in
from selfheal_assets_tests.stores import promoter

assert promoter.POINTS
with tempfile.TemporaryDirectory() as folder:  # SQLite starts no threads, which would not survive a fork
    _registry = ModelRegistry(settings_in(Path(folder)))
    _registry.experiment()
    _registry.champion()
