"""Changes of annotated images: placement in the network's frame, and the augmentations of the papers (NumPy, OpenCV)."""
