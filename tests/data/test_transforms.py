import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from vocseg_lib.data.transforms import (
    AUGMENTATIONS,
    SMALLEST_SIDE,
    SsdAugmentation,
    draw_crop,
    draw_window,
)
from vocseg_lib.data.voc import VocDataset
from vocseg_lib.utils.boxes import masks_to_boxes


def sample(height, width, objects):
    masks = torch.zeros(len(objects), height, width, dtype=torch.uint8)
    for mask, (x, y, w, h) in zip(masks, objects, strict=True):
        mask[y : y + h, x : x + w] = 1
    target = {
        "boxes": tv_tensors.BoundingBoxes(
            masks_to_boxes(masks), format="XYXY", canvas_size=(height, width)
        ),
        "labels": torch.arange(1, len(objects) + 1),
        "masks": tv_tensors.Mask(masks),
        "name": "a",
    }
    return tv_tensors.Image(torch.randint(0, 256, (3, height, width), dtype=torch.uint8)), target


def check(image, target):
    boxes, masks = target["boxes"], target["masks"]
    assert image.dtype == torch.uint8
    assert masks.shape == (len(boxes), *image.shape[1:])
    assert len(target["labels"]) == len(boxes)
    assert torch.equal(boxes.as_subclass(torch.Tensor), masks_to_boxes(masks))
    assert bool(((boxes[:, 2:] - boxes[:, :2]) >= SMALLEST_SIDE).all())
    assert bool((boxes[:, 2:] <= torch.tensor([image.shape[2], image.shape[1]])).all())


rectangles = st.lists(
    st.tuples(st.integers(0, 40), st.integers(0, 40), st.integers(1, 40), st.integers(1, 40)),
    max_size=4,
)


@settings(deadline=None, max_examples=60)
@given(
    st.integers(1, 60),
    st.integers(1, 60),
    rectangles,
    st.sampled_from(sorted(AUGMENTATIONS)),
    st.integers(0, 2**31),
)
def test_masks_boxes_and_labels_stay_together(height, width, objects, name, seed):
    torch.manual_seed(seed)
    check(*AUGMENTATIONS[name]()(*sample(height, width, objects)))


def test_labels_follow_their_masks():
    image, target = sample(60, 80, [(5, 5, 20, 20), (50, 30, 20, 25)])
    augment = SsdAugmentation()
    seen = set()
    for seed in range(60):
        torch.manual_seed(seed)
        _, drawn = augment(image, target)
        seen |= {len(drawn["labels"])}
        for label, box in zip(drawn["labels"], drawn["boxes"], strict=True):
            if (
                label == 1 and len(drawn["labels"]) == 2
            ):  # zoom and crop keep the left-right order but for the mirror
                widths = drawn["boxes"][:, 2] - drawn["boxes"][:, 0]
                assert float(box[2] - box[0]) == float(widths[0])
    assert seen >= {1, 2}


def test_an_object_is_dropped_by_its_mask_not_its_box():
    image, target = sample(40, 40, [(2, 2, 30, 30), (5, 5, 10, 10)])
    target["masks"][1] = 0
    target["masks"][1, 8:10, 8:30] = 1  # two pixels high
    _, kept = AUGMENTATIONS["none"]()(image, target)
    assert kept["labels"].tolist() == [1]


def test_light_never_changes_geometry_but_for_the_mirror(devkit):
    image, target = VocDataset(devkit, "val")[0]
    _, drawn = AUGMENTATIONS["light"]()(image, target)
    assert int(drawn["masks"].sum()) == sum(
        int(m.sum()) for m in target["masks"] if min(span(m)) >= SMALLEST_SIDE
    )


def span(mask):
    x1, y1, x2, y2 = masks_to_boxes(mask[None])[0].tolist()
    return x2 - x1, y2 - y1


def test_colours_are_never_permuted():
    image, target = sample(30, 30, [(2, 2, 20, 20)])
    image[0], image[1], image[2] = 200, 100, 20
    augment = AUGMENTATIONS["light"]()
    for seed in range(40):
        torch.manual_seed(seed)
        means = augment(image, target)[0].float().mean((1, 2))
        assert means[0] > means[1] > means[2]


def test_real_images_survive_many_draws(real_devkit):
    dataset = VocDataset(real_devkit, "val", SsdAugmentation())
    for index in range(0, 135, 9):
        torch.manual_seed(index)
        check(*dataset[index])


def test_one_cut_is_zoom_out_then_crop_then_mirror(monkeypatch):
    """The pixels are those of the steps one after another, with colours left alone."""
    image, target = sample(40, 60, [(5, 5, 20, 20), (30, 10, 25, 25)])
    augment = SsdAugmentation()
    monkeypatch.setattr(augment, "distort", torch.nn.Identity())
    cut_off = 0
    for seed in range(80):
        torch.manual_seed(seed)
        (left, top, right, bottom), kept = draw_window(
            target["boxes"].as_subclass(torch.Tensor), 40, 60
        )
        mirrored = bool(torch.rand(()) < 0.5)
        torch.manual_seed(seed)
        ours, drawn = augment(image, target)
        around = [max(-left, 0), max(-top, 0), max(right - 60, 0), max(bottom - 40, 0)]
        window = (top + around[1], left + around[0], bottom - top, right - left)
        fill = {tv_tensors.Image: (124, 116, 104), tv_tensors.Mask: 0}
        padded = v2.Pad(around, fill=fill)(image, tv_tensors.Mask(target["masks"][kept]))
        theirs, masks = (F.crop(x, *window) for x in padded)
        if mirrored:
            theirs, masks = F.hflip(theirs), F.hflip(masks)
        assert torch.equal(ours, theirs)
        sizes = (masks_to_boxes(masks)[:, 2:] - masks_to_boxes(masks)[:, :2]).amin(1)
        assert torch.equal(drawn["masks"], masks[sizes >= SMALLEST_SIDE])
        cut_off += len(kept) - int(kept.sum())
    assert cut_off > 5


def test_crops_are_drawn_as_torchvisions():
    boxes = tv_tensors.BoundingBoxes(
        torch.tensor([[20.0, 20, 60, 80], [70, 10, 110, 40]]), format="XYXY", canvas_size=(100, 120)
    )
    theirs, ours = v2.RandomIoUCrop(), []
    torch.manual_seed(0)
    drawn = [theirs.make_params([boxes]) for _ in range(1000)]
    expected = [
        (p["left"], p["top"], p["width"], p["height"], *p["is_within_crop_area"].tolist())
        for p in drawn
        if p
    ]
    for _ in range(1000):
        x1, y1, x2, y2, kept = draw_crop(boxes.as_subclass(torch.Tensor), 100, 120)
        if (x1, y1, x2, y2) != (0, 0, 120, 100):
            ours.append((x1, y1, x2 - x1, y2 - y1, *kept.tolist()))
    assert abs(len(ours) - len(expected)) < 60  # standard deviation 16
    a, b = torch.tensor(ours).float(), torch.tensor(expected).float()
    error = (a.var(0) / len(a) + b.var(0) / len(b)).sqrt()
    assert ((a.mean(0) - b.mean(0)).abs() < 5 * error).all()
    assert ((a[:, :4].std(0) / b[:, :4].std(0) - 1).abs() < 0.15).all()
