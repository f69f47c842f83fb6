"""Changed ONNX files."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import NodeProto, helper, numpy_helper

from src.mlops.data.classes import ClassList
from src.mlops.io.files import to_json


def rewritten(source: Path, target: Path, change: Callable[[onnx.ModelProto], None]) -> Path:
    """Writes a changed copy of an ONNX file, and returns its path."""
    graph = onnx.load(source)
    change(graph)
    onnx.save(graph, target)
    return target


def preprocessed(nodes: Sequence[NodeProto], **constants: Sequence[float]) -> Callable[[onnx.ModelProto], None]:
    """Returns a change that inserts nodes from `images` to `changed` before all others."""

    def change(graph: onnx.ModelProto) -> None:
        for node in graph.graph.node:
            for place, name in enumerate(node.input):
                if name == "images":
                    node.input[place] = "changed"
        for name, values in constants.items():
            graph.graph.initializer.append(numpy_helper.from_array(np.array(values), name))
        for place, node in enumerate(nodes):
            graph.graph.node.insert(place, node)

    return change


def with_classes(source: Path, target: Path, classes: ClassList) -> Path:
    """Writes a copy of a model that calls its classes otherwise. `classes` has as many as the model."""

    def change(graph: onnx.ModelProto) -> None:
        [entry] = [entry for entry in graph.metadata_props if entry.key == "classes"]
        entry.value = to_json(classes.to_dicts())

    return rewritten(source, target, change)


def with_wrong_reshape(source: Path, target: Path) -> Path:
    """Writes a model that loads, but fails for any images: it reshapes them to one image more."""
    nodes = [
        helper.make_node("Shape", ["images"], ["shape"]),
        helper.make_node("Add", ["shape", "more"], ["wrong"]),
        helper.make_node("Reshape", ["images", "wrong"], ["changed"], name="wrong_reshape"),
    ]
    return rewritten(source, target, preprocessed(nodes, more=[1, 0, 0, 0]))


def with_an_endless_loop(source: Path, target: Path) -> Path:
    """Writes a model that loads, but never finishes."""
    value = helper.make_tensor_value_info
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["condition"], ["goes_on"]),
            helper.make_node("Identity", ["before"], ["after"]),
        ],
        "body",
        [
            value("number", onnx.TensorProto.INT64, []),
            value("condition", onnx.TensorProto.BOOL, []),
            value("before", onnx.TensorProto.UINT8, None),
        ],
        [value("goes_on", onnx.TensorProto.BOOL, []), value("after", onnx.TensorProto.UINT8, None)],
    )
    nodes = [helper.make_node("Loop", ["trips", "", "images"], ["changed"], body=body)]
    return rewritten(source, target, preprocessed(nodes, trips=[2**62]))


def with_huge_copy(source: Path, target: Path) -> Path:
    """Writes a model that loads, but needs petabytes of memory for any images."""
    nodes = [
        helper.make_node("Slice", ["images", "begin", "end"], ["first"]),
        helper.make_node("Shape", ["images"], ["shape"]),
        helper.make_node("Mul", ["shape", "copies"], ["huge"]),
        helper.make_node("Expand", ["first", "huge"], ["changed"], name="huge_copy"),
    ]
    return rewritten(source, target, preprocessed(nodes, copies=[10**11, 1, 1, 1], begin=[0], end=[1]))
