"""Models for tests of the service."""

from pathlib import Path

import onnx


def with_an_endless_loop(exported: Path) -> bytes:
    """Returns a model that is valid and never finishes."""
    model = onnx.load(exported)
    graph = model.graph
    for node in graph.node:
        node.input[:] = ["looped" if name == "images" else name for name in node.input]
    shape = onnx.helper.make_tensor_value_info
    body = onnx.helper.make_graph(
        [
            onnx.helper.make_node("Identity", ["condition"], ["goes_on"]),
            onnx.helper.make_node("Identity", ["before"], ["after"]),
        ],
        "body",
        [
            shape("number", onnx.TensorProto.INT64, []),
            shape("condition", onnx.TensorProto.BOOL, []),
            shape("before", onnx.TensorProto.UINT8, None),
        ],
        [shape("goes_on", onnx.TensorProto.BOOL, []), shape("after", onnx.TensorProto.UINT8, None)],
    )
    endless = onnx.helper.make_tensor("trips", onnx.TensorProto.INT64, [], [2**62])
    graph.initializer.append(endless)
    graph.node.insert(0, onnx.helper.make_node("Loop", ["trips", "", "images"], ["looped"], body=body))
    return bytes(model.SerializeToString())
