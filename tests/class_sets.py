"""Images in class folders, cut out of made-up scenes."""

from __future__ import annotations

from pathlib import Path

import cv2

from onelook.data.synthetic import Scenes


def write_class_folders(root: Path, splits: dict[str, int], classes: int = 3, size: int = 96) -> Path:
    """`{split}/{class}/{number}.png` with so many images a class; a split named "" lies in the folder itself."""
    scenes = Scenes(size=(200, 200))
    for split, count in splits.items():
        found = [0] * classes
        for index in range(10_000):
            sample = scenes(split or "train", index)
            for (x1, y1, x2, y2), label in zip(sample.boxes.astype(int).tolist(), sample.labels.tolist()):
                if label >= classes or found[label] >= count:
                    continue
                folder = root / split / scenes.names[label]
                folder.mkdir(parents=True, exist_ok=True)
                crop = cv2.resize(sample.image[max(y1 - 4, 0) : y2 + 4, max(x1 - 4, 0) : x2 + 4], (size, size))
                cv2.imwrite(str(folder / f"{found[label]:03}.png"), crop[..., ::-1])
                found[label] += 1
            if min(found) >= count:
                break
    return root
