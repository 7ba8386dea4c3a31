import matplotlib.pyplot as plt
import numpy as np
import pytest

from vocseg_lib.data.coco_convert import voc_to_coco
from vocseg_lib.data.voc import read_sample, split_ids


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


@pytest.fixture
def sample(devkit):
    return read_sample(devkit, split_ids(devkit, "val")[0])


@pytest.fixture
def predictions(devkit):
    """Ground truth, and per model a random part of it, some with another class."""
    ground_truth, rng = voc_to_coco(devkit, "val"), np.random.default_rng(0)
    results = {"YOLACT": [], "Mask R-CNN": []}
    for detections in results.values():
        for entry in ground_truth["annotations"]:
            if rng.random() < 0.7:
                label = int(rng.choice([entry["category_id"], 5]))
                score = float(rng.uniform(0.4, 1))
                detections.append({**entry, "score": score, "category_id": label})
    return ground_truth, results
