"""Fixtures of the cases."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import shared_folder


@pytest.fixture
def case(tmp_path) -> Callable[[str], Path]:
    """A fresh copy of a folder of `shared/cases`, by name; skips when it is missing."""

    def copy(name: str) -> Path:
        return shutil.copytree(shared_folder(f"cases/{name}"), tmp_path / name)

    return copy
