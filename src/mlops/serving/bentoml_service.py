"""The same classifier behind BentoML: `inv serve-bento`."""

import os
import tempfile
from http import HTTPStatus
from pathlib import Path
from typing import Annotated, Any

import bentoml
from bentoml.exceptions import InvalidArgument
from pydantic import Field

from src.mlops.errors import ImageError, UnsupportedImageError
from src.mlops.inference import LATEST, Classifier, locate_model

# BentoML hands an upload over as a temporary file: a prefix, eight random characters, then the name that was sent.
_PREFIX = len(tempfile.gettempprefix()) + 8


class Unsupported(InvalidArgument):
    """The file is no picture of an accepted format."""

    error_code = HTTPStatus.UNSUPPORTED_MEDIA_TYPE


class Unusable(InvalidArgument):
    """The picture is damaged, empty, animated or of absurd dimensions."""

    error_code = HTTPStatus.UNPROCESSABLE_ENTITY


@bentoml.service(name="sign_classifier", traffic={"timeout": 30})
class SignClassifier:
    """Answers `POST /cv_model/` as `src.mlops.api` does; `MLOPS_MODEL` names the model."""

    def __init__(self) -> None:
        self._classifier = Classifier.load(locate_model(os.environ.get("MLOPS_MODEL") or LATEST))

    @bentoml.api(route="/cv_model/")  # type: ignore[untyped-decorator]
    def cv_model(self, file: Annotated[Path, Field(description="the picture")]) -> dict[str, Any]:
        """Classifies one uploaded picture."""
        try:
            [prediction] = self._classifier.classify([file.read_bytes()])
        except ImageError as error:
            raise (Unsupported if isinstance(error, UnsupportedImageError) else Unusable)(str(error)) from error
        return prediction.to_dict() | {"filename": file.name[_PREFIX:]}
