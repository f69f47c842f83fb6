"""A model file → a `Classifier` that answers for images. Training's preprocessing, and nothing else of training.

`.onnx` files run in ONNX Runtime and need no torch; `.pth` files run in torch and answer the same.
"""

import hashlib
import json
import logging
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol, Self

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from PIL import Image

from src.mlops import ROOT
from src.mlops.data.signs import NUM_CLASSES, SIGNS
from src.mlops.errors import CheckpointError
from src.mlops.model_info import ModelInfo, incomplete, read_info
from src.mlops.model_store import fetch, is_reference
from src.mlops.preprocessing import open_image, preprocess

logger = logging.getLogger(__name__)
LATEST = "latest"
LATEST_FILES = ("models/latest/best_model.onnx", "models/latest/best_model.pth")  # where training puts them
BOXED = "models/pretrained/signnet.onnx"  # comes with the repository
TOP_K = 5
BATCH = 64  # images that run at once, so that memory stays bounded

Floats = NDArray[np.float32]
_DIMENSIONS = {"probabilities": 2, "embedding": 2, "energy": 1, "evidence": 4}


@dataclass(frozen=True)
class ClassProbability:
    """One line of a ranking."""

    class_id: int
    class_name: str
    probability: float


@dataclass(frozen=True)
class Prediction:
    """The answer for one image.

    Attributes:
        predicted_class: Most probable class, 0 to 42.
        class_name: Its English name.
        probability: Its calibrated probability, 0 to 1.
        top_k: The most probable classes, best first.
        prediction_set: Classes that cannot be ruled out, in ascending order; holds the true one for the share
            `calibration.coverage` (by default 99.9 %) of signs like those that the model was validated on.
        is_unknown: True where the picture does not look like any known sign; the class is then not to be trusted.
        model_version: First twelve digits of the model file's SHA-256.
    """

    predicted_class: int
    class_name: str
    probability: float
    top_k: list[ClassProbability]
    prediction_set: list[int]
    is_unknown: bool
    model_version: str

    def to_dict(self) -> dict[str, Any]:
        """Returns nested plain values, as JSON carries them."""
        return asdict(self)


class Outputs(NamedTuple):
    """What a network says of N images.

    Attributes:
        probabilities: Calibrated, float32 [N, 43].
        embedding: Penultimate features, float32 [N, D].
        energy: Float32 [N]; the higher, the less the picture looks like a known sign.
        evidence: What each place adds to each class's logit, float32 [N, 43, h, w]; None where the network has
            another layer between its maps and its last one.
    """

    probabilities: Floats
    embedding: Floats
    energy: Floats
    evidence: Floats | None = None


class Backend(Protocol):
    """What runs a network."""

    info: ModelInfo

    def run(self, images: NDArray[np.uint8]) -> Outputs:
        """Runs the network on uint8 [N, 3, S, S]; may be called from several threads."""


class Classifier:
    """Classifies images with a trained model. Safe to share between threads.

    Use `Classifier.load`.

    Attributes:
        info: What the model file says about itself.
        version: First twelve digits of the model file's SHA-256.
        image_size: Side in px of the images that the network sees.
    """

    def __init__(self, backend: Backend, version: str) -> None:
        self._backend = backend
        self.info = backend.info
        self.version = version
        self.image_size = backend.info.image_size

    @classmethod
    def load(cls, path: Path, threads: int = 1) -> Self:
        """Loads a model file.

        Args:
            path: A `.onnx` file that `export.py` wrote, or a checkpoint `.pth`, for which torch must be installed.
            threads: Threads that one call uses. One is fastest for networks as small as SignNet; several calls may
                run at the same time.

        Raises:
            CheckpointError: The file is absent, damaged, hostile, of another format, or an export of another
                checkpoint than the one beside it.
        """
        content = _read(path)
        if path.suffix == ".pth":
            backend: Backend = _Torch(path, threads)
        elif path.suffix == ".onnx":
            backend = _OnnxRuntime(content, path, threads)
        else:
            raise CheckpointError(f"expected a model file that ends in .onnx or .pth, found {path}.")
        return cls(backend, hashlib.sha256(content).hexdigest()[:12])

    def classify(self, images: Sequence[bytes | Path | Image.Image | NDArray[np.uint8]]) -> list[Prediction]:
        """Classifies encoded bytes, files, open images or RGB pixels (uint8 [H, W, 3]), in order.

        Raises:
            ImageError: An image cannot be used; the message says why.
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
            arrays: uint8 [N, S, S, 3].
        """
        return self._backend.run(np.ascontiguousarray(arrays.transpose(0, 3, 1, 2)))

    def predictions(self, outputs: Outputs) -> list[Prediction]:
        """Turns what the network says into answers."""
        calibration = self.info.calibration
        order, sets = calibration.prediction_sets(outputs.probabilities)
        unknown = calibration.is_unknown(outputs.energy)
        rows = zip(outputs.probabilities, order[:, :TOP_K].tolist(), sets, unknown.tolist(), strict=True)
        return [self._prediction(*row) for row in rows]

    def _prediction(self, probabilities: Floats, order: list[int], kept: list[int], is_unknown: bool) -> Prediction:
        values = probabilities[order].tolist()
        ranked = [ClassProbability(c, SIGNS[c].name, value) for c, value in zip(order, values, strict=True)]
        best = ranked[0]
        return Prediction(
            predicted_class=best.class_id,
            class_name=best.class_name,
            probability=best.probability,
            top_k=ranked,
            prediction_set=kept,
            is_unknown=is_unknown,
            model_version=self.version,
        )


