"""Figures are drawn from real results of small models and looked at for labels; their looks are judged by people."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch

from vocseg_lib.data.coco_convert import voc_to_coco
from vocseg_lib.data.voc import read_sample, split_ids
from vocseg_lib.metrics import bootstrap
from vocseg_lib.metrics.coco_eval import evaluate
from vocseg_lib.plots import precision_recall, training, widgets
from vocseg_lib.plots.data import (
    augmented,
    class_counts,
    object_sizes,
    objects_per_image,
    sample_maps,
)
from vocseg_lib.plots.images import draw_box, draw_boxes, draw_instances, to_hwc
from vocseg_lib.plots.models import coefficients, prototypes, stages
from vocseg_lib.plots.precision_recall import per_class_ap
from vocseg_lib.plots.style import save_figure
from vocseg_lib.plots.widgets import browse


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


@pytest.fixture
def sample(devkit):
    return read_sample(devkit, split_ids(devkit, "val")[0])


@pytest.fixture
def judged(devkit):
    truth = voc_to_coco(devkit, "val")
    random = np.random.default_rng(0)
    found = {}
    for title in ("YOLACT", "Mask R-CNN"):
        kept = [a for a in truth["annotations"] if random.random() < 0.7]
        found[title] = [
            {
                **a,
                "score": float(random.uniform(0.4, 1)),
                "category_id": int(random.choice([a["category_id"], 5])),
            }
            for a in kept
        ]
    return truth, found


def log_of(best, val_losses=(4.0, 2.5, 2.0, 1.95, 1.9), train=lambda i: 5 / i):
    """Scores at iterations 20, 40, 60, 80, 100."""
    steps = [
        {"iteration": i, "lr": 1e-3, "loss": train(i), "class": 3 / i, "mask": 2 / i}
        for i in range(1, 101)
    ]
    kinds = ("mask_AP50", "mask_AP", "box_AP50", "box_AP")
    return steps + [
        {
            "iteration": i,
            "seconds": 36.0 * i,
            **dict.fromkeys(kinds, 50 - abs(i - best)),
            "val_loss": loss,
            "val_class": loss / 2,
        }
        for i, loss in zip(range(20, 101, 20), val_losses, strict=True)
    ]


def is_labelled(ax):
    return bool(
        ax.get_xlabel() and ax.get_ylabel() and ax.get_legend() and "\n" in ax.get_title(loc="left")
    )


def test_charts_have_labels_legend_and_a_reading(judged):
    truth, found = judged
    results = {title: evaluate(truth, detections) for title, detections in found.items()}
    weights = bootstrap.bootstrap_weights(len(truth["images"]), 20)
    gaps = bootstrap.paired_differences(
        *results.values(), tuple(bootstrap.bootstrap(r, weights) for r in results.values())
    )
    counts = pd.DataFrame({"train": [3, 9], "val": [1, 2]}, index=["cat", "person"])
    charts = [
        class_counts(counts),
        object_sizes([4, 90, 4000, 20000]),
        objects_per_image([1, 2, 2, 5]),
        training.ap_against_iteration({"YOLACT": log_of(60), "Mask R-CNN": log_of(100)}),
        training.ap_against_time({"YOLACT": log_of(60), "Mask R-CNN": log_of(100)}),
        per_class_ap({title: r.per_class for title, r in results.items()}),
        coefficients([torch.rand(32), torch.rand(32)], ["a", "b"]),
    ]
    assert "YOLACT peaks after 0.6 hours; Mask R-CNN peaks after 1 hours" in charts[4].get_title(
        loc="left"
    )
    assert "no difference shown" in precision_recall.ap_differences(gaps, *results).get_title(
        loc="left"
    )
    for ax in charts:
        assert is_labelled(ax), ax.get_title(loc="left")
    _, ax = plt.subplots()
    assert object_sizes([4, 90], ax=ax) is ax


def test_training_curves_say_where_overfitting_starts():
    axes = training.training_curves(log_of(60, (4.0, 3.0, 2.0, 2.5, 3.0)), "YOLACT", 12_000)
    said = axes[0].figure.get_suptitle().replace("\n", " ")
    assert (
        "Overfitting starts near iteration 60: from there the loss on val rises from 2.00 to 3.00"
        in said
    )
    assert "highest at iteration 60 (50.0 %) and ends at 10.0 %" in said
    assert all(ax.get_xlabel() and ax.get_ylabel() and ax.get_legend() for ax in axes)
    marks = [text.get_text() for text in axes[3].get_legend().get_texts()]
    assert "6000: the study's 6K" in marks
    assert "12000: the study's 12K" in marks
    assert [line.get_label() for line in axes[1].lines] == ["loss", "class"]
    late = training.overfitting(log_of(100))
    assert "No overfitting up to iteration 100" in late
    assert "more training may still help" in late
    assert "Too few scores" in training.overfitting(log_of(60)[:101])
    blip = training.overfitting(log_of(100, (4.0, 3.0, 2.0, 2.0, 2.5)))
    assert (
        "Too early to speak of overfitting: the loss on val rises from 2.00 to 2.50, but only at the last score"
        in blip
    )
    diverging = training.overfitting(log_of(60, (4.0, 3.0, 2.0, 2.5, 3.0), train=lambda i: i))
    assert "it diverges, which is not overfitting" in diverging
    nan = float("nan")
    assert "No overfitting" in training.overfitting(log_of(100, (4.0, nan, 2.0, 1.95, 1.9)))
    assert "Too few scores" in training.overfitting(log_of(60, (nan,) * 5))


def test_the_studys_marks_stay_when_a_training_stops_early():
    ax = training.ap_against_iteration({"YOLACT": log_of(60)}, 400)
    marks = [text.get_text() for text in ax.get_legend().get_texts()]
    assert marks == ["YOLACT", "200: the study's 6K", "400: the study's 12K"]


def test_trainings_of_different_length_have_no_half_way_in_common():
    ax = training.ap_against_iteration({"YOLACT": log_of(100), "Mask R-CNN": log_of(60)}, 60)
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["YOLACT", "Mask R-CNN"]
    assert "of different length" in ax.get_title(loc="left")


def test_training_curves_can_be_drawn_from_the_first_moment_on():
    nan = float("nan")
    left_out = {"iteration": 1, "lr": 1, "left_out": "loss", "images": ["a"]}
    for log in (
        [],
        log_of(60)[:1],
        log_of(60)[:101],
        log_of(60)[100:],
        [left_out],
        log_of(nan),
        log_of(60, (nan,) * 5),
    ):
        axes = training.training_curves(log, "YOLACT", 100)
        axes[0].figure.canvas.draw()
        assert len(axes) == 4
        training.ap_against_iteration({"YOLACT": log}, 100).figure.canvas.draw()


def test_a_live_picture_is_redrawn_in_place_and_not_too_often(tmp_path, monkeypatch):
    drawn = []

    def draw(path):
        drawn.append(path)
        return plt.figure()

    live = widgets.LivePlot(draw)
    live.update(tmp_path)
    picture = live.widget.value
    live.update(tmp_path)
    assert drawn == [tmp_path]
    assert bytes(picture).startswith(b"\x89PNG")
    monkeypatch.setattr(widgets, "REDRAW_SECONDS", 0.0)
    live = widgets.LivePlot(draw)
    live.update(tmp_path)
    live.update(tmp_path)
    assert len(drawn) == 3


def test_pictures_are_drawn_and_saved(sample, tmp_path):
    ax = draw_instances(
        sample.image, sample.masks, sample.boxes, sample.labels, scores=[0.5] * len(sample.labels)
    )
    assert len(ax.patches) == len(ax.texts) == len(sample.labels)
    save_figure(ax, tmp_path, "picture")
    assert plt.imread(tmp_path / "figures" / "picture.png").std() > 0
    draw_instances(sample.image, sample.masks[:0])
    maps = sample.masks.sum(0).numpy().astype(np.uint8)
    assert len(sample_maps(sample.image, maps, maps)) == 3
    target = {"masks": sample.masks, "boxes": sample.boxes, "labels": sample.labels}
    assert len(augmented([(sample.image, target)] * 5)) == 5
    assert len(prototypes(torch.rand(9, 9, 32))) == 32
    draw_boxes(sample.image, sample.boxes, "boxes", "reading")
    edged = draw_box(sample.image, sample.boxes[0])
    assert edged.shape == (*sample.image.shape[1:], 3)
    assert (edged != to_hwc(sample.image)).any()
    axes = stages([np.eye(4), draw_box], ["map", "picture"], "title", "reading")
    assert len(axes[0].figure.axes) == 3  # the map has a colour bar


def test_browser_draws_what_is_chosen():
    drawn = []

    def draw(row):
        drawn.append(row.name)
        return plt.figure()

    table = pd.DataFrame(
        {
            "type": ["leak", "leak", "ghost", "leak"],
            "size": ["s", "l", "s", "s"],
            "alone": [True, False, False, True],
        }
    )
    box = browse(table, ["type", "size"], "alone", draw)
    menus, (ticked, position, count) = box.children[0].children, box.children[1].children
    assert [menu.options for menu in menus] == [("all", "ghost", "leak"), ("all", "l", "s")]
    assert drawn == [0]
    position.value = 2
    assert drawn[-1] == 2
    menus[0].value = "leak"
    assert drawn[-1] == 0
    assert (position.value, position.max, count.value) == (0, 2, "3 of 4 cases")
    menus[1].value = "l"
    assert drawn[-1] == 1
    ticked.value = True
    assert (count.value, box.children[-1].value) == ("0 of 4 cases", b"")
    menus[1].value = "all"
    position.value = 1
    assert drawn == [0, 2, 0, 1, 0, 3]
    assert "Nothing" in browse(table[:0], ["type"], "alone", draw).value


def test_precision_recall_figures_say_what_they_show(judged):
    truth, found = judged
    results = {title: evaluate(truth, detections) for title, detections in found.items()}
    figures = {
        "Areas (AP) at IoU 0.5": precision_recall.pr_curves(results),
        "Box minus mask AP75": precision_recall.pr_masks_and_boxes(results),
        "the worse masks are drawn": precision_recall.pr_by_iou(results),
        "Mean over classes of that F1": precision_recall.pr_by_class(results),
        "on average over detections": precision_recall.reliability_diagram_diagram(results),
    }
    for reading, axes in figures.items():
        assert reading in axes[0].figure.get_suptitle().replace("\n", " ")
        assert axes[0].get_ylabel()
    assert [ax.get_title() for ax in figures["Areas (AP) at IoU 0.5"]] == ["IoU 0.5", "IoU 0.75"]
    labels = [
        text.get_text() for text in figures["Areas (AP) at IoU 0.5"][0].get_legend().get_texts()
    ]
    assert labels == [
        f"{title}: AP {results[title].summary['mask_AP50']:.1f} %" for title in results
    ]
    assert len(figures["Mean over classes of that F1"]) == len(results["YOLACT"].category_index)


def test_nothing_found_can_be_drawn(judged):
    truth, found = judged
    results = {"none": evaluate(truth, [])}
    results |= {
        f"high {i}": evaluate(truth, [{**d, "score": 7.0} for d in found["YOLACT"]])
        for i in range(9)
    }
    results["no class"] = evaluate({**truth, "annotations": []}, [])
    assert per_class_ap({"no class": results.pop("no class").per_class}).get_title(loc="left")
    assert (
        len(precision_recall.pr_by_class({"no class": evaluate({**truth, "annotations": []}, [])}))
        == 1
    )
    for draw in (
        precision_recall.pr_curves,
        precision_recall.pr_masks_and_boxes,
        precision_recall.pr_by_iou,
        precision_recall.pr_by_class,
        precision_recall.reliability_diagram_diagram,
    ):
        assert len(draw(results))
