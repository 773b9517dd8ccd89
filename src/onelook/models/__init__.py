"""Detectors of the four papers: `head(neck(backbone(pixels(images))))`."""
