"""Boxes, masks, RLE, files, devices: knows nothing of the study."""
