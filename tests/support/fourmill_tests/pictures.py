"""Specialists, items and files of tests that care for shapes and not for what a picture shows."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import torch

from fourmill.pipelines.specialists.base import Item

from . import data

WHITE = (255, 255, 255)
PNG = b"\x89PNG\r\n\x1a\n"


def ready(specialist: Any) -> Any:
    """A specialist that is set up on one thread of the CPU."""
    torch.set_num_threads(1)
    specialist.setup("cpu")
    return specialist


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def items(*images: np.ndarray) -> list[Item]:
    return [Item(str(i), image, None) for i, image in enumerate(images)]


def chunk(kind: bytes, content: bytes) -> bytes:
    """A chunk of a PNG, with its sum."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def half_png(side: int = 128, more: bytes = b"") -> bytes:
    """A PNG of (side, side) RGB whose stream ends well after half of its rows; `more` chunks stand before it."""
    pixels = np.ascontiguousarray(data.picture(0, side, side))
    rows = b"".join(b"\0" + row.tobytes() for row in pixels[: side // 2])
    size = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return PNG + chunk(b"IHDR", size) + more + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def shrunk(photo: np.ndarray, side: int) -> np.ndarray:
    """The photo with its longer side at `side` pixels, as img2dataset resizes before it pads."""
    scale = side / max(photo.shape[:2])
    height, width = (round(edge * scale) for edge in photo.shape[:2])
    return cv2.resize(photo, (width, height), interpolation=cv2.INTER_AREA)


def padded(photo: np.ndarray, colour: Sequence[int] = WHITE, middle: bool = True) -> np.ndarray:
    """A square with the photo in its middle, as img2dataset's `border`; or with all of the bar below, or right."""
    height, width = photo.shape[:2]
    side = max(height, width)
    top, left = ((side - height) // 2, (side - width) // 2) if middle else (0, 0)
    square = np.full((side, side, 3), colour, np.uint8)
    square[top : top + height, left : left + width] = photo
    return square
