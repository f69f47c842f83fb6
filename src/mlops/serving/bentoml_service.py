"""Serves the same classifier with BentoML; started by `inv serve-bento`."""

import os
import tempfile
from http import HTTPStatus
from pathlib import Path
from typing import Annotated, Any

import bentoml
from bentoml.exceptions import InvalidArgument
from pydantic import Field

from src.mlops.errors import ImageError, UnsupportedImageError
from src.mlops.inference.classifier import Classifier
from src.mlops.modelfile.locate import LATEST, locate_model

# BentoML stores an upload in a temporary file, named by a prefix, eight random characters and the client's file name.
_PREFIX = len(tempfile.gettempprefix()) + 8


class Unsupported(InvalidArgument):
    """The file is not an image of a supported format."""

    error_code = HTTPStatus.UNSUPPORTED_MEDIA_TYPE


class Unusable(InvalidArgument):
    """The image is corrupted, empty or animated, or its dimensions are not supported."""

    error_code = HTTPStatus.UNPROCESSABLE_ENTITY


@bentoml.service(name="sign_classifier", traffic={"timeout": 30})
class SignClassifier:
    """Answers `POST /cv_model/` in the same way as `src.mlops.api`. `MLOPS_MODEL` selects the model."""

    def __init__(self) -> None:
        self._classifier = Classifier.load(locate_model(os.environ.get("MLOPS_MODEL") or LATEST))

    @bentoml.api(route="/cv_model/")  # type: ignore[untyped-decorator]
    def cv_model(self, file: Annotated[Path, Field(description="The image.")]) -> dict[str, Any]:
        """Classifies one uploaded image."""
        try:
            [prediction] = self._classifier.classify([file.read_bytes()])
        except ImageError as error:
            raise (Unsupported if isinstance(error, UnsupportedImageError) else Unusable)(str(error)) from error
        return prediction.to_dict() | {"filename": file.name[_PREFIX:]}
