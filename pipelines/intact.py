"""Whether an encoded picture is whole, where the libraries that decode it do not say.

- Pillow and OpenCV check no sum of a PNG's pixels, and leave rows black that its stream does not hold (Pillow#5800).
- libjpeg fills what a JPEG lacks with grey, and only warns; libjpeg-turbo's own interface stops at warnings.
- libwebp decodes zeros, what a file of a full or crashed disk ends in, as if they were pixels.

A BMP has neither sums nor a code that zeros would break: a hole in it looks like black pixels.
"""

from __future__ import annotations

import io
import re
import struct
import zlib
from collections.abc import Iterator

import numpy as np
import simplejpeg
from PIL import Image

_PNG = b"\x89PNG\r\n\x1a\n"
_TEXTS = (b"iCCP", b"zTXt", b"iTXt", b"tEXt")  # chunks that no pixel depends on, and whose size Pillow limits
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by PNG's colour type
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
_EXTRANEOUS = re.compile(r"Corrupt JPEG data: (\d+) extraneous bytes before marker 0xd9")
_LEAST_EXTRANEOUS = 16  # bytes at a JPEG's end: a picture that lost something has the rest of a scan
_LEAST_ZEROS = 64  # bytes that count as a hole


def open_image(data: bytes, formats: tuple[str, ...]) -> Image.Image:
    """An image, opened by Pillow; also a PNG whose profile or texts are larger than Pillow takes, without them.

    Raises:
        ValueError: it is damaged, as far as its chunks say. UnidentifiedImageError, and what else Pillow raises.
    """
    try:
        image = Image.open(io.BytesIO(data), formats=formats)
    except ValueError:
        if not data.startswith(_PNG):
            raise
        image = Image.open(io.BytesIO(_without_texts(data)), formats=formats)
    if image.format == "WEBP":
        _check_webp(data, image.width, image.height)
    return image


def load(image: Image.Image, data: bytes) -> Image.Image:
    """The image with its pixels read; another object where texts behind the pixels are larger than Pillow takes.

    Raises:
        ValueError: pixels are missing, or not those that were written. And what Pillow raises.
    """
    streams = _pixel_chunks(data) if image.format == "PNG" else []
    try:
        image.load()
    except ValueError:
        if image.format != "PNG":
            raise
        image = Image.open(io.BytesIO(_without_texts(data)), formats=("PNG",))
        image.load()
    if image.format == "JPEG":
        jpeg_pixels(data, "GRAY")
    # Missing rows are zeros; where the last ones are not, all are there, and nothing need be unpacked once more.
    if streams and _has_row_of_zeros(image):
        _check_length(data, streams)
    return image


def jpeg_pixels(data: bytes, colours: str = "RGB") -> np.ndarray | None:
    """uint8 (H, W, 3) of a JPEG, or (H, W, 1) for the colours "GRAY"; None if it is of a kind that libjpeg-turbo's own
    interface does not take, or has a flaw that costs no pixels.

    Raises:
        ValueError: a part of it is missing or damaged.
    """
    try:
        pixels: np.ndarray = simplejpeg.decode_jpeg(data, colours, strict=True)
    except ValueError as error:
        if (text := str(error)).startswith(("Corrupt JPEG data", "Premature end")):
            more = _EXTRANEOUS.fullmatch(text)
            if more is None or not _is_padding(data, int(more[1])):
                raise
        return None
    return pixels


def _is_padding(data: bytes, size: int) -> bool:
    """Whether so many bytes before a JPEG's end are what some cameras add: a few, or many of one value."""
    end = data.rfind(b"\xff\xd9")
    return size <= _LEAST_EXTRANEOUS or len(set(data[end - size : end])) == 1


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Kind, start and end of the contents of each chunk of a PNG, as far as they go."""
    at = len(_PNG)
    while at + 12 <= len(data):
        (size,) = struct.unpack_from(">I", data, at)
        yield data[at + 4 : at + 8], at + 8, at + 8 + size
        at += 12 + size


def _without_texts(data: bytes) -> bytes:
    parts = [data[start - 8 : end + 4] for kind, start, end in _chunks(data) if kind not in _TEXTS]
    return _PNG + b"".join(parts)


def _pixel_chunks(data: bytes) -> list[tuple[int, int]]:
    """Where a PNG's pixels are. ValueError if a sum of them is wrong, or they are cut."""
    found = [(start, end) for kind, start, end in _chunks(data) if kind == b"IDAT"]
    view = memoryview(data)
    for start, end in found:
        if view[end : end + 4] != struct.pack(">I", zlib.crc32(view[start - 4 : end])):
            raise ValueError("a checksum of its pixels is wrong")
    return found


def _has_row_of_zeros(image: Image.Image) -> bool:
    """Whether one of the last two rows is: of an interlaced picture the rows that come last in its file are odd."""
    rows = range(max(0, image.height - 2), image.height)
    return any(not any(image.crop((0, row, image.width, row + 1)).tobytes()) for row in rows)


def _check_length(data: bytes, streams: list[tuple[int, int]]) -> None:
    """ValueError if the pixels of a PNG are fewer than its header says."""
    width, height, depth, colour, _, _, interlaced = struct.unpack_from(">IIBBBBB", data, len(_PNG) + 8)
    passes = [(width, height)]
    if interlaced:
        passes = [(-(-(width - x) // dx), -(-(height - y) // dy)) for x, y, dx, dy in _ADAM7]
    bits = depth * _CHANNELS[colour]
    lacking = sum(rows * (1 + -(-columns * bits // 8)) for columns, rows in passes if columns > 0 and rows > 0)
    stream, view = zlib.decompressobj(), memoryview(data)
    for start, end in streams:
        rest = view[start:end]
        while lacking > 0 and len(rest) and not stream.eof:
            lacking -= len(stream.decompress(rest, 1 << 20))
            rest = memoryview(stream.unconsumed_tail)
    if lacking > 0:
        raise ValueError(f"{lacking} bytes of its pixels are missing")


def _check_webp(data: bytes, width: int, height: int) -> None:
    """ValueError if a WebP's end is missing, or its pixels hold a longer run of zeros than even a flat picture's.

    A run of likely decisions is coded as zeros: of a lossy one up to 0.7 bytes for each block of 16 x 16 (measured on
    flat pictures), of a lossless one up to four codes of one bit for each pixel.
    """
    if int.from_bytes(data[4:8], "little") + 8 > len(data):
        raise ValueError("its end is missing")
    blocks = -(-width // 16) * -(-height // 16)
    longest = {b"VP8 ": _LEAST_ZEROS + blocks, b"VP8L": _LEAST_ZEROS + width * height // 2}
    at = 12
    while at + 8 <= len(data):
        kind, size = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], "little")
        if kind in longest and data.find(bytes(longest[kind]), at + 8, at + 8 + size) >= 0:
            raise ValueError(f"a hole of {longest[kind]} bytes or more, which are zeros, in its pixels")
        at += 8 + size + size % 2
