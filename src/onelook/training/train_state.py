"""What learns: the detector, its optimizer, its average, and the step they have reached."""

from __future__ import annotations

import contextlib
import fnmatch
import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from onelook.errors import ConfigError, did_you_mean
from onelook.layers.cross_mini_batch_norm import CrossIterationNorm, CrossMiniBatchNorm
from onelook.models.deploy import deploy
from onelook.ops.reduce import mean_over_processes
from onelook.training.distill import AlignModule, Distiller, check_sizes
from onelook.training.ema import ModelEma
from onelook.training.processes import ProcessGroup, distribute, synchronise_batch_norm
from onelook.training.step import TrainingStep
from onelook.training.batch_norm_snapshot import BatchNormSnapshot, all_finite

if TYPE_CHECKING:
    from onelook.models.detector import Detector
    from onelook.training.recipe import Recipe

Precision = Literal["fp32", "fp16", "bf16"]


@dataclass(frozen=True, kw_only=True)
class RuntimeOptions:
    """How this computer does the work; none of it belongs to the recipe.

    precision: of the network's forward pass; None is fp16 on CUDA and fp32 elsewhere.  channels_last: memory layout,
    None for the faster one of the device.  compile: whether `torch.compile` works on the detector.
    deterministic: whether the same run gives the same numbers on CUDA too; slower.
    """

    precision: Precision | None = None
    channels_last: bool | None = None
    compile: bool = False
    deterministic: bool = False

    def precision_on(self, device: torch.device) -> Precision:
        """The precision that holds on a device."""
        return self.precision or ("fp16" if device.type == "cuda" else "fp32")

    def channels_last_on(self, device: torch.device) -> bool:
        """The layout that holds on a device."""
        return device.type in ("cuda", "cpu") if self.channels_last is None else self.channels_last


class TrainState:
    """The four places where a training's state lives: modules, optimizer (with its scaler), average, step counter.

    teacher: a trained detector, which a recipe with distillation needs and no other takes. It stays as it is; a copy in
    deploy form is looked at. What learns between the two (`align`) is in the training's state, but not in the detector.
    """

    def __init__(
        self,
        recipe: Recipe,
        detector: Detector,
        world: ProcessGroup,
        machine: RuntimeOptions,
        teacher: Detector | None = None,
    ) -> None:
        device, precision = world.device, machine.precision_on(world.device)
        channels_last = machine.channels_last_on(device)
        _prepare(device, machine.deterministic)
        detector.to(device)
        if channels_last:
            detector.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        freeze(detector, recipe.freeze)
        if recipe.sync_batch_norm and world.size > 1 and recipe.normalization is None:
            synchronise_batch_norm(detector, device)
        if recipe.normalization is not None:
            recipe.normalization.convert(detector, across_processes=recipe.sync_batch_norm)
        self._dropblock = recipe.dropblock
        self._drop = None if recipe.dropblock is None else recipe.dropblock.insert(detector).to(device)
        self._forgetful = [module for module in detector.modules() if isinstance(module, CrossMiniBatchNorm)]
        self.world = world
        self.detector = detector
        self.average = ModelEma(detector, recipe.ema) if recipe.ema is not None else None
        self.teaching = _teaching(recipe, detector, teacher, world.device, channels_last)
        self.align = None if self.teaching is None else self.teaching.align
        learning = detector if self.align is None else nn.ModuleList((detector, self.align))
        self.optimizer = recipe.optimizer.build(learning, recipe.batch_size)
        self.scaler = torch.amp.GradScaler(device.type) if precision == "fp16" else None
        self.steps = 0
        self.progress, self.distillation_weight = 0.0, 0.0
        self._half = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(precision)
        self._clip = recipe.clip
        self._parameters = [parameter for parameter in detector.parameters() if parameter.requires_grad]
        self._learning = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        self._undo = BatchNormSnapshot(detector)
        if machine.compile:
            self._compile(recipe.multiscale is not None or None)
        step = TrainingStep(detector, channels_last=channels_last, teaching=self.teaching)
        self.step = distribute(step, world)

    def _compile(self, dynamic: bool | None) -> None:
        if self.teaching is None:
            self.detector.compile(dynamic=dynamic)
            return
        # The features are looked at between the parts, so the parts are compiled one by one.
        teacher = self.teaching.teacher
        for part in (self.detector.backbone, self.detector.neck, self.detector.head, teacher.backbone, teacher.neck):
            part.compile(dynamic=dynamic)

    @property
    def distillation_strides(self) -> tuple[int, ...]:
        """Strides of the levels that a teacher's features are learnt at; () without one."""
        if self.align is None:
            return ()
        return tuple(self.detector.neck.strides[ours] for ours, _ in self.align.levels)

    @property
    def evaluated_model(self) -> Detector:
        """What is evaluated and saved: the average where there is one."""
        return self.detector if self.average is None else self.average.model  # type: ignore[return-value]

    @property
    def models(self) -> tuple[nn.Module, ...]:
        """The detector, and its average where there is one."""
        return (self.detector,) if self.average is None else (self.detector, self.average.model)

    @property
    def memory(self) -> dict[str, Tensor]:
        """What layers remember from step to step beside the model's state: a resumed training needs it too."""
        return {
            f"{name}.{key}": buffer
            for name, module in self.detector.named_modules()
            if isinstance(module, CrossIterationNorm)
            for key, buffer in module.named_buffers()
            if key in module._non_persistent_buffers_set
        }

    def set_train_mode(self) -> None:
        """Training mode, but for frozen batch norm, whose statistics are part of what is frozen."""
        self.step.train()
        for module in self.detector.modules():
            own = list(module.parameters(recurse=False))
            if isinstance(module, _BatchNorm) and own and not any(p.requires_grad for p in own):
                module.eval()

    def autocast(self) -> contextlib.AbstractContextManager[object]:
        """The precision of a forward pass."""
        if self._half is None:
            return contextlib.nullcontext()
        return torch.autocast(self.world.device.type, dtype=self._half)

    def gradient_sync(self, last: bool) -> contextlib.AbstractContextManager[object]:
        """Around a pass whose gradients stay here for now, because more passes of the same step follow."""
        if last or self.world.size == 1:
            return contextlib.nullcontext()
        return self.step.no_sync()  # type: ignore[operator]

    def begin_step(self, progress: float, teaching: float = 0.0) -> None:
        """Before the passes of a step: remembers what `update` takes back when the step comes to nothing.

        progress: 0 to 1, the part of the training that is done; what layers do may depend on it.  teaching: weight of
        the teacher's term.
        """
        self.progress, self.distillation_weight = progress, teaching
        if self._dropblock is not None and self._drop is not None:
            self._drop.probability.fill_(self._dropblock.at(progress))
        for module in self._forgetful:
            module.begin_step()
        self._undo.keep()

    def backward(self, loss: Tensor) -> None:
        """Adds the gradients of a loss."""
        (loss if self.scaler is None else self.scaler.scale(loss)).backward()

    def update(self, loss: Tensor) -> Tensor:
        """The optimizer's step and the average's, unless the loss (in any process) or the gradient is not finite.

        Returns whether the gradient was to blame although every loss was finite: one bool on the device. In float16 it
        never is, as the scaler looks for its scale by overflowing. The decision stays on the device: fused optimizers
        read it there, and nothing waits.
        """
        finite = mean_over_processes(loss.detach().isfinite().float()) == 1
        sound = finite
        if self.scaler is not None:
            if self._clip is not None:
                self.scaler.unscale_(self.optimizer)
                nn.utils.clip_grad_norm_(self._parameters, self._clip)
            self.scaler.step(self.optimizer)
            self.scaler.update()
        else:
            # The gradients are those of all processes by now, so that all decide alike.
            sound = finite & all_finite((parameter.grad for parameter in self._learning), finite.device)
            if self._clip is not None:
                nn.utils.clip_grad_norm_(self._parameters, self._clip)
            self._step_if(sound)
        self._undo.restore_unless(sound)
        self.optimizer.zero_grad(set_to_none=True)
        if self.average is not None:
            self.average.update(self.detector)
        self.steps += 1
        return finite & ~sound

    def _step_if(self, sound: Tensor) -> None:
        if self.optimizer.defaults.get("fused") and sound.device.type == "cuda":
            self.optimizer.found_inf = (~sound).float()  # type: ignore[attr-defined]
            self.optimizer.step()
        elif bool(sound):
            self.optimizer.step()


