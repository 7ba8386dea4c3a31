"""PASCAL VOC on disk: read, download, verify, convert and augment a devkit."""
