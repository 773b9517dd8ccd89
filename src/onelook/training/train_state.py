"""The training state: detector, optimizer, gradient scaler, EMA and step counter; also the runtime options."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from onelook.devices import Precision, check_precision
from onelook.errors import ConfigError
from onelook.layers.cross_iteration_batch_norm import CrossIterationNorm
from onelook.layers.cross_mini_batch_norm import CrossMiniBatchNorm
from onelook.ops.reduce import mean_over_processes
from onelook.training.batch_norm_snapshot import BatchNormSnapshot, all_finite
from onelook.training.distillation import Distiller, check_sizes, make_distiller
from onelook.training.ema import ModelEma
from onelook.training.frozen_start import freeze, matching_parameters
from onelook.training.gradient_clip import RelativeClip
from onelook.training.processes import ProcessGroup, distribute, synchronise_batch_norm
from onelook.training.step import TrainingStep

if TYPE_CHECKING:
    from onelook.networks.detector import Detector
    from onelook.training.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class RuntimeOptions:
    """Options of the computer, such as precision and memory layout, which are no part of the recipe.

    precision: of the network's forward pass; None is fp16 on CUDA and fp32 elsewhere.  channels_last: memory layout,
    None is channels-last on CUDA and contiguous elsewhere.  compile: whether `torch.compile` compiles the detector.
    deterministic: whether the same run gives the same numbers on CUDA too; slower.
    """

    precision: Precision | None = None
    channels_last: bool | None = None
    compile: bool = False
    deterministic: bool = False

    def precision_on(self, device: torch.device) -> Precision:
        """The precision on a device."""
        return check_precision(device, self.precision or ("fp16" if device.type == "cuda" else "fp32"))

    def channels_last_on(self, device: torch.device) -> bool:
        """Whether the memory layout on a device is channels-last.

        On a CPU, PyTorch's batch norm sums a channel of channels-last tensors one value after the other in float32: its
        gradients are several times less exact than those of contiguous tensors (`benchmarks/layouts.py`).
        """
        return device.type == "cuda" if self.channels_last is None else self.channels_last


class TrainState:
    """The state of a training: detector, optimizer (with its gradient scaler), EMA weights and step counter.

    teacher: a trained detector; recipes with distillation need one, others accept none. It is not changed: a copy in
    deploy form is used. The align module (`align`) is part of the training state, but not of the detector.
    """

    def __init__(
        self,
        recipe: Recipe,
        detector: Detector,
        process_group: ProcessGroup,
        runtime: RuntimeOptions,
        teacher: Detector | None = None,
    ) -> None:
        device, precision = process_group.device, runtime.precision_on(process_group.device)
        channels_last = runtime.channels_last_on(device)
        _prepare(device, runtime.deterministic)
        detector.to(device)
        if channels_last:
            detector.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        freeze(detector, recipe.freeze)
        if recipe.sync_batch_norm and process_group.size > 1 and recipe.normalization is None:
            synchronise_batch_norm(detector, device)
        if recipe.normalization is not None:
            recipe.normalization.convert(detector, across_processes=recipe.sync_batch_norm)
        self._dropblock = recipe.dropblock
        self._drop = None if recipe.dropblock is None else recipe.dropblock.insert(detector).to(device)
        self._cross_mini_batch_norms = [
            module for module in detector.modules() if isinstance(module, CrossMiniBatchNorm)
        ]
        start = recipe.frozen_start
        self._frozen_steps = 0 if start is None else start.steps
        self._frozen_start = [] if start is None else matching_parameters(detector, start.names, "frozen_start.names")
        self._frozen_norms = [] if start is None or start.statistics else _norms_of(detector, self._frozen_start)
        self.process_group = process_group
        self.detector = detector
        self.ema = ModelEma(detector, recipe.ema) if recipe.ema is not None else None
        self.distiller = _distiller(recipe, detector, teacher, process_group.device, channels_last)
        self.align = None if self.distiller is None else self.distiller.align
        trained = detector if self.align is None else nn.ModuleList((detector, self.align))
        self.optimizer = recipe.optimizer.build(trained, recipe.batch_size)
        self.scaler = torch.amp.GradScaler(device.type) if precision == "fp16" else None
        self.steps = 0
        self.progress, self.distillation_weight, self._steps_left = 0.0, 0.0, math.inf
        self._half = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(precision)
        self._clip = recipe.clip
        self._usual_norm = torch.zeros((), device=device)  # of the gradient, for a `RelativeClip`
        self._parameters = [parameter for parameter in detector.parameters() if parameter.requires_grad]
        self._optimized = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        self._snapshot = BatchNormSnapshot(detector)
        if runtime.compile:
            self._compile(recipe.multiscale is not None or None)
        step = TrainingStep(detector, channels_last=channels_last, distiller=self.distiller)
        self.step = distribute(step, process_group)

    def _compile(self, dynamic: bool | None) -> None:
        if self.distiller is None:
            self.detector.compile(dynamic=dynamic)
            return
        # The features between the parts are needed, so the parts are compiled one by one.
        teacher = self.distiller.teacher
        student = (self.detector.backbone, self.detector.neck, self.detector.head)
        for part in (*student, teacher.backbone, teacher.neck, teacher.head):
            part.compile(dynamic=dynamic)

    @property
    def what_is_distilled(self) -> str:
        """What the student learns of the teacher, and at which strides; "" without distillation."""
        if self.align is None:
            return ""
        return f"the {self.align.compares} at strides {', '.join(map(str, self.align.strides))}"

    @property
    def evaluated_model(self) -> Detector:
        """The model that is evaluated and saved: the EMA where there is one, else the trained model."""
        return self.detector if self.ema is None else self.ema.model  # type: ignore[return-value]

    @property
    def models(self) -> tuple[nn.Module, ...]:
        """The detector, and its EMA where there is one."""
        return (self.detector,) if self.ema is None else (self.detector, self.ema.model)

    @property
    def non_persistent_buffers(self) -> dict[str, Tensor]:
        """What steps keep and the state dict does not have: buffers of layers, the usual norm of the gradient."""
        norm = {"gradient_norm": self._usual_norm} if isinstance(self._clip, RelativeClip) else {}
        return norm | {
            f"{name}.{key}": buffer
            for name, module in self.detector.named_modules()
            if isinstance(module, CrossIterationNorm)
            for key, buffer in module.named_buffers()
            if key in module._non_persistent_buffers_set
        }

    def set_train_mode(self) -> None:
        """Sets training mode, except for frozen batch norm, whose statistics stay frozen too."""
        self.step.train()
        for module in self.detector.modules():
            own = list(module.parameters(recurse=False))
            if isinstance(module, _BatchNorm) and own and not any(p.requires_grad for p in own):
                module.eval()
        if self.steps < self._frozen_steps:
            for module in self._frozen_norms:
                module.eval()

    def autocast(self) -> contextlib.AbstractContextManager[object]:
        """The autocast context of a forward pass."""
        if self._half is None:
            return contextlib.nullcontext()
        return torch.autocast(self.process_group.device.type, dtype=self._half)

    def gradient_sync(self, last: bool) -> contextlib.AbstractContextManager[object]:
        """The context of a backward pass; gradients are averaged over the processes in the last pass of a step."""
        if last or self.process_group.size == 1:
            return contextlib.nullcontext()
        return self.step.no_sync()  # type: ignore[operator]

    def begin_step(self, progress: float, distillation_weight: float = 0.0, steps_left: float = math.inf) -> None:
        """Prepares a step: saves the statistics that `optimizer_step` restores if the step is skipped.

        progress: the part of the training that is done, 0 to 1; DropBlock depends on it.  distillation_weight: weight
        of the distillation term.  steps_left: to the end of the training, with this one; some averages end before it.
        """
        self.progress, self.distillation_weight, self._steps_left = progress, distillation_weight, steps_left
        if self.distiller is not None:
            self.distillation_weight = self.distiller.begin_step(self.steps, distillation_weight)
        if self.ema is not None and steps_left == self.ema.settings.last_steps:
            self.ema.copy_to(self.detector)
        if self._dropblock is not None and self._drop is not None:
            self._drop.probability.fill_(self._dropblock.at(progress))
        if self.steps == self._frozen_steps:
            for norm in self._frozen_norms:
                norm.train(any(parameter.requires_grad for parameter in norm.parameters()))
        for module in self._cross_mini_batch_norms:
            module.begin_step()
        self._snapshot.save()

    def scaled(self, loss: Tensor) -> Tensor:
        """The loss whose gradients the optimizer expects: multiplied by the scale of float16, where there is one."""
        return loss if self.scaler is None else self.scaler.scale(loss)

    def optimizer_step(self, loss: Tensor) -> Tensor:
        """Updates weights and EMA, unless the loss (in any process) or the gradient is not finite.

        Returns whether the gradient was not finite although every loss was: one bool on the device; always false in
        float16, where the gradient scaler handles overflows. The decision stays on the device: fused optimizers read it
        there, without a synchronisation.
        """
        if self.steps < self._frozen_steps:
            for parameter in self._frozen_start:
                parameter.grad = None  # no momentum and no decay either
        finite = mean_over_processes(loss.detach().isfinite().float()) == 1
        step_is_finite = finite
        if self.scaler is not None:
            if self._clip is not None:
                self.scaler.unscale_(self.optimizer)
                self._clip_gradients()
            self.scaler.step(self.optimizer)
            self.scaler.update()
        else:
            # The gradients are averaged over the processes by now, so that all decide alike.
            step_is_finite = finite & all_finite((parameter.grad for parameter in self._optimized), finite.device)
            self._clip_gradients()
            self._step_if(step_is_finite)
        self._snapshot.restore_unless(step_is_finite)
        self.optimizer.zero_grad(set_to_none=True)
        if self.ema is not None:
            is_last = self._steps_left <= self.ema.settings.last_steps
            self.ema.update(self.detector, self.progress, averages=not is_last)
        self.steps += 1
        return finite & ~step_is_finite

    def _clip_gradients(self) -> None:
        if isinstance(self._clip, RelativeClip):
            self._clip.apply(self._parameters, self._usual_norm)
        elif self._clip is not None:
            nn.utils.clip_grad_norm_(self._parameters, self._clip)

    def _step_if(self, step_is_finite: Tensor) -> None:
        if self.optimizer.defaults.get("fused") and step_is_finite.device.type == "cuda":
            self.optimizer.found_inf = (~step_is_finite).float()  # type: ignore[attr-defined]
            self.optimizer.step()
        elif bool(step_is_finite):
            self.optimizer.step()


def _norms_of(detector: nn.Module, parameters: Sequence[nn.Parameter]) -> list[nn.Module]:
    """The batch norms of which all parameters are among these."""
    chosen = {id(parameter) for parameter in parameters}
    norms = (module for module in detector.modules() if isinstance(module, _BatchNorm))
    return [norm for norm in norms if (own := [*norm.parameters()]) and all(id(one) in chosen for one in own)]


def _distiller(
    recipe: Recipe, detector: Detector, teacher: Detector | None, device: torch.device, channels_last: bool
) -> Distiller | None:
    settings = recipe.distillation
    if settings is None and teacher is None:
        return None
    if settings is None:
        raise ConfigError("There is a teacher, but the recipe has no distillation.", "Set distillation=Distillation().")
    if teacher is None:
        raise ConfigError(
            "The recipe has distillation, but there is no teacher.", "Give one, or set distillation=none."
        )
    check_sizes(recipe.input_size, recipe.multiscale, teacher)
    torch.manual_seed(recipe.seed)
    distiller = make_distiller(settings, detector, teacher, device)
    if channels_last:
        for module in (distiller.align, distiller.teacher):
            module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return distiller


def _prepare(device: torch.device, deterministic: bool) -> None:
    if deterministic:
        # Without its own workspace cuBLAS sums in any order; the variable is read when cuBLAS is first used.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        # Some backward kernels have no deterministic form; PyTorch then warns once instead of raising an error.
        torch.use_deterministic_algorithms(True, warn_only=True)
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = not deterministic
