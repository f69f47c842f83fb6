"""A service with BentoML and ONNX Runtime: `WORKERS=2 BATCH=16 bentoml serve benchmarks.contenders.bento:Signs`."""

import os
from pathlib import Path
from typing import Any

import bentoml
from PIL import Image

from src.mlops.inference.classifier import Classifier

WORKERS, BATCH = int(os.environ.get("WORKERS", "1")), int(os.environ.get("BATCH", "1"))


class _Loaded:
    def __init__(self) -> None:
        self.classifier = Classifier.load(Path(os.environ["MLOPS_MODEL"]))


class OneByOne(_Loaded):
    """Classifies each image separately."""

    @bentoml.api(route="/cv_model/")  # type: ignore[untyped-decorator]
    def cv_model(self, file: Image.Image) -> dict[str, Any]:
        """Classifies one image."""
        return self.classifier.classify([file])[0].to_dict()


class Batched(_Loaded):
    """Classifies images in batches, with the adaptive batching of BentoML."""

    @bentoml.api(route="/cv_model/", batchable=True, max_batch_size=max(BATCH, 2), max_latency_ms=200)  # type: ignore[untyped-decorator]
    def cv_model(self, file: list[Image.Image]) -> list[dict[str, Any]]:
        """Classifies a batch of images."""
        return [prediction.to_dict() for prediction in self.classifier.classify(file)]


Signs = bentoml.service(workers=WORKERS, traffic={"timeout": 30})(Batched if BATCH > 1 else OneByOne)
