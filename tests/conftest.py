"""Data that many tests share."""

import os
from pathlib import Path

import matplotlib
import pytest

from vocseg_lib.data import synthetic
from vocseg_lib.data.voc import find_devkit

matplotlib.use("Agg")
SHARED = Path(os.environ.get("VOCSEG_SHARED", Path(__file__).parents[2] / "shared"))


@pytest.fixture(scope="session")
def devkit(tmp_path_factory) -> Path:
    """A drawn devkit of 12 + 6 images; tests must not change it."""
    return synthetic.write(tmp_path_factory.mktemp("mini"), train=12, val=6, seed=1)


@pytest.fixture
def damageable(tmp_path) -> Path:
    """A drawn devkit of the test's own."""
    return synthetic.write(tmp_path, train=14, val=3, seed=2)


@pytest.fixture(scope="session")
def real_devkit() -> Path:
    """Real VOC images; skips when they are not there."""
    folder = SHARED / "voc2012"
    if not folder.is_dir():
        pytest.skip(f"no real VOC images at {folder}; set VOCSEG_SHARED")
    return find_devkit(folder)


@pytest.fixture(scope="session")
def some_devkit(devkit) -> Path:
    """Real VOC images where there are some, else drawn ones."""
    folder = SHARED / "voc2012"
    return find_devkit(folder) if folder.is_dir() else devkit


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder of reference numbers and predictions; skips when it is not there."""
    if not SHARED.is_dir():
        pytest.skip(f"no reference data at {SHARED}; set VOCSEG_SHARED")
    return SHARED
