"""Exports a detector to the format of OpenVINO, through ONNX."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from onelook.errors import ExportError, missing_package
from onelook.exported import METADATA_KEY
from onelook.exporting.graph import ExportGraph
from onelook.exporting.onnx import OUTPUTS, ExportedFile, export_onnx
from onelook.exporting.verify import Runner, mismatch_error, verify_rows
from onelook.files import replacing
from onelook.networks.detector import Detector


def export_openvino(
    detector: Detector,
    path: str | Path,
    *,
    half: bool = False,
    dynamic: bool = False,
    batch: int = 1,
    size: tuple[int, int] | None = None,
) -> ExportedFile:
    """Exports to `path` (.xml) and a weights file beside it (.bin), and verifies boxes and scores of all rows.

    half: float16 weights; the device chooses the precision of the computation. The metadata (`onelook.exported`) is in
    the runtime information under `METADATA_KEY`. MissingDependencyError without the `openvino` extra.
    """
    if find_spec("openvino") is None:
        raise missing_package("openvino", "Exporting to OpenVINO")
    import openvino

    path = Path(path)
    if path.suffix != ".xml":
        raise ExportError(f"'{path}' is not the name of an OpenVINO model.", "Give --out a name that ends in .xml.")
    if not path.parent.is_dir():
        raise ExportError(f"The folder '{path.parent}' does not exist.", "Create it, or export to another place.")
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
        draft = Path(folder) / path.name
        source = export_onnx(detector, draft.with_suffix(".onnx"), dynamic=dynamic, batch=batch, size=size)
        metadata = replace(source.metadata, precision="float16" if half else "float32")
        model = openvino.convert_model(str(source.path))
        model.set_rt_info(metadata.to_json(), [METADATA_KEY])
        openvino.save_model(model, str(draft), compress_to_fp16=half)
        agreement, _ = verify_rows(openvino_runner(draft), OUTPUTS, ExportGraph(detector), metadata)
        for suffix in (".bin", ".xml"):  # the .xml last: it is the file that users open
            with replacing(path.with_suffix(suffix)) as file:
                os.replace(draft.with_suffix(suffix), file)
    return ExportedFile(path, metadata, agreement)


def openvino_runner(path: Path) -> Runner:
    """Opens an OpenVINO model on the CPU in float32. ExportError where it cannot be loaded or run."""
    import openvino

    try:
        compiled = openvino.Core().compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    except RuntimeError as error:
        raise mismatch_error(f"OpenVINO cannot load it ({error})") from error

    def run(outputs: Sequence[str], feed: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        try:
            found = compiled(dict(feed))
        except RuntimeError as error:
            raise mismatch_error(f"OpenVINO cannot run it ({error})") from error
        return [np.array(found[name]) for name in outputs]

    return run