def locate_model(name: str) -> Path:
    """Finds a model file.

    Args:
        name: A path, relative ones below the repository; `latest`: what training made last, else the model that comes
            with the repository; a registered version, `models:/gtsrb@production` or `gtsrb@v3`; or a `gs://` URL.

    Returns:
        The path; that of a path which was given, whether or not there is a file.

    Raises:
        RegistryError: There is no such version, or its file is not the one that was registered.
        StorageError: The bucket cannot be reached, and there is no copy of the file on this machine.
    """
    if is_reference(name):
        return fetch(name)
    if name != LATEST:
        return ROOT / Path(name).expanduser()
    path = latest_model()
    if path == ROOT / BOXED:
        logger.warning("models/latest is empty: using %s, which comes with the repository", BOXED)
    return path


def latest_model() -> Path:
    """Finds what training made last, else the model that comes with the repository."""
    return next((ROOT / file for file in LATEST_FILES if (ROOT / file).is_file()), ROOT / BOXED)


class _OnnxRuntime:
    """Runs an exported file on the CPU."""

    def __init__(self, content: bytes, path: Path, threads: int) -> None:
        onnxruntime.disable_telemetry_events()  # a service tells nobody but those who run it
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3  # what is wrong is told below, once
        try:
            self._session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
            metadata = self._session.get_modelmeta().custom_metadata_map
            self._outputs = [output.name for output in self._session.get_outputs()]
        except Exception as error:  # ONNX Runtime has no public class for what it throws at foreign bytes
            raise CheckpointError(
                f"expected an ONNX model at {path}, found a damaged or foreign file ({len(content):,} bytes). "
                "Export it again, `inv export`, or fetch it again."
            ) from error
        try:
            facts = {name: json.loads(text) for name, text in metadata.items()}
        except (ValueError, RecursionError) as error:
            raise incomplete(path, error) from error
        if not facts:
            raise CheckpointError(
                f"expected an ONNX model with the metadata of this project at {path}, found one without. "
                "Export it with `inv export`."
            )
        self.info = read_info(facts, path)
        self._require_signature(path)
        _require_same_checkpoint(path, facts)

    def run(self, images: NDArray[np.uint8]) -> Outputs:
        """Runs the network on uint8 [N, 3, S, S]."""
        return Outputs(**dict(zip(self._outputs, self._session.run(None, {"images": images}), strict=True)))

    def _require_signature(self, path: Path) -> None:
        side = self.info.image_size
        inputs = [(put.name, put.type, put.shape[1:]) for put in self._session.get_inputs()]
        outputs = {put.name: (put.type, put.shape) for put in self._session.get_outputs()}
        fits = (
            inputs == [("images", "tensor(uint8)", [3, side, side])]
            and set(Outputs._fields[:3]) <= set(outputs) <= set(Outputs._fields)
            and all(
                # A name instead of a number: any count of images.
                kind == "tensor(float)" and len(shape) == _DIMENSIONS[name] and isinstance(shape[0], str)
                for name, (kind, shape) in outputs.items()
            )
            and outputs["probabilities"][1][1] == NUM_CLASSES
        )
        if not fits:
            raise incomplete(path, ValueError(f"inputs {inputs}, outputs {outputs}"))


class _Torch:
    """Runs a checkpoint."""

    def __init__(self, path: Path, threads: int) -> None:
        try:
            import torch

            from src.mlops.checkpoint import load_checkpoint
            from src.mlops.export import Deployed
        except ImportError as error:
            raise CheckpointError(
                f"expected torch, to run {path}, found none installed ({error}). Use the .onnx file beside it, or "
                "install the training stack: `uv sync --group train`."
            ) from error
        checkpoint = load_checkpoint(path)
        self.info: ModelInfo = checkpoint
        self._deployed = Deployed(checkpoint.model, checkpoint.calibration.temperature)
        self._torch = torch
        self._lock = threading.Lock()
        torch.set_num_threads(threads)

    def run(self, images: NDArray[np.uint8]) -> Outputs:
        """Runs the network on uint8 [N, 3, S, S]."""
        with self._lock, self._torch.inference_mode():
            found = self._deployed(self._torch.from_numpy(images))
        return Outputs(**{name: out.numpy() for name, out in zip(self._deployed.output_names, found, strict=True)})


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(
            f"expected a model file at {path}, found: {error.strerror or error}. Train one: `inv train`."
        ) from error


def _require_same_checkpoint(path: Path, facts: dict[str, Any]) -> None:
    """Refuses an export that is older than the checkpoint beside it."""
    checkpoint = path.with_name(path.name.removesuffix(".onnx").removesuffix(".int8") + ".pth")
    if checkpoint.is_file():
        digest = hashlib.sha256(_read(checkpoint)).hexdigest()
        if facts.get("checkpoint_sha256") != digest:
            raise CheckpointError(
                f"expected {path} to be an export of {checkpoint.name} beside it, found that of another checkpoint. "
                "Export it again: `inv export`."
            )
