"""Specialists, items and files of tests that care for shapes and not for what a picture shows."""

from __future__ import annotations

import struct
import zlib
from typing import Any

import numpy as np
import torch

from fourmill.pipelines.specialists.base import Item

from . import data

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
