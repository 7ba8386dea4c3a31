"""What came before: classical ML, R-CNN's line and semantic segmentation, under the contract of the two models.

Needs the extra `lineage`: `pip install 'vocseg_lib[lineage]'`. Nothing outside imports it unless it is asked for.
"""

try:
    import cv2
    import skimage  # noqa: F401
    import sklearn  # noqa: F401
except ImportError as error:
    raise ModuleNotFoundError(f"{error}: the lineage needs more packages, pip install 'vocseg_lib[lineage]'") from None
if not hasattr(cv2, "ximgproc"):
    raise ModuleNotFoundError(
        "this OpenCV has no ximgproc, which selective search is in: "
        "pip install --force-reinstall --no-deps opencv-contrib-python-headless"
    )

from vocseg_lib.models.lineage.box_masks import WithMasks
from vocseg_lib.models.lineage.features import HandMade, WarpedCnn
from vocseg_lib.models.lineage.proposals import SelectiveSearch, recall_of
from vocseg_lib.models.lineage.regions import CLASSIFIERS, RegionDetector
from vocseg_lib.models.lineage.semantic import Semantic
from vocseg_lib.models.lineage.two_stage import FasterRcnn, FastRcnn

__all__ = [
    "CLASSIFIERS",
    "FastRcnn",
    "FasterRcnn",
    "HandMade",
    "RegionDetector",
    "SelectiveSearch",
    "Semantic",
    "WarpedCnn",
    "WithMasks",
    "recall_of",
]
