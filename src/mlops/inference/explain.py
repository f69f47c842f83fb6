"""Renders a saliency map: the image regions that contributed most to the predicted class.

The method is class activation mapping (Zhou et al., "Learning Deep Features for Discriminative Localization", 2016). It
uses the output `evidence` of the model file, so it needs neither gradients nor torch.
"""

import io
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from src.mlops.errors import NoSaliencyError
from src.mlops.inference.classifier import Classifier, Floats, Prediction
from src.mlops.modelfile.run_errors import unusable
from src.mlops.preprocessing import open_image, preprocess

SHORTEST_SIDE = 240  # px; smaller images are enlarged to make the overlay visible
LONGEST_SIDE = 1200  # px; larger images are reduced
# RGBA colours from no evidence to the most evidence: transparent, red, yellow.
_COLOURS = np.array([[200, 0, 0, 0], [230, 30, 0, 110], [255, 220, 0, 190]], np.float64)


class Explanation(NamedTuple):
    """A prediction and its saliency map.

    Attributes:
        prediction: The prediction for the image.
        overlay: RGB image with the saliency map of the predicted class on top. Yellow is the strongest evidence.
    """

    prediction: Prediction
    overlay: Image.Image

    def to_png(self) -> bytes:
        """Returns the overlay as PNG bytes."""
        file = io.BytesIO()
        self.overlay.save(file, "PNG")
        return file.getvalue()


def explain(classifier: Classifier, source: bytes | Path | Image.Image) -> Explanation:
    """Classifies an image and renders the saliency map of the predicted class.

    Args:
        classifier: The model. Its network must have average pooling directly before its last layer.
        source: Encoded bytes, the path of a file, or an open image.

    Returns:
        The prediction and the overlay. Small images are enlarged; the longer side of the overlay is at most 1200 px.

    Raises:
        ImageError: The image cannot be used.
        NoSaliencyError: The network does not support saliency maps.
        CheckpointError: The model fails.
        OutOfMemoryError: There is not enough memory.
    """
    image = open_image(source)
    outputs = classifier.run(preprocess(image, classifier.image_size)[None])
    [prediction] = classifier.predictions(outputs)
    if outputs.evidence is None:
        raise NoSaliencyError(
            f"The network {classifier.info.config['model']['_target_']} does not support saliency maps. They need "
            "average pooling directly before the last layer. Use SignNet."
        )
    if not np.isfinite(outputs.evidence).all():
        raise unusable(classifier.path, "its output evidence contains NaN or infinity")
    scale = min(max(1.0, SHORTEST_SIDE / min(image.size)), LONGEST_SIDE / max(image.size))
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    smooth = saliency(outputs.evidence[0, prediction.predicted_class], size)
    places = np.linspace(0, 1, len(_COLOURS))
    heat = np.stack([np.interp(smooth, places, channel) for channel in _COLOURS.T], axis=-1)
    overlay = image.resize(size, Image.Resampling.LANCZOS).convert("RGBA")
    overlay.alpha_composite(Image.fromarray(heat.astype(np.uint8), "RGBA"))
    return Explanation(prediction, overlay.convert("RGB"))


def saliency(evidence: Floats, size: tuple[int, int]) -> Floats:
    """Returns the saliency map of one class, about 0 (no evidence for it) to 1 (the most), float32 [height, width].

    Args:
        evidence: Contribution of each position to the logit of the class, float32 [h, w].
        size: Width and height of the map in px.
    """
    positive = np.maximum(evidence, 0)
    strength = positive / max(float(positive.max()), 1e-9)
    return np.asarray(Image.fromarray(strength.astype(np.float32)).resize(size, Image.Resampling.BICUBIC))
