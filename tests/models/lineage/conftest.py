"""Two images to learn, and what was learned of them."""

import pytest
from torch.utils.data import Subset

from vocseg_lib.data.coco_convert import voc_to_coco
from vocseg_lib.data.coco_validation import subset
from vocseg_lib.data.transforms import model_input
from vocseg_lib.data.voc import VocDataset
from vocseg_lib.engine.predict import predict
from vocseg_lib.metrics.coco_eval import evaluate


@pytest.fixture(scope="session")
def two(devkit) -> Subset:
    """Two images with three objects each, of 1.7 to 9.4 percent of the image."""
    return Subset(VocDataset(devkit, "train"), [4, 5])


@pytest.fixture
def image(two):
    return model_input(two[0][0])


@pytest.fixture(scope="session")
def box_ap50(devkit, two):
    """Box AP50 of a model on the two images."""
    ground_truth = subset(voc_to_coco(devkit, "train"), {5, 6})
    return lambda model: evaluate(ground_truth, predict(model, two)["detections"]).summary[
        "box_AP50"
    ]
