"""Describes images by a few numbers that show whether the camera or the light has changed.

Every number except the JPEG quality is a function of the preprocessed image alone. The prediction log and the reference
of drift detection therefore have comparable values, whatever the size and the file format of the images.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
# Pixels at a time, 65 images of 48 px. In the service, larger chunks mean fewer moments at which the thread of the log
# and the thread of the requests wait for each other.
_CHUNK_PIXELS = 150_000
_SCALE = 8  # of the luma, see `_luma`
_IMMERKAER = float(np.sqrt(np.pi / 2) / 6)  # makes the mean absolute response to white noise its standard deviation


class Descriptors(NamedTuple):
    """The descriptors of N images, each float32 [N].

    Y is the luma 0.299 R + 0.587 G + 0.114 B (ITU-R BT.601), with values from 0 to 255, with weights rounded to 1/256.

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
    red_mean, green_mean, blue_mean = (_mean(plane) for plane in planes)
    luma = _luma(red, green, blue)
    luma_mean = _mean(luma)
    curved = _second_difference(luma)
    laplacian = curved[:, 1:-1] + luma[:, 2:, 1:-1]
    laplacian += luma[:, :-2, 1:-1]
    laplacian -= 2 * luma[:, 1:-1, 1:-1]
    bend = _mean_square(laplacian) - _mean(laplacian) ** 2
    gradient = _mean_square(luma[:, 1:-1, 2:] - luma[:, 1:-1, :-2])
    gradient += _mean_square(luma[:, 2:, 1:-1] - luma[:, :-2, 1:-1])
    brightest, darkest = np.maximum(np.maximum(red, green), blue), np.minimum(np.minimum(red, green), blue)
    saturation = np.divide(brightest - darkest, np.maximum(brightest, 1), dtype=np.float32)
    opponent = _second_difference(red.astype(np.int16) - green)
    return np.stack(
        [
            luma_mean / (255 * _SCALE),
            np.sqrt(np.maximum(_mean_square(luma) - luma_mean**2, 0)) / (255 * _SCALE),
            np.divide(bend, gradient, out=np.zeros_like(bend), where=gradient > 0),
            saturation.mean((1, 2)),
            (red_mean - green_mean) / 255,
            ((red_mean + green_mean) / 2 - blue_mean) / 255,
            _noise(curved) / _SCALE,
            _noise(opponent),
        ]
    ).astype(np.float32)


def _luma(red: NDArray[np.uint8], green: NDArray[np.uint8], blue: NDArray[np.uint8]) -> NDArray[np.int16]:
    """Returns 8 Y: integers of 16 bits take half the time of float32, and this is the largest scale that fits below."""
    weighted = red * np.uint16(77)
    weighted += green * np.uint16(150)
    weighted += blue * np.uint16(29)
    weighted += np.uint16(16)  # rounds the division by 32
    weighted >>= 5
    return weighted.view(np.int16)


def _second_difference(values: NDArray[np.int16]) -> NDArray[np.int16]:
    """Returns the second difference along the rows, [N, H, W - 2]."""
    return np.diff(values, 2, axis=2)


def _mean(values: NDArray[Any]) -> NDArray[np.float64]:
    flat = values.reshape(len(values), -1)
    return np.asarray(flat.sum(1, dtype=np.int64) / flat.shape[1])


def _mean_square(values: NDArray[np.int16]) -> NDArray[np.float64]:
    flat = values.reshape(len(values), -1).astype(np.float32)
    return np.asarray(np.einsum("ij,ij->i", flat, flat) / np.float64(flat.shape[1]))


def _noise(curved: NDArray[np.int16]) -> NDArray[np.float64]:
    """Returns Immerkær's estimate from the second difference along the rows: its mask is separable."""
    response = np.diff(curved, 2, axis=1)
    return _mean(np.abs(response, out=response)) * _IMMERKAER
