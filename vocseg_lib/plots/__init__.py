"""Every figure as `plots.NAME`, the failure gallery, widgets, and predictions drawn on pictures."""

from importlib import import_module

_MODULES = {
    "data": "augmented class_counts object_sizes objects_per_image sample_maps",
    "failures": "ablation_bars crowding_bars dap_by_size failure_dap oracle_bars scene_description "
    "waterfall",
    "gallery": "Gallery",
    "gallery_page": "FILTERS export_page",
    "images": "draw_box draw_boxes draw_instances side_by_side",
    "lineage": "ap_against_seconds detections_by_row proposal_recall_curves",
    "models": "coefficients prototypes stages",
    "pictures": "Visualizer draw_predictions",
    "precision_recall": "ap_differences per_class_ap pr_by_class pr_by_iou pr_curves "
    "pr_masks_and_boxes reliability_diagram",
    "style": "add_figure_title add_title save_figure",
    "training": "ap_against_iteration ap_against_time logged_evaluations overfitting "
    "training_curves",
    "widgets": "LivePlot browse",
}
_HOME = {name: module for module, names in _MODULES.items() for name in names.split()}
__all__ = list(_HOME)


def __getattr__(name: str) -> object:
    """Import the module of a name when it is first used."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
