"""Exports a detector for TensorRT: an ONNX file that its parser takes, and where there is a GPU, the engine."""

from __future__ import annotations

import shlex
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from onelook.errors import ExportError
from onelook.exported import ExportedMetadata, description_beside
from onelook.exporting.graph import ExportGraph
from onelook.exporting.onnx import OUTPUTS, export_onnx
from onelook.exporting.runtime import runner_of
from onelook.exporting.target import (
    ExportedFile,
    ExportOptions,
    TargetFormat,
    check_place,
    drafted,
    refuse_nms,
)
from onelook.exporting.verify import verify_rows
from onelook.files import write_text
from onelook.networks.detector import Detector
from onelook.predict.runtimes.tensorrt import TensorrtRuntime

LARGEST_BATCH = 32  # of an engine of any batch size; memory is set aside for it
USUAL_BATCH = 8  # that it is tuned for

# The operators of our networks, all of which TensorRT's parser takes (NVIDIA, "Supported ONNX operators", version 10).
PARSED = frozenset(
    """
    Add AveragePool BatchNormalization Cast Clip Concat Constant ConstantOfShape Conv DequantizeLinear Div Equal Exp
    Expand Flatten Gather GlobalAveragePool HardSigmoid HardSwish Identity LeakyRelu Log MatMul Max MaxPool Min Mish
    Mul Neg Pow QuantizeLinear Range ReduceMean ReduceSum Relu Reshape Resize Shape Sigmoid Slice Softmax Softplus
    Split Sqrt Squeeze Sub Tanh Tile Transpose Unsqueeze Where
    """.split()  # noqa: SIM905
)


def export_tensorrt(detector: Detector, path: str | Path, options: ExportOptions) -> ExportedFile:
    """Writes the network as ONNX beside `path` (.engine), verified in ONNX Runtime, and the metadata of the engine.

    Where TensorRT and a GPU are, it builds the engine of it and verifies that too. Elsewhere no engine is written: the
    notes have the command of trtexec that builds it at `path`, and the runtime finds the metadata there. An older
    engine at `path` is removed then.

    The engine is strongly typed, so that each layer computes in the precision of the ONNX file, and without TF32.
    """
    _check(options)
    path = Path(path)
    check_place(path, ".engine", "a TensorRT engine")
    source = path.with_suffix(".onnx")
    written = export_onnx(
        detector, source, half=options.half, dynamic=options.dynamic, batch=options.batch, size=options.size
    )
    return finish_tensorrt(detector, path, written)


def finish_tensorrt(
    detector: Detector, path: Path, written: ExportedFile, images: np.ndarray | None = None
) -> ExportedFile:
    """Writes the metadata of the engine at `path`, and where it can be built, the engine of the ONNX file, verified.

    images: that it is verified on, as in `verify_rows`.
    """
    source = written.path
    check_operators(source)
    metadata, description = written.metadata, Path(description_beside(str(path)))
    missing = _missing()
    command = shlex.join(trtexec_command(source, path, metadata))
    if missing:
        path.unlink(missing_ok=True)  # an older engine, whose description this is not
        write_text(description, metadata.to_json() + "\n")
        note = (
            f"No engine was built or run, because {missing}. Verified is {source.name} in ONNX Runtime."
            f" Build the engine where it will run, then give it as the model: {command}"
        )
        return replace(written, beside=(description,), notes=(note,))
    with drafted(path, (".engine.json",)) as draft:
        build_engine(source, draft, metadata)
        write_text(description_beside(str(draft)), metadata.to_json() + "\n")
        runtime = TensorrtRuntime(draft)
        agreement, _ = verify_rows(runner_of(runtime), OUTPUTS, ExportGraph(detector), metadata, images)
    beside = (source, description)
    return ExportedFile(path, metadata, agreement, runs_in=runtime.library, beside=beside, int8=written.int8)


def trtexec_command(source: Path, engine: Path, metadata: ExportedMetadata) -> list[str]:
    """The command of TensorRT's own tool that builds the engine."""
    command = ["trtexec", f"--onnx={source}", f"--saveEngine={engine}", "--stronglyTyped", "--noTF32"]
    if metadata.batch is None:
        sides = "x".join(map(str, (3, *metadata.size)))
        sizes = (("min", 1), ("opt", USUAL_BATCH), ("max", LARGEST_BATCH))
        command += [f"--{name}Shapes=images:{size}x{sides}" for name, size in sizes]
    return command


def build_engine(source: Path, engine: Path, metadata: ExportedMetadata) -> None:
    """Builds an engine of an ONNX file with TensorRT (10 or newer). ExportError with what the parser says."""
    import tensorrt

    logger = tensorrt.Logger(tensorrt.Logger.ERROR)
    builder = tensorrt.Builder(logger)
    network = builder.create_network(1 << int(tensorrt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = tensorrt.OnnxParser(network, logger)
    if not parser.parse(source.read_bytes()):
        said = "; ".join(str(parser.get_error(index)) for index in range(parser.num_errors))
        raise ExportError(f"TensorRT {tensorrt.__version__} cannot read '{source}': {said}")
    config = builder.create_builder_config()
    config.clear_flag(tensorrt.BuilderFlag.TF32)
    if metadata.batch is None:
        profile = builder.create_optimization_profile()
        profile.set_shape("images", *((size, 3, *metadata.size) for size in (1, USUAL_BATCH, LARGEST_BATCH)))
        config.add_optimization_profile(profile)
    content = builder.build_serialized_network(network, config)
    if content is None:
        raise ExportError(f"TensorRT {tensorrt.__version__} built no engine of '{source}'.", "See what it printed.")
    engine.write_bytes(bytes(content))


def check_operators(source: Path) -> None:
    """ExportError where an ONNX file has an operator that TensorRT's parser is not known to take."""
    import onnx

    unknown = {node.op_type for node in onnx.load(str(source), load_external_data=False).graph.node} - PARSED
    if unknown:
        raise ExportError(
            f"TensorRT's parser is not known to take the operator '{min(unknown)}' of this network.",
            "Export to ONNX, and try trtexec with it.",
        )


def _missing() -> str:
    """Why no engine can be built here; "" where it can."""
    for package in ("tensorrt", "cuda"):
        if find_spec(package) is None:
            return f"the package '{package}' is not installed"
    from cuda.bindings import runtime

    code, count = runtime.cudaGetDeviceCount()
    return "" if int(code) == 0 and count else "there is no NVIDIA GPU here"


def _check(options: ExportOptions) -> None:
    refuse_nms(options, "A TensorRT engine", "this project has not run that on a GPU, so it is not offered")


TENSORRT = TargetFormat("tensorrt", ".engine", (".onnx", ".engine.json"), _check, export_tensorrt)
