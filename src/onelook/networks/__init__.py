"""The detectors of the four families: `head(neck(backbone(pixels(images))))`."""
