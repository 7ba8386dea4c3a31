"""Every figure, the gallery and its page, and drawing on pictures."""

from vocseg_lib.plots.data import augmented, class_counts, object_sizes, objects_per_image, sample_maps
from vocseg_lib.plots.failures import ablation, costs_by_size, crowding, failure_costs, in_words, oracles, waterfall, whole
from vocseg_lib.plots.gallery import Gallery
from vocseg_lib.plots.gallery_page import FILTERS, export_page, outline
from vocseg_lib.plots.images import Layer, as_picture, boxes_on_image, framed, instances, layered, outlined, side_by_side
from vocseg_lib.plots.lineage import ap_against_seconds, proposal_recall, short, strip
from vocseg_lib.plots.models import coefficients, prototypes, stages
from vocseg_lib.plots.pictures import Painter, UnreadablePicture, draw_predictions, files_in, paint_video, painted, read_picture
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
from vocseg_lib.plots.style import colour_of, describe, describe_figure, new_ax, new_axes, save
from vocseg_lib.plots.training import ap_against_iteration, ap_against_time, overfitting, scores_of, steps_of, training_curves
from vocseg_lib.plots.widgets import LivePicture, as_png, browse

__all__ = [
    "FILTERS",
    "Gallery",
    "Layer",
    "LivePicture",
    "Painter",
    "UnreadablePicture",
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
    "colour_of",
    "costs_by_size",
    "crowding",
    "describe",
    "describe_figure",
    "draw_predictions",
    "export_page",
    "failure_costs",
    "family",
    "files_in",
    "framed",
    "in_words",
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
    "painted",
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
