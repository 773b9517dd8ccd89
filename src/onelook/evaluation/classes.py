"""Top-1 and top-5 of a classifier on a split of class folders."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import nn

from onelook.augment.classifier import centre_crop
from onelook.data.split import Dataset
from onelook.evaluation.shards import shard
from onelook.ops.reduce import sum_over_processes


@torch.no_grad()
def top_k(
    model: nn.Module, dataset: Dataset, size: tuple[int, int], device: torch.device, batch: int = 32
) -> dict[str, float]:
    """The share of images whose class is the first prediction ("top1"), and among the first five ("top5").

    Images are resized until they cover `size` (height, width), and their centre is used. With several processes each
    evaluates its part. The model keeps the mode it had.
    """
    was_training = model.training
    model.eval()
    rank, num_processes = shard()
    rows, found = np.arange(len(dataset))[rank::num_processes], torch.zeros(3, device=device)

    def crops(part: np.ndarray) -> np.ndarray:
        return np.stack([centre_crop(dataset.image(int(row)), size) for row in part])

    with ThreadPoolExecutor(1) as ahead:  # reads the next batch while the model is busy
        parts = [rows[start : start + batch] for start in range(0, len(rows), batch)]
        waiting = [ahead.submit(crops, part) for part in parts[:1]]
        for number, part in enumerate(parts):
            images = waiting.pop(0).result()
            if number + 1 < len(parts):
                waiting.append(ahead.submit(crops, parts[number + 1]))
            labels = torch.tensor([int(dataset.labels(int(row))[0]) for row in part], device=device)
            logits = model(torch.from_numpy(images).to(device).permute(0, 3, 1, 2).float())
            best = logits.topk(min(5, logits.shape[1]), 1).indices == labels[:, None]
            found += torch.stack([best[:, 0].sum(), best.any(1).sum(), torch.tensor(len(part), device=device)])
    model.train(was_training)
    first, five, total = sum_over_processes(found).tolist()
    return {"top1": first / max(total, 1), "top5": five / max(total, 1)}
