"""Every figure as `plots.NAME`, the failure gallery, widgets, and predictions on pictures."""

from vocseg_lib.utils.lazy import attach

__getattr__, __all__ = attach(
    __name__,
    {
        "comparison.power": "detectable_differences",
        "comparison.rule_book": "explain_flips picture_of_flip rule_book_chart",
        "data": "augmentation_steps augmented border_block class_counts object_sizes "
        "objects_per_image sample_maps",
        "failures": "ablation_bars crowding_bars dap_by_size failure_dap mask_recut oracle_bars "
        "save_scene scene_description waterfall",
        "gallery": "Gallery",
        "gallery_page": "FILTERS export_page",
        "images": "coefficients draw_box draw_boxes draw_instances prototypes side_by_side stages",
        "lineage": "ap_against_seconds detections_by_row differences_by_iteration hog_by_cell "
        "hog_glyphs proposal_recall_curves roi_on_cells",
        "pictures": "Visualizer draw_predictions",
        "precision_recall": "ap_differences confusion_heatmap per_class_ap pr_by_class "
        "pr_by_iou pr_curves pr_masks_and_boxes reliability_diagram",
        "style": "add_suptitle add_title save_figure",
        "training": "ap_against_iteration ap_against_time batch_norm_statistics logged_evaluations "
        "overfitting training_curves",
        "widgets": "LivePlot browse upload_button upload_in_colab",
    },
)
