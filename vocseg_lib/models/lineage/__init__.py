"""Classical ML, R-CNN's line and semantic segmentation, under the contract of the two models."""

try:
    import cv2
    import skimage  # noqa: F401
    import sklearn  # noqa: F401
except ImportError as error:
    problem = f"{error}: the lineage needs more packages, pip install 'vocseg_lib[lineage]'"
    raise ModuleNotFoundError(problem) from None
if not hasattr(cv2, "ximgproc"):  # the module of selective search
    install = "pip install --force-reinstall --no-deps opencv-contrib-python-headless"
    raise ModuleNotFoundError(f"this OpenCV has no ximgproc: {install}")
