"""Describes images by numbers that change with the camera, its optics, the crop and the weather.

Needs NumPy only. Each number is a function of the image as the model sees it, after scaling. The prediction log and
the baseline of drift detection therefore have comparable values, whatever the size and the format of the file.

The descriptors were chosen on held-out training tracks: each corruption in `evaluation/corruptions.py` changes at least
one of them so much that a few hundred images show it.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
# Pixels at a time, 108 images of 48 px. A call has a fixed cost of about 0.3 ms, so a few images at a time would take
# longer. Arrays of 4 MB or more would, too: the prediction log lets the allocator keep smaller ones.
_CHUNK_PIXELS = 250_000
_LIGHT = np.array([0.299, 0.587, 0.114], np.float32)  # luma of ITU-R BT.601
_GREY = np.float32(0.5)  # half a grey level; keeps ratios finite for images of one colour

DESCRIPTORS = {
    "brightness": "mean luma, 0 to 255",
    "contrast": "standard deviation of the luma",
    "black_level": "2 % quantile of the luma; fog and stray light raise it",
    "overexposed": "share of pixels with a channel at its maximum",
    "saturation": "mean of (max - min) / max of the channels",
    "red_blue": "logarithm of mean red / mean blue: the colour temperature",
    "green_magenta": "logarithm of mean green² / (mean red x mean blue)",
    "sharpness": "logarithm of the differences of neighbours / differences over two pixels",
    "grain": "logarithm of the response to Immerkær's noise mask / differences of neighbours",
    "noise": "logarithm of the median response to Immerkær's noise mask, which ignores edges",
    "colour_noise": "sharpness of the colour differences: sensor noise raises it, compression lowers it",
    "colour_detail": "logarithm of the colour differences of neighbours / luma differences of neighbours",
    "blockiness": "logarithm of the bends at the edges of 8 x 8 blocks / bends elsewhere: JPEG compression",
    "streaks": "logarithm of the horizontal bends / vertical bends: motion blur lowers it, rain raises it",
    "sparkle": "skewness of the Laplacian; rain, snow and hot pixels lower it",
    "flatness": "logarithm of the share of pixels equal to their neighbours: dirt, cover, quantisation",
    "border": "logarithm of the differences at the border / differences just inside it: padded crops",
    "size": "spread of the edges around their centre in px: the share of the crop that the sign fills",
    "off_centre": "distance of the edges' centre from that of the image in px",
    "upright": "share of the gradients that are horizontal or vertical",
}


def describe(images: NDArray[np.uint8]) -> dict[str, Floats]:
    """Computes the descriptors of preprocessed images.

    Args:
        images: uint8 [N, S, S, 3], with S of at least 16.

    Returns:
        float32 [N] for each name in `DESCRIPTORS`.

    Raises:
        ValueError: The array has another shape or type.
    """
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3 or min(images.shape[1:3]) < 16:
        raise ValueError(f"images must be uint8 [N, S, S, 3] of at least 16 px, but are {images.dtype} {images.shape}")
    step = max(1, _CHUNK_PIXELS // (images.shape[1] * images.shape[2]))
    parts = [_describe(images[start : start + step]) for start in range(0, len(images), step)]
    columns = np.concatenate(parts, axis=1) if parts else np.empty((len(DESCRIPTORS), 0), np.float32)
    return dict(zip(DESCRIPTORS, columns, strict=True))


def _describe(images: NDArray[np.uint8]) -> Floats:
    """Returns the descriptors of a few images, float32 [D, N].

    All arrays below are [H, W, N]: with the images last, NumPy needs half the time for differences of neighbours.
    """
    planes = np.ascontiguousarray(images.transpose(3, 1, 2, 0))
    red, green, blue = planes.astype(np.float32)
    luma = _LIGHT[0] * red + _LIGHT[1] * green + _LIGHT[2] * blue
    exposure = _exposure(planes, luma)
    across, down = _step(luma, 1), _step(luma, 0)
    columns, rows = np.abs(across).mean(axis=0), np.abs(down).mean(axis=1)  # profiles along x and along y
    near = columns.mean(axis=0) + rows.mean(axis=0)
    blue -= luma
    red -= luma
    texture, layout = _texture(across, down, near, (blue, red)), _layout(across, down, columns, rows)
    return np.stack([*exposure, *texture, *layout]).astype(np.float32)


def _exposure(planes: NDArray[np.uint8], luma: Floats) -> list[Floats]:
    highest, lowest = planes.max(axis=0), planes.min(axis=0)
    saturation = (highest - lowest) / (highest + np.float32(8))  # 8: without it, noise of black pixels is colourful
    red, green, blue = (_mean(plane) + 4 for plane in planes)
    brightness = _mean(luma)
    return [
        brightness,
        np.sqrt(_mean((luma - brightness) ** 2)),
        _quantile(luma, 0.02),
        _mean(highest == 255),
        _mean(saturation),
        np.log(red / blue),
        np.log(green**2 / (red * blue)),
    ]


def _texture(across: Floats, down: Floats, near: Floats, colours: tuple[Floats, Floats]) -> list[Floats]:
    far = _size(across[:, 1:] + across[:, :-1]) + _size(down[1:] + down[:-1])
    bent_across, bent_down = _step(across, 1), _step(down, 0)
    response = _step(_step(bent_across, 0), 0)
    np.abs(response, out=response)
    laplacian = bent_across[1:-1] + bent_down[:, 1:-1]
    squares = laplacian * laplacian
    laplacian *= squares
    even = (across[:-1] == 0) & (down[:, :-1] == 0)
    bends_x, bends_y = np.abs(bent_across).mean(axis=0), np.abs(bent_down).mean(axis=1)
    colour_near = np.sum([_differences(colour, 1) for colour in colours], axis=0)
    colour_far = np.sum([_differences(colour, 2) for colour in colours], axis=0)
    return [
        _ratio(near, far),
        _ratio(_mean(response), near),
        np.log(_quantile(response, 0.5) + _GREY),
        _ratio(colour_near, colour_far),
        _ratio(colour_near, near),
        _blockiness(bends_x) + _blockiness(bends_y),
        _ratio(bends_x.mean(axis=0), bends_y.mean(axis=0)),
        _mean(laplacian) / (_mean(squares) + 1) ** 1.5,
        np.log(_mean(even) + np.float32(0.001)),
    ]


def _layout(across: Floats, down: Floats, columns: Floats, rows: Floats) -> list[Floats]:
    border = columns[[0, -1]].mean(axis=0) + rows[[0, -1]].mean(axis=0)
    inside = columns[[1, 2, -3, -2]].mean(axis=0) + rows[[1, 2, -3, -2]].mean(axis=0)
    (x, width), (y, height) = _moments(columns), _moments(rows)
    squares_x, squares_y = across[:-1] ** 2, down[:, :-1] ** 2
    pixels = np.float32(squares_x.shape[0] * squares_x.shape[1])
    upright = _size(squares_x - squares_y) / (_mean(squares_x) + _mean(squares_y) + 1 / pixels)
    return [_ratio(border, inside), np.sqrt(width + height), np.hypot(x, y), upright]


def _moments(profile: Floats) -> tuple[Floats, Floats]:
    """Returns the mean position relative to the middle, and the mean squared position, of profiles [L, N]."""
    place = np.arange(len(profile), dtype=np.float32)[:, None] - np.float32((len(profile) - 1) / 2)
    total = profile.sum(axis=0) + np.float32(0.01)
    return (profile * place).sum(axis=0) / total, (profile * place**2).sum(axis=0) / total


def _blockiness(bends: Floats) -> Floats:
    """Compares the mean bends along x or y, [L, N], at the edges of blocks with the others."""
    at_edge = np.isin(np.arange(len(bends)) % 8, (6, 7))  # bends that span the last and the first pixel of blocks
    return _ratio(bends[at_edge].mean(axis=0), bends[~at_edge].mean(axis=0))


def _quantile(values: Floats, share: float) -> Floats:
    """Returns a quantile of each image, from every third value."""
    sample = np.ascontiguousarray(values.reshape(-1, values.shape[2])[::3].T)
    place = int(share * (sample.shape[1] - 1))
    sample.partition(place, axis=1)
    return np.asarray(sample[:, place])


def _step(values: Floats, axis: int) -> Floats:
    """Returns the differences of neighbours along y (axis 0) or x (axis 1)."""
    return values[1:] - values[:-1] if axis == 0 else values[:, 1:] - values[:, :-1]


def _differences(plane: Floats, distance: int) -> Floats:
    """Returns the mean absolute difference of pixels at a distance in px along x, plus the same along y."""
    return _size(plane[:, distance:] - plane[:, :-distance]) + _size(plane[distance:] - plane[:-distance])


def _size(values: Floats) -> Floats:
    """Returns the mean absolute value of each image. Overwrites the values."""
    return _mean(np.abs(values, out=values))


def _mean(values: NDArray[Any]) -> Floats:
    """Returns the mean of each image, row by row: sums over [H, W] in one step take longer."""
    return np.asarray(values.mean(axis=0, dtype=np.float32).mean(axis=0))


def _ratio(upper: Floats, lower: Floats) -> Floats:
    return np.asarray(np.log((upper + _GREY) / (lower + _GREY)))
