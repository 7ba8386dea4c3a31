"""From a model to a prediction file: all that judging and analysis read."""

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


def detections_to_coco(image_id: int, found: dict[str, Tensor]) -> list[dict]:
    """One image's detections as COCO results: xywh boxes in pixels, RLE masks, scores, category = label; masks before their
    crop, where there are some, as `segmentation_uncropped`."""
    boxes = found["boxes"].clone()
    boxes[:, 2:] -= boxes[:, :2]
    rows = zip(
        boxes.tolist(),
        found["labels"].tolist(),
        found["scores"].tolist(),
        encode_rle(found["masks"]),
        strict=True,
    )
    results = [
        {
            "image_id": image_id,
            "category_id": label,
            "bbox": box,
            "score": score,
            "segmentation": rle,
        }
        for box, label, score, rle in rows
    ]
    if "uncropped_masks" in found:
        for result, rle in zip(results, encode_rle(found["uncropped_masks"]), strict=True):
            result[UNCROPPED] = rle
    return results


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
    """Run a model over a data set: `{"header": {..., "commit", "images": [...]}, "detections": [COCO results]}`.

    Works in eval mode and leaves the model in the mode it was in. `uncropped` adds masks before their crop, of models that
    crop. Several processes share the images; each gets all detections, in the order of the images.
    """
    was_training, crops = model.training, hasattr(model, "uncropped_masks")
    if crops:
        model.uncropped_masks = uncropped
    model.eval().to(device)
    found = []
    mine = range(distributed.rank(), len(dataset), distributed.world_size())
    for i in tqdm(mine, "predict", unit="image", disable=not progress or distributed.rank() > 0):
        image, target = dataset[i]
        height, width = image.shape[-2:]
        facts = {"id": target["image_id"], "name": target["name"], "height": height, "width": width}
        with autocast(device, mixed_precision):
            (detections,) = model([model_input(image, device)])
        found.append((facts, detections_to_coco(target["image_id"], detections)))
    model.train(was_training)
    if crops:
        model.uncropped_masks = False
    found = distributed.interleave_shards(found)
    return {
        "header": {
            **(header or {}),
            "commit": git_commit(),
            "images": [facts for facts, _ in found],
        },
        "detections": [detection for _, detections in found for detection in detections],
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
    """Mean over batches of each loss term and of their sum: `val_loss`, `val_class` and so on. Batch norm is in eval mode.

    Random choices within a loss (which regions, which masks) are the same in each call. Leaves the model in the mode it was
    in. Several processes share the batches, and each gets the mean over all.
    """
    was_training = model.training
    set_train_mode(model.to(device), frozen=True)
    starts = range(
        distributed.rank() * batch_size, len(dataset), distributed.world_size() * batch_size
    )
    batches = [range(start, min(start + batch_size, len(dataset))) for start in starts]
    rows = []
    with preserve_rng_state(device), distributed.single_process():
        for batch in load_batches(dataset, batches, workers):
            torch.manual_seed(0)
            with autocast(device, mixed_precision):
                losses = {
                    name: loss.item() for name, loss in model(*to_device(*batch, device)).items()
                }
            rows.append({"loss": sum(losses.values()), **losses})
    model.train(was_training)
    rows = distributed.interleave_shards(rows)
    return {f"val_{name}": sum(row[name] for row in rows) / len(rows) for name in rows[0]}


def save_predictions(path: str | Path, predictions: dict) -> None:
    """Write a prediction file, whole or not at all."""
    write_json(Path(path), predictions)
