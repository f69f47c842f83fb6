"""The same classifier behind BentoML: `inv serve-bento`."""

import asyncio
import os
from pathlib import Path
from typing import Annotated, Any

import bentoml
from bentoml.exceptions import InvalidArgument
from pydantic import Field

from src.mlops.errors import ImageError
from src.mlops.inference import LATEST, Classifier, locate_model


@bentoml.service(name="sign_classifier", traffic={"timeout": 30})
class SignClassifier:
    """Answers `POST /cv_model/` as `src.mlops.api` does; `MLOPS_MODEL` names the model."""

    def __init__(self) -> None:
        self._classifier = Classifier.load(locate_model(os.environ.get("MLOPS_MODEL") or LATEST))

    @bentoml.api(route="/cv_model/")
    async def cv_model(
        self, file: Annotated[Path, Field(description="the picture")], ctx: bentoml.Context
    ) -> dict[str, Any]:
        """Classifies one uploaded picture."""
        form = await ctx.request.form()  # BentoML's own file has another name
        try:
            [prediction] = await asyncio.to_thread(self._classifier.classify, [file.read_bytes()])
        except ImageError as error:
            raise InvalidArgument(str(error)) from error
        return prediction.to_dict() | {"filename": form["file"].filename}
