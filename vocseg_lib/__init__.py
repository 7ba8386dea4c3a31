"""Mask R-CNN or YOLACT, and why? Instance segmentation on PASCAL VOC 2012, both models on ResNet-50."""

__version__ = "0.1.0"
