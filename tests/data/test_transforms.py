import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision import tv_tensors
from torchvision.transforms import v2

from vocseg_lib.data.transforms import AUGMENTATIONS, MIN_MASK_SIDE, SsdAugmentation
from vocseg_lib.data.voc import VocDataset
from vocseg_lib.utils.boxes import masks_to_boxes


def make_sample(height, width, objects):
    """A random image with rectangles (x, y, w, h)."""
    masks = torch.zeros(len(objects), height, width, dtype=torch.uint8)
    for mask, (x, y, w, h) in zip(masks, objects, strict=True):
        mask[y : y + h, x : x + w] = 1
    boxes, size = masks_to_boxes(masks), (height, width)
    boxes = tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=size)
    target = {"boxes": boxes, "labels": torch.arange(1, len(objects) + 1)}
    target |= {"masks": tv_tensors.Mask(masks), "name": "a"}
    return tv_tensors.Image(torch.randint(0, 256, (3, height, width), dtype=torch.uint8)), target


def check(image, target):
    boxes, masks = target["boxes"], target["masks"]
    assert image.dtype == torch.uint8
    assert masks.shape == (len(boxes), *image.shape[1:])
    assert len(target["labels"]) == len(boxes)
    assert torch.equal(boxes.as_subclass(torch.Tensor), masks_to_boxes(masks))
    assert bool(((boxes[:, 2:] - boxes[:, :2]) >= MIN_MASK_SIDE).all())


corner, side = st.integers(0, 40), st.integers(1, 40)
rectangles = st.lists(st.tuples(corner, corner, side, side), max_size=4)
sizes, names = st.integers(1, 60), st.sampled_from(sorted(AUGMENTATIONS))


@settings(deadline=None, max_examples=60)
@given(sizes, sizes, rectangles, names, st.integers(0, 2**31))
def test_masks_boxes_and_labels_stay_together(height, width, objects, name, seed):
    torch.manual_seed(seed)
    check(*AUGMENTATIONS[name]()(*make_sample(height, width, objects)))


def test_labels_follow_their_masks():
    """Objects of different aspect keep it wherever they are whole."""
    image, target = make_sample(60, 80, [(5, 5, 20, 10), (50, 30, 10, 20)])
    counts = set()
    for seed in range(60):
        torch.manual_seed(seed)
        _, augmented = SsdAugmentation()(image, target)
        counts.add(len(augmented["labels"]))
        whole = augmented["masks"].sum((1, 2)) == 200
        sides = (augmented["boxes"][:, 2:] - augmented["boxes"][:, :2])[whole]
        expected = [[20, 10] if label == 1 else [10, 20] for label in augmented["labels"][whole]]
        assert sides.tolist() == expected
    assert counts >= {1, 2}


def test_objects_with_their_center_cropped_away_are_dropped(monkeypatch):
    """Though a part of their mask is still visible, as in SSD; and those of two pixels' height."""
    image, target = make_sample(40, 60, [(5, 5, 20, 20), (25, 5, 30, 20), (2, 30, 22, 2)])
    augment = SsdAugmentation()
    crop = {"top": 0, "left": 0, "height": 40, "width": 35}
    crop["is_within_crop_area"] = torch.tensor([True, False, True])
    monkeypatch.setattr(augment.crop, "make_params", lambda _: crop)
    augment.distort = augment.zoom_out = v2.Identity()
    target["boxes"][2] = torch.tensor([2, 20, 24, 32])  # the mask decides, not the box
    cropped, augmented = augment(image, target)
    assert cropped.shape == (3, 40, 35)
    assert augmented["labels"].tolist() == [1]
    assert augmented["masks"].sum() == 400


def test_zoom_out_surrounds_with_the_mean_color():
    image, target = make_sample(30, 40, [(5, 5, 20, 20)])
    augment = SsdAugmentation()
    augment.distort = augment.crop = v2.Identity()
    augment.zoom_out.p = 1.0
    torch.manual_seed(1)
    zoomed, augmented = augment(image, target)
    assert augmented["masks"].sum() == 400
    colors = zoomed.flatten(1).T.unique(dim=0, return_counts=True)
    assert colors[0][colors[1].argmax()].tolist() == [124, 116, 104]


@pytest.mark.parametrize("name", ["light", "none"])
def test_only_ssd_changes_the_geometry_and_nothing_permutes_channels(name):
    image, target = make_sample(30, 40, [(2, 2, 20, 20), (2, 25, MIN_MASK_SIDE - 1, 4)])
    image[0], image[1], image[2] = 200, 100, 20
    for seed in range(40):
        torch.manual_seed(seed)
        changed, augmented = AUGMENTATIONS[name]()(image, target)
        means = changed.float().mean((1, 2))
        assert means[0] > means[1] > means[2]
        assert changed.shape == image.shape
        assert augmented["masks"].sum((1, 2)).tolist() == [400]


def test_real_images_can_be_augmented(real_devkit):
    dataset = VocDataset(real_devkit, "val", SsdAugmentation())
    for index in range(0, 135, 9):
        torch.manual_seed(index)
        check(*dataset[index])
