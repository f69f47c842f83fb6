"""Checkpoint → one `.onnx` file that is enough to serve: `python -m src.mlops.export`.

Input `images`, uint8 [N, 3, S, S] with S the model's size. Outputs, all float32: `probabilities` [N, 43] at the
calibrated temperature; `embedding` [N, D]; `energy` [N], by which a picture is called unknown; and, of networks that
average over places before their last layer, `evidence` [N, 43, h, w], what each place of the image adds to each class's
logit (class activation maps, Zhou et al. 2016). The metadata carry config, classes, calibration and provenance as JSON.
"""

import hashlib
import json
import logging
import warnings
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.export import Dim

from src.mlops.checkpoint import Checkpoint, load_checkpoint
from src.mlops.config import Config, hydra_main
from src.mlops.data.prepare import prepare
from src.mlops.errors import CheckpointError
from src.mlops.evaluate import require_same_size
from src.mlops.files import write_atomically
from src.mlops.model import Network
from src.mlops.model_info import CLASSES, FORMAT_VERSION
from src.mlops.quantization import CALIBRATION_IMAGES, quantize

logger = logging.getLogger("src.mlops.export")
OPSET = 20  # ONNX 1.15 of 2023: read by every runtime of today
TOLERANCE = 1e-4  # largest difference of a probability between torch and the file


class Deployed(nn.Module):
    """A network with its calibration: what a model file computes.

    Args:
        model: The trained network.
        temperature: Divides the logits.
    """

    def __init__(self, model: Network, temperature: float) -> None:
        super().__init__()
        self.model = model.eval()
        self.temperature = temperature
        self.output_names = ["probabilities", "embedding", "energy", *(["evidence"] if model.pooling else [])]

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Returns the outputs that this module's docstring describes, in the order of `output_names`."""
        maps = self.model.features[:-2](images)
        embedding = self.model.features[-2:](maps)
        scaled = self.model.head(embedding) / self.temperature
        energy = -self.temperature * scaled.logsumexp(dim=1)
        evidence = () if self.model.pooling is None else (_evidence(maps, self.model.pooling, self.model.head),)
        return scaled.softmax(dim=1), embedding, energy, *evidence


def export(checkpoint_path: Path, images: NDArray[np.uint8] | None = None) -> Path:
    """Writes a checkpoint as an ONNX file beside it, after checking that it answers as the checkpoint does.

    Args:
        checkpoint_path: A `best_model.pth`.
        images: None writes `best_model.onnx` as it is. Preprocessed training images, uint8 [N, S, S, 3], make it a
            quantised `best_model.int8.onnx`, whose answers may differ a little; `inv benchmark` measures how much.

    Returns:
        The written file.

    Raises:
        CheckpointError: The checkpoint is unusable, the exported graph answers otherwise, or the file cannot be
            written. A former file is as it was.
    """
    digest = _digest(checkpoint_path)
    checkpoint = load_checkpoint(checkpoint_path)
    graph = build_graph(checkpoint)
    _require_same_answers(graph, checkpoint)
    variant = "fp32" if images is None else "int8"
    if images is not None:
        graph = quantize(graph, images)
        _probabilities(graph, images[:1])  # a graph that does not run is not written
    attach_metadata(graph, checkpoint, digest, variant)
    if _digest(checkpoint_path) != digest:
        raise CheckpointError(f"expected {checkpoint_path} to stay as it is while it is exported, found it replaced.")
    out = checkpoint_path.with_suffix(".onnx" if images is None else ".int8.onnx")
    content = graph.SerializeToString()
    try:
        write_atomically(out, content)
    except OSError as error:
        raise CheckpointError(f"expected to write {out}, found: {error}. The former file is untouched.") from error
    logger.info("exported %s, %.2f MB, opset %d", out, len(content) / 1e6, OPSET)
    return out


