"""The tensors of a checkpoint under our names, for one architecture, in one of the two forms of a detector."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor, nn

from onelook.layers.conv import ConvBnAct
from onelook.layers.rep_conv import RepConv
from onelook.layers.training_only import TrainingOnly
from onelook.networks.deploy import deploy
from onelook.networks.detector import Architecture, ClassRows, Detector, OfficialFile, Pixels, ReadsOfficialFiles
from onelook.weights.checkpoint import Checkpoint, ConvolutionGraph
from onelook.weights.convolutions import Convolution, graph_of_detector, match
from onelook.weights.modules import PickledModule

Form = Literal["training", "deploy"]
COUNTER = ".num_batches_tracked"  # of batch norm; some writers leave it out, and nothing here reads it


@dataclass(frozen=True)
class NamedTensors:
    """Tensors under our names.

    form: which form of the detector they belong to.  pixels_folded: whether the first convolution sees plain RGB.
    naming: whose names the file uses, for people.  architecture: of the network that the file is of, if it fixes more
    than weights.
    """

    tensors: dict[str, Tensor]
    form: Form
    pixels_folded: bool
    naming: str
    architecture: Architecture | None = None


class ModelSpec:
    """The names and shapes of an architecture in both forms, and its graph.

    model: a detector of this architecture, if there is one already; what is asked of the deploy form is then asked of
    it or of a deployed copy. Without it, nothing but shapes is made.
    """

    def __init__(self, architecture: Architecture, model: Detector | None = None) -> None:
        self.architecture = architecture
        with torch.device("meta"):
            self.training = architecture.build()
        self._model = model

    @cached_property
    def deployed(self) -> Detector:
        """The deploy form."""
        if self._model is None:
            # Arithmetic on the meta device makes torch import its compiler, which takes seconds: the last resort.
            return deploy(self.training)
        return self._model if self._model.deployed else deploy(self._model)

    @cached_property
    def graph(self) -> dict[str, Convolution]:
        """The convolutions of the deploy form and how they are linked."""
        return graph_of_detector(self.deployed)

    @cached_property
    def official(self) -> dict[str, str]:
        """Our name in the training form -> the official one."""
        return self.architecture.official_names()

    @cached_property
    def official_folded(self) -> dict[str, str]:
        """Our names of folded convolutions -> the official ones: folding adds biases beside kernels.

        Several branches that became one convolution lie, in every repository that took them from RepVGG, under
        `rbr_reparam` beside the branches.
        """
        known: dict[str, str] = {}
        for name, module in self.training.named_modules():
            if isinstance(module, RepConv):
                place = self.official[f"{name}.spatial.conv.weight"].partition(".rbr_dense.")[0]
                known |= {f"{name}.conv.{kind}": f"{place}.rbr_reparam.{kind}" for kind in ("weight", "bias")}
            elif isinstance(module, ConvBnAct) and f"{name}.conv.weight" in self.official:
                known[f"{name}.conv.bias"] = self.official[f"{name}.conv.weight"].removesuffix("weight") + "bias"
        return known

    @cached_property
    def training_only(self) -> frozenset[str]:
        """The tensors that a deployed network lacks."""
        parts = [name for name, module in self.training.named_modules() if isinstance(module, TrainingOnly)]
        return frozenset(
            name for name in self.training.state_dict() if any(name.startswith(f"{part}.") for part in parts)
        )

    @cached_property
    def class_rows(self) -> dict[str, ClassRows]:
        """Every tensor with a row for each class, by its full name; the deploy form may have fewer of them."""
        return {f"head.{name}": rows for name, rows in self.training.head.class_rows().items()}

    def shapes(self, form: Form, classes: int | None = None) -> dict[str, tuple[int, ...]]:
        """Our tensor name -> shape, for another number of classes where one is given."""
        detector = self.training if form == "training" else self.deployed
        found = {name: tuple(tensor.shape) for name, tensor in detector.state_dict().items()}
        for name, rows in self.class_rows.items():
            if classes is not None and name in found:
                sides = list(found[name])
                sides[rows.axis] = rows.anchors * (rows.before + classes + rows.after)
                found[name] = tuple(sides)
        return found


def name_tensors(checkpoint: Checkpoint, spec: ModelSpec) -> NamedTensors | None:
    """The checkpoint's tensors under our names, whatever their shapes; None if its network is another one.

    Names that are not known stay as they are, so that a comparison can list them.
    """
    if checkpoint.darknet is not None:
        checkpoint = replace(checkpoint, tensors=checkpoint.darknet.cut(spec.architecture))
    if checkpoint.graph is not None:
        return _from_graph(checkpoint, checkpoint.graph, spec)
    form: Form = "deploy" if checkpoint.folded else "training"
    official = read_official(spec.architecture, checkpoint)
    if official is None:
        return None
    schemes = {"own": {name: name for name in spec.shapes(form)}, "official": spec.official}
    naming = max(schemes, key=lambda scheme: len(checkpoint.tensors.keys() & set(schemes[scheme].values())))
    if naming == "own":
        return NamedTensors(dict(checkpoint.tensors), form, form == "deploy", naming)
    ours = {theirs: name for name, theirs in (spec.official | spec.official_folded).items()}
    tensors = {ours.get(name, name): tensor for name, tensor in official.tensors.items()}
    return NamedTensors(tensors, form, False, naming, official.architecture)


def read_official(architecture: Architecture, checkpoint: Checkpoint) -> OfficialFile | None:
    """The checkpoint as an official file of `architecture`; None if it is of another network."""
    if not isinstance(architecture, ReadsOfficialFiles):
        return OfficialFile(architecture, dict(checkpoint.tensors))
    pickled = checkpoint.pickled or PickledModule({})
    return architecture.official_file(checkpoint.tensors, pickled.settings, pickled.kinds)


def _from_graph(checkpoint: Checkpoint, graph: ConvolutionGraph, spec: ModelSpec) -> NamedTensors | None:
    places = places_in_graph(graph.links, spec)
    if places is None:
        return None
    tensors: dict[str, Tensor] = {}
    for name, place in places.items():
        found = graph.convolutions[place]
        bias = found.bias if found.bias is not None else torch.zeros(found.weight.shape[0], dtype=found.weight.dtype)
        tensors |= {f"{name}.weight": found.weight, f"{name}.bias": bias}
    return NamedTensors(tensors, "deploy", checkpoint.exported is not None, "graph")


def places_in_graph(links: Mapping[str, Convolution], spec: ModelSpec) -> dict[str, str] | None:
    """Our convolution's name -> the place in a graph of the same network; None if it differs.

    The number of classes may be another one: what is left of the graph's kernels must be the class layers.
    """
    deployed = {name: one for name, one in spec.deployed.named_modules() if isinstance(one, nn.Conv2d)}
    rows = deployed.keys() & {name.removesuffix(".weight") for name in spec.class_rows}
    fixed = Counter(tuple(one.weight.shape) for name, one in deployed.items() if name not in rows)
    left = Counter(one.shape for one in links.values()) - fixed
    if sum(left.values()) != len(rows) or len({shape[0] for shape in left}) != 1:
        return None
    outputs = next(iter(left))[0]
    sized = {
        name: replace(one, shape=(outputs, *one.shape[1:])) if name in rows else one for name, one in spec.graph.items()
    }
    return match(sized, links)


def classes_in(tensors: Mapping[str, Tensor], spec: ModelSpec) -> int | None:
    """The number of classes of the tensors; None if they have no rows for classes, or do not agree."""
    counts = set()
    for name, rows in spec.class_rows.items():
        if name in spec.training_only and name not in tensors:
            continue
        if name not in tensors or tensors[name].dim() <= rows.axis:
            return None
        each, rest = divmod(tensors[name].shape[rows.axis], rows.anchors)
        counts.add(-1 if rest else each - rows.before - rows.after)
    count = counts.pop() if len(counts) == 1 else 0
    return count if count > 0 else None


def unfold(source: NamedTensors, spec: ModelSpec) -> dict[str, Tensor]:
    """The tensors as those of the training form, whatever of them is folded or merged.

    `undeploy` of a block returns the tensors of its training form that deploy to a given convolution. Files may hold
    blocks of both forms. What the training form lacks or has beyond that stays visible to the comparison of names.
    """
    tensors = dict(source.tensors)
    for name, module in spec.training.named_modules():
        undeploy = getattr(module, "undeploy", None)
        kernel, bias = f"{name}.conv.weight", f"{name}.conv.bias"
        if undeploy is None or bias not in tensors or kernel not in tensors:
            continue
        whole = {f"{name}.{part}": value for part, value in undeploy(tensors[kernel], tensors[bias]).items()}
        if any(part not in tensors for part in whole if not part.endswith(COUNTER)):
            del tensors[kernel], tensors[bias]
            tensors |= whole
    if source.form == "deploy" and source.pixels_folded:
        _unfold_pixels(tensors, spec)
    return tensors


def _unfold_pixels(tensors: dict[str, Tensor], spec: ModelSpec) -> None:
    """Makes the first convolution see the pixels that the training form gives it."""
    pixels, first = spec.training.pixels, spec.training.backbone.first_convolution()
    folds = not isinstance(spec.deployed.pixels, Pixels)
    if folds and isinstance(pixels, Pixels) and first is not None:
        stem = next(name for name, module in spec.training.named_modules() if module is first) + ".weight"
        if stem in tensors and tensors[stem].shape == first.weight.shape:
            tensors[stem] = pixels.unfold(tensors[stem])
