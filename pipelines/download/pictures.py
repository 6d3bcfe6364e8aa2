"""The bytes of a response as what a shard holds: checked to be an image that is whole, and made smaller."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import cv2
import simplejpeg

from .. import images
from ..reject import Reject
from . import failures
from .failures import Failure
from .table import HASH_NAMES

_EXTENSIONS = {b"\xff\xd8": "jpg", b"\x89P": "png", b"RI": "webp"}  # by the first two bytes


@dataclass(frozen=True)
class Known:
    """What is known of an image. extension: of its member. width, height: in pixels; original_*: before it was resized.
    sha256: of the bytes that came."""

    extension: str
    width: int
    height: int
    original_width: int
    original_height: int
    sha256: str


@dataclass(frozen=True)
class Picture(Known):
    """data: an encoded image."""

    data: bytes


def make(data: bytes, size: int | None, min_size: int, quality: int, max_pixels: int, expected: str = "") -> Picture:
    """What is stored of the bytes that came. A JPEG that is small enough, and all if `size` is None, keep their bytes.

    Args:
        size: pixels of the shorter side, never more than there are. expected: their MD5, SHA-1 or SHA-256, "" for any.

    Raises:
        Failure: they are not those that the table expects, no image, damaged, too large or too small.
    """
    if expected:
        _check_hash(data, expected)
    try:
        pixels = images.decode(data, max_pixels)
    except Reject as reject:
        raise Failure(_kind(str(reject)), str(reject).removeprefix("image: ")) from None
    height, width = pixels.shape[:2]
    if min(width, height) < min_size:
        raise Failure(failures.TOO_SMALL, f"{width} x {height} px, expected at least {min_size}")
    digest = hashlib.sha256(data).hexdigest()
    extension = _EXTENSIONS.get(data[:2], "")
    if extension and (size is None or (min(width, height) <= size and extension == "jpg")):
        return Picture(extension, width, height, width, height, digest, data)
    if size is not None and min(width, height) > size:
        share = size / min(width, height)
        to = max(1, round(width * share)), max(1, round(height * share))
        pixels = cv2.resize(pixels, to, interpolation=cv2.INTER_AREA)
    encoded = simplejpeg.encode_jpeg(pixels, quality=quality, colorspace="RGB", colorsubsampling="420")
    return Picture("jpg", pixels.shape[1], pixels.shape[0], width, height, digest, encoded)


def _check_hash(data: bytes, expected: str) -> None:
    name = HASH_NAMES.get(len(expected))
    if name is None:
        raise Failure(failures.WRONG_HASH, f"{expected[:80]!r} is no MD5, SHA-1 or SHA-256 in hex")
    found = hashlib.new(name, data, usedforsecurity=False).hexdigest()
    if found != expected:
        raise Failure(failures.WRONG_HASH, f"{name} {found}, the table says {expected}")


def _kind(reason: str) -> str:
    if "not a JPEG" in reason or "0 bytes" in reason:
        return failures.NOT_IMAGE
    if "expected at most" in reason or "decompression bomb" in reason.lower() or "expected sides" in reason:
        return failures.TOO_LARGE
    return failures.UNDECODABLE
