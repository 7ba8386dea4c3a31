"""The lineage: models from classical ML to Mask R-CNN and YOLACT, each evaluated alike on val.

Needs the extra `lineage`. Prediction files are kept in `results`/lineage/predictions.
"""

import re
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Subset

from vocseg_lib.data.coco import read_predictions
from vocseg_lib.data.coco_validation import UNCROPPED
from vocseg_lib.data.loader import evenly_spaced
from vocseg_lib.data.transforms import model_input
from vocseg_lib.engine.checkpoint import checksum, load_checkpoint
from vocseg_lib.engine.predict import detections_to_coco, predict, save_predictions
from vocseg_lib.engine.run_folder import BEST
from vocseg_lib.engine.train import Session, train
from vocseg_lib.metrics.bootstrap import bootstrap, bootstrap_weights, interval
from vocseg_lib.metrics.coco_eval import HEADLINE, evaluate
from vocseg_lib.metrics.semantic import SEMANTIC_SCORE, count_pixels, mean_iou
from vocseg_lib.models.lineage import proposals
from vocseg_lib.models.lineage.box_masks import BOX_MASKS, MasksFromBoxes
from vocseg_lib.models.lineage.features import RCNNFeatures, hand_crafted_features
from vocseg_lib.models.lineage.regions import CLASSIFIERS, RegionDetector
from vocseg_lib.models.speedups import speed_up
from vocseg_lib.models.transfer import load_body
from vocseg_lib.study.initial_weights import pretrained
from vocseg_lib.study.run import build_model, default_device, load_run, prediction_header
from vocseg_lib.study.study import Study
from vocseg_lib.study.table1 import measure_speed
from vocseg_lib.study.train import run_config
from vocseg_lib.utils.config import Config, bounded
from vocseg_lib.utils.files import naming_damage, read_json, write_json

POOLED, ROUNDED = "Mask R-CNN with RoI pooling, short", "Mask R-CNN with rounded RoIAlign, short"
SHORT = "Mask R-CNN, short"
POOLING_ROWS = {SHORT: "align", ROUNDED: "round", POOLED: "pool"}
"""Rows that differ in their RoI pooling only; the others are compared with the first."""
MAX_BOX_MASKS = 30
"""Best detections per image that get masks "in its boxes", as GrabCut is slow."""
TIMED_IMAGES = 3


