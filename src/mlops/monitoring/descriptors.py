"""Describes images by a few numbers that show whether the camera or the light has changed.

Every number except the JPEG quality is a function of the preprocessed image alone. The prediction log and the reference
of drift detection therefore have comparable values, whatever the size and the file format of the images.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
_CHUNK_PIXELS = 20_000  # pixels at a time: larger intermediate arrays would get new pages from the system each time
_IMMERKAER = float(np.sqrt(np.pi / 2) / 6)  # makes the mean absolute response to white noise its standard deviation


class Descriptors(NamedTuple):
    """The descriptors of N images, each float32 [N].

    Y is the luma 0.299 R + 0.587 G + 0.114 B (ITU-R BT.601), with values from 0 to 255.

    Attributes:
        brightness: Mean of Y / 255, 0 to 1.
        contrast: Standard deviation of Y / 255 (RMS contrast; Peli, "Contrast in complex images", 1990), 0 to 0.5.
        sharpness: Variance of the Laplacian of Y (Pech-Pacheco et al., "Diatom autofocusing in brightfield microscopy",
            2000), divided by the mean squared gradient of Y (Tenengrad; Krotkov, "Focusing", 1988). The division makes
            it independent of the contrast. 0 for an image of one colour.
        saturation: Mean of the saturation in HSV, (max - min) / max of R, G and B, 0 to 1; 0 for black pixels.
        cast_red_green: Mean of (R - G) / 255, -1 (green) to 1 (red): the colour cast under the grey-world assumption
            (Buchsbaum, "A spatial processor model for object colour perception", 1980), with opponent axes.
        cast_yellow_blue: Mean of ((R + G) / 2 - B) / 255, -1 (blue) to 1 (yellow).
        noise: Standard deviation of the noise of Y in grey levels (Immerkær, "Fast noise variance estimation", 1996).
        colour_noise: The same estimate for R - G, where edges weigh less. JPEG compression reduces it.
    """

    brightness: Floats
    contrast: Floats
    sharpness: Floats
    saturation: Floats
    cast_red_green: Floats
    cast_yellow_blue: Floats
    noise: Floats
    colour_noise: Floats


def describe_images(arrays: NDArray[np.uint8]) -> Descriptors:
    """Computes the descriptors of preprocessed images.

    Args:
        arrays: uint8 [N, S, S, 3], with S of at least 3.

    Returns:
        One number per image and descriptor.

    Raises:
        ValueError: The array has another shape or type.
    """
    if arrays.dtype != np.uint8 or arrays.ndim != 4 or arrays.shape[3] != 3 or min(arrays.shape[1:3]) < 3:
        raise ValueError(f"images must be uint8 [N, S, S, 3] of at least 3 px, but are {arrays.dtype} {arrays.shape}")
    size = max(1, _CHUNK_PIXELS // (arrays.shape[1] * arrays.shape[2]))
    chunks = [_describe(arrays[start : start + size]) for start in range(0, len(arrays), size)]
    columns = np.concatenate(chunks, axis=1) if chunks else np.empty((len(Descriptors._fields), 0), np.float32)
    return Descriptors(*columns)


def _describe(arrays: NDArray[np.uint8]) -> Floats:
    """Returns the descriptors of a few images, float32 [8, N]."""
    red, green, blue = planes = np.ascontiguousarray(arrays.transpose(3, 0, 1, 2))
    means = planes.mean((2, 3), dtype=np.float32)
    luma = np.float32(0.299) * red + np.float32(0.587) * green + np.float32(0.114) * blue
    curved = _second_difference(luma)
    laplacian = curved[:, 1:-1] + luma[:, 2:, 1:-1] - 2 * luma[:, 1:-1, 1:-1] + luma[:, :-2, 1:-1]
    across, down = luma[:, 1:-1, 2:] - luma[:, 1:-1, :-2], luma[:, 2:, 1:-1] - luma[:, :-2, 1:-1]
    gradient = _mean_square(across) + _mean_square(down)
    bend = _mean_square(laplacian) - laplacian.mean((1, 2)) ** 2
    brightest, darkest = np.maximum(np.maximum(red, green), blue), np.minimum(np.minimum(red, green), blue)
    saturation = np.divide(brightest - darkest, np.maximum(brightest, 1), dtype=np.float32)
    opponent = _second_difference(red.astype(np.int16) - green)
    return np.stack(
        [
            luma.mean((1, 2)) / 255,
            luma.std((1, 2)) / 255,
            np.divide(bend, gradient, out=np.zeros_like(bend), where=gradient > 0),
            saturation.mean((1, 2)),
            (means[0] - means[1]) / 255,
            ((means[0] + means[1]) / 2 - means[2]) / 255,
            _noise(curved),
            _noise(opponent),
        ]
    ).astype(np.float32)


def _second_difference(values: NDArray[Any]) -> NDArray[Any]:
    """Returns the second difference along the rows, [N, H, W - 2]."""
    difference: NDArray[Any] = values[:, :, 2:] - 2 * values[:, :, 1:-1] + values[:, :, :-2]
    return difference


def _mean_square(values: Floats) -> Floats:
    flat = values.reshape(len(values), -1)
    return np.asarray(np.einsum("ij,ij->i", flat, flat) / flat.shape[1])


def _noise(curved: NDArray[Any]) -> Floats:
    """Returns Immerkær's estimate from the second difference along the rows: its mask is separable."""
    response = curved[:, 2:] - 2 * curved[:, 1:-1] + curved[:, :-2]
    return np.asarray(np.abs(response).mean((1, 2), dtype=np.float32) * _IMMERKAER, np.float32)
