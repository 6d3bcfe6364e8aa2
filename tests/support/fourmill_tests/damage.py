"""Pictures that are damaged in ways that libraries do not notice."""

from __future__ import annotations

import struct
import zlib

import numpy as np

from . import data

PNG = b"\x89PNG\r\n\x1a\n"


def chunk(kind: bytes, content: bytes) -> bytes:
    """A chunk of a PNG, with its sum."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def half_png(side: int = 128, more: bytes = b"") -> bytes:
    """A PNG of (side, side) RGB whose stream ends well after half of its rows; `more` chunks stand before it."""
    pixels = np.ascontiguousarray(data.picture(0, side, side))
    rows = b"".join(b"\0" + row.tobytes() for row in pixels[: side // 2])
    size = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return PNG + chunk(b"IHDR", size) + more + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