@dataclass(frozen=True, kw_only=True)
class LineageConfig(Config):
    """Options that the rows of the lineage share."""

    images: int = bounded(400, least=1)  # of train, for rows that classify region by region
    proposals: int = bounded(200, least=1)  # per image, of every search
    iterations: int = bounded(1_000, least=1)  # of short trainings and of R-CNN's fine-tuning


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row of the lineage: where its boxes and masks come from, and how its model is made."""

    title: str
    kind: str  # "classical ML", "two stages", "one stage", "semantic" or "oracle"
    proposals: str
    mask_from: str
    classifier: str = ""  # of `CLASSIFIERS`, if regions are classified one by one
    fine_tune: bool = False  # R-CNN's features instead of hand-crafted ones
    model: str = ""  # trained by gradient, by its name in `build_model`
    short: bool = False  # a short training of its own instead of the study's run
    roi_pooling: str = "align"  # of a short training


_REGIONS = {"proposals": "selective search", "mask_from": "box"}
_MASK_RCNN = {"kind": "two stages", "proposals": "RPN", "model": "mask_rcnn"}
_SHORT = {**_MASK_RCNN, "mask_from": "mask branch", "short": True}
_YOLACT = {"kind": "one stage", "proposals": "priors", "model": "yolact"}
_ORACLE = {"kind": "oracle", "proposals": "ground truth"}
_SEMANTIC = {"kind": "semantic", "proposals": "none", "model": "semantic", "short": True}
_CLASSICAL = {"kind": "classical ML", **_REGIONS}
LINEAGE_ROWS = (
    *(Row(title=f"HOG, color, texture + {c}", classifier=c, **_CLASSICAL) for c in CLASSIFIERS),
    Row(title="R-CNN", kind="two stages", classifier="linear SVM", fine_tune=True, **_REGIONS),
    Row(title="Fast R-CNN", kind="two stages", model="fast_rcnn", short=True, **_REGIONS),
    Row(title="Faster R-CNN", **_SHORT | {"model": "faster_rcnn", "mask_from": "box"}),
    Row(title=POOLED, roi_pooling="pool", **_SHORT),
    Row(title=ROUNDED, roi_pooling="round", **_SHORT),
    Row(title=SHORT, **_SHORT),
    Row(title="Mask R-CNN", mask_from="mask branch", **_MASK_RCNN),
    Row(title="YOLACT", mask_from="prototypes", **_YOLACT),
    *(Row(title=f"Mask R-CNN, {m} in its boxes", mask_from=m, **_MASK_RCNN) for m in BOX_MASKS),
    *(Row(title=f"ground truth's boxes, {m}", mask_from=m, **_ORACLE) for m in BOX_MASKS),
    Row(title="DeepLabV3", mask_from="components", **_SEMANTIC),
)
"""In the order of the lineage."""


def evaluate_row(study: Study, config: LineageConfig, row: Row) -> dict[str, Any]:
    """A row's values for `lineage_table`, from its prediction file if that is of this config.

    Otherwise its model is trained, evaluated on val and timed, and the file written.
    Raises ValueError for a damaged file.
    """
    run, predicted = _train_row(study, config, row) if row.model else (None, None)
    key = {**run_config(study, row.model or "mask_rcnn"), "model": row.title}
    key |= {"recipe": study.recipe.to_dict()}  # of both models
    key |= {"images": config.images, "proposals": config.proposals}
    key |= {"fine_tune": config.iterations if row.fine_tune else 0}
    key |= {"best": checksum(load_checkpoint(run / BEST)["model"]) if run else None}
    path = prediction_path(study, row.title)
    if path.is_file() and (header := read_predictions(path)["header"]).get("config") == key:
        with naming_damage(path):
            row = header["row"]
            return row | {name: float(row[name]) for name in ("box_AP50", "mask_AP50")}
    values = {"model": row.title, "kind": row.kind}
    values |= {"proposals": row.proposals, "mask_from": row.mask_from}
    if row.kind == "oracle":
        predictions = _ground_truth_predictions(study, row)
    else:
        start = time.monotonic()
        model, training = _load_row(run, row) if run else _fit_regions(study, config, row)
        training = {"train_minutes": (time.monotonic() - start) / 60, **training}
        data = {"devkit": study.devkit.name, "split": "val"}
        header = {"model": row.title, "data": data, "training": training}
        mixed_precision = study.recipe.train.mixed_precision
        if (
            predicted
            and predicted.is_file()
            and (row.short or not isinstance(model, MasksFromBoxes))
        ):
            predictions = study.read_predictions(predicted)
            predictions["header"] |= header
            for detection in predictions["detections"]:
                detection.pop(UNCROPPED, None)
        else:
            pictures, device = study.val_pictures, default_device()
            predictions = predict(model, pictures, header, device, mixed_precision)
        values |= {name: training[name] for name in ("iterations", "train_minutes")}
        values |= {"seconds_per_image": _seconds_per_image(study, model)}
        values |= {"parameters": sum(p.numel() for p in model.parameters())}
    values |= _row_metrics(study, row, predictions["detections"])
    predictions["header"] |= {"config": key, "row": values}
    save_predictions(path, predictions)
    return values


def prediction_path(study: Study, title: str) -> Path:
    """The prediction file of a row."""
    name = re.sub("[^a-z0-9]+", "_", title.lower()).strip("_")
    return study.results / "lineage" / "predictions" / f"{name}.json"


def region_images(study: Study, config: LineageConfig) -> Subset:
    """The evenly spaced images of train for rows that classify region by region."""
    train_set = study.dataset("train", skip_bad=True)
    return Subset(train_set, evenly_spaced(len(train_set), config.images))


def short_study(study: Study, config: LineageConfig, roi_pooling: str = "align") -> Study:
    """The study with short trainings.

    Without augmentation, so that each image is searched once, and with a constant learning rate
    after warm-up: a training's weights half way are then those of one of half its length.
    """
    n = config.iterations
    recipe = study.recipe.with_changes(
        iterations=n,
        schedule="step",
        lr_milestones=(),
        warmup_iterations=min(study.recipe.train.warmup_iterations, n // 20),
        augmentation="none",
        eval_every=max(1, n // 4),
        patience=None,
        proposals=2 * config.proposals,  # half of them in inference
        roi_pooling=roi_pooling,
    )
    folder = study.results / "lineage" / f"{n}_{config.proposals}_{roi_pooling}"
    return replace(study, recipe=recipe, results=folder)


def compared_iterations(config: LineageConfig) -> list[int]:
    """A quarter, half and all of the iterations: where RoI poolings are compared."""
    quarter = max(1, config.iterations // 4)
    return sorted({min(n, config.iterations) for n in (quarter, 2 * quarter, config.iterations)})


def _train_row(study: Study, config: LineageConfig, row: Row) -> tuple[Path, Path]:
    """The run folder of a row, after its short training or the study's own, and its predictions."""
    if not row.short:
        run = study.run_folder(row.model)
        return run, run / "predictions.json"
    study = short_study(study, config, row.roi_pooling)
    run, run_options = study.run_folder(row.model), run_config(study, row.model)
    points = compared_iterations(config) if row.title in POOLING_ROWS else [config.iterations]
    model = build_model(study.recipe, row.model, study.class_names)
    dataset, session = study.dataset("train", skip_bad=True), Session(device=default_device())
    evaluate_model = partial(_predict_at, study, run_options, points)
    options = {"session": session, "run_config": run_options}
    state = train(model, dataset, run, study.recipe.train, evaluate_model, **options)
    write_json(run / "metrics.json", {"train_minutes": state["seconds"] / 60})
    return run, run / f"predictions_{config.iterations}.json"