def build_graph(checkpoint: Checkpoint) -> onnx.ModelProto:
    """Traces a model with its calibration, and checks structure and shapes."""
    deployed = Deployed(checkpoint.model, checkpoint.calibration.temperature)
    example = torch.zeros(2, 3, checkpoint.image_size, checkpoint.image_size, dtype=torch.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter about itself
        program = torch.onnx.export(
            deployed,
            (example,),
            dynamo=True,
            opset_version=OPSET,
            input_names=["images"],
            output_names=deployed.output_names,
            dynamic_shapes=({0: Dim("N")},),
            verbose=False,
        )
    if program is None:
        raise CheckpointError("expected torch to export the model, found that it gave nothing back.")
    graph: onnx.ModelProto = program.model_proto
    for node in graph.graph.node:
        del node.metadata_props[:]  # where in the code each came from, with this machine's paths
    onnx.checker.check_model(graph, full_check=True)  # structure, and shape inference that must agree
    return graph


def attach_metadata(graph: onnx.ModelProto, checkpoint: Checkpoint, checkpoint_sha256: str, variant: str) -> None:
    """Writes into a graph all that serving and auditing need beside it."""
    metadata = {
        "format_version": FORMAT_VERSION,
        "variant": variant,
        "config": checkpoint.config,
        "classes": CLASSES,
        "calibration": checkpoint.calibration.to_dict(),
        "metrics": checkpoint.metrics,
        "provenance": checkpoint.provenance,
        "checkpoint_sha256": checkpoint_sha256,
    }
    onnx.helper.set_model_props(graph, {key: json.dumps(value) for key, value in metadata.items()})


def _evidence(maps: Tensor, pooling: nn.AdaptiveAvgPool2d, head: nn.Linear) -> Tensor:
    """Divides each logit, but for its bias, among the places of the last feature maps.

    Args:
        maps: Float [N, C, h, w].
        pooling: Averages them into cells.
        head: Weighs the cells' averages.

    Returns:
        Float [N, 43, h, w].
    """
    height, width = maps.shape[2:]
    # What one unit at each place adds to each cell's average, [h * w, cells]: the pooling itself, written as a matrix.
    shares = pooling(torch.eye(height * width).view(-1, 1, height, width)).flatten(1)
    weights = head.weight.view(head.out_features, maps.shape[1], -1) @ shares.T
    return torch.einsum("nchw,kchw->nkhw", maps, weights.view(len(weights), -1, height, width))


def _require_same_answers(graph: onnx.ModelProto, checkpoint: Checkpoint) -> None:
    size = checkpoint.image_size
    images = np.random.default_rng(0).integers(0, 256, (16, 3, size, size), np.uint8)
    found = _probabilities(graph, images.transpose(0, 2, 3, 1))
    deployed = Deployed(checkpoint.model, checkpoint.calibration.temperature)
    with torch.inference_mode():
        expected = deployed(torch.from_numpy(images))[0].numpy()
    difference = float(np.abs(found - expected).max())
    if not difference <= TOLERANCE:
        raise CheckpointError(
            f"expected the exported file to answer as the checkpoint, found a difference of {difference:.2g}."
        )


def _probabilities(graph: onnx.ModelProto, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    found = session.run(["probabilities"], {"images": np.ascontiguousarray(images.transpose(0, 3, 1, 2))})[0]
    return np.asarray(found)


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""


def main(config: Config) -> None:
    """Exports the current checkpoint in the variant that is asked for."""
    if config.export.variant == "int8":
        pack = prepare(config.data)
        require_same_size(pack, load_checkpoint(config.ckpt_path).image_size)
        arrays = pack.load("train")
        chosen = np.random.default_rng(config.seed).permutation(arrays.rows)[:CALIBRATION_IMAGES]
        export(config.ckpt_path, arrays.images[np.sort(chosen)])
    else:
        export(config.ckpt_path)


if __name__ == "__main__":
    hydra_main(main)
