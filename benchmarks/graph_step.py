"""A training step whose forward pass, losses and backward pass are one CUDA graph: a single launch.

That works because the step has fixed shapes and reads nothing on the host (`tests/test_host_copies.py`). Without CUDA
the same step runs without a graph, so that everything but the capture is tested.
"""

from __future__ import annotations

import torch
from torch import Tensor

from onelook.losses.detection_loss import DetectionLoss
from onelook.training.recipe import Recipe
from onelook.training.train_state import TrainState
from onelook.types import Targets

WARM_UP = 3  # steps on another stream before the capture, in which libraries choose their kernels


class GraphStep:
    """Steps on a batch that stays in the same place in memory; a call makes one and returns the losses.

    images: (B, 3, H, W) uint8 on the device.  To train on another batch, copy it into `images` and `targets`.
    """

    def __init__(self, recipe: Recipe, train_state: TrainState, images: Tensor, targets: Targets) -> None:
        assert isinstance(recipe.loss, DetectionLoss)
        self.recipe, self.train_state, self.loss = recipe, train_state, recipe.loss
        self.images, self.targets = images, targets
        self.size = (images.shape[-2], images.shape[-1])
        self.parameters = [parameter for parameter in train_state.detector.parameters() if parameter.requires_grad]
        train_state.set_train_mode()
        self.graph = self._captured() if images.device.type == "cuda" else None

    def __call__(self) -> dict[str, Tensor]:
        """One step, with the optimizer and the average; the losses are on the device."""
        self.train_state.begin_step(progress=0.5)
        if self.graph is None:
            self._passes()
        else:
            self.graph.replay()
            # The optimizer's step forgets the gradients, which the graph writes to the same memory every time.
            for parameter, gradient in zip(self.parameters, self._gradients):
                parameter.grad = gradient
        self.train_state.optimizer_step(torch.stack(list(self.losses.values())).sum())
        return self.losses

    def _passes(self) -> None:
        with self.train_state.autocast():
            losses = self.train_state.step(self.images, self.targets, self.size, self.loss)
        self.train_state.scaled(torch.stack(list(losses.values())).sum()).backward()
        self.losses = {name: value.detach() for name, value in losses.items()}

    def _captured(self) -> torch.cuda.CUDAGraph:
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP):
                self._passes()
                self.train_state.optimizer.zero_grad(set_to_none=True)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._passes()
        self._gradients = [parameter.grad for parameter in self.parameters]
        return graph