def _predict_at(
    study: Study, run_options: dict, points: list[int], model: nn.Module, iteration: int
) -> dict[str, float]:
    """Predict val after some iterations of a training and write the file; metrics of the last."""
    if iteration in points:
        header = prediction_header(run_options, iteration, study.dataset("val"))
        options = {"device": default_device(), "progress": False}
        options["mixed_precision"] = study.recipe.train.mixed_precision
        predictions = predict(model, study.val_pictures, header, **options)
        folder = study.run_folder(run_options["model"])
        save_predictions(folder / f"predictions_{iteration}.json", predictions)
    if iteration < study.recipe.train.iterations:
        return {"mask_AP50": float("nan")}  # so that the last weights are the best ones
    return evaluate(study.ground_truth, predictions["detections"]).summary


def _load_row(run: Path, row: Row) -> tuple[nn.Module, dict]:
    model, config, _ = load_run(run)
    if row.mask_from in BOX_MASKS and not isinstance(model, MasksFromBoxes):
        model = MasksFromBoxes(model, row.mask_from, MAX_BOX_MASKS)
    with naming_damage(run / "metrics.json"):
        minutes = float(read_json(run / "metrics.json")["train_minutes"])
    return model, {"iterations": config["train"]["iterations"], "train_minutes": minutes}


def _fit_regions(study: Study, config: LineageConfig, row: Row) -> tuple[nn.Module, dict]:
    """A fitted `RegionDetector`, and the counts of its training."""
    train, yolact, images = study.recipe.train, study.recipe.yolact, region_images(study, config)
    search, features = search_and_features(study, config)
    classes, iterations = len(study.class_names) + 1, config.iterations if row.fine_tune else 0
    if row.fine_tune:
        torch.manual_seed(train.seed)
        weights = pretrained(yolact.init, "yolact")
        init = None if weights else yolact.init
        features = RCNNFeatures(yolact.backbone, init, yolact.image_size // 3)
        if weights:
            load_body(features.body, weights)
        features = speed_up(features).to(default_device())
        rate = train.learning_rate * train.backbone_lr_mult
        features.fine_tune(images, search, classes, iterations, rate)
    classifier = CLASSIFIERS[row.classifier](train.seed)
    model = RegionDetector(search, features, classifier, classes, row.fine_tune)
    counts = model.fit(images, train.seed)
    missing = [study.class_names[k - 1] for k in counts.pop("classes_without_objects")]
    print(f"{row.title}: {counts}, classes without objects: {', '.join(missing) or 'none'}")
    return MasksFromBoxes(model), {"iterations": iterations, **counts}


def search_and_features(study: Study, config: LineageConfig) -> tuple[Callable, Callable]:
    """Selective search of an image, and hand-crafted features of its regions, cached on disk."""
    cache = study.results / "lineage" / "cache"
    search = proposals.SelectiveSearch(config.proposals, study.recipe.train.seed, cache)
    return search, proposals.DiskCache(hand_crafted_features, cache)


def _seconds_per_image(study: Study, model: nn.Module) -> float:
    """The median of a few images, one at a time, with nothing from the cache."""
    images = [
        model_input(study.val_pictures[i][0]) for i in range(min(TIMED_IMAGES, len(study.val)))
    ]
    device, mixed_precision = default_device(), study.recipe.train.mixed_precision
    proposals.DiskCache.enabled = False
    try:
        speed = measure_speed(model, images, device, 1, TIMED_IMAGES, mixed_precision)
    finally:
        proposals.DiskCache.enabled = True
    return speed["seconds_per_image"]


def _ground_truth_predictions(study: Study, row: Row) -> dict:
    """Masks from the ground truth's boxes: the largest AP that a perfect detector could get."""
    detections, images = [], study.ground_truth["images"]
    for (image, target), info in zip(study.val, images, strict=True):
        boxes = target["boxes"].as_subclass(Tensor).float()
        masks = BOX_MASKS[row.mask_from](proposals.to_uint8_hwc(model_input(image)), boxes)
        objects = {"boxes": boxes, "labels": target["labels"], "masks": masks}
        objects["scores"] = torch.ones(len(boxes))
        size = info["height"], info["width"]
        detections += detections_to_coco(target["image_id"], objects, size)
    header = {"model": row.title, "images": study.val_images}
    return {"header": header, "detections": detections}


def _row_metrics(study: Study, row: Row, detections: list[dict]) -> dict[str, float]:
    evaluation = evaluate(study.ground_truth, detections)
    weights = bootstrap_weights(len(study.val))
    ap50 = bootstrap(evaluation, weights, only=HEADLINE)["mask", "AP50", "all"]
    low, high = interval(ap50.to_numpy())
    # All components of a class map count, however unsure.
    score = 0.0 if row.kind == "semantic" else SEMANTIC_SCORE
    (iou,), _ = mean_iou(count_pixels(study.ground_truth, detections, score))
    ap = {name: evaluation.summary[name] for name in ("box_AP50", "mask_AP50")}
    return {**ap, "mask_AP50_low": low, "mask_AP50_high": high, "mean_iou": float(iou)}
