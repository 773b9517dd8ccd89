"""Non-maximum suppression as standard ONNX nodes, appended to a graph with boxes and scores as outputs.

The result equals `ops.nms.Nms`: both thresholds inclusive, greedy by score then row, and only the best class of a row
unless `multi_label`. Selected pairs come as a ragged list; they are scattered back to their rows and the
best `limit` are taken, which also sorts them and pads the batch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from onelook.errors import ExportError

if TYPE_CHECKING:
    from onnx import ModelProto

    from onelook.ops.nms import Nms

ROW_OUTPUTS = ("row_boxes", "row_scores")

# Inputs: row_boxes (B, N, 4) and row_scores (B, N, C). Boxes that overflowed are left out, as in `Nms`.
_CLEAN = """
    nms_magnitude = Abs(row_boxes)
    nms_bounded = Less(nms_magnitude, nms_huge)
    nms_boxes = Where(nms_bounded, row_boxes, nms_zero)
    nms_bounded_number = Cast<to = 1>(nms_bounded)
    nms_finite_number = ReduceMin<keepdims = 1>(nms_bounded_number, nms_last)
    nms_finite = Cast<to = 9>(nms_finite_number)
"""
# One pair a row: its best class, of equal ones the first. nms_pairs (B, N), nms_class_scores (B, C, N) or (B, 1, N).
# One TopK takes a third of the time of ReduceMax and ArgMax.
_BEST_CLASS = """
    nms_best, nms_row_labels = TopK<axis = -1>(row_scores, nms_one)
    nms_labels = Squeeze(nms_row_labels, nms_last)
    nms_enough = GreaterOrEqual(nms_best, confidence)
    nms_candidate = And(nms_enough, nms_finite)
    nms_row_pairs = Where(nms_candidate, nms_best, nms_zero)
    nms_pairs = Squeeze(nms_row_pairs, nms_last)
"""
_BY_CLASS = """
    nms_label_rows = Unsqueeze(nms_labels, nms_one)
    nms_pair_rows = Unsqueeze(nms_pairs, nms_one)
    nms_is_class = Equal(nms_label_rows, nms_classes)
    nms_of_class = Cast<to = 1>(nms_is_class)
    nms_class_scores = Mul(nms_of_class, nms_pair_rows)
"""
_AGNOSTIC = """
    nms_class_scores = Unsqueeze(nms_pairs, nms_one)
"""
# A pair for every row and class. nms_pairs (B, N, C).
_ALL_CLASSES = """
    nms_enough = GreaterOrEqual(row_scores, confidence)
    nms_candidate = And(nms_enough, nms_finite)
    nms_pairs = Where(nms_candidate, row_scores, nms_zero)
    nms_class_scores = Transpose<perm = [0, 2, 1]>(nms_pairs)
"""
# nms_selected (K, 3): image, class, row. nms_order picks what indexes nms_pairs.
_SUPPRESS = """
    nms_selected = NonMaxSuppression(nms_boxes, nms_class_scores, nms_limit, iou, nms_zero)
    nms_places = Gather<axis = 1>(nms_selected, nms_order)
    nms_values = GatherND(nms_pairs, nms_places)
    nms_nothing = Sub(nms_pairs, nms_pairs)
    nms_kept = ScatterND(nms_nothing, nms_places, nms_values)
"""
# Of a model that was trained one to one, every candidate is kept.
_KEEP_ALL = """
    nms_kept = Identity(nms_pairs)
"""
_BEST_ROWS = """
    scores, nms_rows = TopK<axis = 1>(nms_kept, nms_limit)
    nms_found_labels = GatherElements<axis = 1>(nms_labels, nms_rows)
"""
_BEST_PAIRS = """
    nms_flat = Flatten<axis = 1>(nms_kept)
    scores, nms_found = TopK<axis = 1>(nms_flat, nms_limit)
    nms_rows = Div(nms_found, nms_class_count)
    nms_found_labels = Mod(nms_found, nms_class_count)
