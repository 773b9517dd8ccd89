"""Matches the convolutions of a foreign graph to ours: by how data flows, not by names or order.

Exporters rename, number and reorder; what they cannot change is which convolution feeds which, and the kernels'
shapes. Both networks become a graph of convolutions, and colour refinement (Weisfeiler and Leman 1968) gives
every convolution a colour that sums up its whole surroundings. Equal colours are the same place of the network.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from onelook.networks.detector import Detector
from onelook.weights.onnx_file import Node, OnnxFile
from onelook.weights.problems import UnreadableFile, printable

_MOST_CONVOLUTIONS = 5_000
_MOST_LINKS = 200_000


@dataclass(frozen=True)
class Convolution:
    """One convolution of a graph: its kernel's shape, and the nearest convolutions before it."""

    shape: tuple[int, ...]
    before: frozenset[str]


Graph = Mapping[str, Convolution]


@dataclass(frozen=True)
class FoldedConvolution:
    """Kernel and bias of a convolution of a file."""

    weight: Tensor
    bias: Tensor | None


def graph_of_file(file: OnnxFile) -> tuple[dict[str, Convolution], dict[str, FoldedConvolution]]:
    """The convolutions of an ONNX graph, by the name of their result: as a graph, and their tensors.

    Raises UnreadableFile if nodes are out of order, or a convolution's kernel is not stored in the file.
    """
    nearest: dict[str, frozenset[str]] = {name: frozenset() for name in ("", *file.inputs, *file.tensors)}
    aliases: dict[str, str] = {}
    graph: dict[str, Convolution] = {}
    tensors: dict[str, FoldedConvolution] = {}
    links = 0
    for node in file.nodes:
        if not node.outputs:
            continue
        if missing := [name for name in node.inputs if name not in nearest]:
            raise UnreadableFile(f"its graph uses '{printable(missing[0])}' before it is made")
        if node.kind == "Identity" and node.inputs:
            source = aliases.get(node.inputs[0], node.inputs[0])
            if source in file.tensors:
                aliases[node.outputs[0]] = source
        before = _joined(nearest[name] for name in node.inputs)
        if node.kind == "Conv":
            name = node.outputs[0]
            tensors[name] = _stored(node, file, aliases)
            graph[name] = Convolution(tuple(tensors[name].weight.shape), before)
            before = frozenset((name,))
            if len(graph) > _MOST_CONVOLUTIONS:
                raise UnreadableFile(f"it has more than {_MOST_CONVOLUTIONS} convolutions")
        links += len(before)
        if links > _MOST_LINKS:
            raise UnreadableFile("its operations are linked far more than those of a detector")
        nearest.update(dict.fromkeys(node.outputs, before))
    return graph, tensors


def _stored(node: Node, file: OnnxFile, aliases: Mapping[str, str]) -> FoldedConvolution:
    found: list[Tensor | None] = []
    for name in node.inputs[1:3]:
        stored = aliases.get(name, name)
        if name and stored not in file.tensors:
            raise UnreadableFile(
                f"its convolution '{printable(node.outputs[0])}' computes its weights instead of storing them",
                "Export the model without quantisation.",
            )
        found.append(file.tensors[stored] if name else None)
    weight, bias = [*found, None, None][:2]
    if weight is None or weight.dim() != 4 or (bias is not None and bias.shape != weight.shape[:1]):
        raise UnreadableFile(f"its convolution '{printable(node.outputs[0])}' has no proper weights")
    return FoldedConvolution(weight, bias)


def graph_of_detector(deployed: Detector) -> dict[str, Convolution]:
    """The convolutions of a detector in deploy form, by module name.

    What autograd notes for the backward pass of a small image is the graph. On the meta device nothing is computed.
    """
    needed = {name: parameter.requires_grad for name, parameter in deployed.named_parameters()}
    try:
        with torch.inference_mode(False), torch.enable_grad():
            return _graph_by_autograd(deployed.requires_grad_(True))
    finally:
        for name, parameter in deployed.named_parameters():
            parameter.requires_grad_(needed[name])


