"""Quantises an exported model to eight-bit weights and activations. The result is about a quarter of the size.

Uses the static quantisation of ONNX Runtime: QDQ format, one scale per channel of the weights, ranges of the
activations from training images (Jacob et al., "Quantization and Training of Neural Networks for Efficient
Integer-Arithmetic-Only Inference", 2018). The model becomes faster only on processors that multiply eight-bit integers
in hardware.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

CALIBRATION_IMAGES = 1024
BATCH = 64


class _Images(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, images: NDArray[np.uint8]) -> None:
        batches = (images[start : start + BATCH] for start in range(0, len(images), BATCH))
        self._feeds: Iterator[dict[str, Any]] = ({"images": batch} for batch in batches)

    def get_next(self) -> dict[str, Any] | None:
        return next(self._feeds, None)


def quantize(graph: onnx.ModelProto, images: NDArray[np.uint8]) -> onnx.ModelProto:
    """Quantises the convolutions and the last layer of an exported graph.

    Args:
        graph: A graph from `onnx_export.build_graph`.
        images: Preprocessed training images, uint8 [N, S, S, 3], which determine the ranges of the activations.

    Returns:
        The quantised graph. Normalisation, softmax and class activation maps stay in float32.
    """
    with tempfile.TemporaryDirectory() as folder:
        source, prepared, target = (Path(folder, f"{name}.onnx") for name in ("float", "prepared", "int8"))
        onnx.save(graph, source)
        quant_pre_process(source, prepared, skip_optimization=True, skip_symbolic_shape=True)
        quantize_static(
            prepared,
            target,
            _Images(np.ascontiguousarray(images.transpose(0, 3, 1, 2))),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            op_types_to_quantize=["Conv", "Gemm", "Add", "MaxPool"],
        )
        quantized = onnx.load(target)
    _share_weights(quantized)
    onnx.checker.check_model(quantized, full_check=True)
    return quantized


def _share_weights(graph: onnx.ModelProto) -> None:
    """Makes all nodes read the quantised weights, so that the file does not also contain the float weights."""
    stored = {tensor.name for tensor in graph.graph.initializer}
    restored = {
        node.input[0].removesuffix("_quantized"): node.output[0]
        for node in graph.graph.node
        if node.op_type == "DequantizeLinear" and node.input[0].endswith("_quantized") and node.input[0] in stored
    }
    for node in graph.graph.node:
        for place, name in enumerate(node.input):
            if name in restored and name in stored:
                node.input[place] = restored[name]
    read = {name for node in graph.graph.node for name in node.input}
    for tensor in [tensor for tensor in graph.graph.initializer if tensor.name not in read]:
        graph.graph.initializer.remove(tensor)
    # A node may only read the outputs of earlier nodes.
    first = [node for node in graph.graph.node if node.output[0] in restored.values()]
    rest = [node for node in graph.graph.node if node.output[0] not in restored.values()]
    del graph.graph.node[:]
    graph.graph.node.extend([*first, *rest])
