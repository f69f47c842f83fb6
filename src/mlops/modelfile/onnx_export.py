"""Exports a checkpoint to one `.onnx` file, which is all that serving needs.

The graph computes the outputs of `deployed.py`. The metadata contain config, classes, calibration and provenance as
JSON.
"""

import copy
import logging
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from torch.export import Dim

from src.mlops.errors import CheckpointError
from src.mlops.io.files import sha256, to_json, write_atomically
from src.mlops.modelfile.checkpoint import Checkpoint, load_checkpoint
from src.mlops.modelfile.deployed import Deployed
from src.mlops.modelfile.metadata import FORMAT_VERSION, FP16_TOLERANCE, SUFFIXES, TOLERANCE
from src.mlops.modelfile.quantization import quantize
from src.mlops.modelfile.run_errors import run_error

logger = logging.getLogger(__name__)
OPSET = 20  # of ONNX 1.15 (2023); all current runtimes support it
_TOLERANCES = {"fp32": TOLERANCE, "fp16": FP16_TOLERANCE, "int8": TOLERANCE}  # int8: checked before it is quantised


def export(
    checkpoint_path: Path,
    images: NDArray[np.uint8] | None = None,
    *,
    fp16: bool = False,
    opset: int = OPSET,
    complete: Callable[[Path], object] = lambda _: None,
) -> Path:
    """Exports a checkpoint to an ONNX file next to it, after checking that both give the same probabilities.

    Args:
        checkpoint_path: A `best_model.pth`.
        images: None writes `best_model.onnx` in float32. Preprocessed training images, uint8 [N, S, S, 3], give a
            quantised `best_model.int8.onnx`, whose probabilities may differ slightly. `inv model.benchmark` measures
            the difference.
        fp16: Whether to write `best_model.fp16.onnx` instead, with weights and features in float16. Its probabilities
            may differ by `metadata.FP16_TOLERANCE`.
        opset: Version of the ONNX operators.
        complete: Called with a temporary file of the same name before the previous file is replaced; may change it. So
            a service never loads an incomplete file, and no kill leaves one.

    Returns:
        The path of the written file.

    Raises:
        CheckpointError: The checkpoint is unusable, the exported graph gives other probabilities, or the file cannot be
            written. A previous file is then unchanged.
    """
    digest = sha256(checkpoint_path) if checkpoint_path.is_file() else ""
    checkpoint = load_checkpoint(checkpoint_path)
    variant = "fp16" if fp16 else "fp32" if images is None else "int8"
    graph = build_graph(checkpoint, fp16=fp16, opset=opset)
    _require_same_answers(graph, checkpoint, _TOLERANCES[variant])
    if images is not None:
        graph = quantize(graph, images)
        _probabilities(
            graph, images[:1], checkpoint_path
        )  # raises if the graph does not run, before anything is written
    attach_metadata(graph, checkpoint, digest, variant)
    if sha256(checkpoint_path) != digest:
        raise CheckpointError(f"{checkpoint_path} was replaced during its export. Export it again.")
    out = checkpoint_path.with_suffix(SUFFIXES[variant])
    try:
        with tempfile.TemporaryDirectory() as folder:
            temporary = Path(folder, out.name)
            temporary.write_bytes(graph.SerializeToString())
            complete(temporary)
            content = temporary.read_bytes()
        write_atomically(out, content)
    except OSError as error:
        raise CheckpointError(f"Cannot write {out}: {error}. The previous file is unchanged.") from error
    logger.info("Exported %s (%.2f MB, opset %d)", out, len(content) / 1e6, opset)
    return out


def build_graph(checkpoint: Checkpoint, *, fp16: bool = False, opset: int = OPSET) -> onnx.ModelProto:
    """Returns the ONNX graph of a model with its calibration, after checking its structure and shapes.

    Args:
        checkpoint: The model, which is not changed.
        fp16: Whether weights and features are float16. Input and outputs are the same.
        opset: Version of the ONNX operators.

    Raises:
        CheckpointError: torch did not export the model.
    """
    model = copy.deepcopy(checkpoint.model).half() if fp16 else checkpoint.model
    deployed = Deployed(model, checkpoint.calibration.temperature)
    example = torch.zeros(2, 3, checkpoint.image_size, checkpoint.image_size, dtype=torch.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter warns about its own internals
        program = torch.onnx.export(
            deployed,
            (example,),
            dynamo=True,
            opset_version=opset,
            input_names=["images"],
            output_names=deployed.output_names,
            dynamic_shapes=({0: Dim("N")},),
            verbose=False,
        )
    if program is None:
        raise CheckpointError("torch.onnx.export did not return a model.")
    graph: onnx.ModelProto = program.model_proto
    for node in graph.graph.node:
        del node.metadata_props[:]  # they contain source paths of this machine
    onnx.checker.check_model(graph, full_check=True)  # includes shape inference
    return graph


def attach_metadata(graph: onnx.ModelProto, checkpoint: Checkpoint, checkpoint_sha256: str, variant: str) -> None:
    """Adds the metadata that serving and auditing need to a graph."""
    metadata = {
        "format_version": FORMAT_VERSION,
        "variant": variant,
        "config": checkpoint.config,
        "classes": checkpoint.classes.to_dicts(),
        "calibration": checkpoint.calibration.to_dict(),
        "metrics": checkpoint.metrics,
        "provenance": checkpoint.provenance,
        "checkpoint_sha256": checkpoint_sha256,
    }
    onnx.helper.set_model_props(graph, {key: to_json(value) for key, value in metadata.items()})


def _require_same_answers(graph: onnx.ModelProto, checkpoint: Checkpoint, tolerance: float) -> None:
    size = checkpoint.image_size
    images = np.random.default_rng(0).integers(0, 256, (16, 3, size, size), np.uint8)
    found = _probabilities(graph, images.transpose(0, 2, 3, 1), checkpoint.path)
    deployed = Deployed(checkpoint.model, checkpoint.calibration.temperature)
    with torch.inference_mode():
        expected = deployed(torch.from_numpy(images))[0].numpy()
    difference = float(np.abs(found - expected).max())
    if not difference <= tolerance:
        raise CheckpointError(
            f"The exported model does not match its checkpoint: probabilities differ by {difference:.2g}, but at most "
            f"{tolerance:g} is allowed."
        )


def _probabilities(graph: onnx.ModelProto, images: NDArray[np.uint8], checkpoint_path: Path) -> NDArray[np.float32]:
    try:
        session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
        found = session.run(["probabilities"], {"images": np.ascontiguousarray(images.transpose(0, 3, 1, 2))})[0]
    except Exception as error:  # ONNX Runtime has no public exception class
        raise run_error(checkpoint_path, error) from error
    return np.asarray(found)