def _graph_by_autograd(deployed: Detector) -> dict[str, Convolution]:
    """Convolutions, each with those nearest before it, of the steps that autograd notes for one forward pass."""
    owners: dict[int, str] = {
        id(module.weight): name for name, module in deployed.named_modules() if isinstance(module, nn.Conv2d)
    }
    weights = {name: module.weight for name, module in deployed.named_modules() if isinstance(module, nn.Conv2d)}
    side = 2 * max(deployed.backbone.strides)
    first = next(iter(weights.values()))
    predictions = deployed(torch.empty((1, 3, side, side), dtype=first.dtype, device=first.device))
    outputs = (predictions.boxes, predictions.classes, predictions.objectness)
    nearest: dict[object, frozenset[str]] = {}
    graph: dict[str, Convolution] = {}
    for step in _in_order([output.grad_fn for output in outputs if output is not None]):
        before = _joined(nearest[earlier] for earlier, _ in step.next_functions if earlier is not None)
        if step.name() == "ConvolutionBackward0":
            parameter: Any = step.next_functions[1][0]
            name = owners[id(parameter.variable)]
            graph[name] = Convolution(tuple(weights[name].shape), before)
            before = frozenset((name,))
        nearest[step] = before
    return graph


def _in_order(last: list[object]) -> list[torch.autograd.graph.Node]:
    """The autograd steps that lead to `last`, each behind those it depends on."""
    order: list[torch.autograd.graph.Node] = []
    seen: set[object] = set()
    stack: list[tuple[object, bool]] = [(step, False) for step in last]
    while stack:
        step, ready = stack.pop()
        if ready:
            order.append(step)  # type: ignore[arg-type]
        elif step is not None and step not in seen:
            seen.add(step)
            stack.append((step, True))
            stack += [(earlier, False) for earlier, _ in step.next_functions]  # type: ignore[attr-defined]
    return order


def _joined(sets: Iterable[frozenset[str]]) -> frozenset[str]:
    different = {id(one): one for one in sets if one}
    return frozenset().union(*different.values()) if len(different) != 1 else next(iter(different.values()))


def match(ours: Graph, theirs: Graph) -> dict[str, str] | None:
    """Our convolution's name -> theirs, one to one; None where the networks differ or places look alike."""
    if Counter(one.shape for one in ours.values()) != Counter(one.shape for one in theirs.values()):
        return None
    colours = _refined([ours, theirs])
    places: dict[Hashable, list[str]] = {}
    for name, colour in colours[1].items():
        places.setdefault(colour, []).append(name)
    found = {}
    for name, colour in colours[0].items():
        candidates = places.get(colour, [])
        if len(candidates) != 1:
            return None
        found[name] = candidates[0]
    return found if len(set(found.values())) == len(theirs) else None


def _refined(graphs: list[Graph]) -> list[dict[str, int]]:
    """Colours of the convolutions of all graphs, refined until no round tells more places apart."""
    after: list[dict[str, list[str]]] = [{name: [] for name in graph} for graph in graphs]
    for graph, followers in zip(graphs, after):
        for name, one in graph.items():
            for earlier in one.before:
                followers[earlier].append(name)
    palette: dict[Hashable, int] = {}
    colours = [{name: palette.setdefault(one.shape, len(palette)) for name, one in g.items()} for g in graphs]
    known = 0
    while len(palette) > known:
        known = len(palette)
        palette = {}
        colours = [
            {
                name: palette.setdefault(
                    (
                        colour[name],
                        tuple(sorted(colour[earlier] for earlier in one.before)),
                        tuple(sorted(colour[later] for later in followers[name])),
                    ),
                    len(palette),
                )
                for name, one in graph.items()
            }
            for graph, colour, followers in zip(graphs, colours, after)
        ]
    return colours
