"""MAE-NAS: training-free search of a backbone (DAMO-YOLO sec. 2.1; MAE-DET, Sun et al. 2022, arXiv 2111.13336)."""
