"""Resizing to the network's input, and the papers' augmentations of annotated images (NumPy and OpenCV, no torch)."""
