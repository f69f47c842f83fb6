"""Loads a model file and classifies images with it. Uses the same preprocessing as training.

`.onnx` files run in ONNX Runtime and need no torch. `.pth` files run in torch and give the same predictions.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol, Self

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from PIL import Image

from src.mlops.errors import CheckpointError, ImageError
from src.mlops.io.files import sha256
from src.mlops.modelfile.metadata import (
    MAX_METADATA_CHARACTERS,
    SUFFIXES,
    ModelInfo,
    incomplete,
    read_info,
    require_size,
)
from src.mlops.modelfile.run_errors import is_out_of_memory, memory_error, run_error, unusable
from src.mlops.preprocessing import open_image, preprocess

TOP_K = 5
BATCH = 64  # images per call of the network; bounds the memory

Floats = NDArray[np.float32]
# Number of dimensions of each output, in the order of `Outputs`
_DIMENSIONS = {"probabilities": 2, "embedding": 2, "energy": 1, "evidence": 4}
_PER_CLASS = {"probabilities", "evidence"}  # outputs whose second dimension is the classes


@dataclass(frozen=True)
class ClassProbability:
    """One class with its probability."""

    class_id: int
    class_name: str
    probability: float


@dataclass(frozen=True)
class Prediction:
    """The prediction for one image.

    Attributes:
        predicted_class: Id of the most probable class.
        class_name: Name of this class.
        sign_number: Number of this class in the catalogue of its class list, for example `206`; None if it has none.
        probability: Calibrated probability of this class, 0 to 1.
        top_k: The most probable classes, best first.
        prediction_set: Classes that cannot be ruled out, in ascending order. The set contains the true class for the
            share `calibration.attained_coverage` (by default 99.9 %) of images that resemble the validation images.
        is_unknown: True if the image does not look like any known class. Do not trust the class in this case.
        model_version: First twelve digits of the model file's SHA-256.
    """

    predicted_class: int
    class_name: str
    sign_number: str | None
    probability: float
    top_k: list[ClassProbability]
    prediction_set: list[int]
    is_unknown: bool
    model_version: str

    def to_dict(self) -> dict[str, Any]:
        """Returns nested plain values that JSON can represent."""
        return asdict(self)


class Outputs(NamedTuple):
    """The outputs of a network for N images.

    Attributes:
        probabilities: Calibrated, float32 [N, C].
        embedding: Penultimate features, float32 [N, D].
        energy: Energy score, float32 [N]. A higher value means that the image looks less like a known class.
        evidence: Contribution of each position to the logit of each class, float32 [N, C, h, w]. None if the network
            has another layer between its feature maps and its last layer.
    """

    probabilities: Floats
    embedding: Floats
    energy: Floats
    evidence: Floats | None = None


class Backend(Protocol):
    """Interface of the runtimes that execute a network."""

    info: ModelInfo

    def run(self, images: NDArray[np.uint8]) -> Outputs:
        """Runs the network on images, uint8 [N, 3, S, S]. Must be thread-safe."""


class Classifier:
    """Classifies images with a trained model. Create one with `Classifier.load`. Thread-safe.

    Attributes:
        path: The model file.
        info: Metadata of the model file.
        version: First twelve digits of the model file's SHA-256.
        image_size: Side of the network's input images in px.
    """

    def __init__(self, backend: Backend, version: str, path: Path) -> None:
        self._backend = backend
        self.path = path
        self.info = backend.info
        self.version = version
        self.image_size = backend.info.image_size

    @classmethod
    def load(cls, path: Path, threads: int = 1) -> Self:
        """Loads a model file.

        Args:
            path: An exported `.onnx` file, or a checkpoint `.pth`, which needs torch.
            threads: Threads per call of an `.onnx` file. One is fastest for networks as small as SignNet. Several
                calls can run in parallel. A `.pth` uses torch's number of threads, which belongs to the complete
                process: set it with `torch.set_num_threads`, or with `OMP_NUM_THREADS` before torch is imported.

        Raises:
            CheckpointError: The file is missing, corrupted, unsafe, too large or of another format, or it is not an
                export of the checkpoint next to it.
            OutOfMemoryError: There is not enough memory.
        """
        content = _read(path)
        if path.suffix == ".pth":
            backend: Backend = _torch_backend(path)
        elif path.suffix == ".onnx":
            backend = _OnnxRuntime(content, path, threads)
        else:
            raise CheckpointError(f"A model file must end in .onnx or .pth, but the path is {path}.")
        return cls(backend, hashlib.sha256(content).hexdigest()[:12], path)

    def classify(self, images: Sequence[bytes | Path | Image.Image | NDArray[np.uint8]]) -> list[Prediction]:
        """Classifies images.

        Args:
            images: Encoded bytes, paths of files, open images or RGB pixels (uint8 [H, W, 3]).

        Returns:
            The predictions, in the order of the images.

        Raises:
            ImageError: An image cannot be used. The message says why.
            CheckpointError: The model fails, or returns something other than the documented outputs.
            OutOfMemoryError: There is not enough memory.
        """
        predictions: list[Prediction] = []
        for start in range(0, len(images), BATCH):
            batch = [preprocess(open_image(image), self.image_size) for image in images[start : start + BATCH]]
            predictions += self.classify_arrays(np.stack(batch))
        return predictions

    def classify_arrays(self, arrays: NDArray[np.uint8]) -> list[Prediction]:
        """Classifies preprocessed images, uint8 [N, S, S, 3]."""
        return self.predictions(self.run(arrays))

    def run(self, arrays: NDArray[np.uint8]) -> Outputs:
        """Runs the network on preprocessed images.

        Args:
            arrays: uint8 [N, S, S, 3], where S is `image_size`.

        Raises:
            ImageError: The array has another shape or type.
            CheckpointError: The model fails, or returns something other than the documented outputs.
            OutOfMemoryError: There is not enough memory.
        """
        side = self.image_size
        if arrays.dtype != np.uint8 or arrays.shape[1:] != (side, side, 3):
            raise ImageError(
                f"Preprocessed images must be uint8 [N, {side}, {side}, 3], but are {arrays.dtype} "
                f"{list(arrays.shape)}. Use `preprocess`, or `Classifier.classify` for other images."
            )
        try:
            outputs = self._backend.run(np.ascontiguousarray(arrays.transpose(0, 3, 1, 2)))
        except Exception as error:  # ONNX Runtime has no public exception class, and torch raises many types
            raise run_error(self.path, error) from error
        if fault := _fault(outputs, len(arrays), len(self.info.classes)):
            raise unusable(self.path, fault)
        return outputs

    def predictions(self, outputs: Outputs) -> list[Prediction]:
        """Converts the outputs of the network to predictions."""
        calibration = self.info.calibration
        order, sets = calibration.prediction_sets(outputs.probabilities)
        unknown = calibration.is_unknown(outputs.probabilities, outputs.energy)
        rows = zip(outputs.probabilities, order[:, :TOP_K].tolist(), sets, unknown.tolist(), strict=True)
        return [self._prediction(*row) for row in rows]

    def _prediction(self, probabilities: Floats, order: list[int], kept: list[int], is_unknown: bool) -> Prediction:
        values, classes = probabilities[order].tolist(), self.info.classes
        ranked = [ClassProbability(c, classes[c].name, value) for c, value in zip(order, values, strict=True)]
        best = ranked[0]
        return Prediction(
            predicted_class=best.class_id,
            class_name=best.class_name,
            sign_number=classes[best.class_id].number,
            probability=best.probability,
            top_k=ranked,
            prediction_set=kept,
            is_unknown=is_unknown,
            model_version=self.version,
        )


def _fault(outputs: Outputs, images: int, classes: int) -> str | None:
    """Returns what is wrong with the outputs for a number of images and classes; None if nothing is."""
    for (name, dimensions), values in zip(_DIMENSIONS.items(), outputs, strict=True):
        if values is None:
            continue
        shape = values.shape
        if len(shape) != dimensions or shape[0] != images or (name in _PER_CLASS and shape[1] != classes):
            return f"its output {name} has the shape {list(shape)} for {images} images"
    # The other outputs are not checked here, because that takes longer; NaN in the embedding reaches the probabilities.
    if not (np.isfinite(outputs.probabilities).all() and np.isfinite(outputs.energy).all()):
        return "it returns NaN or infinity for some images"
    return None


class _OnnxRuntime:
    """Runs an exported ONNX file on the CPU."""

    def __init__(self, content: bytes, path: Path, threads: int) -> None:
        onnxruntime.disable_telemetry_events()  # a service must not send data to third parties
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4  # no errors, because the exceptions already report them
        try:
            self._session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
            metadata = self._session.get_modelmeta().custom_metadata_map
            self._outputs = [output.name for output in self._session.get_outputs()]
        except Exception as error:  # ONNX Runtime has no public exception class for invalid files
            if is_out_of_memory(error):
                raise memory_error(path) from error
            raise CheckpointError(
                f"{path} is corrupted or not an ONNX model ({len(content):,} bytes). "
                "Export the model again with `inv model.export`, or fetch the file again."
            ) from error
        _require_small(metadata, path)
        try:
            facts = {name: json.loads(text) for name, text in metadata.items()}
        except (ValueError, RecursionError) as error:
            raise incomplete(path, error) from error
        if not facts:
            raise CheckpointError(
                f"The ONNX model at {path} does not contain the metadata of this project. "
                "Export it with `inv model.export`."
            )
        self.info = read_info(facts, path)
        self._require_signature(path)
        _require_same_checkpoint(path, facts)

    def run(self, images: NDArray[np.uint8]) -> Outputs:
        """Runs the network on images, uint8 [N, 3, S, S]."""
        return Outputs(**dict(zip(self._outputs, self._session.run(None, {"images": images}), strict=True)))

    def _require_signature(self, path: Path) -> None:
        side = self.info.image_size
        inputs = [(put.name, put.type, put.shape[1:]) for put in self._session.get_inputs()]
        outputs = {put.name: (put.type, put.shape) for put in self._session.get_outputs()}
        fits = (
            inputs == [("images", "tensor(uint8)", [3, side, side])]
            and set(Outputs._fields[:3]) <= set(outputs) <= set(Outputs._fields)
            and all(
                # The first dimension has a name instead of a number: the batch size is free.
                kind == "tensor(float)" and len(shape) == _DIMENSIONS[name] and isinstance(shape[0], str)
                for name, (kind, shape) in outputs.items()
            )
            and outputs["probabilities"][1][1] == len(self.info.classes)
        )
        if not fits:
            raise incomplete(path, ValueError(f"inputs {inputs}, outputs {outputs}"))


def _torch_backend(path: Path) -> Backend:
    try:
        from src.mlops.inference.torch_backend import TorchBackend
    except ImportError as error:
        raise CheckpointError(
            f"Running {path} needs torch, which cannot be imported ({error}). Use the .onnx file next to it, or "
            "install the training packages with `uv sync --group train`."
        ) from error
    return TorchBackend(path)


def _require_small(metadata: dict[str, str], path: Path) -> None:
    characters = sum(len(name) + len(text) for name, text in metadata.items())
    if characters > MAX_METADATA_CHARACTERS:
        raise CheckpointError(
            f"The metadata of {path} have {characters:,} characters, but at most {MAX_METADATA_CHARACTERS:,} are read. "
            "Export the model again with `inv model.export`, or fetch the file again."
        )


def _read(path: Path) -> bytes:
    try:
        require_size(path, path.stat().st_size)
        return path.read_bytes()
    except OSError as error:
        raise _unreadable(path, error) from error
    except MemoryError as error:
        raise memory_error(path) from error


def _unreadable(path: Path, error: OSError) -> CheckpointError:
    return CheckpointError(
        f"Cannot read the model file {path}: {error.strerror or error}. Train a model with `inv train`."
    )


def _require_same_checkpoint(path: Path, facts: dict[str, Any]) -> None:
    """Raises an error if the checkpoint next to the file is not the one that was exported."""
    longest = max((suffix for suffix in SUFFIXES.values() if path.name.endswith(suffix)), key=len)
    checkpoint = path.with_name(path.name.removesuffix(longest) + ".pth")
    if checkpoint.is_file():
        try:
            digest = sha256(checkpoint)
        except OSError as error:
            raise _unreadable(checkpoint, error) from error
        if facts.get("checkpoint_sha256") != digest:
            raise CheckpointError(
                f"{path} was not exported from {checkpoint.name} next to it, but from a different checkpoint. "
                "Export the model again with `inv model.export`."
            )
