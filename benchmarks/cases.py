"""What the benchmarks time: models, batches and synthetic prediction files."""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from pycocotools import mask as coco_mask
from torch import Tensor

from vocseg_lib.data.classes import CLASS_NAMES
from vocseg_lib.data.coco_convert import voc_to_coco
from vocseg_lib.data.coco_validation import validate_ground_truth, validate_results
from vocseg_lib.engine.batch_norm import batch_norm_layers, set_train_mode
from vocseg_lib.engine.config import TrainConfig
from vocseg_lib.engine.optim import build_optimizer
from vocseg_lib.models.config import YolactConfig
from vocseg_lib.models.yolact import Yolact
from vocseg_lib.utils.device import autocast
from vocseg_lib.utils.rle import encode_rle

HEIGHT, WIDTH = 375, 500
"""Pixels: the most common size of a VOC image."""
EVALUATED_IMAGES, EVALUATED_DETECTIONS = 1_449, 15_000
"""As many as VOC's val and what a model detects on it."""
LARGE_IMAGES, LARGE_DETECTIONS = 20_000, 100
"""Images, and detections per image, of the largest prediction file that is measured."""
Row = dict[str, float | str]


def time_alternating(first: Callable, second: Callable, repeats: int) -> tuple[float, float]:
    """Median seconds of both, run in turn `repeats` times after a warm-up of two turns."""
    seconds = []
    for _ in range(repeats + 2):
        start = time.perf_counter()
        first()
        middle = time.perf_counter()
        second()
        seconds.append((middle - start, time.perf_counter() - middle))
    firsts, seconds = zip(*seconds[2:], strict=True)
    return statistics.median(firsts), statistics.median(seconds)


def relative_error(values: Tensor, reference: Tensor) -> float:
    return ((values - reference).norm() / reference.norm()).item()


def make_yolact(train: bool = False) -> Yolact:
    """YOLACT-550 of random weights, plain; in training as the official code with batches of 2.

    That is with the semantic term and frozen batch norm.
    """
    torch.manual_seed(0)
    model = Yolact(YolactConfig(init=None, semantic_loss=True))
    if not train:
        return model.eval()
    for norm in batch_norm_layers(model):
        norm.requires_grad_(False)
    return set_train_mode(model, freeze_bn=True)


def training_batch() -> tuple[list[Tensor], list[dict]]:
    """Two images of three objects each."""
    boxes = torch.tensor([[60.0, 50, 300, 200], [250, 100, 450, 300], [10, 10, 80, 60]])
    masks = torch.zeros(3, HEIGHT, WIDTH, dtype=torch.uint8)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes.int().tolist(), strict=True):
        mask[y1:y2, x1:x2] = 1
    target = {"boxes": boxes, "labels": torch.tensor([1, 5, 15]), "masks": masks}
    return [torch.rand(3, HEIGHT, WIDTH) for _ in range(2)], [target, target]


def train_step(model: Yolact, mixed_precision: bool) -> Callable[[], None]:
    """A whole update: forward, loss, backward, SGD."""
    optimizer = build_optimizer(model, TrainConfig(learning_rate=1e-6))
    batch = training_batch()

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with autocast("cpu", mixed_precision):
            losses = model(*batch)
        sum(losses.values()).backward()
        optimizer.step()

    return step


def log_uniform_boxes(count: int, smallest: float = 16.0) -> Tensor:
    """Boxes in an image; sides log-uniform from `smallest` pixels to the image's."""
    torch.manual_seed(0)
    image = torch.tensor([WIDTH, HEIGHT])
    sides = smallest * (image / smallest) ** torch.rand(count, 2)
    corner = torch.rand(count, 2) * (image - sides)
    return torch.cat([corner, corner + sides], 1)


def smooth_masks(count: int) -> Tensor:
    """Masks [count, 28, 28] in 0..1, as smooth as a trained network's."""
    torch.manual_seed(0)
    coarse = 4 * torch.randn(1, count, 5, 5)
    return F.interpolate(coarse, size=(28, 28), mode="bicubic")[0].sigmoid()


