"""Data that many tests share."""

import json
import os
import shutil
from pathlib import Path

import matplotlib
import pytest
import torch
from selenium import webdriver

from tests.helpers.devkits import write_as_coco, write_other_classes
from vocseg_lib.data import synthetic
from vocseg_lib.data.voc import find_devkit

matplotlib.use("Agg")
SHARED = Path(os.environ.get("VOCSEG_SHARED", Path(__file__).parents[2] / "shared"))


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("cuda") and not torch.cuda.is_available():
        pytest.skip("needs a CUDA GPU")


@pytest.fixture(scope="session")
def devkit(tmp_path_factory) -> Path:
    """A synthetic devkit of 12 + 6 images; tests must not change it."""
    return synthetic.write(tmp_path_factory.mktemp("mini"), train=12, val=6, seed=1)


@pytest.fixture
def damageable(tmp_path) -> Path:
    """A synthetic devkit for one test, which may change it."""
    return synthetic.write(tmp_path, train=14, val=3, seed=2)


@pytest.fixture(scope="session")
def other_classes(tmp_path_factory) -> Path:
    """A synthetic devkit of 12 + 6 images with `OTHER_CLASSES`; tests must not change it."""
    return write_other_classes(tmp_path_factory.mktemp("other"))


@pytest.fixture(scope="session")
def other_classes_coco(other_classes, tmp_path_factory) -> Path:
    """The same as COCO annotations, with their images."""
    return write_as_coco(other_classes, tmp_path_factory.mktemp("coco"))


def shared_folder(name: str = "") -> Path:
    if not (SHARED / name).is_dir():
        pytest.skip(f"{SHARED / name} is missing; set VOCSEG_SHARED")
    return SHARED / name


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder of reference numbers and predictions; skips when it is missing."""
    return shared_folder()


@pytest.fixture(scope="session")
def real_devkit() -> Path:
    """Real VOC images; skips when they are missing."""
    return find_devkit(shared_folder("voc2012"))


@pytest.fixture(scope="session")
def some_devkit(devkit) -> Path:
    """Real VOC images if present, else synthetic ones."""
    return find_devkit(SHARED / "voc2012") if (SHARED / "voc2012").is_dir() else devkit


@pytest.fixture(scope="session")
def real_predictions(shared) -> tuple[dict, dict[str, list[dict]]]:
    """Ground truth, and detections by title, of trained models on VOC 2012 val."""
    folder = shared / "predictions"
    models = {"mask_rcnn": "mask_rcnn_torchvision", "yolact": "yolact_official"}
    models = {title: folder / f"{name}_mobilenet320.json" for title, name in models.items()}
    content = json.loads((folder / "voc2012_val_gt.json").read_text())
    return content, {title: json.loads(path.read_text()) for title, path in models.items()}


@pytest.fixture
def browser():
    """Headless Chromium; skips where it is not installed."""
    chromium, driver = (shutil.which(name) for name in ("chromium", "chromedriver"))
    if not chromium or not driver:
        pytest.skip("needs chromium and chromedriver (Debian: chromium chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in "headless=new no-sandbox disable-gpu disable-background-networking".split():
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(driver))
    yield driver
    driver.quit()
