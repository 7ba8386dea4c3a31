import matplotlib.pyplot as plt
import pytest

from vocseg_lib.data.voc import read_sample, split_ids


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


@pytest.fixture
def sample(devkit):
    return read_sample(devkit, split_ids(devkit, "val")[0])
