"""From a model to a prediction file: all that evaluation and analysis read."""

import math
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.types import Device
from torch.utils.data import Dataset
from torchvision.models.detection.transform import resize_boxes
from torchvision.ops import box_convert
from torchvision.transforms.v2.functional import resize
from tqdm import tqdm

from vocseg_lib.data.coco_validation import UNCROPPED
from vocseg_lib.data.loader import load_batches, map_ahead, preserve_rng_state, to_device
from vocseg_lib.data.sample import fit
from vocseg_lib.data.transforms import model_input
from vocseg_lib.engine.batch_norm import set_train_mode
from vocseg_lib.engine.config import TrainConfig
from vocseg_lib.utils import distributed
from vocseg_lib.utils.config import Config, bounded
from vocseg_lib.utils.device import autocast, keep_freed_memory
from vocseg_lib.utils.environment import git_commit
from vocseg_lib.utils.files import write_json
from vocseg_lib.utils.rle import encode_rle

MAX_PREDICTED_PIXELS = 4_000_000
"""Models see larger images shrunk to it."""
PADDED_TO = 32  # pixels: torchvision's Mask R-CNN pads sides to multiples
MAX_WAITING = 4  # batches of images that wait for others of their size


@contextmanager
def eval_mode(model: nn.Module, device: Device) -> Iterator[None]:
    """Context manager: a model in eval mode on a device; at the end in the mode it was in."""
    was_training = model.training
    model.eval().to(device)
    try:
        yield
    finally:
        model.train(was_training)


def detections_to_coco(
    image_id: int, detections: dict[str, Any], size: tuple[int, int] | None = None
) -> list[dict]:
    """COCO results of one image: xywh boxes in pixels, RLE masks, category = label.

    Boxes and masks [n, h, w] are enlarged to `size` (height, width), if it is given. Codes are
    taken as they are. Masks before their crop, if there are any, are `segmentation_uncropped`.
    """
    boxes, masks = detections["boxes"], detections["masks"]
    if isinstance(masks, Tensor):
        size = tuple(size or masks.shape[1:])
        boxes, masks = resize_boxes(boxes, masks.shape[1:], size), encode_rle(masks, size)
    columns = {
        "category_id": detections["labels"].tolist(),
        "bbox": box_convert(boxes, "xyxy", "xywh").tolist(),
        "score": detections["scores"].tolist(),
        "segmentation": masks,
    }
    if "uncropped_masks" in detections:
        columns[UNCROPPED] = detections["uncropped_masks"]
    rows = zip(*columns.values(), strict=True)
    return [{"image_id": image_id, **dict(zip(columns, row, strict=True))} for row in rows]


@dataclass(frozen=True, kw_only=True)
class Pipeline(Config):
    """How images are brought to a model; predictions do not depend on it."""

    batch_size: int = bounded(1, least=1)  # images; fewer while a GPU's memory is too small
    workers: int = bounded(0, least=0)  # threads that read images and encode masks

    @classmethod
    def of_device(cls, device: Device) -> "Pipeline":
        """On a CPU, where the network keeps all cores busy, one image after the other."""
        if torch.device(device).type == "cpu":
            return cls()
        return cls(batch_size=8, workers=min(4, os.cpu_count() or 1))


class _Image(NamedTuple):
    index: int
    pixels: Tensor
    info: dict


@torch.inference_mode()
def predict(
    model: nn.Module,
    dataset: Dataset,
    header: dict | None = None,
    device: Device = "cpu",
    mixed_precision: bool = False,
    progress: bool = True,
    uncropped: bool = False,
    pipeline: Pipeline | None = None,
) -> dict:
    """Prediction file of a model: `header` with `commit` and `images`; `detections`, COCO results.

    Several processes share the images; each gets all detections, in the order of the images; those
    that the data set has as None are left out. With `uncropped`, models that crop add their masks
    before it.
    """
    pipeline = pipeline or Pipeline.of_device(device)
    indices = range(distributed.rank(), len(dataset), distributed.world_size())
    on_gpu = torch.device(device).type == "cuda"

    def load(index: int) -> _Image | None:
        if (sample := dataset[index]) is None:
            return None
        image, target = sample
        height, width = size = tuple(image.shape[-2:])
        shown = resize(image, fit(size, (MAX_PREDICTED_PIXELS / (height * width)) ** 0.5))
        info = {"id": target["image_id"], "name": target["name"], "height": height, "width": width}
        pixels = shown.as_subclass(Tensor)
        return _Image(index, pixels.pin_memory() if on_gpu else pixels, info)

    @torch.inference_mode()  # of each thread
    def encode(item: tuple[_Image, dict, Callable]) -> tuple[int, dict, list[dict]]:
        (index, _, info), detections, wait = item
        wait()
        size = info["height"], info["width"]
        if hasattr(model, "encode"):
            detections = model.encode(detections, size, uncropped)
        return index, info, detections_to_coco(info["id"], detections, size)

    pool = ThreadPoolExecutor(pipeline.workers) if pipeline.workers else None
    ahead = partial(map_ahead, pool, waiting=2 * pipeline.batch_size)
    hidden = not progress or distributed.rank() > 0
    bar = tqdm(desc="predict", total=len(indices), unit="image", disable=hidden)
    with keep_freed_memory(), pool or nullcontext(), bar, eval_mode(model, device):
        images = filter(None, ahead(load, indices))
        batches = _batches(model, images, pipeline.batch_size)
        detected = _detect(model, batches, device, mixed_precision)
        rows = []
        for row in ahead(encode, detected):
            rows.append(row)
            bar.update()
    rows = distributed.interleave_shards(sorted(rows, key=itemgetter(0)))
    header = {**(header or {}), "commit": git_commit(), "images": [info for _, info, _ in rows]}
    return {"header": header, "detections": [d for *_, results in rows for d in results]}


