"""Weights from a file into a model, strictly: every tensor once, or an error that lists what differs."""

from __future__ import annotations

import os
from dataclasses import replace

import torch
from torch import Tensor

from onelook.config import diff
from onelook.errors import WeightsError
from onelook.networks.coco_names import COCO_CLASSES
from onelook.networks.deploy import deploy
from onelook.networks.detector import Architecture, Detector
from onelook.weights.checkpoint import Checkpoint, read_checkpoint
from onelook.weights.classes import ClassPlan, copy_class_rows, plan_classes
from onelook.weights.identify import architecture_of, likely_model, model_name
from onelook.weights.naming import COUNTER, Form, ModelSpec, NamedTensors, classes_in, name_tensors, unfold
from onelook.weights.own_format import is_classifier
from onelook.weights.problems import UnreadableFile, printable
from onelook.weights.report import LoadReport, compare, suggestion

BACKBONE = "backbone."


def load_weights(model: Detector, path: str | os.PathLike[str]) -> LoadReport:
    """Fills `model` with the weights of a file; returns what was loaded, kept and initialised.

    path: any supported file, told by its content: our own `.safetensors`, an official checkpoint (`.pth`), an ONNX file
    of the same network. Training and deploy form load into each other; tensors take the model's dtype and device.
    Another list of classes: rows of classes that both name (in any order) are taken, the rest keep their values. A
    model without class names takes those of the file. Of a classifier of ours the backbone is taken; neck and head keep
    their values.
    WeightsError, with the model left as it was, if the file cannot be read or is of another network.
    """
    architecture = architecture_of(model)
    checkpoint = read_checkpoint(path)
    spec = ModelSpec(architecture, model)
    try:
        if is_classifier(checkpoint):
            return _load_backbone(model, architecture, checkpoint)
        return _load(model, architecture, checkpoint, spec)
    except UnreadableFile as error:
        raise error.to_weights_error(checkpoint.path, f"a {checkpoint.format}") from error


def _load(model: Detector, architecture: Architecture, checkpoint: Checkpoint, spec: ModelSpec) -> LoadReport:
    source = name_tensors(checkpoint, spec)
    if source is None:
        known = likely_model(checkpoint)
        reason = f"'{checkpoint.path}' does not fit {model_name(architecture)}: the network is another one."
        raise WeightsError(reason, suggestion(known))
    numbers = checkpoint.darknet
    partial = numbers is not None and numbers.backbone and not model.deployed
    if partial:
        held = len(source.tensors)
        source = replace(source, tensors=model.state_dict() | source.tensors)
    # Weights of the other form meet in the training form, which knows what to fold.
    direct = model.deployed and source.form == "deploy" and source.pixels_folded
    tensors = source.tensors if direct else unfold(source, spec)
    form: Form = "deploy" if direct else "training"
    their_classes = _check_fit(tensors, checkpoint, spec, form, source)
    _check_values(tensors)
    names, notes = ((), []) if partial else _class_names(checkpoint, their_classes)
    if partial:
        notes.append(f"the file holds the first {held} tensors of the network: the others keep their values")
    notes += _differences(architecture, source, tensors, spec)
    plan = plan_classes(model.class_names, architecture.num_classes, names, their_classes)
    if form == "deploy" or not model.deployed:
        _assign(model, tensors, plan, spec)
    else:
        training = architecture.build().to(torch.promote_types(next(model.parameters()).dtype, torch.float32))
        _assign(training, tensors, plan, spec)
        model.load_state_dict(deploy(training).state_dict())
    if names and not model.class_names and their_classes == architecture.num_classes:
        model.class_names = names
        notes.append("the model had no class names and took those of the file")
    if not plan.by_name and plan.pairs:
        notes.append("the file names no classes: they were taken in order")
    return _report(model, checkpoint, source, plan, notes)


def _load_backbone(model: Detector, architecture: Architecture, checkpoint: Checkpoint) -> LoadReport:
    """Copies the backbone of a classifier; WeightsError unless all of it fits."""
    if model.deployed:
        raise UnreadableFile(
            "it holds a classifier, and this model is deployed", "Load it into a model that is to be trained."
        )
    tensors = {name: tensor for name, tensor in checkpoint.tensors.items() if name.startswith(BACKBONE)}
    ours = {name: tensor for name, tensor in model.state_dict().items() if name.startswith(BACKBONE)}
    wanted, found = ({name: tuple(one.shape) for name, one in state.items()} for state in (ours, tensors))
    if difference := compare(wanted, found):
        raise difference.error(checkpoint.path, f"the backbone of {model_name(architecture)}", None)
    _check_values(tensors)
    with torch.no_grad():
        for name, tensor in ours.items():
            tensor.copy_(tensors[name])
    labels = model.class_names or tuple(str(label) for label in range(architecture.num_classes))
    header = checkpoint.header
    return LoadReport(
        path=checkpoint.path,
        format=f"{checkpoint.format}, a classifier",
        model=model_name(architecture),
        form="training",
        tensors=len(ours),
        parameters=sum(tensor.numel() for tensor in ours.values()),
        kept_classes=(),
        new_classes=labels,
        file_classes=() if header is None else header.class_names,
        part=f"the backbone; {len(model.state_dict()) - len(ours)} of neck and head are initialised, to be trained",
    )


