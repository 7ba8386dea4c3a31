"""From a model to a prediction file: all that judging and analysis read."""

import subprocess
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset
from tqdm import tqdm

from vocseg_lib import __version__
from vocseg_lib.files import read_json, write_json
from vocseg_lib.masks import encode_rle
from vocseg_lib.precision import autocast
from vocseg_lib.transforms import model_input


def code_version() -> str:
    """The commit of the checkout that the library runs from; its version where there is none, or no git."""
    checkout = Path(__file__).parents[1]
    if not (checkout / ".git").exists():
        return __version__
    try:
        asked = subprocess.run(["git", "rev-parse", "HEAD"], cwd=checkout, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return __version__
    return asked.stdout.strip()


def detections_to_coco(image_id: int, found: dict[str, Tensor]) -> list[dict]:
    """One image's detections as COCO results: xywh boxes in pixels, RLE masks, scores, category = label."""
    boxes = found["boxes"].clone()
    boxes[:, 2:] -= boxes[:, :2]
    rows = zip(boxes.tolist(), found["labels"].tolist(), found["scores"].tolist(), encode_rle(found["masks"]), strict=True)
    return [
        {"image_id": image_id, "category_id": label, "bbox": box, "score": score, "segmentation": rle}
        for box, label, score, rle in rows
    ]


@torch.inference_mode()
def predict(
    model: nn.Module,
    dataset: Dataset,
    header: dict | None = None,
    device: str | torch.device = "cpu",
    mixed_precision: bool = False,
    progress: bool = True,
) -> dict:
    """Run a model over a data set: `{"header": {..., "commit", "images": [...]}, "detections": [COCO results]}`.

    Works in eval mode and leaves the model in the mode it was in.
    """
    was_training = model.training
    model.eval().to(device)
    images, detections = [], []
    for i in tqdm(range(len(dataset)), "predict", unit="image", disable=not progress):
        image, target = dataset[i]
        height, width = image.shape[-2:]
        images.append({"id": target["image_id"], "name": target["name"], "height": height, "width": width})
        with autocast(device, mixed_precision):
            (found,) = model([model_input(image, device)])
        detections += detections_to_coco(target["image_id"], found)
    model.train(was_training)
    return {"header": {**(header or {}), "commit": code_version(), "images": images}, "detections": detections}


def save_predictions(path: str | Path, predictions: dict) -> None:
    """Write a prediction file, whole or not at all."""
    write_json(Path(path), predictions)


def load_predictions(path: str | Path) -> dict:
    """Read a prediction file, or a bare COCO results list (its header is then empty).

    Raises FileNotFoundError, and ValueError naming the file when it is neither.
    """
    content = read_json(Path(path))
    if isinstance(content, list):
        content = {"header": {}, "detections": content}
    if not isinstance(content, dict) or not isinstance(content.get("detections"), list):
        raise ValueError(f'{path} is no prediction file: expected {{"header", "detections"}} or a list of COCO results')
    return content
