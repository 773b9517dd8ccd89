"""ncnn: runs a file of `onelook export --to ncnn` on the processor. Needs no PyTorch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from onelook.errors import ExportError, missing_package
from onelook.exported import ExportedMetadata
from onelook.predict.runtimes.exported import ExportedRuntime, beside, check_content, check_cpu, metadata_beside
from onelook.threads import chosen_threads


class NcnnRuntime(ExportedRuntime):
    """An ncnn model (.param, with its .bin and .param.json beside it), one image after the other.

    threads: None is the number of free cores.  half: features in float16 where the processor has it, which is how a
    float16 file runs; a float32 file computes in float32 otherwise, which is not ncnn's own default.
    """

    chooses_precision = True

    def files(self) -> tuple[str, ...]:
        return (self.path, beside(self.path, ".bin"))

    def _open(self, device: str | None, threads: int | None, half: bool) -> ExportedMetadata:
        metadata = metadata_beside(self.path)
        check_cpu(device, "ncnn")
        try:
            import ncnn
        except ImportError as error:
            raise missing_package("ncnn", f"Running '{self.path}'") from error
        net = new_net(threads or chosen_threads(), half=half or metadata.precision == "float16")
        param, weights = self.files()
        check_content(self.path, self.files())
        # load_param takes text without an end, so what follows a cut is found by the missing outputs.
        if net.load_param(param) != 0:
            raise ExportError(f"'{param}' is not an ncnn model that can be run.", "Export it again.")
        if net.load_model(weights) != 0:
            raise ExportError(f"'{weights}' does not hold the weights of '{param}'.", "Export both again.")
        self._net = net
        self.library, self.device_name = f"ncnn {ncnn.__version__}", "cpu"
        return metadata

    def run(self, outputs: Sequence[str], feed: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        import ncnn

        found: list[list[np.ndarray]] = [[] for _ in outputs]
        for image in feed["images"]:
            extractor = self._net.create_extractor()
            # A Mat knows no strides and does not keep the array; layers need the alignment that the copy has.
            pixels = np.ascontiguousarray(image, np.float32)
            extractor.input("images", ncnn.Mat(pixels).clone())
            for rows, name in zip(found, outputs):
                code, values = extractor.extract(name)
                if code != 0:
                    raise self._not_run(RuntimeError(f"ncnn gives no output '{name}'."))
                rows.append(np.array(values))
        return [np.stack(rows) for rows in found]

    def _contradiction(self) -> str:
        names = set(self._net.input_names()) | set(self._net.output_names())
        missing = {"images", "boxes", "scores"} - names
        if missing:
            return f"the model has no '{min(missing)}'"
        if self.metadata.outputs != "raw":
            return "an ncnn model has no NMS inside"
        return "" if self.metadata.batch == 1 else f"its batch size is 1, not {self.metadata.batch or 'free'}"


def new_net(threads: int, *, half: bool) -> Any:
    """An empty ncnn network that runs on the processor. half: features in float16 where the processor has it."""
    import ncnn

    net = ncnn.Net()
    net.opt.use_vulkan_compute = False
    net.opt.use_bf16_storage = False
    net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = half
    net.opt.num_threads = threads
    return net
