"""No text covers another, none is cut off, and no figure is wider than a notebook's column."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from tests.helpers.figures import layout_problems
from vocseg_lib import plots
from vocseg_lib.data.coco_validation import validate_ground_truth
from vocseg_lib.failures.analysis import analyze
from vocseg_lib.failures.crowding import by_crowding
from vocseg_lib.failures.oracles import gap_parts, single_oracles
from vocseg_lib.failures.scene_text import describe_with_errors
from vocseg_lib.failures.tables import CASE_TYPES
from vocseg_lib.metrics.bootstrap import bootstrap_weights, paired_differences, sample
from vocseg_lib.metrics.coco_eval import HEADLINE, evaluate
from vocseg_lib.metrics.confusion import confusion_matrix
from vocseg_lib.metrics.power import Spread
from vocseg_lib.metrics.rule_book import rule_book
from vocseg_lib.study import table1
from vocseg_lib.study.ablation import ablation_table
from vocseg_lib.utils.boxes import masks_to_boxes
from vocseg_lib.utils.rle import encode_rle

NOT_FIGURES = "FILTERS LivePlot Visualizer add_suptitle add_title browse draw_box export_page "
NOT_FIGURES += "draw_predictions logged_evaluations overfitting save_figure save_scene "
NOT_FIGURES += "border_block hog_by_cell upload_button upload_in_colab"
LONG = "a detector with a rather long name, version {}"
WORLDS = {  # classes, height and width, objects per image, models
    "one class": (1, (160, 60), 1, ["YOLACT"]),
    "VOC": (20, (90, 120), 6, ["YOLACT", "Mask R-CNN"]),
    "many": (50, (60, 200), 12, [LONG.format(1), LONG.format(2)]),
}


@pytest.fixture(scope="module", params=WORLDS)
def world(request, tmp_path_factory):
    """Evaluations of one or two models on four pictures with objects on top of each other."""
    classes, (height, width), count, titles = WORLDS[request.param]
    random, folder = np.random.default_rng(0), tmp_path_factory.mktemp("pictures")
    name = "Wombat {}" if classes < 50 else "another class with a long name {}"
    categories = [{"id": k, "name": name.format(k)} for k in range(1, classes + 1)]
    masks = torch.zeros(4 * count, height, width, dtype=torch.bool)
    for mask in masks:
        y, x = random.integers(0, (height - 6, width - 6))
        h, w = random.integers(5, (height // 2, width // 2))
        mask[y : y + h, x : x + w] = True
    images = [{"id": i, "height": height, "width": width} for i in range(1, 5)]
    for image in images:
        image["file_name"] = f"{image['id']}.png"
        pixels = random.integers(0, 99, (height, width, 3), np.uint8)
        Image.fromarray(pixels).save(folder / image["file_name"])
    entries = [
        {"image_id": 1 + k % 4, "category_id": 1 + k % classes, "segmentation": rle}
        for k, rle in enumerate(encode_rle(masks))
    ]
    more = {"iscrowd": 0, "area": 100}
    annotations = [{**entry, "id": k, **more} for k, entry in enumerate(entries, 1)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    content, evaluations = validate_ground_truth(content), {}
    for shift, title in enumerate(titles, 1):
        moved = encode_rle(masks | masks.roll(shift * width // 9, 2))
        found = [
            {**entry, "segmentation": moved[k] if k % 3 else entry["segmentation"]}
            | {
                "score": 1 - k / (5 * len(entries)),
                "category_id": 1 + (k % (7 * classes)) % classes,
            }
            for k, entry in enumerate(entries)
        ]
        evaluations[title] = evaluate(content, found)
    analyses = {title: analyze(evaluation) for title, evaluation in evaluations.items()}
    maps = [(f"prototype {k}, weight -0.93", torch.rand(9, 9)) for k in range(3)]
    return SimpleNamespace(
        titles=titles,
        evals=evaluations,
        analyses=analyses,
        sets={title: evaluation.dataset_eval for title, evaluation in evaluations.items()},
        tables={title: analysis.table for title, analysis in analyses.items()},
        gallery=plots.Gallery(analyses, folder, dict.fromkeys(titles, lambda *_: maps)),
        names=[c["name"] for c in categories],
        image=torch.randint(0, 99, (3, height, width), dtype=torch.uint8),
        masks=masks[::4],
        boxes=masks_to_boxes(masks[::4]),
        labels=[entry["category_id"] for entry in entries[::4]],
        entries=[{**entry, "bbox": [5, 5, 20, 20]} for entry in entries[::4]],
        weights=bootstrap_weights(4, 9),
    )


def make_log(peak):
    terms = {"loss": 5.0, "class": 2.0, "box": 1.0, "mask": 1.5, "segmentation": 0.5}
    log = [{"iteration": i, "lr": 1e-3, **terms} for i in range(1, 101)]
    for i in range(20, 101, 20):
        ap = dict.fromkeys(("mask_AP50", "mask_AP", "box_AP50", "box_AP"), 50 - abs(i - peak))
        val = {f"val_{name}": value for name, value in terms.items()}
        log.append({"iteration": i, "seconds": 36.0 * i, **ap, **val})
    return log


def differences(world, iou_type="mask"):
    evaluations = list(world.evals.values()) * 2
    gaps = paired_differences(*(sample([e], world.weights, HEADLINE) for e in evaluations[:2]))
    return plots.ap_differences(gaps, world.titles[0], world.titles[-1], iou_type)


def two_models(world):
    """Two evaluations by title."""
    pairs = zip(world.titles * 2, list(world.evals.values()) * 2, range(2), strict=False)
    return {f"{title} {k}": evaluation for title, evaluation, k in pairs}


def rules(world):
    models = two_models(world)
    table = rule_book(*(sample([model], world.weights) for model in models.values()))
    table.loc[1, ["lead", "flips"]] = -table["lead"][0] or -1.0, True
    flips = plots.explain_flips(models, table.head(3), world.gallery.folder)
    return [plots.rule_book_chart(table, *models), *(axes for _, axes in flips)]


def speed_and_accuracy(world):
    rows = [
        (quantity, title, table1.STUDY, value + k / 20, 0, 0, "quick, synthetic")
        for k, title in enumerate(world.titles)
        for quantity, value in (("FPS", 16.5), ("mask AP50, best", 48.0))
    ]
    return table1.speed_and_accuracy(pd.DataFrame(rows, columns=table1.COLUMNS))


def lineage(world):
    names = [f"Mask R-CNN, row {k}" for k in range(15)]
    table = pd.DataFrame({"model": names, "kind": ["two stages", "one stage", "semantic"] * 5})
    table = table.assign(mask_AP50=30.0, mask_AP50_low=20.0, mask_AP50_high=41.0)
    table["seconds_per_image"] = 0.1 + 0.0004 * np.arange(15)
    steps = pd.DataFrame({"before": names[:-1], "after": names[1:]})
    return plots.ap_against_seconds(table, steps, "a pilot")


def description(world):
    picture, analysis = world.gallery.picture(1), world.analyses[world.titles[0]]
    return plots.scene_description(picture, *describe_with_errors(analysis, 1), world.titles[0])


def gallery(world):
    figures = [world.gallery.sheet(kind) for kind in CASE_TYPES[::5]]
    for _, case in world.gallery.select().head(1).iterrows():
        figures += [world.gallery.draw(case), world.gallery.side_by_side(case, 0.0)]
    return figures


def ablation(world):
    variants = zip(
        ("both tricks", "without the crop", "without the area"), world.evals, strict=False
    )
    return plots.ablation_bars(
        ablation_table({v: world.evals[t] for v, t in variants}, world.weights)
    )


def waterfall(world):
    first, second = (list(world.sets.items()) * 2)[:2]
    return plots.waterfall(gap_parts(first[1], second[1]), first[0], second[0], (30.0, 31.0))


def recut(world):
    of_image = next(iter(world.sets.values()))
    detection, annotation = of_image.detections[0], of_image.annotations[0]
    return plots.mask_recut(detection, annotation, annotation["segmentation"])


BATCH_NORM = ["mean", "variance", "running_mean", "running_variance"]
POOLED = [
    {"kind": kind, "variant": variant, "iterations": 5 * 2**k, "difference": 1.5 * k}
    | {"difference_low": -1.0, "difference_high": 9.0}
    for kind in ("box", "mask") for variant in ("RoI pooling", "rounded RoIAlign", "RoIAlign")
    for k in range(3)
]  # fmt: skip
FIGURES = {
    "Gallery": gallery,
    "ablation_bars": ablation,
    "ap_against_iteration": lambda w: plots.ap_against_iteration(
        {t: make_log(60) for t in w.titles}, 12_000
    ),
    "ap_against_seconds": lineage,
    "ap_against_time": lambda w: plots.ap_against_time({t: make_log(60) for t in w.titles}),
    "ap_differences": differences,
    "augmentation_steps": lambda w: plots.augmentation_steps(
        {f"{k} RandomZoomOut": (w.image, w.masks[0].numpy(), [5, 5, 20, 20]) for k in range(6)},
        "Title", "A caption. " * 20,
    ),
    "augmented": lambda w: plots.augmented(
        [(w.image, {"masks": w.masks, "boxes": w.boxes, "labels": w.labels})] * 6, w.names
    ),
    "batch_norm_statistics": lambda w: plots.batch_norm_statistics(
        dict.fromkeys((2, 8), pd.DataFrame(1.0, range(9), BATCH_NORM)),
        pd.DataFrame({"frozen": 1.0, "unfrozen": [0.5, 1.5]}),
    ),
    "class_counts": lambda w: plots.class_counts(
        pd.DataFrame({"train": 9, "val": 4}, index=w.names)
    ),
    "coefficients": lambda w: plots.coefficients([torch.rand(32)] * 3, (w.names * 3)[:3]),
    "confusion_heatmap": lambda w: plots.confusion_heatmap(
        {title: confusion_matrix(s, 0.1) for title, s in w.sets.items()}
    ),
    "crowding_bars": lambda w: plots.crowding_bars(by_crowding(w.sets, 0.25, w.weights)),
    "dap_by_size": lambda w: plots.dap_by_size(w.tables),
    "detectable_differences": lambda w: [
        plots.detectable_differences(spread, 135, count, "mask AP50")
        for spread, count in ((Spread(of_image=900.0, of_pair=99.0, of_training=2.0), 3),
                              (Spread(of_image=9.0, of_pair=0.0, of_training=0.0), 1))
    ],
    "detections_by_row": lambda w: plots.detections_by_row(
        w.image, {f"Mask R-CNN, short, row {k}": w.entries for k in range(9)}, w.names
    ),
    "differences_by_iteration": lambda w: plots.differences_by_iteration(
        pd.DataFrame(POOLED), "RoIAlign", "A caption. " * 20
    ),
    "draw_boxes": lambda w: plots.draw_boxes(w.image, w.boxes, "YOLACT's priors", "Boxes. " * 9),
    "draw_instances": lambda w: plots.draw_instances(
        w.image, w.masks, w.boxes, w.labels, [0.5] * len(w.labels), class_names=w.names
    ),
    "explain_flips": rules,
    "failure_dap": lambda w: [plots.failure_dap(w.tables, f) for f in ("pixels", "TIDE, masks")],
    "hog_glyphs": lambda w: plots.hog_glyphs(torch.rand(6, 6, 9).numpy(), "HOG of a region"),
    "mask_recut": recut,
    "object_sizes": lambda w: plots.object_sizes([4, 90, 4000, 20000]),
    "objects_per_image": lambda w: plots.objects_per_image([1, 2, 40], w.titles[0]),
    "oracle_bars": lambda w: plots.oracle_bars({t: single_oracles(s) for t, s in w.sets.items()}),
    "per_class_ap": lambda w: plots.per_class_ap({t: e.per_class for t, e in w.evals.items()}),
    "picture_of_flip": lambda w: plots.picture_of_flip(
        w.gallery.picture(1), 0, two_models(w),
        pd.DataFrame({"rule": ["COCO AP", "mean IoU"], "lead": [1.0, -9.0], "without": [0.5, 9.0]}),
    ),
    "pr_by_class": lambda w: plots.pr_by_class(w.evals),
    "pr_by_iou": lambda w: plots.pr_by_iou(w.evals),
    "pr_curves": lambda w: plots.pr_curves(w.evals),
    "pr_masks_and_boxes": lambda w: plots.pr_masks_and_boxes(w.evals),
    "proposal_recall_curves": lambda w: plots.proposal_recall_curves(
        {f"recall at IoU 0.{k}": {t: [10, 20, 30, 40] for t in w.titles} for k in (5, 6, 7)},
        (10, 50, 100, 200),
    ),
    "prototypes": lambda w: plots.prototypes(torch.rand(9, 9, 32)),
    "reliability_diagram": lambda w: plots.reliability_diagram(w.evals),
    "roi_on_cells": lambda w: plots.roi_on_cells(
        np.arange(72.0).reshape(8, 9) % 7, (0.7, 1.2, 6.4, 5.1), [(1, 1, 3, 4)], [(2, 2)], "RoI"
    ),
    "rule_book_chart": rules,
    "sample_maps": lambda w: plots.sample_maps(
        w.image, w.masks.numpy().argmax(0) % 20, w.masks.numpy().argmax(0), w.names
    ),
    "scene_description": description,
    "side_by_side": lambda w: plots.side_by_side(
        w.image,
        {t: {"masks": w.masks, "labels": w.labels, "boxes": w.boxes} for t in ("gt", *w.titles)},
        w.titles[0], "A caption. " * 20, w.names,
    ),
    "speed_and_accuracy": speed_and_accuracy,
    "stages": lambda w: plots.stages(
        [w.masks[0], w.image] * 2, ["14 x 14 mask of the region", "the picture"] * 2, "Title", "x"
    ),
    "training_curves": lambda w: plots.training_curves(make_log(60), w.titles[0], 12_000),
    "waterfall": waterfall,
}  # fmt: skip


def drawn(result):
    """The figures that a function returned: of a figure, axes, or several of them."""
    results = result if isinstance(result, list) else [np.ravel(result)[0]]
    return [getattr(np.ravel(r)[0], "figure", None) or r for r in results]


@pytest.mark.parametrize("name", FIGURES)
def test_no_text_covers_another_and_no_figure_is_too_wide(world, name):
    for figure in drawn(FIGURES[name](world)):
        assert layout_problems(figure) == []


def test_every_figure_is_tested():
    assert {*plots.__all__} - {*NOT_FIGURES.split()} <= FIGURES.keys()