def _teaching(
    recipe: Recipe, detector: Detector, teacher: Detector | None, device: torch.device, channels_last: bool
) -> Distiller | None:
    settings = recipe.distillation
    if settings is None and teacher is None:
        return None
    if settings is None:
        raise ConfigError("There is a teacher, but the recipe does not distil.", "Set distillation=Distillation().")
    if teacher is None:
        raise ConfigError("The recipe distils, but there is no teacher.", "Name one, or set distillation=none.")
    check_sizes(recipe, teacher)
    torch.manual_seed(recipe.seed)
    align = AlignModule(settings, detector.neck, teacher.neck).to(device)
    copied = deploy(teacher).to(device)
    if channels_last:
        align.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        copied.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return Distiller(copied, align)


def freeze(detector: nn.Module, patterns: Iterable[str]) -> None:
    """Makes parameters whose names match a pattern ("backbone.*") stay as they are; ConfigError if one matches none."""
    names = dict(detector.named_parameters())
    for pattern in patterns:
        matched = fnmatch.filter(names, pattern)
        if not matched:
            parts = {name.split(".")[0] + ".*" for name in names} | set(names)
            raise ConfigError(
                f"freeze: no parameter is called '{pattern}'.{did_you_mean(pattern, parts)}",
                "Use names or patterns such as backbone.* or neck.*.",
            )
        for name in matched:
            names[name].requires_grad_(False)
    if not any(parameter.requires_grad for parameter in names.values()):
        raise ConfigError("freeze leaves nothing to train.", "Leave at least the head free.")


def _prepare(device: torch.device, deterministic: bool) -> None:
    if deterministic:
        # Without a workspace of its own cuBLAS adds in any order; it is read when cuBLAS is first used.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        # Some backward kernels have no deterministic form; PyTorch then warns once instead of refusing to train.
        torch.use_deterministic_algorithms(True, warn_only=True)
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = not deterministic
