"""Changes of annotated images: placement in the network's frame, and the papers' augmentations (NumPy, OpenCV)."""
