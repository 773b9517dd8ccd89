"""Converts a program of torch.export to a LiteRT model, in a process of its own: PROGRAM.pt2 MODEL.tflite half|full.

The converter loads libraries that nothing else needs, and it and its libraries print a lot.
"""

from __future__ import annotations

import sys

import torch
from torch import Tensor, nn


class Named(nn.Module):
    """A program with names for its outputs, which become those of the LiteRT model."""

    def __init__(self, program: nn.Module) -> None:
        super().__init__()
        self.program = program

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        boxes, scores = self.program(images)
        return {"boxes": boxes, "scores": scores}

    def eval(self) -> Named:
        """A program of torch.export has no modes."""
        return self


def main(program: str, model: str, precision: str) -> None:
    """Writes the model. precision: "half" stores weights in float16."""
    import litert_torch

    exported = torch.export.load(program)
    (images,) = exported.example_inputs[0]
    module = Named(exported.module())
    module.training = False
    litert_torch.convert(module, sample_kwargs={"images": images}).export(model)
    if precision == "half":
        _store_in_float16(model)


def _store_in_float16(model: str) -> None:
    """Stores the weights in float16; the runtime computes in float32."""
    from ai_edge_quantizer import qtyping, quantizer
    from ai_edge_quantizer.algorithm_manager import AlgorithmName

    weights = qtyping.TensorQuantizationConfig(num_bits=16, dtype=qtyping.TensorDataType.FLOAT)
    casting = quantizer.Quantizer(model)
    casting.update_quantization_recipe(
        regex=".*",
        operation_name=qtyping.TFLOperationName.ALL_SUPPORTED,
        op_config=qtyping.OpQuantizationConfig(
            weight_tensor_config=weights, compute_precision=qtyping.ComputePrecision.FLOAT
        ),
        algorithm_key=AlgorithmName.FLOAT_CASTING,
    )
    casting.quantize().export_model(model, overwrite=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
