"""COCO and VOC metrics of prediction files, their intervals and calibration."""