def _check_fit(
    tensors: dict[str, Tensor], checkpoint: Checkpoint, spec: ModelSpec, form: Form, source: NamedTensors
) -> int:
    """The number of classes of the tensors; WeightsError unless all names and shapes are those of the model."""
    count = classes_in(tensors, spec)
    wanted = spec.shapes(form, count)
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    # A file of a deployed network has nothing of what only training needs; a part of it would be damage.
    lacking = spec.training_only if spec.training_only.isdisjoint(found) else frozenset()
    wanted = {
        name: shape
        for name, shape in wanted.items()
        if name not in lacking and (not name.endswith(COUNTER) or name in found)
    }
    difference = compare(wanted, found)
    if difference:
        known = likely_model(checkpoint)
        raise difference.renamed(_file_names(source, spec)).error(checkpoint.path, model_name(spec.architecture), known)
    assert count is not None  # all tensors with class rows are there, of one count
    return count


def _file_names(source: NamedTensors, spec: ModelSpec) -> dict[str, str]:
    """Our name -> the name as the file has it, for messages."""
    if source.naming != "official":
        return {}
    return spec.official | spec.official_folded


def _differences(
    architecture: Architecture, source: NamedTensors, tensors: dict[str, Tensor], spec: ModelSpec
) -> list[str]:
    """Notes on what the file lacks, and on what it fixes that the model has otherwise."""
    notes = []
    if spec.training_only and spec.training_only.isdisjoint(tensors):
        notes.append("the file has no auxiliary head: the model's keeps its initialisation")
    if source.architecture is not None:
        for one in diff(architecture, source.architecture):
            if one.path != "num_classes":
                notes.append(f"the file is of a network with {one.path}={one.after}; the model keeps {one.before}")
    return notes


def _check_values(tensors: dict[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        if not name.endswith(COUNTER) and not tensor.is_floating_point():
            kind = str(tensor.dtype).removeprefix("torch.")
            raise UnreadableFile(
                f"its tensor '{printable(name)}' is of the type {kind}", "Save it without quantisation."
            )
        if tensor.is_floating_point():
            if not torch.isfinite(tensor).all():
                raise UnreadableFile(
                    f"its tensor '{printable(name)}' holds values that are not finite",
                    "The training that it comes from diverged, or the file is damaged; take an earlier checkpoint.",
                )
            if name.endswith(".running_var") and (tensor < 0).any():
                raise UnreadableFile(f"its tensor '{printable(name)}' holds negative variances")


def _class_names(checkpoint: Checkpoint, count: int) -> tuple[tuple[str, ...], list[str]]:
    """The names of the file's classes, () if unknown, and what was assumed."""
    header = checkpoint.header or checkpoint.exported
    if checkpoint.header is not None:
        names = checkpoint.header.class_names
    elif checkpoint.exported is not None:
        names = checkpoint.exported.names
    else:
        names = () if checkpoint.pickled is None else checkpoint.pickled.class_names
    if names and len(names) != count:
        if header is not None:
            raise UnreadableFile(f"it names {len(names)} classes and has weights for {count}")
        return (), [f"the file names {len(names)} classes and has weights for {count}: the names were left"]
    if names or header is not None:
        return names, []
    if count == len(COCO_CLASSES):
        return COCO_CLASSES, ["the file names no classes: its 80 are taken for COCO's"]
    return (), []


def _assign(model: Detector, tensors: dict[str, Tensor], plan: ClassPlan, spec: ModelSpec) -> None:
    """Copies every tensor into the model, class by class where that is needed."""
    rows = spec.class_rows
    with torch.no_grad():
        for name, current in model.state_dict().items():
            if name not in tensors:
                continue  # a counter of batches that the file left out
            if name in rows and not plan.is_identity:
                current.copy_(copy_class_rows(plan, rows[name], current, tensors[name]))
            else:
                current.copy_(tensors[name])


def _report(
    model: Detector,
    checkpoint: Checkpoint,
    source: NamedTensors,
    plan: ClassPlan,
    notes: list[str],
) -> LoadReport:
    labels = [model.class_names[label] if model.class_names else str(label) for label in range(plan.total)]
    own = {tensor.dtype for tensor in model.parameters()}
    kinds = {tensor.dtype for tensor in source.tensors.values() if tensor.is_floating_point()} - own
    if kinds:
        changed = ", ".join(sorted(str(kind).removeprefix("torch.") for kind in kinds))
        notes.append(f"converted from {changed} to {str(next(iter(own))).removeprefix('torch.')}")
    if source.form == "deploy" and not model.deployed:
        notes.append("batch norm was folded: it starts as the identity, and can be trained")
    architecture = model.architecture
    assert architecture is not None  # checked on entry
    return LoadReport(
        checkpoint.path,
        checkpoint.format + ("" if source.naming in ("own", "graph") else " with official names"),
        model_name(architecture),
        source.form,
        len(model.state_dict()),
        sum(tensor.numel() for tensor in model.state_dict().values()),
        tuple(labels[ours] for ours, _ in plan.pairs),
        tuple(labels[label] for label in plan.fresh),
        plan.theirs,
        tuple(notes),
    )
