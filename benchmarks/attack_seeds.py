"""Whole files of all kinds for the attack, made by the library itself on synthetic images."""

import json
import re
import shutil
import tarfile
from pathlib import Path

import numpy as np
import torch
from torch import nn

from vocseg_lib.data import synthetic
from vocseg_lib.data.classes import CLASS_NAMES
from vocseg_lib.data.coco_convert import coco_to_voc, voc_to_coco
from vocseg_lib.data.download import TAR_NAME
from vocseg_lib.data.transforms import AUGMENTATIONS
from vocseg_lib.data.voc import VocDataset
from vocseg_lib.engine.config import TrainConfig
from vocseg_lib.engine.train import Session, train
from vocseg_lib.models.backbones import tiny
from vocseg_lib.models.config import PASCAL_SCALES, YolactConfig
from vocseg_lib.models.lineage.proposals import DiskCache
from vocseg_lib.models.yolact import Yolact
from vocseg_lib.study.recipes import get_recipe
from vocseg_lib.study.study import Study
from vocseg_lib.study.train import train_model
from vocseg_lib.utils.files import write_json

ROOT = Path(__file__).parents[1]
SHORT = TrainConfig(
    iterations=6, batch_size=2, checkpoint_every=2, eval_every=2, lr_milestones=(), workers=0
)
RECIPE = get_recipe("quick").with_changes(
    **{"iterations": 4, "eval_every": 2, "checkpoint_every": 2, "batch_size": 2},
    **{"image_size": 64, "short_side": 64, "channels": 16, "proposals": 32, "rois_per_image": 8},
    **{"warmup_iterations": 1},
)
RUN = {"model": "small"}
"""What else the small training depends on: its `run_config`."""
OFFICIAL_NAMES = (
    (r"body\.layer(\d)\.", lambda m: f"backbone.layers.{int(m[1]) - 1}."),
    (r"body\.", "backbone."),
    (r"pyramid\.lateral\.(\d)\.0\.", lambda m: f"fpn.lat_layers.{2 - int(m[1])}."),
    (r"pyramid\.smooth\.(\d)\.0\.", lambda m: f"fpn.pred_layers.{2 - int(m[1])}."),
    (r"pyramid\.down\.(\d)\.0\.", r"fpn.downsample_layers.\1."),
    (r"protonet\.before\.(\d)\.0\.", lambda m: f"proto_net.{2 * int(m[1])}."),
    (r"protonet\.after\.(\d)\.0\.", lambda m: f"proto_net.{2 * int(m[1]) + 8}."),
    (r"head\.shared\.0\.", "prediction_layers.0.upfeature.0."),
    (r"head\.classes\.0\.", "prediction_layers.0.conf_layer."),
    (r"head\.box\.0\.", "prediction_layers.0.bbox_layer."),
    (r"head\.coefficients\.0\.", "prediction_layers.0.mask_layer."),
    (r"semantic\.0\.", "semantic_seg_conv."),
)
"""Names in our YOLACT to those of the official code."""


def official_state(model: nn.Module) -> dict[str, torch.Tensor]:
    """The state dict of a YOLACT by the official code's names, without counts of batches."""
    state = {k: v for k, v in model.state_dict().items() if not k.endswith("batches_tracked")}
    for pattern, name in OFFICIAL_NAMES:
        state = {re.sub(f"^{pattern}", name, key): value for key, value in state.items()}
    return state


