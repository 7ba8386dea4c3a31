"""The steps before the two models: each part by hand or against itself, each row on two images that it has to learn."""

import re
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from torch.utils.data import Subset

from vocseg_lib.data.classes import CLASS_NAMES
from vocseg_lib.data.coco import subset
from vocseg_lib.data.coco_convert import voc_to_coco
from vocseg_lib.data.transforms import model_input
from vocseg_lib.data.voc import VocDataset
from vocseg_lib.engine.predict import predict
from vocseg_lib.engine.train import train
from vocseg_lib.metrics.coco_eval import evaluate
from vocseg_lib.models.lineage.box_masks import MasksFromBoxes, box_masks, grabcut
from vocseg_lib.models.lineage.features import HandCraftedFeatures, RCNNFeatures
from vocseg_lib.models.lineage.proposals import (
    DiskCache,
    SelectiveSearch,
    average_recall,
    cache_disabled,
    proposal_recall,
    rpn_proposals,
    scored_priors,
    to_uint8_hwc,
)
from vocseg_lib.models.lineage.regions import CLASSIFIERS, RegionDetector
from vocseg_lib.models.lineage.semantic import DeepLabV3Components, semantic_map
from vocseg_lib.models.lineage.two_stage import FasterRCNN, FastRCNN
from vocseg_lib.models.mask_rcnn import MaskRCNN
from vocseg_lib.models.roi_pooling import POOLING
from vocseg_lib.models.yolact import Yolact
from vocseg_lib.plots import lineage
from vocseg_lib.study.lineage import COLUMNS, Lineage
from vocseg_lib.study.open import open_study
from vocseg_lib.utils.boxes import box_iou
from vocseg_lib.utils.rle import encode_rle

SMALL = {"backbone": "tiny", "weights": None, "num_classes": 21}
TWO_STAGE = {**SMALL, "short_side": 144, "channels": 64, "proposals": 128, "rois_per_image": 32}


@pytest.fixture(scope="module")
def two(devkit) -> Subset:
    """Two images with three objects each, of 1.7 to 9.4 percent of it."""
    return Subset(VocDataset(devkit, "train"), [4, 5])


@pytest.fixture(scope="module")
def truth(devkit) -> dict:
    return subset(voc_to_coco(devkit, "train"), {5, 6})


@pytest.fixture
def image(two):
    return model_input(two[0][0])


def test_the_core_does_without_the_extra_and_its_lack_is_named(devkit, tmp_path):
    asked = "import sys, vocseg_lib.study, vocseg_lib.__main__; assert not {'cv2', 'sklearn', 'skimage'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", asked], check=True)
    lacking = "import sys; sys.modules['sklearn'] = None; import vocseg_lib.models.lineage"
    done = subprocess.run([sys.executable, "-c", lacking], capture_output=True, text=True)
    assert "pip install 'vocseg_lib[lineage]'" in done.stderr.splitlines()[-1]
    command = [
        "vocseg_lib",
        "train",
        "--model",
        "fast_rcnn",
        "--data",
        str(devkit),
        "--results",
        str(tmp_path),
    ]
    asked = f"import sys; sys.modules['sklearn'] = None; sys.argv = {command}; from vocseg_lib.__main__ import main; main()"
    done = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True)
    assert done.returncode == 2
    assert re.fullmatch(r"train: .*pip install 'vocseg_lib\[lineage\]'\n", done.stderr)


def test_selective_search_is_a_function_of_image_and_seed(image):
    found = SelectiveSearch(seed=1)(image)
    assert torch.equal(SelectiveSearch(seed=1)(image), found)
    other = SelectiveSearch(seed=2)(image)
    assert {tuple(b) for b in other.tolist()} == {tuple(b) for b in found.tolist()}
    assert not torch.equal(other, found)
    assert torch.equal(SelectiveSearch(5, seed=1)(image), found[:5])
    height, width = image.shape[1:]
    assert (found[:, :2] >= 0).all()
    assert (found[:, 2:] <= torch.tensor([width, height])).all()
    assert (found[:, 2:] > found[:, :2]).all()


