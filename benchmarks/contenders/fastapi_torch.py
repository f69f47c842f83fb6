"""A service with FastAPI and eager torch, as in most tutorials: `uvicorn benchmarks.contenders.fastapi_torch:app`."""

import os
from pathlib import Path
from typing import Any

from fastapi import FastAPI, UploadFile

from src.mlops.inference.classifier import Classifier

app = FastAPI()
classifier = Classifier.load(Path(os.environ["MLOPS_MODEL"]).with_suffix(".pth"))


@app.get("/health/ready")
def ready() -> str:
    """Responds as soon as the model is loaded."""
    return "ready"


@app.post("/cv_model/")
def cv_model(file: UploadFile) -> dict[str, Any]:
    """Classifies one image, in a thread of FastAPI's pool."""
    return classifier.classify([file.file.read()])[0].to_dict() | {"filename": file.filename}
