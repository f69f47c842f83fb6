"""Which part of a picture decided: an overlay of the class's evidence. `python -m src.mlops.explain sign.png`.

Class activation maps (Zhou et al., "Learning Deep Features for Discriminative Localization", 2016), from the output
`evidence` of the model file; no gradient and no torch is needed.
"""

import argparse
import io
import logging
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from src.mlops.errors import CheckpointError, DataError, MlopsError, report
from src.mlops.inference import LATEST, Classifier, Prediction, locate_model
from src.mlops.preprocessing import open_image, preprocess

logger = logging.getLogger("src.mlops.explain")
SHORTEST_SIDE = 240  # px; smaller pictures are enlarged, so that the overlay can be seen
LONGEST_SIDE = 1200  # px; larger ones are reduced
# Evidence from none to most as colour and opacity: nothing, red, yellow.
_COLOURS = np.array([[200, 0, 0, 0], [230, 30, 0, 110], [255, 220, 0, 190]], np.float64)


class Explanation(NamedTuple):
    """An answer and what it rests on.

    Attributes:
        prediction: The answer.
        overlay: RGB picture with the evidence for the answered class laid over it; yellow counted most.
    """

    prediction: Prediction
    overlay: Image.Image


def explain(classifier: Classifier, source: bytes | Path | Image.Image) -> Explanation:
    """Shows which parts of a picture speak for the answer.

    Args:
        classifier: The model; of a network that averages over places right before its last layer.
        source: A picture.

    Raises:
        ImageError: The picture cannot be used.
        CheckpointError: The network gives no evidence by place.
    """
    image = open_image(source)
    outputs = classifier.run(preprocess(image, classifier.image_size)[None])
    [prediction] = classifier.predictions(outputs)
    if outputs.evidence is None:
        raise CheckpointError(
            f"expected a network that averages over places before its last layer, found "
            f"{classifier.info.config['model']['_target_']}, which cannot say where its evidence lies. Use SignNet."
        )
    evidence = np.maximum(outputs.evidence[0, prediction.predicted_class], 0)
    strength = evidence / max(float(evidence.max()), 1e-9)
    scale = min(max(1.0, SHORTEST_SIDE / min(image.size)), LONGEST_SIDE / max(image.size))
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    smooth = np.asarray(Image.fromarray(strength.astype(np.float32)).resize(size, Image.Resampling.BICUBIC))
    places = np.linspace(0, 1, len(_COLOURS))
    heat = np.stack([np.interp(smooth, places, channel) for channel in _COLOURS.T], axis=-1)
    overlay = image.resize(size, Image.Resampling.LANCZOS).convert("RGBA")
    overlay.alpha_composite(Image.fromarray(heat.astype(np.uint8), "RGBA"))
    return Explanation(prediction, overlay.convert("RGB"))


def main() -> None:
    """Shows as an overlay which parts of a picture decided."""
    parser = argparse.ArgumentParser(prog="python -m src.mlops.explain", description=main.__doc__)
    parser.add_argument("image", type=Path, help="the picture to explain")
    parser.add_argument("--out", type=Path, help="PNG to write; beside the picture without it")
    parser.add_argument("--model", default=LATEST, help="model file; latest is what training made last")
    given = parser.parse_args()
    image: Path = given.image
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        explanation = explain(Classifier.load(locate_model(given.model)), image)
        target = given.out or image.with_name(f"{image.stem}_explained.png")
        content = io.BytesIO()
        explanation.overlay.save(content, "PNG")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content.getvalue())
        except OSError as error:
            raise DataError(f"expected to write {target}, found: {error}.") from error
    except MlopsError as error:
        report(error)
    prediction = explanation.prediction
    unknown = "; it looks like no known sign" if prediction.is_unknown else ""
    logger.info("%s (%.1f %%)%s: %s", prediction.class_name, 100 * prediction.probability, unknown, target)


if __name__ == "__main__":
    main()