@pytest.mark.parametrize("size", [(1, 1), (3, 200), (8, 8)])
def test_images_without_regions_have_no_proposals(size):
    assert SelectiveSearch()(torch.zeros(3, *size)).shape[1] == 4


def test_what_is_kept_on_disk_is_what_would_be_made(image, tmp_path):
    fresh = SelectiveSearch()(image)
    search = SelectiveSearch(cache=tmp_path)
    assert torch.equal(search(image), fresh)
    (kept,) = tmp_path.iterdir()
    kept.write_bytes(kept.read_bytes()[:50])  # a kill, a full disk
    assert torch.equal(search(image), fresh)
    assert torch.equal(search(image), fresh)
    features, boxes = HandCraftedFeatures(cache=tmp_path), fresh.numpy()
    made = HandCraftedFeatures().of(to_uint8_hwc(image), boxes)
    assert made.shape == (len(boxes), 900 + 3 * 8 + 10)
    assert np.array_equal(features.of(to_uint8_hwc(image), boxes), made)
    assert np.array_equal(features.of(to_uint8_hwc(image), boxes), made)
    assert len(list(tmp_path.iterdir())) == 2
    calls = []
    counting = DiskCache(lambda picture: calls.append(1) or np.zeros(1), tmp_path, "counted")
    for _ in range(2):
        counting(to_uint8_hwc(image))
    with cache_disabled():
        counting(to_uint8_hwc(image))
    assert len(calls) == 2


def test_histograms_of_regions_by_hand():
    """The left half is black, the right half white: a region over both has as much of the one as of the other."""
    picture = np.zeros((40, 40, 3), np.uint8)
    picture[:, 20:] = 255
    lightness = HandCraftedFeatures().of(
        picture, np.array([[0, 0, 20, 40], [10, 0, 30, 40]], np.float32)
    )[:, 900:908]
    assert np.count_nonzero(lightness[0]) == 1
    first, last = lightness[1][[0, 7]]
    assert first == last > 0


def test_recall_by_hand():
    """Two objects; the first proposal covers one by 0.6, the third the other whole."""
    objects = torch.tensor([[0.0, 0, 10, 10], [20, 20, 30, 30]])
    proposals = torch.tensor([[0.0, 0, 10, 6], [50, 50, 60, 60], [20, 20, 30, 30]])
    assert proposal_recall([proposals], [objects], [1, 2, 3, 9], 0.5).tolist() == [50, 50, 100, 100]
    assert proposal_recall([proposals], [objects], [1, 3], 0.7).tolist() == [0, 50]
    assert average_recall([proposals], [objects], [1, 3]) == pytest.approx(
        [15, 65]
    )  # IoU 0.5, 0.55, 0.6: three of ten
    assert proposal_recall([torch.zeros(0, 4)], [objects], [1], 0.5).tolist() == [0]


def test_pooling_rounds_and_align_does_not():
    """On a map whose value is its column, with cells of 4 pixels and two bins: columns 2 to 6 rounded, [2, 6] as it is."""
    features = {"0": torch.arange(10.0).expand(1, 1, 10, 10).clone()}
    pooled = {}
    for name, kind in POOLING.items():
        pool = kind(["0"], 2, 2)
        pool.scales, pool.map_levels = (
            [0.25],
            lambda boxes: torch.zeros(sum(map(len, boxes)), dtype=torch.int64),
        )
        boxes = torch.tensor([[8.0, 8, 24, 24], [9.0, 9, 25, 25]])
        pooled[name] = pool(features, [boxes], [(40, 40)])[:, 0, 0]
    assert pooled["pool"].tolist() == [
        [4, 6],
        [4, 6],
    ]  # the largest of columns 2 to 4 and of 4 to 6; a pixel changes nothing
    assert pooled["align"].tolist() == [
        [3, 5],
        [3.25, 5.25],
    ]  # the mean between; a pixel is a quarter of a cell
    assert pooled["round"].tolist() == [[3, 5], [3, 5]]
    with pytest.raises(ValueError, match="choose one of align, pool, round"):
        MaskRCNN(**TWO_STAGE, pooling="max")


