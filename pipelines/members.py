"""Members of a tar that specialists ask for: how the bytes of each kind are read, by the last part of its extension.

A member is named as WebDataset names it, by all that follows the key: `depth.npy` of `000001.depth.npy`. One row of
`KINDS` says all that is known of a kind; a kind that has no row comes as its bytes.

Decisions:
- Nothing is unpickled, and no header is believed: an array has as many values as there are bytes for, and a picture is
  measured before it is decoded.
- A picture is read as the numbers that it stores: the indices of a palette, all 16 bits, no colour conversion, no turn
  by EXIF. It is a table of values here, and not a photo.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import UnidentifiedImageError

from ..infra import faults
from ..infra.formats.npy import read as read_npy
from . import intact
from .reject import Reject

MAX_BYTES = 1 << 28  # as of images
MAX_PIXELS = 100_000_000

_FORMATS = ("JPEG", "PNG", "WEBP")
_NUMBERS = "biuf"  # kinds of NumPy's types: bool, integers, floats
_PNG_HEADER = b"\x89PNG\r\n\x1a\n"
_PNG_DEPTH = 24  # the byte that holds the bits of a channel; the next one says which channels
_PNG_COLOURS = (2, 6)  # RGB, RGBA


@dataclass(frozen=True)
class MemberKind:
    """One kind of member.

    read: from its bytes to its value; ValueError if they are none of this kind. gives: what the value is.
    """

    read: Callable[[bytes], Any]
    gives: str


def decode(name: str, data: bytes) -> Any:
    """The value of a member, as its kind in `KINDS` says; its bytes if there is no such kind.

    Args:
        name: its extension, "depth.npy".

    Raises:
        Reject: it is damaged, too large, or not what its extension says.
    """
    kind = KINDS.get(suffix(name))
    if kind is None:
        return data
    try:
        return kind.read(data)
    except Exception as error:  # bytes from the web make Pillow raise about anything, see images.py
        if faults.of_place(error):
            raise
        raise Reject(f"{name}: {error}") from error


def suffix(name: str) -> str:
    """The part of a member's name that says its kind: "npy" of "depth.npy"."""
    return name.rpartition(".")[2]


def npy(data: bytes, kinds: str = _NUMBERS) -> np.ndarray:
    """An array of NumPy's .npy, of dtypes of some kinds, read-only. ValueError if it is none, or damaged."""
    array = read_npy(data)
    if array.dtype.kind not in kinds:
        raise ValueError(f"an array of {array.dtype.name}, expected numbers")
    return array


def _picture(data: bytes) -> np.ndarray:
    try:
        image = intact.open_image(data, _FORMATS)
    except UnidentifiedImageError:  # whose text holds an address, which is another one each time
        raise ValueError("not a PNG, JPEG or WebP file") from None
    with image:
        if image.width * image.height > MAX_PIXELS:
            raise ValueError(f"{image.width} x {image.height} px, expected at most {MAX_PIXELS} pixels")
        loaded = intact.load(image, data)
        if data.startswith(_PNG_HEADER) and data[_PNG_DEPTH] == 16 and data[_PNG_DEPTH + 1] in _PNG_COLOURS:
            return _deep_colours(data)
        array = np.array(loaded)
    return array.astype(np.uint8) if array.dtype == bool else array


def _deep_colours(data: bytes) -> np.ndarray:
    """uint16 (H, W, 3 or 4) of a PNG with 16 bits a channel, of which Pillow would drop eight."""
    import cv2

    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if image is None:
        raise ValueError("truncated or damaged")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB if image.shape[2] == 3 else cv2.COLOR_BGRA2RGBA)


def _json(data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ValueError("not valid JSON") from error


def _text(data: bytes) -> str:
    try:
        return data.decode("utf-16" if data.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError("not UTF-8") from error


def _class(data: bytes) -> int | str:
    text = _text(data).strip()
    return int(text) if text.isdecimal() else text


_PICTURE = MemberKind(_picture, "an array of what is stored: uint8, uint16 or int32; (H, W), (H, W, 3) or (H, W, 4)")
KINDS: dict[str, MemberKind] = {
    "npy": MemberKind(npy, "an array of bool, integers or floats, of any shape; read-only"),
    "png": _PICTURE,
    "jpg": _PICTURE,
    "jpeg": _PICTURE,
    "webp": _PICTURE,
    "json": MemberKind(_json, "what JSON can say"),
    "txt": MemberKind(_text, "text"),
    "cls": MemberKind(_class, "a class: its number, or its name"),
}
