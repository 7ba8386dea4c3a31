"""From a model to a prediction file: all that evaluation and analysis read."""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset
from tqdm import tqdm

from vocseg_lib.data.coco import UNCROPPED
from vocseg_lib.data.loader import load_batches, preserve_rng_state, to_device
from vocseg_lib.data.transforms import model_input
from vocseg_lib.engine.batch_norm import set_train_mode
from vocseg_lib.utils import distributed
from vocseg_lib.utils.device import autocast
from vocseg_lib.utils.environment import git_commit
from vocseg_lib.utils.files import write_json
from vocseg_lib.utils.rle import encode_rle


def detections_to_coco(image_id: int, detections: dict[str, Tensor]) -> list[dict]:
    """COCO results of one image: xywh boxes in pixels, RLE masks, category = label.

    Masks before their crop, if there are any, are `segmentation_uncropped`.
    """
    boxes = detections["boxes"].clone()
    boxes[:, 2:] -= boxes[:, :2]
    columns = {
        "category_id": detections["labels"].tolist(),
        "bbox": boxes.tolist(),
        "score": detections["scores"].tolist(),
        "segmentation": encode_rle(detections["masks"]),
    }
    if "uncropped_masks" in detections:
        columns[UNCROPPED] = encode_rle(detections["uncropped_masks"])
    rows = zip(*columns.values(), strict=True)
    return [{"image_id": image_id, **dict(zip(columns, row, strict=True))} for row in rows]


@torch.inference_mode()
def predict(
    model: nn.Module,
    dataset: Dataset,
    header: dict | None = None,
    device: str | torch.device = "cpu",
    mixed_precision: bool = False,
    progress: bool = True,
    uncropped: bool = False,
) -> dict:
    """Prediction file of a model on a data set.

    Works in eval mode and leaves the model in the mode it was in. Several processes share the
    images; each gets all detections, in the order of the images. With `uncropped`, models that
    crop add their masks before it.

    Returns:
        `{"header": {..., "commit", "images": [...]}, "detections": [COCO results]}`.
    """
    was_training, crops = model.training, hasattr(model, "uncropped_masks")
    if crops:
        model.uncropped_masks = uncropped
    model.eval().to(device)
    rows = []
    indices = range(distributed.rank(), len(dataset), distributed.world_size())
    silent = not progress or distributed.rank() > 0
    for i in tqdm(indices, "predict", unit="image", disable=silent):
        image, target = dataset[i]
        height, width = image.shape[-2:]
        info = {"id": target["image_id"], "name": target["name"], "height": height, "width": width}
        with autocast(device, mixed_precision):
            (detections,) = model([model_input(image, device)])
        rows.append((info, detections_to_coco(target["image_id"], detections)))
    model.train(was_training)
    if crops:
        model.uncropped_masks = False
    rows = distributed.interleave_shards(rows)
    images = [info for info, _ in rows]
    return {
        "header": {**(header or {}), "commit": git_commit(), "images": images},
        "detections": [detection for _, detections in rows for detection in detections],
    }


@torch.no_grad()
def validation_loss(
    model: nn.Module,
    dataset: Dataset,
    batch_size: int = 8,
    workers: int = 0,
    device: str | torch.device = "cpu",
    mixed_precision: bool = False,
) -> dict[str, float]:
    """Mean over batches of each loss and of their sum: `val_loss`, `val_class` and so on.

    Batch norm is in eval mode, and random samples within a loss (regions, masks) are the same in
    each call. Leaves the model in the mode it was in. Several processes share the batches; each
    gets the mean over all.
    """
    was_training = model.training
    set_train_mode(model.to(device), freeze_bn=True)
    stride = distributed.world_size() * batch_size
    starts = range(distributed.rank() * batch_size, len(dataset), stride)
    batches = [range(start, min(start + batch_size, len(dataset))) for start in starts]
    rows = []
    with preserve_rng_state(device), distributed.single_process():
        for batch in load_batches(dataset, batches, workers):
            torch.manual_seed(0)
            with autocast(device, mixed_precision):
                losses = model(*to_device(*batch, device))
            losses = {name: loss.item() for name, loss in losses.items()}
            rows.append({"loss": sum(losses.values()), **losses})
    model.train(was_training)
    rows = distributed.interleave_shards(rows)
    return {f"val_{name}": sum(row[name] for row in rows) / len(rows) for name in rows[0]}


def save_predictions(path: str | Path, predictions: dict) -> None:
    """Write a prediction file atomically."""
    write_json(Path(path), predictions)
