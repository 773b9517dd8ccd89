"""Settings of the optimizers (SGD, AdamW), and the parameter groups of the papers.

All four papers apply weight decay to convolution kernels, not to normalisation weights and biases; only DAMO-YOLO's
code applies it to learnt scalars.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from onelook.training.schedule import Rates


def parameter_groups(
    model: nn.Module, weight_decay: float, *, decay_scalars: bool = False, backbone_rate: float = 1.0
) -> list[dict[str, Any]]:
    """The trainable parameters in three groups: "norm" (no decay), "weights" (decayed), "biases" (no decay).

    Other vectors (implicit knowledge) are in "norm", and so are scalars unless `decay_scalars`. Frozen parameters are
    left out, so that neither decay nor momentum changes them. With a `backbone_rate` other than 1 the backbone's are in
    groups of their own, whose "rate" is that factor on the learning rate; that of all others is 1.
    """
    if backbone_rate != 1:
        inside = {
            id(one)
            for name, part in model.named_modules()
            if name.split(".")[-1] == "backbone"
            for one in part.modules()
        }
        rest = _groups((m for m in model.modules() if id(m) not in inside), weight_decay, decay_scalars)
        own = _groups((m for m in model.modules() if id(m) in inside), weight_decay, decay_scalars)
        return [*rest, *({**group, "rate": backbone_rate} for group in own)]
    return _groups(model.modules(), weight_decay, decay_scalars)


def _groups(modules: Iterable[nn.Module], weight_decay: float, decay_scalars: bool) -> list[dict[str, Any]]:
    """The groups of the parameters of modules, without those of the modules in them."""
    groups: dict[str, list[nn.Parameter]] = {"norm": [], "weights": [], "biases": []}
    for module in modules:
        normalises = isinstance(module, _NormBase | nn.LayerNorm | nn.GroupNorm)
        for name, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad:
                continue
            if name == "bias":
                groups["biases"].append(parameter)
            elif (name == "weight" and not normalises and parameter.ndim >= 2) or (
                decay_scalars and not parameter.ndim
            ):
                groups["weights"].append(parameter)
            else:
                groups["norm"].append(parameter)
    decay = {"norm": 0.0, "weights": weight_decay, "biases": 0.0}
    return [
        {"params": parameters, "weight_decay": decay[name], "name": name, "rate": 1.0}
        for name, parameters in groups.items()
        if parameters
    ]


def _fused(groups: list[dict[str, Any]]) -> bool:
    """Whether a fused optimizer can be used: a Python loop over hundreds of small tensors costs milliseconds."""
    parameters: Iterator[nn.Parameter] = (parameter for group in groups for parameter in group["params"])
    return all(p.is_floating_point() and p.device.type in ("cpu", "cuda") for p in parameters)


def _check(lr_per_image: float, weight_decay: float, backbone_rate: float) -> None:
    """ValueError for a rate or a decay out of range."""
    if not 0 < backbone_rate <= 1:
        raise ValueError(f"backbone_rate is a factor above 0 and at most 1, not {backbone_rate}; freeze holds it still")
    if not 0 <= lr_per_image < math.inf:
        raise ValueError(f"lr_per_image is 0 or above, not {lr_per_image}")
    if not weight_decay >= 0:
        raise ValueError(f"weight_decay is not negative: {weight_decay}")


@dataclass(frozen=True)
class Sgd:
    """Stochastic gradient descent.

    lr_per_image: base learning rate divided by the global batch size (YOLOX: 0.01 for a batch of 64).  decay_scalars:
    whether weight decay applies to learnt scalars too (as in DAMO-YOLO's code).  backbone_rate: factor on the learning
    rate of the backbone, whose trained weights need smaller steps than a new head.
    """

    lr_per_image: float = 0.01 / 64
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float = 5e-4
    decay_scalars: bool = False
    backbone_rate: float = 1.0

    def __post_init__(self) -> None:
        _check(self.lr_per_image, self.weight_decay, self.backbone_rate)
        if not 0 <= self.momentum < 1 or (self.nesterov and self.momentum == 0):
            raise ValueError(f"momentum lies in [0, 1), above 0 with nesterov, not {self.momentum}")

    def build(self, model: nn.Module, batch_size: int) -> torch.optim.Optimizer:
        """The optimizer of a model's trainable parameters, with the base rate for a global batch of `batch_size`."""
        groups = parameter_groups(
            model, self.weight_decay, decay_scalars=self.decay_scalars, backbone_rate=self.backbone_rate
        )
        optimizer = torch.optim.SGD(
            groups,
            lr=self.lr_per_image * batch_size,
            momentum=self.momentum,
            nesterov=self.nesterov,
            fused=_fused(groups),
        )
        if self.momentum:
            # PyTorch would create these in the first step. Where that step is skipped (its gradients overflow in
            # float16), they would stay uninitialised memory, and the second step would give NaN.
            for parameter in (parameter for group in groups for parameter in group["params"]):
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        return optimizer


@dataclass(frozen=True)
class AdamW:
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019), with the same groups.

    lr_per_image: base learning rate divided by the global batch size.  decay_scalars, backbone_rate: as in
    `Sgd`.
    """

    lr_per_image: float = 0.001 / 64
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.05
    decay_scalars: bool = False
    backbone_rate: float = 1.0

    def __post_init__(self) -> None:
        _check(self.lr_per_image, self.weight_decay, self.backbone_rate)
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas lie in [0, 1), not {self.betas}")

    def build(self, model: nn.Module, batch_size: int) -> torch.optim.Optimizer:
        """The optimizer of a model's trainable parameters, with the base rate for a global batch of `batch_size`."""
        groups = parameter_groups(
            model, self.weight_decay, decay_scalars=self.decay_scalars, backbone_rate=self.backbone_rate
        )
        return torch.optim.AdamW(groups, lr=self.lr_per_image * batch_size, betas=self.betas, fused=_fused(groups))


def set_rates(optimizer: torch.optim.Optimizer, rates: Rates, base_lr: float) -> None:
    """Sets learning rates and momentum of a step in the optimizer's parameter groups."""
    for group in optimizer.param_groups:
        scale = rates.bias_scale if rates.bias_scale is not None and group["name"] == "biases" else rates.scale
        group["lr"] = base_lr * scale * group["rate"]
        if rates.momentum is not None:
            if "momentum" in group:
                group["momentum"] = rates.momentum
            else:
                group["betas"] = (rates.momentum, group["betas"][1])