def test_filled_boxes_by_hand():
    boxes = torch.tensor([[1.0, 2, 4, 4], [0, 0, 8, 6], [2.4, 2.4, 2.6, 2.6]])
    masks = box_masks(np.zeros((6, 8, 3), np.uint8), boxes)
    expected = torch.zeros(3, 6, 8, dtype=torch.bool)
    expected[0, 2:4, 1:4] = expected[1] = expected[2, 2, 2] = True
    assert torch.equal(masks, expected)


def test_grabcut_stays_in_its_box_and_finds_what_is_in_it(two):
    picture = np.full((60, 80, 3), 40, np.uint8)
    picture += np.random.default_rng(0).integers(0, 20, picture.shape, dtype=np.uint8)
    picture[20:40, 30:55] += 150
    loose = torch.tensor([[24.0, 14, 62, 46]])
    (mask,) = grabcut(picture, loose)
    assert mask[20:40, 30:55].float().mean() > 0.95
    assert mask.sum() < 1.1 * 20 * 25
    for image, target in two:
        boxes = torch.cat(
            [target["boxes"].as_subclass(torch.Tensor) + shift for shift in (0, 7.3, -5.5)]
        ).clamp(min=0)
        picture = to_uint8_hwc(model_input(image))
        masks, whole = grabcut(picture, boxes), box_masks(picture, boxes)
        assert not (masks & ~whole).any()
        assert torch.equal(masks.flatten(1).any(1), whole.flatten(1).any(1))
        assert torch.equal(grabcut(picture, boxes), masks)
    flat = np.zeros((30, 30, 3), np.uint8)  # no colours to tell apart, no background, no room
    odd = torch.tensor([[5.0, 5, 20, 20], [0, 0, 30, 30], [3, 3, 5, 5], [28, 28, 40, 40]])
    assert (grabcut(flat, odd) == box_masks(flat, odd)).all()
    assert grabcut(flat, torch.zeros(0, 4)).shape == (0, 30, 30)


def judged(model, two, truth) -> float:
    return evaluate(truth, predict(model, two, progress=False)["detections"]).summary["box_AP50"]


@pytest.mark.parametrize("classifier", CLASSIFIERS)
def test_two_images_are_learned_region_by_region(classifier, two, truth, tmp_path_factory):
    cache = tmp_path_factory.getbasetemp() / "regions"
    model = RegionDetector(
        SelectiveSearch(cache=cache),
        HandCraftedFeatures(cache=cache),
        CLASSIFIERS[classifier](0),
        21,
    )
    counts = model.fit(two, progress=False)
    assert counts["images_without_proposals"] == 0
    assert len(counts["classes_without_objects"]) == 20 - len(
        {a["category_id"] for a in truth["annotations"]}
    )
    assert judged(MasksFromBoxes(model), two, truth) > 70


def test_two_images_are_learned_by_rcnn(two, truth):
    torch.manual_seed(0)
    search, features = SelectiveSearch(), RCNNFeatures("tiny", None, side=64)
    before = features.of(
        to_uint8_hwc(model_input(two[0][0])), np.array([[0, 0, 60, 60]], np.float32)
    )
    features.fine_tune(two, search, 21, 30, 1e-3)
    after = features.of(
        to_uint8_hwc(model_input(two[0][0])), np.array([[0, 0, 60, 60]], np.float32)
    )
    assert not np.allclose(before, after)
    model = RegionDetector(search, features, CLASSIFIERS["linear SVM"](0), 21, regress=True)
    model.fit(two, progress=False)
    assert judged(MasksFromBoxes(model), two, truth) > 70
    for boxed in (
        model,
        FasterRCNN(**TWO_STAGE, score_threshold=0.0),
    ):  # also with gradients, as models are called by hand
        (found,) = MasksFromBoxes(boxed, "GrabCut", 5).eval()([model_input(two[0][0])])
        assert found["masks"].shape == (len(found["boxes"]), *two[0][0].shape[1:])
        assert len(found["boxes"])


