"""What an import of COCO annotations reads, before it writes a devkit."""