def synthetic_results(devkit: str | Path) -> tuple[dict, list]:
    """Validated COCO ground truth and results of VOC val's size.

    The ground truth repeats a devkit's val; the detections are its objects, moved, many of a wrong
    class.
    """
    source = voc_to_coco(devkit, "val")
    by_image = {image["id"]: [] for image in source["images"]}
    for annotation in source["annotations"]:
        by_image[annotation["image_id"]].append(annotation)
    sources = [image for image in source["images"] if by_image[image["id"]]]
    rng, images, annotations, detections = np.random.default_rng(0), [], [], []
    for image_id in range(1, EVALUATED_IMAGES + 1):
        image = sources[image_id % len(sources)]
        objects = by_image[image["id"]]
        images.append({**image, "id": image_id})
        for annotation in objects:
            ids = {"id": len(annotations) + 1, "image_id": image_id}
            annotations.append({**annotation, **ids})
        for i in range(image_id * EVALUATED_DETECTIONS // EVALUATED_IMAGES - len(detections)):
            source_object = objects[i % len(objects)]
            mask = coco_mask.decode(source_object["segmentation"])
            moved = np.roll(mask, rng.integers(-12, 13, 2), (0, 1))
            wrong = rng.random() >= 0.7
            category = (
                rng.integers(1, len(CLASS_NAMES) + 1) if wrong else source_object["category_id"]
            )
            (rle,) = encode_rle(torch.from_numpy(moved[None]))
            detection = {"image_id": image_id, "category_id": int(category)}
            detection |= {
                "score": float(rng.random()),
                "bbox": coco_mask.toBbox(rle).tolist(),
                "segmentation": rle,
            }
            detections.append(detection)
    ground_truth = {**source, "images": images, "annotations": annotations}
    ground_truth = validate_ground_truth(ground_truth)
    return ground_truth, validate_results(ground_truth, detections)


def write_large_results(folder: Path, images: int, detections: int) -> None:
    """COCO ground truth `gt.json` and results `p.json` of ellipses, a quarter of them on objects.

    The entries of the results are written one by one, as all of them take gigabytes.
    """
    rng, (y, x) = np.random.default_rng(0), np.mgrid[:HEIGHT, :WIDTH]
    radii, centers = np.exp(rng.uniform(2, 5, (400, 2))), rng.uniform(0, (HEIGHT, WIDTH), (400, 2))
    ellipses = (
        ((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2 <= 1
        for (cy, cx), (ry, rx) in zip(centers, radii, strict=True)
    )
    rles = [encode_rle(torch.from_numpy(ellipse[None]))[0] for ellipse in ellipses]
    texts = [f'"segmentation": {json.dumps(rle)}' for rle in rles]
    texts = [
        f'{t}, "bbox": {coco_mask.toBbox(r).tolist()}' for t, r in zip(texts, rles, strict=True)
    ]
    categories = [{"id": k, "name": name} for k, name in enumerate(CLASS_NAMES, 1)]
    size, annotations = {"height": HEIGHT, "width": WIDTH}, []
    with (folder / "p.json").open("w") as file:
        for image_id in range(1, images + 1):
            objects = rng.integers(0, 400, rng.integers(1, 6)), rng.integers(1, 21, 5)
            for shape, category in zip(*map(np.ndarray.tolist, objects), strict=False):
                ids = {"id": len(annotations) + 1, "image_id": image_id, "category_id": category}
                annotations.append(ids | {"segmentation": rles[shape]})
            shapes, of_class = rng.integers(0, 400, detections), rng.integers(1, 21, detections)
            on_objects = rng.integers(0, len(objects[0]), detections // 4)
            shapes[: len(on_objects)] = objects[0][on_objects]
            of_class[: len(on_objects)] = objects[1][on_objects]
            for k in range(detections):
                start = "[" if (image_id, k) == (1, 0) else ", "
                fields = f'"image_id": {image_id}, "category_id": {of_class[k]}'
                file.write(f'{start}{{{fields}, "score": {rng.random():.6f}, {texts[shapes[k]]}}}')
        file.write("]")
    listed = [{"id": k, "file_name": f"{k}.jpg", **size} for k in range(1, images + 1)]
    content = {"images": listed, "categories": categories, "annotations": annotations}
    (folder / "gt.json").write_text(json.dumps(content))


def measure_large(command: str) -> tuple[str, Row]:
    """Peak memory and seconds of `evaluate` or `failures`, as a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        write_large_results(Path(folder), LARGE_IMAGES, LARGE_DETECTIONS)
        files = "--predictions", f"{folder}/p.json", "--data", f"{folder}/gt.json"
        start = time.perf_counter()
        arguments = [sys.executable, "-m", "vocseg_lib", command, *files]
        process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
    if status:
        raise RuntimeError(f"{command} ended with status {status}")
    unit = 1 if sys.platform == "darwin" else 1024  # bytes of `ru_maxrss`
    check = f"{LARGE_IMAGES} images, {LARGE_IMAGES * LARGE_DETECTIONS} detections, whole process"
    row = {"value": usage.ru_maxrss * unit / 1e9, "seconds": seconds, "check": check}
    return f"{command}_large_peak_gb", row
