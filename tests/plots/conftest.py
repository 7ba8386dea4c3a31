import shutil

import matplotlib.pyplot as plt
import pytest
from selenium import webdriver

from vocseg_lib.data.voc import read_sample, split_ids


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


@pytest.fixture
def sample(devkit):
    return read_sample(devkit, split_ids(devkit, "val")[0])


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