class NoisyModel(nn.Module):
    """A few weights under the models' contract, with batch norm and a random number in its loss."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.norm = nn.Conv2d(3, 4, 5, stride=4), nn.BatchNorm2d(4)

    def forward(self, images, targets):
        features = self.norm(self.layer(torch.stack([image[:, :64, :64] for image in images])))
        counts = torch.tensor([float(len(target["labels"])) for target in targets])
        return {"class": (features.mean((1, 2, 3)) - counts - torch.rand(())).square().mean()}


def small_training(
    devkit: Path, folder: Path, mirror: Path | None = None, config: TrainConfig = SHORT
) -> dict:
    """Train `NoisyModel` or resume it, as the library does any model."""

    def evaluate(model: nn.Module, iteration: int) -> dict[str, float]:
        return {"mask_AP50": float(iteration), "val_loss": 1.0 + torch.rand(1).item()}

    dataset = VocDataset(devkit, "train", AUGMENTATIONS["light"]())
    session = Session(mirror=mirror)
    arguments = {"evaluate": evaluate, "session": session, "run_config": RUN}
    return train(NoisyModel(), dataset, folder, config, **arguments)


def numbers(start: int) -> np.ndarray:
    """What the cache keeps."""
    return np.arange(200_000) + start


def make_world(world: Path) -> None:
    """Write a folder for each kind of input: devkit, run folders, annotations, weights, pages."""
    devkit = synthetic.write(world / "synthetic", train=8, val=4)
    shutil.copytree(devkit, world / "devkit")
    (world / "devkit" / synthetic.STAMP_NAME).unlink()
    for name, lines in {
        "named": {"class_names.txt": CLASS_NAMES},
        "labelmap": {"labelmap.txt": ("background:0,0,0::", *(f"{n}:::" for n in CLASS_NAMES))},
    }.items():
        shutil.copytree(world / "devkit", world / name)
        for file, content in lines.items():
            (world / name / file).write_text("".join(f"{line}\n" for line in content))
    small_training(devkit, world / "small")
    (world / "small" / "running.lock").unlink(missing_ok=True)
    shutil.copytree(world / "small", world / "whole" / "run")
    study = Study(recipe=RECIPE, devkit=devkit, results=world / "results")
    train_model(study, "yolact")
    run = world / "run"
    run.mkdir()
    for path in study.run_folder("yolact").iterdir():
        if path.name not in ("last.pt", "previous.pt", "running.lock"):
            shutil.copyfile(path, run / path.name)
    _write_annotations(world, devkit)
    _write_weights(world / "weights")
    for start in range(3):
        DiskCache(numbers, world / "cache")(start)
    folder = world / "archive"
    folder.mkdir()
    with tarfile.open(folder / TAR_NAME, "w") as tar:
        tar.add(world / "devkit", "VOCdevkit/VOC2012")
    pages = world / "pages"
    (pages / "docs").mkdir(parents=True)
    for name in ("README.md", "docs/lineage.md", "docs/findings.md"):
        shutil.copyfile(ROOT / name, pages / name)
    shutil.copyfile(ROOT / "results/pilot/report.json", pages / "report.json")
    shutil.copytree(pages, world / "lineage_pages")
    (world / "lineage_pages" / "report.json").unlink()
    shutil.copyfile(ROOT / "results/lineage/lineage.json", world / "lineage_pages/lineage.json")


def _write_annotations(world: Path, devkit: Path) -> None:
    """Prediction files (our own, and a list of results) and COCO annotations with pictures."""
    folder = world / "coco"
    shutil.copytree(devkit / "JPEGImages", folder / "images")
    for split in ("train", "val"):
        content = voc_to_coco(devkit, split)
        for annotation in content["annotations"][::2]:  # as polygons
            x, y, w, h = annotation["bbox"]
            annotation["segmentation"] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
            annotation["area"] = w * h
        write_json(folder / f"instances_{split}.json", content)
    ground_truth = voc_to_coco(devkit, "val")
    results = [
        {k: a[k] for k in ("image_id", "category_id", "segmentation")} | {"score": 0.9 - k / 100}
        for k, a in enumerate(ground_truth["annotations"])
    ]
    header = json.loads((world / "run" / "predictions.json").read_text())["header"]
    write_json(folder / "predictions.json", {"header": header, "detections": results})
    write_json(folder / "results.json", results)
    coco_to_voc(folder / "instances_train.json", world / "imported")


def _write_weights(folder: Path) -> None:
    """State dicts of a backbone and of an official YOLACT, of one stored number per tensor."""
    folder.mkdir()
    torch.save(tiny().state_dict(), folder / "tiny.pth")
    model = Yolact(YolactConfig(init=None, semantic_loss=True, scales=PASCAL_SCALES))
    state = {k: torch.zeros(()).expand(v.shape) for k, v in official_state(model).items()}
    torch.save(state, folder / "official.pth")
