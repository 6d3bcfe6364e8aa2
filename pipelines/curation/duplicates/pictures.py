"""What two pictures are compared by: a small picture of each, hashes of its windows, and how alike two of them are
once one is laid over the other.

A crop of a picture looks like a window of it. So a picture is entered by the hashes of its windows (the whole, and
those that keep 80 % of its area, at places a few per cent apart), and asked for by the hash of the whole, as it is and
mirrored. A hash is the lowest frequencies of the cosine transform, as of pHash, but as numbers: their cosine says how
near two hashes are, and a crop that lies between two windows is near to both.

Hashes find candidates. Whether two pictures are one is asked of the small pictures: a window is laid over the other one
by ECC (Evangelidis and Psarakis 2008, of OpenCV), which moves, stretches and turns it, and what is compared is the
detail, without the slow changes that all pictures of a room or a sky share.
"""

from __future__ import annotations

from functools import cache

import cv2
import numpy as np

SIDE = 48  # pixels of a small picture
NEAR = 0.8  # cosine of hashes from which pictures are compared
_TERMS = 6  # frequencies along each axis
_SAMPLES = 24  # of a window along each axis, of which the transform is taken
_AREA = 0.8  # of the smallest window
_WIDTHS = (1.0, 0.945, 0.894, 0.847, 0.8)
_STEP = 0.055  # between windows, of a side
_FLATTEN = 0.7  # the exponent by which higher frequencies, which are weaker in photos, count more
_DETAIL = (0.8, 4.0)  # pixels: what is finer is noise, what is coarser is light and shade
_CHROMA = 2.5  # by which chroma is looked at more coarsely: JPEG halves its resolution
_LEAST_DETAIL = 1.0  # of 255: a sky or a page without letters is like any other
_LEEWAY = 0.03  # of the size of a window
_EDGE = 2  # pixels of the small picture that do not count
_SMOOTHED = 5  # pixels, of ECC's own filter
_UNTIL = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 25, 1e-4)
_EVERYWHERE = np.full((SIDE, SIDE), 255, np.uint8)

Window = tuple[float, float, float, float]  # left, right, top, bottom, of 0 to 1


