"""Fast and Faster R-CNN and DeepLabV3: two images learned by gradient; components by hand."""

import pytest
import torch

from tests.helpers.trainings import short_config
from vocseg_lib.data.transforms import model_input
from vocseg_lib.engine.train import train
from vocseg_lib.models.config import MaskRCNNConfig
from vocseg_lib.models.lineage.box_masks import MasksFromBoxes
from vocseg_lib.models.lineage.proposals import SelectiveSearch
from vocseg_lib.models.lineage.semantic import DeepLabV3Components, semantic_map
from vocseg_lib.models.lineage.two_stage import FasterRCNN, FastRCNN
from vocseg_lib.models.mask_rcnn import MaskRCNN

CONFIG = {"backbone": "tiny", "init": None, "channels": 64, "short_side": 144}
CONFIG |= {"proposals": 128, "rois_per_image": 32}
ADAMW = {"optimizer": "adamw", "weight_decay": 0.0, "iterations": 60, "schedule": "cosine"}
ADAMW |= {"warmup_iterations": 10, "max_grad_norm": 20.0}


@pytest.mark.parametrize("name", ["fast", "faster", "pool", "round", "semantic"])
def test_two_images_are_learned_by_gradient(name, two, box_ap50, tmp_path):
    torch.manual_seed(0)
    config, search = MaskRCNNConfig(**CONFIG), SelectiveSearch(cache=tmp_path / "cache")
    model = {
        "fast": lambda: MasksFromBoxes(FastRCNN(search, config)),
        "faster": lambda: MasksFromBoxes(FasterRCNN(config)),
        "semantic": lambda: DeepLabV3Components(21, "tiny", None, 192),
    }.get(name, lambda: MaskRCNN(MaskRCNNConfig(**CONFIG, roi_pooling=name)))()
    train(model, two, tmp_path / "run", short_config(**ADAMW))
    if name != "semantic":
        assert box_ap50(model) > 70
        return
    for image, target in two:
        (components,) = model.eval()([model_input(image)])
        classes, expected = semantic_map(components), semantic_map(target)
        correct, on_objects = classes == expected, expected > 0
        assert correct[on_objects].float().mean() > 0.7
        assert correct[~on_objects].float().mean() > 0.9


def test_a_batch_without_objects_and_proposals_has_finite_losses():
    labels = torch.zeros(0, dtype=torch.int64)
    target = {"boxes": torch.zeros(0, 4), "labels": labels, "masks": torch.zeros(0, 6, 6)}
    model = FastRCNN(SelectiveSearch(), MaskRCNNConfig(**CONFIG)).train()
    losses = model([torch.zeros(3, 6, 6)], [target])
    assert all(torch.isfinite(loss) for loss in losses.values())
    assert model.config.roi_pooling == "pool"


def test_touching_objects_of_a_class_are_one_component():
    """Apart, or of another class, they are their own; very small ones are left out."""
    model, logits = DeepLabV3Components(21, "tiny", None, 32).eval(), torch.zeros(1, 21, 40, 60)
    logits[0, 0] = 1
    logits[0, 5, 5:15, 5:25] = 9  # two of 10 x 10 side by side
    logits[0, 5, 25:35, 5:15] = 9
    logits[0, 7, 25:35, 15:25] = 9
    logits[0, 9, 0, 50:55] = 9
    (components,) = model.postprocess((logits, [(40, 60)]))
    labeled = torch.cat([components["labels"][:, None], components["boxes"]], 1).tolist()
    expected = {(5, 5, 5, 25, 15), (5, 5, 25, 15, 35), (7, 15, 25, 25, 35)}
    assert {tuple(row) for row in labeled} == expected
    assert (components["scores"].diff() <= 0).all()
    (empty,) = model.postprocess((torch.zeros(1, 21, 40, 60), [(40, 60)]))
    assert empty["masks"].shape == (0, 40, 60)