"""
_PAD = """
    nms_row_places = Unsqueeze(nms_rows, nms_last)
    nms_found_boxes = GatherND<batch_dims = 1>(nms_boxes, nms_row_places)
    nms_valid = Greater(scores, nms_zero)
    nms_valid_count = Cast<to = 7>(nms_valid)
    count = ReduceSum<keepdims = 0>(nms_valid_count, nms_last)
    labels = Mul(nms_found_labels, nms_valid_count)
    nms_valid_boxes = Unsqueeze(nms_valid, nms_last)
    boxes = Where(nms_valid_boxes, nms_found_boxes, nms_zero)
"""


def append_nms(model: ModelProto, nms: Nms, num_rows: int, num_classes: int, *, suppress: bool = True) -> int:
    """Appends `nms` to `model`, whose outputs are `ROW_OUTPUTS`, in place. Returns L, the rows of the padded outputs.

    The model gets the optional inputs `confidence` and `iou` with the values of `nms` as defaults, and the outputs
    count, boxes, scores and labels. Without `suppress` the best rows are the detections: there is no suppression node
    and no input `iou`. ExportError for settings that standard nodes cannot express.
    """
    from onnx import parser

    if nms.kind != "iou":
        raise ExportError(f"NMS inside a file cannot be of the kind '{nms.kind}'.", "Use Nms(kind='iou').")
    if nms.pool is not None:
        raise ExportError("NMS inside a file cannot limit its candidates ('pool').", "Use Nms(pool=None).")
    # A row's classes share a box, so at most one survives an agnostic suppression.
    multi_label = nms.multi_label and not (nms.agnostic and suppress)
    pairs = num_rows * num_classes if multi_label else num_rows
    limit = min(nms.limit or pairs, pairs)
    classes = ", ".join(map(str, range(num_classes)))
    by_class = [] if not suppress else [_AGNOSTIC if nms.agnostic else _BY_CLASS]
    candidates = [_ALL_CLASSES] if multi_label else [_BEST_CLASS, *by_class]
    best = _BEST_PAIRS if multi_label else _BEST_ROWS
    steps = [_CLEAN, *candidates, _SUPPRESS if suppress else _KEEP_ALL, best, _PAD]
    batch = model.graph.output[0].type.tensor_type.shape.dim[0]
    size = batch.dim_param or str(batch.dim_value)
    graph = parser.parse_graph(
        f"""
        nms (float[{size}, {num_rows}, 4] row_boxes, float[{size}, {num_rows}, {num_classes}] row_scores,
             float confidence, float iou)
        => (int64[{size}] count, float[{size}, {limit}, 4] boxes, float[{size}, {limit}] scores,
            int64[{size}, {limit}] labels)
        <float nms_zero = {{0.0}}, float nms_huge = {{3.0e38}}, int64[1] nms_last = {{-1}},
         int64[1] nms_limit = {{{limit}}}, int64[{num_classes}, 1] nms_classes = {{{classes}}},
         int64[1] nms_one = {{1}}, int64 nms_class_count = {{{num_classes}}},
         int64[{3 if multi_label else 2}] nms_order = {{{"0, 2, 1" if multi_label else "0, 2"}}},
         float confidence = {{{nms.confidence!r}}}, float iou = {{{nms.iou!r}}}>
        {{{"".join(steps)}}}
        """
    )
    used = {name for node in graph.node for name in node.input}
    model.graph.node.extend(graph.node)
    model.graph.initializer.extend(constant for constant in graph.initializer if constant.name in used)
    # Initialisers that are inputs too: defaults that a runtime may override.
    settings = ("confidence", "iou") if suppress else ("confidence",)
    model.graph.input.extend(value for value in graph.input if value.name in settings)
    del model.graph.output[:]
    model.graph.output.extend(graph.output)
    return limit
