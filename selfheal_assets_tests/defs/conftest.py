"""Environment of the assets' tests, and the toy's use case."""

from pathlib import Path

import pytest

from selfheal_assets.settings import prepare_environment
from selfheal_assets_tests import toy

prepare_environment()


@pytest.fixture(scope="session")
def toy_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the toy's use case and source lie."""
    folder = tmp_path_factory.mktemp("toy")
    toy.make(folder)
    return folder
