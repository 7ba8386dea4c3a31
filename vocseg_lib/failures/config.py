"""Options of the failure analysis."""

from dataclasses import dataclass

from vocseg_lib.utils.config import Config, bounded, share


@dataclass(frozen=True, kw_only=True)
class Thresholds(Config):
    """Thresholds of the failures; shares (0 to 1), but for `min_band_px` and `crowd_distance`."""

    min_coverage: float = share(0.5)  # of an object's pixels, for a mask to cover it
    min_union_iou: float = share(0.5)  # of a mask with the union of the objects that it covers
    min_iou_gain: float = share(0.05)  # of that IoU over the largest one with a single object
    min_box_iou: float = share(0.5)  # of a detection's and an object's box, for the right box
    min_leakage: float = share(0.2)  # of a mask's pixels, outside its object
    min_mask_iou: float = share(0.5)  # below it, more than the contour is wrong
    min_iou_loss: float = share(0.15)  # at the boundary or inside
    band_width: float = share(0.05)  # of the boundary to each side, in roots of the object's area
    min_band_px: int = bounded(2, least=0)  # pixels
    crowd_distance: float = bounded(0.5, least=0.0)  # to a neighbor, in roots of the box area
