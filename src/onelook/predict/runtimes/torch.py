"""PyTorch: runs a detector on one device."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import numpy as np
import torch

from onelook.devices import check_precision, choose_device
from onelook.errors import ConfigError, UsageError
from onelook.networks.deploy import deploy_in_place
from onelook.ops.nms import Postprocess, RawDetections
from onelook.predict.runtime import postprocess_steps_of
from onelook.predict.runtimes.torch_threads import TorchThreads

if TYPE_CHECKING:
    from onelook.networks.detector import Detector
    from onelook.networks.tta import TestTimeAugmentation


class TorchRuntime(TorchThreads):
    """A detector in PyTorch, on one device.

    detector: is not changed; a deployed copy runs (`deployed=False`: a plain copy, to measure what deploying changes).
    in_place: the detector itself is deployed and runs, which saves the time of the copy; its training form is lost.
    size: (height, width) of the input, None for the architecture's; a multiple of the largest stride.  half: float16,
    on a GPU only.  tta: changed copies of every image that are looked at, too. The batch goes to the device as uint8,
    once, and only candidates come back.

    Raises ConfigError for a device that does not exist, a size that does not fit, half precision on a CPU.
    """

    def __init__(
        self,
        detector: Detector,
        device: str | torch.device | None = None,
        *,
        size: tuple[int, int] | None = None,
        half: bool = False,
        deployed: bool = True,
        in_place: bool = False,
        tta: TestTimeAugmentation | None = None,
    ) -> None:
        if detector.architecture is None:
            raise ConfigError("This detector has no architecture.", "Make it with onelook.build().")
        self.device = choose_device(device)
        if half:
            remedy = "Leave --half out (in Python: half), or use a GPU."
            check_precision(self.device, "fp16", cpu_remedy=remedy)
        self.size = detector.architecture.size if size is None else size
        self.stride = max(detector.neck.strides)  # the network takes any multiples of it
        _check_multiple(self.size, self.stride)
        self.frame = detector.architecture.frame
        self.class_names = tuple(detector.class_names)
        self.num_classes = detector.architecture.num_classes
        self.postprocess, self.evaluating = postprocess_steps_of(detector.architecture)
        self.tta = tta
        self._dtype = torch.float16 if half else torch.float32
        network = detector if in_place else copy.deepcopy(detector)
        network = deploy_in_place(network) if deployed else network.eval()
        # Images arrive with the channels last, so the network stays in that layout: nothing is reordered.
        network = network.to(self.device, self._dtype).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.detector: Detector = network.requires_grad_(False)

    def __call__(self, batch: np.ndarray, postprocess: Postprocess) -> list[RawDetections]:
        with torch.inference_mode():
            pixels = torch.from_numpy(batch).to(self.device)
            images = pixels.permute(0, 3, 1, 2).to(self._dtype)
            if self.tta is not None:
                return postprocess.batch(*self.tta(self.detector, images))
            predictions = self.detector(images)
            return postprocess.batch(predictions.boxes, predictions.scores())

    def raw(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(B, 3, H, W) float32 RGB 0..255 -> boxes (B, N, 4) and scores (B, N, C), as an exported file gives them."""
        with torch.inference_mode():
            pixels = torch.from_numpy(images).to(self.device, self._dtype)
            predictions = self.detector(pixels.contiguous(memory_format=torch.channels_last))
            boxes, scores = predictions.boxes, predictions.scores()
            return boxes.float().cpu().numpy(), scores.float().cpu().numpy()


def _check_multiple(size: tuple[int, int], stride: int) -> None:
    for side in size:
        if side < stride or side % stride:
            below, above = side // stride * stride, (side // stride + 1) * stride
            near = f"{below} or {above}" if below > 0 else above
            raise UsageError(
                f"The input size {size[0]} x {size[1]} does not fit.", f"Use multiples of {stride}: {near}."
            )