def small(image: np.ndarray) -> np.ndarray:
    """The small picture of an image, uint8 (H, W, 3): its luma and chroma (YCrCb), uint8 (SIDE, SIDE, 3), whatever its
    aspect."""
    height, width = image.shape[:2]
    if min(height, width) < SIDE:  # an area of less than a pixel has no mean
        image = cv2.resize(image, (max(width, SIDE), max(height, SIDE)), interpolation=cv2.INTER_LINEAR)
    return cv2.cvtColor(cv2.resize(image, (SIDE, SIDE), interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2YCrCb)


def has_detail(picture: np.ndarray) -> bool:
    """Whether there is anything in a small picture to know it by."""
    return bool(_detail(picture[..., 0].astype(np.float32)).std() >= _LEAST_DETAIL)


@cache
def windows() -> tuple[Window, ...]:
    """The whole, and the windows of 80 % of its area."""
    found = [(0.0, 1.0, 0.0, 1.0)]
    for width in _WIDTHS:
        height = _AREA / width
        found += [(x, x + width, y, y + height) for x in _places(width) for y in _places(height)]
    return tuple(found)


def _places(length: float) -> list[float]:
    room = max(0.0, 1 - length)
    places: list[float] = np.linspace(0, room, int(np.ceil(room / _STEP - 1e-9)) + 1).tolist()
    return places if room > 1e-9 else [0.0]


@cache
def _basis(begin: float, end: float) -> np.ndarray:
    """From the pixels along a side to the lowest frequencies of a window of it: float32 (_TERMS, SIDE)."""
    edges = (begin + (end - begin) * np.arange(_SAMPLES + 1) / _SAMPLES) * SIDE
    low, high, pixels = edges[:-1, None], edges[1:, None], np.arange(SIDE)[None]
    share = np.clip(np.minimum(high, pixels + 1) - np.maximum(low, pixels), 0, None) / (high - low)
    angles = np.pi / _SAMPLES * np.arange(_TERMS)[:, None] * (np.arange(_SAMPLES)[None] + 0.5)
    return (np.cos(angles) @ share).astype(np.float32)


@cache
def _weights() -> np.ndarray:
    """Of the frequencies of a hash, float32 (_TERMS, _TERMS); 0 of the mean."""
    scale = np.where(np.arange(_TERMS) == 0, np.sqrt(0.5), 1.0)  # of an orthonormal transform
    radius = np.hypot(*np.mgrid[:_TERMS, :_TERMS])
    return (np.outer(scale, scale) * np.where(radius > 0, np.maximum(radius, 1), 0) ** _FLATTEN).astype(np.float32)


def _hashes(pictures: np.ndarray, window: Window) -> np.ndarray:
    left, right, top, bottom = window
    terms = _basis(top, bottom) @ pictures @ _basis(left, right).T * _weights()
    hashes = terms.reshape(len(pictures), -1)[:, 1:]
    lengths = np.linalg.norm(hashes, axis=1, keepdims=True)
    return hashes / np.where(lengths > 1e-3, lengths, np.inf)


def entries(pictures: np.ndarray) -> np.ndarray:
    """Hashes of the windows of small pictures (n, SIDE, SIDE, 3): float32 (n, windows, 35), each of length 1, or 0
    where there is nothing but one colour."""
    grey = pictures[..., 0].astype(np.float32)
    return np.stack([_hashes(grey, window) for window in windows()], axis=1)


def questions(pictures: np.ndarray) -> np.ndarray:
    """Hashes of the whole of small pictures, as they are and mirrored: float32 (n, 2, 35)."""
    grey = pictures[..., 0].astype(np.float32)
    whole = windows()[0]
    return np.stack([_hashes(grey, whole), _hashes(grey[:, :, ::-1], whole)], axis=1)


def likeness(whole: np.ndarray, crop: np.ndarray, window: Window, mirrored: bool) -> float:
    """How alike two small pictures are where one is laid over the other: the correlation of their details, at most 1.

    Args:
        whole: of which `crop` may be a window, about this one. mirrored: `crop` is mirrored.
    """
    one = whole.astype(np.float32)
    other = np.ascontiguousarray(crop[:, ::-1] if mirrored else crop, np.float32)
    left, right, top, bottom = window
    across, down = right - left, bottom - top
    # From a pixel of the crop to one of the whole, both counted at their middle.
    place = np.array([[across, 0, left * SIDE + across / 2 - 0.5], [0, down, top * SIDE + down / 2 - 0.5]], np.float32)
    wanted = _detail(other)
    first = _correlation(_laid(one, place), wanted)
    try:
        grey = np.ascontiguousarray(other[..., 0]), np.ascontiguousarray(one[..., 0])
        _, found = cv2.findTransformECC(*grey, place.copy(), cv2.MOTION_AFFINE, _UNTIL, _EVERYWHERE, _SMOOTHED)
    except cv2.error:  # they have nothing in common
        return first
    return max(first, _correlation(_laid(one, _upright(np.asarray(found))), wanted))


def _upright(place: np.ndarray) -> np.ndarray:
    """A place without its turn and slant, which no crop has, about the same middle, and of a size that a crop has: any
    two edges would lie over each other once they are turned."""
    middle = (SIDE - 1) / 2
    at = place[:, :2].sum(axis=1) * middle + place[:, 2]
    scale = np.clip(np.diag(place), _AREA - _LEEWAY, 1 + _LEEWAY)
    return np.column_stack([np.diag(scale), at - scale * middle]).astype(np.float32)


def _laid(picture: np.ndarray, place: np.ndarray) -> np.ndarray:
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return _detail(cv2.warpAffine(picture, place, (SIDE, SIDE), flags=flags, borderMode=cv2.BORDER_REPLICATE))


def _detail(picture: np.ndarray) -> np.ndarray:
    """What is neither noise nor light and shade, of luma and, coarser, of chroma."""
    channels = picture[..., None] if picture.ndim == 2 else picture
    parts = []
    for i in range(channels.shape[2]):
        scale = _CHROMA if i else 1.0
        plane = np.ascontiguousarray(channels[..., i])
        fine, coarse = (cv2.GaussianBlur(plane, (0, 0), scale * s, borderType=cv2.BORDER_REFLECT) for s in _DETAIL)
        parts.append((fine - coarse)[_EDGE:-_EDGE, _EDGE:-_EDGE])
    return np.stack(parts)


def _correlation(one: np.ndarray, other: np.ndarray) -> float:
    a, b = one.ravel() - one.mean(), other.ravel() - other.mean()
    return float(a @ b / np.sqrt((a @ a) * (b @ b) + 1e-3))
