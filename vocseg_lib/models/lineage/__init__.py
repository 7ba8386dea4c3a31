"""What came before: classical ML, R-CNN's line and semantic segmentation, under the contract of the two models.

Needs the extra `lineage`: `pip install 'vocseg_lib[lineage]'`. Nothing outside imports it unless it is asked for.
"""

try:
    import cv2
    import skimage  # noqa: F401
    import sklearn  # noqa: F401
except ImportError as error:
    raise ModuleNotFoundError(
        f"{error}: the lineage needs more packages, pip install 'vocseg_lib[lineage]'"
    ) from None
if not hasattr(cv2, "ximgproc"):
    raise ModuleNotFoundError(
        "this OpenCV has no ximgproc, which selective search is in: "
        "pip install --force-reinstall --no-deps opencv-contrib-python-headless"
    )

from vocseg_lib.models.lineage.box_masks import MasksFromBoxes
from vocseg_lib.models.lineage.features import HandCraftedFeatures, RCNNFeatures
from vocseg_lib.models.lineage.proposals import SelectiveSearch, proposal_recall
from vocseg_lib.models.lineage.regions import CLASSIFIERS, RegionDetector
from vocseg_lib.models.lineage.semantic import DeepLabV3Components
from vocseg_lib.models.lineage.two_stage import FasterRCNN, FastRCNN

__all__ = [
    "CLASSIFIERS",
    "DeepLabV3Components",
    "FastRCNN",
    "FasterRCNN",
    "HandCraftedFeatures",
    "MasksFromBoxes",
    "RCNNFeatures",
    "RegionDetector",
    "SelectiveSearch",
    "proposal_recall",
]