@pytest.mark.parametrize("name", ["fast", "faster", "pool", "round", "semantic"])
def test_two_images_are_learned_by_gradient(name, two, truth, tmp_path):
    torch.manual_seed(0)
    model = {
        "fast": lambda: MasksFromBoxes(
            FastRCNN(SelectiveSearch(cache=tmp_path / "cache"), **TWO_STAGE)
        ),
        "faster": lambda: MasksFromBoxes(FasterRCNN(**TWO_STAGE)),
        "pool": lambda: MaskRCNN(**TWO_STAGE, pooling="pool"),
        "round": lambda: MaskRCNN(**TWO_STAGE, pooling="round"),
        "semantic": lambda: DeepLabV3Components(**SMALL, image_size=320),
    }[name]()
    options = {
        "optimizer": "adamw",
        "learning_rate": 1e-3,
        "weight_decay": 0.0,
        "schedule": "cosine",
        "max_grad_norm": 20.0,
    }
    train(
        model, two, tmp_path / "run", iterations=80, batch_size=2, warmup_iterations=10, **options
    )
    if name == "semantic":
        for image, target in two:
            found, there = model.eval().class_map(model_input(image)), semantic_map(target)
            on_objects = there > 0
            assert (found == there)[on_objects].float().mean() > 0.7
            assert (found == there)[~on_objects].float().mean() > 0.9
    else:
        assert judged(model, two, truth) > 70


def test_a_class_map_counts_nothing():
    """Two objects of a class that touch are one component; one that is apart, or of another class, is its own."""
    model, logits = DeepLabV3Components(**SMALL, image_size=32).eval(), torch.zeros(1, 21, 40, 60)
    logits[0, 0] = 1
    logits[0, 5, 5:15, 5:25] = 9  # two of 10 x 10 side by side
    logits[0, 5, 25:35, 5:15] = 9
    logits[0, 7, 25:35, 15:25] = 9
    logits[0, 9, 0, 50:55] = 9  # too small to be an instance
    (found,) = model.postprocess((logits, [torch.zeros(3, 40, 60)]))
    boxes = {
        (label, *box)
        for label, box in zip(found["labels"].tolist(), found["boxes"].tolist(), strict=True)
    }
    assert boxes == {(5, 5, 5, 25, 15), (5, 5, 25, 15, 35), (7, 15, 25, 25, 35)}
    assert (found["scores"].diff() <= 0).all()
    (nothing,) = model.postprocess((torch.zeros(1, 21, 40, 60), [torch.zeros(3, 40, 60)]))
    assert nothing["masks"].shape == (0, 40, 60)


def test_a_crf_follows_the_picture():
    """A coarse blob over a bright rectangle becomes the rectangle."""
    pytest.importorskip("pydensecrf", reason="optional: pip install pydensecrf2")
    image, logits, truth = (
        torch.zeros(3, 60, 80),
        torch.zeros(1, 21, 6, 8),
        torch.zeros(60, 80, dtype=torch.bool),
    )
    truth[20:40, 30:60], logits[0, 0], logits[0, 5, 2:4, 3:7] = True, 1.0, 2.0
    image[:, truth] = 0.9
    overlap = []
    for crf in (False, True):
        (probability,) = (
            DeepLabV3Components(**SMALL, image_size=64, crf=crf)
            .eval()
            .probabilities((logits, [image]))
        )
        found = probability.argmax(0) == 5
        overlap.append(float((found & truth).sum() / (found | truth).sum()))
    assert overlap[0] < 0.8
    assert overlap[1] > 0.95


def test_a_crf_without_its_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "pydensecrf", None)
    with pytest.raises(ModuleNotFoundError, match="pip install pydensecrf2"):
        DeepLabV3Components(**SMALL, image_size=64, crf=True)


