"""Every figure, the gallery and its page, and drawing on pictures."""

from vocseg_lib.plots.data import augmented, class_counts, object_sizes, objects_per_image, sample_maps
from vocseg_lib.plots.failures import ablation, costs_by_size, crowding, explain_largest, failure_costs, oracles, waterfall, whole
from vocseg_lib.plots.gallery import Gallery
from vocseg_lib.plots.gallery_page import FILTERS, export_page, outline
from vocseg_lib.plots.images import Layer, as_picture, boxes_on_image, framed, instances, layered, outlined, side_by_side
from vocseg_lib.plots.lineage import ap_against_seconds, proposal_recall, short, strip
from vocseg_lib.plots.models import coefficients, prototypes, stages
from vocseg_lib.plots.pictures import (
    UnreadablePicture,
    Visualizer,
    draw_instances,
    draw_predictions,
    files_in,
    paint_video,
    read_picture,
)
from vocseg_lib.plots.precision_recall import (
    by_class,
    family,
    iso_f1,
    masks_beside_boxes,
    overall,
    paired_differences,
    per_class_ap,
    reliability,
)
from vocseg_lib.plots.style import color_of, describe, describe_figure, new_ax, new_axes, save
from vocseg_lib.plots.training import ap_against_iteration, ap_against_time, overfitting, scores_of, steps_of, training_curves
from vocseg_lib.plots.widgets import LivePlot, as_png, browse

__all__ = [
    "FILTERS",
    "Gallery",
    "Layer",
    "LivePlot",
    "UnreadablePicture",
    "Visualizer",
    "ablation",
    "ap_against_iteration",
    "ap_against_seconds",
    "ap_against_time",
    "as_picture",
    "as_png",
    "augmented",
    "boxes_on_image",
    "browse",
    "by_class",
    "class_counts",
    "coefficients",
    "color_of",
    "costs_by_size",
    "crowding",
    "describe",
    "describe_figure",
    "draw_instances",
    "draw_predictions",
    "explain_largest",
    "export_page",
    "failure_costs",
    "family",
    "files_in",
    "framed",
    "instances",
    "iso_f1",
    "layered",
    "masks_beside_boxes",
    "new_ax",
    "new_axes",
    "object_sizes",
    "objects_per_image",
    "oracles",
    "outline",
    "outlined",
    "overall",
    "overfitting",
    "paint_video",
    "paired_differences",
    "per_class_ap",
    "proposal_recall",
    "prototypes",
    "read_picture",
    "reliability",
    "sample_maps",
    "save",
    "scores_of",
    "short",
    "side_by_side",
    "stages",
    "steps_of",
    "strip",
    "training_curves",
    "waterfall",
    "whole",
]
