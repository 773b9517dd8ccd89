"""Finds recipes: the published one of a model's name, a recipe file, the recipe of a run's folder.

A family's module gives `default(variant) -> Recipe`; a recipe file is the plain form of a Recipe (`config.to_plain`).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from onelook import run_files
from onelook.assign.align_ota import AlignOta
from onelook.assign.anchor_cells import AnchorCells
from onelook.assign.anchor_ota import AnchorOta
from onelook.assign.atss import Atss
from onelook.assign.best_anchor import BestAnchor
from onelook.assign.centre_cell import CentreCell
from onelook.assign.darknet_anchors import DarknetAnchors
from onelook.assign.one_to_one import OneToOne
from onelook.assign.simota import SimOta
from onelook.assign.task_aligned import TaskAligned
from onelook.augment.batch_augment import OneOf
from onelook.augment.blur import Blur
from onelook.augment.classifier import CentreCrop, ClassifierAugment
from onelook.augment.colour import HsvGain, HsvScale, HsvShift
from onelook.augment.copy_paste import CopyPaste
from onelook.augment.cutmix import CutMix
from onelook.augment.damo_yolo import DamoAugment
from onelook.augment.darknet import DarknetAugment
from onelook.augment.geometry import BoxFilter, RandomAffine
from onelook.augment.mixup import BatchMixUp, BetaMixUp, MixUp
from onelook.augment.mosaic import BatchMosaic, Mosaic, Mosaic9
from onelook.augment.perspective import Perspective
from onelook.augment.random_erasing import CutOut, GridMask, HideAndSeek, RandomErase
from onelook.augment.scale_aware_autoaugment import Policy, ScaleAwareAutoAugment
from onelook.augment.yolov7 import Yolov7Augment
from onelook.augment.yolov7_copy_paste import Yolov7CopyPaste
from onelook.augment.yolox import SingleImageAugment, YoloxAugment
from onelook.config import from_plain, read_yaml_lines
from onelook.data.order import Sampling
from onelook.errors import ConfigError, did_you_mean
from onelook.layers.cross_iteration_batch_norm import Cbn
from onelook.layers.cross_mini_batch_norm import Cmbn
from onelook.losses.classifier import ClassLoss
from onelook.losses.darknet_box_gradient import DarknetBoxGradient
from onelook.losses.detection_loss import DetectionLoss
from onelook.losses.feature_distillation import Cwd, Mgd, Mimic
from onelook.losses.generalized_focal import DistributionFocal, QualityFocal
from onelook.losses.lead_guided import Auxiliary
from onelook.losses.one_to_one import Selection
from onelook.losses.yolov4 import DarknetBox, DarknetClasses, DarknetObjectness, DarknetSquares, GaussianBox
from onelook.losses.yolov7 import LevelBoxIou, LevelClasses, LevelObjectness
from onelook.losses.yolox import BoxIou, Classes, Objectness, RawL1
from onelook.named import import_named
from onelook.networks.published import Variant
from onelook.networks.variants import ARCHITECTURE_TYPES, VARIANTS
from onelook.training.adversarial import Adversarial
from onelook.training.distillation import Distillation
from onelook.training.dropblock import DropBlock
from onelook.training.ema import Ema
from onelook.training.frozen_start import FrozenStart
from onelook.training.gradient_clip import RelativeClip
from onelook.training.multiscale import DarknetShapes, MultiScale
from onelook.training.optimizer import AdamW, Sgd
from onelook.training.prediction_distillation import PredictionDistillation
from onelook.training.recipe import Closing, Recipe
from onelook.training.schedule import Constant, CosineRestarts, MultiStep, OneCycle, Polynomial, WarmCosine

__all__ = ["DEFAULTS", "RECIPE_TYPES", "default_recipe", "find_recipe", "read_recipe"]

# Family -> module:function of its published recipes with the defaults of this library: NAME.
DEFAULTS: Mapping[str, str] = MappingProxyType(
    {
        "DAMO-YOLO": "onelook.recipes.damo_yolo:default",
        "YOLOX": "onelook.recipes.yolox:default",
        "YOLOv4": "onelook.recipes.yolov4:default",
        "YOLOv7": "onelook.recipes.yolov7:default",
    }
)

SMALL = "small"  # NAME:small, a recipe that is fitted to the data (`onelook.recipes.small`)

# The same without what this library changes in the authors' code (docs/papers.md): NAME:published.
PUBLISHED: Mapping[str, str] = MappingProxyType(
    {family: place.replace(":default", ":published") for family, place in DEFAULTS.items()}
)

# The same for the recipes of the papers' texts, where the authors' code differs: NAME:paper.
PAPERS: Mapping[str, str] = MappingProxyType(
    {family: place.replace(":default", ":paper") for family, place in DEFAULTS.items()}
)

# The same for the families with published trainings with a teacher (distillation).
DISTILLED: Mapping[str, str] = MappingProxyType({"DAMO-YOLO": "onelook.recipes.damo_yolo:distilled"})

# Every type that a recipe file or a `path=value` may name; no other type can be constructed by them.
RECIPE_TYPES: Mapping[str, type] = MappingProxyType(
    {
        kind.__name__: kind
        for kind in (
            *(Recipe, Closing, Ema, FrozenStart, RelativeClip, MultiScale, DarknetShapes, Sgd, AdamW),
            *(WarmCosine, OneCycle, MultiStep, Polynomial, CosineRestarts, Constant),
            *(Cmbn, Cbn, DropBlock, Adversarial),
            *(AlignOta, Atss, TaskAligned, QualityFocal, DistributionFocal),
            *(DetectionLoss, Auxiliary, SimOta, AnchorCells, AnchorOta),
            *(BoxIou, Objectness, Classes, RawL1, LevelBoxIou, LevelObjectness, LevelClasses),
            *(
                DarknetAnchors,
                DarknetBox,
                DarknetBoxGradient,
                DarknetSquares,
                DarknetObjectness,
                DarknetClasses,
                GaussianBox,
            ),
            *(CentreCell, BestAnchor, OneToOne, Selection),
            *(Distillation, PredictionDistillation, Cwd, Mgd, Mimic),
            *(
                YoloxAugment,
                Yolov7Augment,
                SingleImageAugment,
                Mosaic,
                Mosaic9,
                MixUp,
                BetaMixUp,
                CopyPaste,
                Yolov7CopyPaste,
            ),
            *(DamoAugment, ScaleAwareAutoAugment, Policy),
            *(ClassLoss, ClassifierAugment, CentreCrop),
            *(DarknetAugment, CutMix, BatchMixUp, BatchMosaic, OneOf),
            *(Blur, CutOut, RandomErase, HideAndSeek, GridMask),
            *(RandomAffine, Perspective, BoxFilter, HsvGain, HsvShift, HsvScale, Sampling),
            *ARCHITECTURE_TYPES.values(),
        )
    }
)


def find_recipe(name: str | Path) -> Recipe:
    """Finds a recipe by the name of a model, a recipe file, a run's folder, or ROADMAP:ROW.

    The name of a model means its published training, with the defaults of this library for other epochs, batches and
    data sets; NAME:published means the same with the rules of the authors' code for these; NAME:paper means the
    training that the paper's text states. Raises ConfigError with the cause, or the line of the file.
    """
    path = Path(name)
    if path.is_dir():
        if not (path / run_files.RECIPE).is_file():
            raise ConfigError(f"{path}: the folder has no {run_files.RECIPE}.", "Give the folder of a training.")
        return read_recipe(path / run_files.RECIPE)
    if path.is_file():
        return read_recipe(path)
    if path.suffix in (".yaml", ".yml", ".json") or len(path.parts) > 1:
        raise ConfigError(f"{path}: there is no such file.", "Check the path.")
    model, _, kind = str(name).partition(":")
    if kind in ("paper", "published") and model in VARIANTS:
        return _call(PAPERS if kind == "paper" else PUBLISHED, VARIANTS[model])
    if kind == SMALL and model in VARIANTS:
        raise ConfigError(
            f"The recipe '{name}' depends on the data: a training fits it to them.",
            f"Train with --recipe {name}, and compare its folder with the published one: onelook diff {model} DIR",
        )
    if kind and model in VARIANTS:
        kinds = [model, f"{model}:{SMALL}", f"{model}:published", f"{model}:paper"]
        raise ConfigError(
            f"There is no recipe '{name}'.{did_you_mean(str(name), kinds)}",
            f"Recipes of this model: {', '.join(kinds)}.",
        )
    if kind:
        from onelook.recipes.roadmaps import row_recipe

        return row_recipe(str(name))
    return default_recipe(str(name))


def default_recipe(name: str, distilled: bool = False) -> Recipe:
    """The published recipe of a model, with the defaults of this library. Raises ConfigError for a name without one.

    distilled: the one with a teacher, if the family has published that; otherwise the one without.
    """
    known = [row.name for row in VARIANTS.values() if row.family in DEFAULTS]
    if name not in known:
        remedy = f"Models with a recipe: {', '.join(known) or 'none yet'}. Or give a recipe file or a run's folder."
        raise ConfigError(f"There is no recipe '{name}'.{did_you_mean(name, known)}", remedy)
    model = VARIANTS[name]
    return _call(DISTILLED if distilled and model.family in DISTILLED else DEFAULTS, model)


def _call(functions: Mapping[str, str], model: Variant) -> Recipe:
    """The recipe that the function of the model's family makes."""
    recipe = import_named(functions[model.family])(model)
    assert isinstance(recipe, Recipe)
    return recipe


def read_recipe(path: str | Path) -> Recipe:
    """Reads a recipe file (`recipe.yaml`). Raises ConfigError with file, line and setting."""
    data, lines = read_yaml_lines(path)
    if not isinstance(data, dict) or data.get("type") != Recipe.__name__:
        raise ConfigError(
            f"{path}: is no recipe: it does not begin with 'type: {Recipe.__name__}'.",
            f"Give a {run_files.RECIPE} that a training wrote.",
        )
    recipe = from_plain(data, RECIPE_TYPES, str(path), lines)
    assert isinstance(recipe, Recipe)
    return recipe