class Blank(torch.utils.data.Dataset):
    """An image of nothing, with or without an object, and too small to be searched or not."""

    def __init__(self, size: int, objects: int):
        boxes = torch.tensor([[1.0, 1, 5, 5]] * objects).reshape(-1, 4)
        self.sample = (
            torch.zeros(3, size, size, dtype=torch.uint8),
            {"boxes": boxes, "labels": torch.ones(objects, dtype=torch.int64)},
        )

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> tuple:
        if index:
            raise IndexError
        return self.sample


def test_images_that_nothing_can_be_learned_from(two):
    model = RegionDetector(
        SelectiveSearch(), HandCraftedFeatures(), CLASSIFIERS["linear SVM"](0), 21
    )
    with pytest.raises(ValueError, match="no object"):
        model.fit(Blank(40, 0), progress=False)
    with pytest.raises(ValueError, match="nothing beside"):
        model.fit(Blank(6, 1), progress=False)
    more = torch.utils.data.ConcatDataset([two, Blank(6, 1), Blank(6, 0), Blank(40, 0)])
    counts = model.fit(more, progress=False)
    assert counts["images_without_proposals"] >= 2
    assert counts["images_passed_over"] == 0
    (found,) = MasksFromBoxes(model).eval()([torch.zeros(3, 6, 6)])
    assert found["masks"].shape == (0, 6, 6)
    with pytest.raises(ValueError, match="choose one of box, GrabCut"):
        MasksFromBoxes(model, "polygon")


def test_a_batch_that_a_model_can_learn_nothing_from_by_itself():
    nothing = {
        "boxes": torch.zeros(0, 4),
        "labels": torch.zeros(0, dtype=torch.int64),
        "masks": torch.zeros(0, 6, 6),
    }
    losses = FastRCNN(SelectiveSearch(), **TWO_STAGE).train()([torch.zeros(3, 6, 6)], [nothing])
    assert all(torch.isfinite(loss) for loss in losses.values())
    semantic = DeepLabV3Components(**SMALL, image_size=32).train()
    with pytest.raises(ValueError, match="raise batch_size"):
        semantic([torch.zeros(3, 6, 6)], [nothing])


def test_images_that_cannot_be_read_are_counted(damageable):
    images = VocDataset(damageable, "train", skip_bad=True)
    (images.devkit / "JPEGImages" / f"{images.names[3]}.jpg").write_bytes(b"no picture")
    counts = RegionDetector(
        SelectiveSearch(), HandCraftedFeatures(), CLASSIFIERS["linear SVM"](0), 21
    ).fit(images, progress=False)
    assert counts["images_passed_over"] == 1


def test_what_networks_propose(image):
    torch.manual_seed(0)
    height, width = image.shape[1:]
    rpn = rpn_proposals(MaskRCNN(**TWO_STAGE).eval(), image)
    priors = scored_priors(Yolact(**SMALL, image_size=160, channels=64).eval(), image)
    for boxes in (rpn, priors):
        assert len(boxes) > 10
        assert (boxes >= 0).all()
        assert (boxes[:, 2:] <= torch.tensor([width, height]) + 1e-3).all()
        overlap = box_iou(boxes, boxes).triu(1)
        assert overlap.max() <= 0.7 + 1e-5


