"""Serves the same classifier with BentoML; started by `inv serve-bento`."""

import os
from typing import Any

import bentoml
from fastapi import FastAPI, UploadFile

from src.mlops.inference.classifier import Classifier
from src.mlops.modelfile.locate import LATEST, locate_model
from src.mlops.project import load_project
from src.mlops.serving import errors

# FastAPI reads the upload, mounted as in https://docs.bentoml.com/en/latest/build-with-bentoml/asgi.html. An API of
# BentoML would download the URL in a part without a file name (server-side request forgery), and uses the client's file
# name for a temporary file, which fails for long names.
app = FastAPI(title=load_project().title, docs_url=None, redoc_url=None)
errors.install(app)


@bentoml.service(name=load_project().registry, traffic={"timeout": 30})
@bentoml.asgi_app(app)
class ImageClassifier:
    """Answers `POST /cv_model/` in the same way as `src.mlops.api`. `MLOPS_MODEL` selects the model."""

    def __init__(self) -> None:
        self._classifier = Classifier.load(locate_model(os.environ.get("MLOPS_MODEL") or LATEST))

    @app.post("/cv_model/")
    def cv_model(self, file: UploadFile) -> dict[str, Any]:
        """Classifies one uploaded image."""
        [prediction] = self._classifier.classify([file.file.read()])
        return prediction.to_dict() | {"filename": file.filename}
