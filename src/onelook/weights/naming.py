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
from onelook.models.deploy import deploy
from onelook.models.detector import Architecture, ClassRows, Detector, Pixels
from onelook.weights.checkpoint import Checkpoint, NetworkGraph
from onelook.weights.convolutions import Convolution, graph_of_detector, match

Form = Literal["training", "deploy"]
COUNTER = ".num_batches_tracked"  # of batch norm; some writers leave it out, and nothing here reads it


@dataclass(frozen=True)
class Named:
    """Tensors under our names.

    form: which form of the detector they belong to.  pixels_folded: whether the first convolution sees plain RGB.
    naming: whose names the file uses, for people.
    """

    tensors: dict[str, Tensor]
    form: Form
    pixels_folded: bool
    naming: str


class Blueprint:
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
    def official_deployed(self) -> dict[str, str]:
        """Our name in the deploy form -> the official one: folding adds biases beside the convolutions."""
        known = {}
        for name in self.deployed.state_dict():
            if name in self.official:
                known[name] = self.official[name]
            elif name.endswith(".bias") and f"{name.removesuffix('bias')}weight" in self.official:
                known[name] = self.official[f"{name.removesuffix('bias')}weight"].removesuffix("weight") + "bias"
        return known

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


def named(checkpoint: Checkpoint, blueprint: Blueprint) -> Named | None:
    """The checkpoint's tensors under our names, whatever their shapes; None if its network is another one.

    Names that are not known stay as they are, so that a comparison can list them.
    """
    if checkpoint.numbers is not None:
        checkpoint = replace(checkpoint, tensors=checkpoint.numbers.cut(blueprint.architecture))
    if checkpoint.graph is not None:
        return _from_graph(checkpoint, checkpoint.graph, blueprint)
    form: Form = "deploy" if checkpoint.folded else "training"
    official = blueprint.official_deployed if checkpoint.folded else blueprint.official
    schemes = {"own": {name: name for name in blueprint.shapes(form)}, "official": official}
    found = checkpoint.tensors.keys()

    naming = max(schemes, key=lambda scheme: len(found & set(schemes[scheme].values())))
    ours = {theirs: name for name, theirs in schemes[naming].items()}
    tensors = {ours.get(name, name): tensor for name, tensor in checkpoint.tensors.items()}
    return Named(tensors, form, form == "deploy" and naming == "own", naming)


def _from_graph(checkpoint: Checkpoint, graph: NetworkGraph, blueprint: Blueprint) -> Named | None:
    places = places_in_graph(graph.links, blueprint)
    if places is None:
        return None
    tensors: dict[str, Tensor] = {}
    for name, place in places.items():
        found = graph.convolutions[place]
        bias = found.bias if found.bias is not None else torch.zeros(found.weight.shape[0], dtype=found.weight.dtype)
        tensors |= {f"{name}.weight": found.weight, f"{name}.bias": bias}
    return Named(tensors, "deploy", checkpoint.exported is not None, "graph")


def places_in_graph(links: Mapping[str, Convolution], blueprint: Blueprint) -> dict[str, str] | None:
    """Our convolution's name -> the place in a graph of the same network; None if it differs.

    The number of classes may be another one: what is left of the graph's kernels must be the class layers.
    """
    rows = {name.removesuffix(".weight"): one for name, one in blueprint.class_rows.items() if name.endswith(".weight")}
    deployed = {name: one for name, one in blueprint.deployed.named_modules() if isinstance(one, nn.Conv2d)}
    fixed = Counter(tuple(one.weight.shape) for name, one in deployed.items() if name not in rows)
    left = Counter(one.shape for one in links.values()) - fixed
    if sum(left.values()) != len(rows) or len({shape[0] for shape in left}) != 1:
        return None
    outputs = next(iter(left))[0]
    sized = {
        name: replace(one, shape=(outputs, *one.shape[1:])) if name in rows else one
        for name, one in blueprint.graph.items()
    }
    return match(sized, links)


def classes_in(tensors: Mapping[str, Tensor], blueprint: Blueprint) -> int | None:
    """How many classes the tensors are for; None if they have no rows for classes, or do not agree."""
    counts = set()
    for name, rows in blueprint.class_rows.items():
        if name not in tensors or tensors[name].dim() <= rows.axis:
            return None
        each, rest = divmod(tensors[name].shape[rows.axis], rows.anchors)
        counts.add(-1 if rest else each - rows.before - rows.after)
    count = counts.pop() if len(counts) == 1 else 0
    return count if count > 0 else None


def unfolded(source: Named, blueprint: Blueprint) -> dict[str, Tensor]:
    """Tensors of the deploy form as those of the training form, with batch norms that do nothing.

    Gain 1, mean 0 and variance 1 - eps make `gain / sqrt(variance + eps)` one, so answers agree to the last bit and
    folding gives the same kernels again; the folded bias is the norm's. All of it can be trained. What the training
    form lacks or has beyond that stays visible to the comparison of names.
    """
    tensors = dict(source.tensors)
    for name, module in blueprint.training.named_modules():
        if isinstance(module, ConvBnAct) and f"{name}.conv.bias" in tensors:
            bias = tensors.pop(f"{name}.conv.bias")
            tensors |= {
                f"{name}.bn.weight": torch.ones(bias.shape),
                f"{name}.bn.bias": bias,
                f"{name}.bn.running_mean": torch.zeros(bias.shape),
                f"{name}.bn.running_var": torch.full(bias.shape, 1 - module.bn.eps),
                f"{name}.bn{COUNTER}": torch.tensor(0),
            }
    pixels, first = blueprint.training.pixels, blueprint.training.backbone.first_convolution()
    folds = not isinstance(blueprint.deployed.pixels, Pixels)
    if source.pixels_folded and folds and isinstance(pixels, Pixels) and first is not None:
        stem = next(name for name, module in blueprint.training.named_modules() if module is first) + ".weight"
        if stem in tensors and tensors[stem].shape == first.weight.shape:
            tensors[stem] = pixels.unfold(tensors[stem])
    return tensors
