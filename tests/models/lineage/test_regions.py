"""Features of regions, and two images learned region by region."""

import numpy as np
import pytest
import torch
from torch.utils.data import Subset

from vocseg_lib.data.voc import VocDataset
from vocseg_lib.models.lineage.box_masks import MasksFromBoxes
from vocseg_lib.models.lineage.features import RCNNFeatures, hand_crafted_features
from vocseg_lib.models.lineage.proposals import SelectiveSearch, to_uint8_hwc
from vocseg_lib.models.lineage.regions import CLASSIFIERS, RegionDetector


def detector(classifier="linear SVM", features=hand_crafted_features, regress=False):
    return RegionDetector(SelectiveSearch(), features, CLASSIFIERS[classifier](0), 21, regress)


def test_histograms_of_regions_by_hand():
    """Left half black, right half white: a region over both has as much of each."""
    pixels = np.zeros((40, 40, 3), np.uint8)
    pixels[:, 20:] = 255
    features = hand_crafted_features(pixels, np.float32([[0, 0, 20, 40], [10, 0, 30, 40]]))
    assert features.shape == (2, 900 + 3 * 8 + 10)
    lightness = features[:, 900:908]
    assert np.count_nonzero(lightness[0]) == 1
    assert lightness[1, 0] == lightness[1, 7] > 0


@pytest.mark.parametrize("classifier", CLASSIFIERS)
def test_two_images_are_learned_region_by_region(classifier, two, box_ap50):
    model = detector(classifier)
    counts = model.fit(two)
    assert counts["images_without_proposals"] == 0
    labels = {int(label) for _, target in two for label in target["labels"]}
    assert counts["classes_without_objects"] == sorted({*range(1, 21)} - labels)
    assert box_ap50(MasksFromBoxes(model)) > 70


def test_two_images_are_learned_by_rcnn(two, image, box_ap50):
    torch.manual_seed(0)
    features = RCNNFeatures("tiny", None, 64)
    region = to_uint8_hwc(image), np.float32([[0, 0, 60, 60]])
    before = features(*region)
    features.fine_tune(two, SelectiveSearch(), 21, 30, 1e-3)
    assert not np.allclose(features(*region), before)
    model = detector(features=features, regress=True)
    model.fit(two)
    assert sum(p.numel() for p in model.parameters()) > 100_000
    assert box_ap50(MasksFromBoxes(model)) > 70


def blank(size, objects):
    """One black image, with objects or without."""
    boxes, labels = torch.tensor([[1.0, 1, 5, 5]] * objects), torch.ones(objects).long()
    target = {"boxes": boxes.reshape(-1, 4), "labels": labels}
    return [(torch.zeros(3, size, size, dtype=torch.uint8), target)]


def test_images_without_objects_or_background(two):
    model = detector()
    for samples, lacking in ((blank(40, 0), "object"), (blank(6, 1), "background")):
        with pytest.raises(ValueError, match=lacking):
            model.fit(Subset(samples, [0]))
    counts = model.fit(Subset([*two, *blank(6, 1), *blank(6, 0), *blank(40, 0)], range(5)))
    assert counts["images_without_proposals"] >= 2
    (detections,) = MasksFromBoxes(model).eval()([torch.zeros(3, 6, 6)])
    assert detections["masks"].shape == (0, 6, 6)


def test_unreadable_images_are_counted(damageable):
    images = VocDataset(damageable, "train", skip_bad=True)
    (images.devkit / "JPEGImages" / f"{images.names[3]}.jpg").write_bytes(b"no picture")
    assert detector().fit(images)["bad_samples"] == 1