def test_figures_say_how_to_read_them():
    row = {
        "kind": "two stages",
        "seconds_per_image": 0.1,
        "mask_AP50": 30.0,
        "mask_AP50_low": 20.0,
        "mask_AP50_high": 41.0,
    }
    rows = [{**row, "model": name} for name in ("R-CNN", "Fast R-CNN")]
    rows += [
        {**row, "model": f"HOG, colour, texture + {name}", "kind": "classical ML"}
        for name in ("linear SVM", "random forest")
    ]
    rows += [
        {
            **row,
            "model": "ground truth's boxes, box",
            "kind": "oracle",
            "seconds_per_image": float("nan"),
        }
    ]
    steps = pd.DataFrame(
        {"before": ["HOG, colour, texture + linear SVM", "R-CNN"], "after": ["R-CNN", "Fast R-CNN"]}
    )
    ax = lineage.ap_against_seconds(pd.DataFrame(rows), steps, "a pilot")
    assert ax.get_title(loc="left").endswith("A pilot.")
    written = [text.get_text() for text in ax.texts if text.get_text()]
    assert written == [
        "1",
        "2",
        "3",
        "4",
        "1  R-CNN\n2  Fast R-CNN\n3  linear SVM\n4  random forest",
    ]
    assert sum(getattr(text, "arrow_patch", None) is not None for text in ax.texts) == 2
    recalls = {
        name: {"selective search": [10.0, 60.0]} for name in ("recall at IoU 0.5", "average recall")
    }
    axes = lineage.proposal_recall(recalls, [1, 100])
    assert (
        "With at most 100 an image, recall at IoU 0.5: selective search 60 %."
        in axes[0].figure.get_suptitle()
    )
    mask = torch.zeros(1, 20, 30, dtype=torch.bool)
    mask[:, 5:9, 5:9] = True
    (rle,) = encode_rle(mask)
    annotation = {"category_id": 2, "bbox": [5, 5, 4, 4], "segmentation": rle}
    found = {"ground truth": [annotation], "YOLACT": [{**annotation, "score": 0.1}]}
    axes = lineage.strip(torch.zeros(3, 20, 30), found, CLASS_NAMES)
    assert [len(ax.texts) for ax in axes] == [1, 0]  # the second one is not sure enough


def test_rows_are_judged_once_and_kept(devkit, tmp_path):
    study = open_study("quick", devkit, tmp_path)
    rows = [Lineage(study, images=6, proposals=30).classical("linear SVM") for _ in range(2)]
    assert rows[0] == rows[1]
    lineage = Lineage(study, images=6, proposals=30)
    lineage.prepare()
    kept = set((tmp_path / "lineage" / "cache").iterdir())
    again = lineage.classical("linear SVM")
    assert again == rows[0]
    assert set((tmp_path / "lineage" / "cache").iterdir()) == kept
    whole = lineage.true_boxes("box")
    assert whole["box_AP50"] == 100
    assert whole["mask_AP50"] < 100
    table = lineage.table()
    assert list(table) == COLUMNS
    assert table["model"].tolist() == [again["model"], whole["model"]]
    assert (tmp_path / "lineage.csv").is_file()
    assert lineage.detections(again["model"])
    assert 2 <= len(lineage.objects(lineage.telling_image())) <= 4
    assert (
        Lineage(study, images=5, proposals=30).classical("linear SVM") != rows[0]
    )  # other settings: judged anew
    with pytest.raises(ValueError, match="images and iterations of a lineage must be at least 1"):
        Lineage(study, images=-3, iterations=0)
    with pytest.raises(ValueError, match="choose one of linear SVM"):
        lineage.classical("perceptron")


def test_what_a_step_bought_by_hand(devkit, tmp_path):
    """Nothing is found by the first of two rows, everything by the second, in a quarter of the time."""
    lineage = Lineage(open_study("quick", devkit, tmp_path))
    every = [{**a, "score": 1.0} for a in lineage.study.ground_truth["annotations"]]
    for title, detections, seconds in (("R-CNN", [], 0.4), ("Fast R-CNN", every, 0.1)):
        row = {"model": title, "kind": "two stages", "seconds_per_image": seconds}
        found = {"header": {"model": title}, "detections": detections}
        lineage._kept(lineage._path(title), {}, lambda found=found, row=row: (found, row))
    (step,) = lineage.steps().to_dict("records")
    assert (step["step"], step["before"], step["after"]) == (
        "one pass an image, one loss",
        "R-CNN",
        "Fast R-CNN",
    )
    changes = {
        f"{kind}_AP50{end}": 100 for kind in ("box", "mask") for end in ("", "_low", "_high")
    }
    assert {name: round(step[name], 6) for name in changes} == changes
    assert step["seconds"] == 0.25
