"""Describes images by numbers that change with the camera, its optics, the crop and the weather.

Needs NumPy only. Each number is a function of the image as the model sees it, after scaling. The prediction log and
the baseline of drift detection therefore have comparable values, whatever the size and the format of the file.

The descriptors were chosen on held-out training tracks: each corruption in `evaluation/corruptions.py` changes at least
one of them so much that a few hundred images show it.
"""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
_CHUNK_PIXELS = 40_000  # pixels at a time; larger intermediate arrays do not fit into the cache
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
    """Returns the descriptors of a few images, float32 [D, N]."""
    planes = np.ascontiguousarray(images.transpose(3, 0, 1, 2))
    red, green, blue = planes.astype(np.float32)
    luma = _LIGHT[0] * red + _LIGHT[1] * green + _LIGHT[2] * blue
    return np.stack([*_exposure(planes, luma), *_texture(luma, red, blue), *_layout(luma)]).astype(np.float32)


def _exposure(planes: NDArray[np.uint8], luma: Floats) -> list[Floats]:
    flat = luma.reshape(len(luma), -1)
    highest, lowest = planes.max(axis=0), planes.min(axis=0)
    saturation = (highest - lowest) / (highest + np.float32(8))  # 8: without it, noise of black pixels is colourful
    red, green, blue = planes.mean((2, 3), dtype=np.float32) + 4
    return [
        flat.mean(axis=1),
        flat.std(axis=1),
        _quantile(flat, 0.02),
        (highest == 255).mean((1, 2)),
        saturation.mean((1, 2)),
        np.log(red / blue),
        np.log(green**2 / (red * blue)),
    ]


def _texture(luma: Floats, red: Floats, blue: Floats) -> list[Floats]:
    across, down = np.diff(luma, axis=2), np.diff(luma, axis=1)
    near = _size(across) + _size(down)
    bent_across, bent_down = np.diff(across, axis=2), np.diff(down, axis=1)
    response = np.abs(np.diff(np.diff(bent_across, axis=1), axis=1))
    laplacian = (bent_across[:, 1:-1] + bent_down[:, :, 1:-1]).reshape(len(luma), -1)
    squares = laplacian * laplacian
    colours = (blue - luma, red - luma)
    colour_near = np.sum([_differences(colour, 1) for colour in colours], axis=0)
    colour_far = np.sum([_differences(colour, 2) for colour in colours], axis=0)
    even = (across[:, :-1] == 0) & (down[:, :, :-1] == 0)
    return [
        _ratio(near, _differences(luma, 2)),
        _ratio(response.mean((1, 2)), near),
        np.log(_quantile(response.reshape(len(luma), -1), 0.5) + _GREY),
        _ratio(colour_near, colour_far),
        _ratio(colour_near, near),
        _blockiness(np.abs(bent_across)) + _blockiness(np.abs(bent_down).swapaxes(1, 2)),
        _ratio(_size(bent_across), _size(bent_down)),
        np.einsum("ij,ij->i", squares, laplacian) / laplacian.shape[1] / (squares.mean(axis=1) + 1) ** 1.5,
        np.log(even.mean((1, 2)) + 0.001),
    ]


def _layout(luma: Floats) -> list[Floats]:
    across, down = np.diff(luma, axis=2), np.diff(luma, axis=1)
    columns, rows = np.abs(across).mean(axis=1), np.abs(down).mean(axis=2)  # profile along x and along y
    border = columns[:, [0, -1]].mean(axis=1) + rows[:, [0, -1]].mean(axis=1)
    inside = columns[:, [1, 2, -3, -2]].mean(axis=1) + rows[:, [1, 2, -3, -2]].mean(axis=1)
    (x, width), (y, height) = _moments(columns), _moments(rows)
    squares_x, squares_y = across[:, :-1] ** 2, down[:, :, :-1] ** 2
    upright = np.abs(squares_x - squares_y).sum((1, 2)) / ((squares_x + squares_y).sum((1, 2)) + 1)
    return [_ratio(border, inside), np.sqrt(width + height), np.hypot(x, y), upright]


def _moments(profile: Floats) -> tuple[Floats, Floats]:
    """Returns the mean position relative to the middle, and the mean squared position, of profiles [N, L]."""
    place = np.arange(profile.shape[1], dtype=np.float32) - np.float32((profile.shape[1] - 1) / 2)
    total = profile.sum(axis=1) + np.float32(0.01)
    return profile @ place / total, profile @ place**2 / total


def _blockiness(bends: Floats) -> Floats:
    at_edge = np.isin(np.arange(bends.shape[2]) % 8, (6, 7))  # bends that span the last and the first pixel of blocks
    profile = bends.mean(axis=1)
    return _ratio(profile[:, at_edge].mean(axis=1), profile[:, ~at_edge].mean(axis=1))


def _quantile(values: Floats, share: float) -> Floats:
    """Returns a quantile of each row of [N, K], from every third value."""
    sample = values[:, ::3]
    place = int(share * (sample.shape[1] - 1))
    return np.asarray(np.partition(sample, place, axis=1)[:, place])


def _differences(plane: Floats, distance: int) -> Floats:
    """Returns the mean absolute difference of pixels at a distance in px along x, plus the same along y."""
    across = plane[:, :, distance:] - plane[:, :, :-distance]
    return _size(across) + _size(plane[:, distance:] - plane[:, :-distance])


def _size(values: Floats) -> Floats:
    return np.asarray(np.abs(values).mean((1, 2)))


def _ratio(upper: Floats, lower: Floats) -> Floats:
    return np.asarray(np.log((upper + _GREY) / (lower + _GREY)))
