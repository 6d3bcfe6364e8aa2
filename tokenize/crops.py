"""Crops: which window of the source image is tokenized.

A crop is a pure function of (dataset seed, key, crop index), so that every modality of a sample sees the same window,
whichever job, rank or day tokenizes it. Crop 0 is the centre crop, unflipped: the one evaluations look at.

Decisions:
- Randomness is a BLAKE2b digest, neither Python's `hash` (salted for each process) nor a NumPy generator (whose
  streams may change between versions): the windows of a dataset never move.
- Windows are square, as the token grids are; those of a sensor whose size is no square are as wide to their height as
  it is. `scale` is the share of the area of the largest such window, uniform, the convention of RandomResizedCrop.
- Binary edge maps stay binary and connected when they shrink: see `Resample.EDGES`.
"""

from __future__ import annotations

import hashlib
import math
import struct
from dataclasses import dataclass
from enum import StrEnum

import cv2
import numpy as np

from ..modalities import Size, height_width


class Resample(StrEnum):
    """How pixels are resampled."""

    IMAGE = "image"  # area average when it shrinks, bicubic when it grows
    LINEAR = "linear"  # area average when it shrinks, bilinear when it grows: never beyond the values that were there
    LABELS = "labels"  # nearest pixel: class ids must not be mixed
    EDGES = "edges"  # 0 or 255: a pixel is an edge if a line of one source pixel's width crosses at least half of it


@dataclass(frozen=True)
class Crop:
    """A window in pixels of the source image, `width` x `height`, mirrored left to right afterwards if `flip`."""

    left: int
    top: int
    width: int
    height: int
    flip: bool = False


def hashed_uniforms(count: int, *parts: object) -> list[float]:
    """`count` numbers in [0, 1), at most 8 (a BLAKE2b digest has 64 bytes), that depend on the parts' text alone."""
    assert 0 < count <= 8, count
    # Lengths keep ("a", "bc") and ("ab", "c") apart; lone surrogates of a broken key are hashed as they are.
    encoded = [str(part).encode("utf-8", "surrogatepass") for part in parts]
    message = b"".join(struct.pack("<Q", len(part)) + part for part in encoded)
    digest = hashlib.blake2b(message, digest_size=8 * count).digest()
    # 53 bits are what a float64 holds exactly.
    return [word / 2**53 for word in (value >> 11 for value in struct.unpack(f"<{count}Q", digest))]


def crops(
    seed: int,
    key: str,
    width: int,
    height: int,
    count: int,
    scale: tuple[float, float] = (0.2, 1.0),
    hflip: float = 0.5,
    shape: Size = 1,
) -> list[Crop]:
    """The `count` crops of one sample.

    Args:
        seed: the dataset's seed.
        key: the sample's key.
        width, height: of the source image, in pixels.
        count: how many; the first is the centre crop. Asking for more never changes those before.
        scale: smallest and largest share of the area of the largest window, within (0, 1].
        hflip: probability of a mirrored crop, but for the first.
        shape: what the windows are like, (height, width) in any unit; squares unless given.
    """
    low, high = scale
    if width < 1 or height < 1:
        raise ValueError(f"{key}: got an image of {width} x {height} px; expected at least 1 x 1")
    if not 0 < low <= high <= 1:
        raise ValueError(f"crop scale: got {scale}; expected 0 < smallest <= largest <= 1")
    tall, wide = _largest(width, height, shape)
    windows = [Crop((width - wide) // 2, (height - tall) // 2, wide, tall)]
    # Each crop has a digest of its own, so that asking for more never moves those before.
    for index in range(1, count):
        area, across, down, mirror = hashed_uniforms(4, "crop", seed, key, index)
        share = math.sqrt(low + (high - low) * area)
        rows, columns = (min(max(round(side * share), 1), side) for side in (tall, wide))
        left, top = int(across * (width - columns + 1)), int(down * (height - rows + 1))
        windows.append(Crop(left, top, columns, rows, mirror < hflip))
    return windows[:count]


def _largest(width: int, height: int, shape: Size) -> tuple[int, int]:
    """Height and width of the largest window of a shape in a frame."""
    high, wide = height_width(shape)
    scale = min(width / wide, height / high)
    return min(max(1, round(scale * high)), height), min(max(1, round(scale * wide)), width)


def apply(crop: Crop, image: np.ndarray, size: Size, resample: Resample | str = Resample.IMAGE) -> np.ndarray:
    """The pixels of a crop at a size.

    Args:
        crop: the window; ValueError if it leaves the image.
        image: (H, W) or (H, W, C), any dtype that OpenCV resizes (uint8, uint16, float32); float16 is widened.
        size: pixels along one side of the result, or its height and width.
        resample: see `Resample`.

    Returns:
        (h, w) or (h, w, C) of that size, contiguous, of the image's dtype (float32 for float16). A view never escapes.
    """
    height, width = image.shape[:2]
    right, bottom = crop.left + crop.width, crop.top + crop.height
    if crop.left < 0 or crop.top < 0 or crop.width < 1 or crop.height < 1 or right > width or bottom > height:
        raise ValueError(f"got {crop} on an image of {width} x {height} px; expected a window inside of the image")
    window = np.ascontiguousarray(image[crop.top : bottom, crop.left : right])
    if window.dtype == np.float16:
        window = window.astype(np.float32)
    pixels = _resize(window, height_width(size), Resample(resample))
    if image.ndim == 3 and pixels.ndim == 2:  # OpenCV drops a channel axis of one
        pixels = pixels[:, :, None]
    # Copied even where nothing was resized: the caller may write into its crop.
    return np.ascontiguousarray(pixels[:, ::-1]) if crop.flip else np.array(pixels, order="C")


def _resize(window: np.ndarray, size: tuple[int, int], resample: Resample) -> np.ndarray:
    height, width = window.shape[:2]
    if (height, width) == size:
        return window
    if resample is Resample.LABELS:
        return cv2.resize(window, size[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
    if resample is Resample.EDGES:
        return _resize_edges(window, size)
    grows = cv2.INTER_LINEAR if resample is Resample.LINEAR else cv2.INTER_CUBIC
    shrinks = size[0] <= height and size[1] <= width
    return cv2.resize(window, size[::-1], interpolation=cv2.INTER_AREA if shrinks else grows)


def _resize_edges(window: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Nearest would drop lines of one pixel, the average would fade them to grey: average, then a fitting threshold.

    A line of one source pixel that crosses a target pixel of f x f source pixels fills 1/f of it.
    """
    factor = max(have / asked for have, asked in zip(window.shape[:2], size, strict=True))
    if factor <= 1:
        return cv2.resize(window, size[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
    share = cv2.resize((window > 127).astype(np.float32), size[::-1], interpolation=cv2.INTER_AREA)
    return np.where(share >= 0.5 / factor, 255, 0).astype(window.dtype)
