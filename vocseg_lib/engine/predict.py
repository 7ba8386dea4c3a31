"""From a model to a prediction file: all that evaluation and analysis read."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.types import Device
from torch.utils.data import Dataset
from torchvision.ops import box_convert
from torchvision.transforms.v2.functional import resize
from tqdm import tqdm

from vocseg_lib.data.coco_validation import UNCROPPED
from vocseg_lib.data.loader import load_batches, preserve_rng_state, to_device
from vocseg_lib.data.sample import fit
from vocseg_lib.data.transforms import model_input
from vocseg_lib.engine.batch_norm import set_train_mode
from vocseg_lib.engine.config import TrainConfig
from vocseg_lib.utils import distributed
from vocseg_lib.utils.device import autocast
from vocseg_lib.utils.environment import git_commit
from vocseg_lib.utils.files import write_json
from vocseg_lib.utils.rle import encode_rle

MAX_PREDICTED_PIXELS = 4_000_000
"""Models see larger images shrunk to it, as all masks at full size would fill the memory."""


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
    image_id: int, detections: dict[str, Tensor], size: tuple[int, int] | None = None
) -> list[dict]:
    """COCO results of one image: xywh boxes in pixels, RLE masks, category = label.

    `size` (height, width): of the image, if it was shrunk; boxes and masks are enlarged to it.
    Masks before their crop, if there are any, are `segmentation_uncropped`.
    """
    masks, boxes = detections["masks"], detections["boxes"]
    height, width = size = tuple(size or masks.shape[1:])
    if size != masks.shape[1:]:
        predicted = boxes.new_tensor([*masks.shape[:0:-1]] * 2)
        boxes = boxes * boxes.new_tensor([width, height] * 2) / predicted
    columns = {
        "category_id": detections["labels"].tolist(),
        "bbox": box_convert(boxes, "xyxy", "xywh").tolist(),
        "score": detections["scores"].tolist(),
        "segmentation": encode_rle(masks, size),
    }
    if "uncropped_masks" in detections:
        columns[UNCROPPED] = encode_rle(detections["uncropped_masks"], size)
    rows = zip(*columns.values(), strict=True)
    return [{"image_id": image_id, **dict(zip(columns, row, strict=True))} for row in rows]


@torch.inference_mode()
def predict(
    model: nn.Module,
    dataset: Dataset,
    header: dict | None = None,
    device: Device = "cpu",
    mixed_precision: bool = False,
    progress: bool = True,
    uncropped: bool = False,
) -> dict:
    """Prediction file of a model: `header` with `commit` and `images`; `detections`, COCO results.

    Several processes share the images; each gets all detections, in the order of the images. With
    `uncropped`, models that crop add their masks before it.
    """
    model.uncropped_masks = uncropped  # for models that crop
    indices = range(distributed.rank(), len(dataset), distributed.world_size())
    bar = tqdm(indices, "predict", unit="image", disable=not progress or distributed.rank() > 0)
    rows = []
    with eval_mode(model, device):
        for i in bar:
            image, target = dataset[i]
            height, width = size = tuple(image.shape[-2:])
            shown = resize(image, fit(size, (MAX_PREDICTED_PIXELS / (height * width)) ** 0.5))
            with autocast(device, mixed_precision):
                (detections,) = model([model_input(shown, device)])
            info = {"id": target["image_id"], "name": target["name"]}
            info |= {"height": height, "width": width}
            rows.append((info, detections_to_coco(target["image_id"], detections, size)))
    model.uncropped_masks = False
    rows = distributed.interleave_shards(rows)
    header = {**(header or {}), "commit": git_commit(), "images": [info for info, _ in rows]}
    return {"header": header, "detections": [d for _, results in rows for d in results]}


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
