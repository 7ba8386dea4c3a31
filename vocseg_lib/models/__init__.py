"""Models under torchvision's contract, from pixels to masks."""