def _batches(model: nn.Module, images: Iterable[_Image], size: int) -> Iterator[list[_Image]]:
    """Images that a model pads to the same size: more padding changes predictions a little."""
    groups = defaultdict(list)
    for image in images:
        height, width = image.pixels.shape[-2:]
        sides = model.input_size(height, width) if hasattr(model, "input_size") else (height, width)
        key = tuple(math.ceil(int(side) / PADDED_TO) for side in sides)
        groups[key].append(image)
        if len(groups[key]) == size:
            yield groups.pop(key)
        elif sum(map(len, groups.values())) == MAX_WAITING * size:
            yield groups.pop(max(groups, key=lambda key: len(groups[key])))
    yield from groups.values()


def _detect(
    model: nn.Module, batches: Iterable[list[_Image]], device: Device, mixed_precision: bool
) -> Iterator[tuple[_Image, dict, Callable]]:
    """Each image with its detections, which are on the CPU once the function has returned."""
    on_gpu, limit = torch.device(device).type == "cuda", None
    for batch in batches:
        while batch:
            part, found = batch[:limit], None
            try:
                images = [model_input(image.pixels, device) for image in part]
                with autocast(device, mixed_precision, predicting=True):
                    out = model.network(images) if hasattr(model, "encode") else model(images)
                found = model.detect(out) if hasattr(model, "encode") else out
            except torch.OutOfMemoryError:
                if len(part) == 1:
                    raise
            if found is None:  # now that the error is gone, and with it what it held
                limit = len(part) // 2
                torch.cuda.empty_cache()
                continue
            # One copy, for which the network need not wait.
            found = [{k: _to_cpu(value) for k, value in of_image.items()} for of_image in found]
            event = torch.cuda.Event() if on_gpu else None
            if event:
                event.record(torch.cuda.current_stream(device))
            for image, detections in zip(part, found, strict=True):
                yield image, detections, event.synchronize if event else lambda: None
            batch = batch[len(part) :]


def _to_cpu(value: Any) -> Any:
    return value.to("cpu", non_blocking=value.is_cuda) if isinstance(value, Tensor) else value


@torch.no_grad()
def validation_loss(
    model: nn.Module, dataset: Dataset, config: TrainConfig, device: Device = "cpu"
) -> dict[str, float]:
    """Mean over batches of each loss and of their sum: `val_loss`, `val_class` and so on.

    Batch norm is in eval mode, and random samples within a loss (regions, masks) are the same in
    each call. Several processes share the batches; each gets the mean over all.
    """
    indices, size = range(len(dataset)), config.batch_size
    starts = indices[::size][distributed.rank() :: distributed.world_size()]
    batches = [indices[start : start + size] for start in starts]
    rows = []
    with eval_mode(model, device), preserve_rng_state(device), distributed.single_process():
        set_train_mode(model, freeze_bn=True)
        for batch in load_batches(dataset, batches, config.workers):
            torch.manual_seed(0)
            with autocast(device, config.mixed_precision):
                losses = model(*to_device(*batch, device))
            losses = {name: loss.item() for name, loss in losses.items()}
            rows.append({"loss": sum(losses.values()), **losses})
    rows = distributed.interleave_shards(rows)
    return {f"val_{name}": sum(row[name] for row in rows) / len(rows) for name in rows[0]}


def save_predictions(path: str | Path, predictions: dict) -> None:
    """Write a prediction file atomically."""
    write_json(Path(path), predictions)
