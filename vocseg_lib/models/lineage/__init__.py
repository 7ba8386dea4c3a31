"""Classical ML, R-CNN's line and semantic segmentation, under the contract of the two models.

Needs the extra `lineage`: `pip install 'vocseg_lib[lineage]'`.
"""

try:
    import cv2
    import joblib  # noqa: F401
    import skimage  # noqa: F401
    import sklearn  # noqa: F401
except ImportError as error:
    raise ModuleNotFoundError(
        f"{error}: the lineage needs more packages, pip install 'vocseg_lib[lineage]'"
    ) from None
if not hasattr(cv2, "ximgproc"):
    raise ModuleNotFoundError(
        "this OpenCV has no ximgproc, the module of selective search: "
        "pip install --force-reinstall --no-deps opencv-contrib-python-headless"
    )
