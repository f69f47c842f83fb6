"""A service with LitServe and ONNX Runtime: `python -m benchmarks.contenders.lit PORT WORKERS BATCH`."""

import os
import sys
from pathlib import Path
from typing import Any

import litserve
import numpy as np
from fastapi import Request
from numpy.typing import NDArray

from src.mlops.inference.classifier import Classifier, Prediction
from src.mlops.preprocessing import open_image, preprocess

Pixels = NDArray[np.uint8]


class SignApi(litserve.LitAPI):  # type: ignore[misc]
    """Decodes images and classifies them in batches."""

    def setup(self, device: str) -> None:
        """Loads the model in a worker."""
        self.classifier = Classifier.load(Path(os.environ["MLOPS_MODEL"]))

    def decode_request(self, request: Request) -> Pixels:
        """Decodes the image in a form, which LitServe has parsed from the request."""
        form: Any = request
        return preprocess(open_image(form["file"].file.read()), self.classifier.image_size)

    def batch(self, inputs: list[Pixels]) -> Pixels:
        """Builds a batch from images."""
        return np.stack(inputs)

    def predict(self, x: Pixels) -> Any:
        """Classifies one image or a batch."""
        if x.ndim == 3:
            return self.classifier.classify_arrays(x[None])[0]
        return self.classifier.classify_arrays(x)

    def unbatch(self, output: list[Prediction]) -> list[Prediction]:
        """Returns the predictions of a batch unchanged."""
        return output

    def encode_response(self, output: Prediction) -> dict[str, Any]:
        """Builds the response."""
        return output.to_dict()


if __name__ == "__main__":
    port, workers, batch = map(int, sys.argv[1:])
    api = SignApi(max_batch_size=batch, batch_timeout=0.0, api_path="/cv_model/")
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=workers, fast_queue=True)
    server.run(port=port, num_api_servers=workers, log_level="warning", generate_client_file=False)
