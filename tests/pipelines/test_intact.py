"""Pictures with holes are rejects, and good ones, however odd, are the same pixels as before."""

from __future__ import annotations

import zlib
from typing import Any

import cv2
import numpy as np
import pytest
from fourmill_tests import data
from fourmill_tests.pictures import PNG, chunk
from PIL import Image

from fourmill.pipelines import images, intact, members
from fourmill.pipelines.reject import Reject

KINDS: dict[str, dict[str, Any]] = {
    "JPEG": {}, "JPEG progressive": {"progressive": True}, "JPEG restarts": {"restart_marker_rows": 1}, "PNG": {},
    "WEBP": {}, "WEBP lossless": {"lossless": True}, "GIF": {},
}  # fmt: skip


def taken(content: bytes) -> np.ndarray | None:
    try:
        return images.decode(content, 10**8)
    except Reject:
        return None


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("percent", [10, 50, 80])
def test_holes_of_a_fifth_are_found(kind: str, percent: int) -> None:
    whole = data.encode(data.picture(0, 256, 256), kind.partition(" ")[0], **KINDS[kind])
    assert taken(whole) is not None
    start, hole = len(whole) * percent // 100, len(whole) // 5
    damaged = [whole[:start]]
    if kind != "WEBP lossless" or percent < 80:  # of a lossless one what is longer than the codes of a flat picture
        damaged.append(whole[:start] + bytes(len(whole) - start))
    if kind != "WEBP lossless":
        damaged.append(whole[:start] + bytes(min(hole, len(whole) - start)) + whole[start + hole :])
    if kind.startswith("JPEG"):
        damaged.append(whole[:start] + whole[min(start + hole, len(whole) - 200) :])
    assert [content for content in damaged if taken(content) is not None] == []


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("kind", [cv2.IMREAD_COLOR, cv2.IMREAD_GRAYSCALE])
def test_pngs_that_end_in_black_are_whole(interlaced: bool, kind: int) -> None:
    """Black rows at the end are looked at twice: they may be rows that are missing."""
    pixels = data.picture(0, 61, 47)
    pixels[30:] = 0
    if kind == cv2.IMREAD_GRAYSCALE:
        pixels = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    whole = data.encode(pixels, "PNG")
    if interlaced:  # no library at hand writes these: all of Adam7's passes, unfiltered
        width, height, header = 61, 47, whole[16:28] + b"\x01"
        rows = b""
        for x, y, dx, dy in intact._ADAM7:
            rows += b"".join(b"\0" + row.tobytes() for row in np.ascontiguousarray(pixels[y::dy, x::dx]))
        full, short = (
            PNG + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(part)) + chunk(b"IEND", b"")
            for part in (rows, rows[:-width])
        )
        assert taken(short) is None and height == pixels.shape[0]
        whole = full
    got = taken(whole)
    assert got is not None
    np.testing.assert_array_equal(got[..., 0], pixels if pixels.ndim == 2 else pixels[..., 0])


@pytest.mark.parametrize(
    "text",
    [
        chunk(b"iCCP", b"p\0\0" + zlib.compress(bytes(3 << 20))),
        chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(3 << 20))),
        chunk(b"iTXt", b"k\0\x01\0\0\0" + zlib.compress(bytes(3 << 20))),
    ],
)
@pytest.mark.parametrize("behind", [False, True])
def test_large_texts_of_a_png_cost_no_picture(text: bytes, behind: bool) -> None:
    pixels = data.picture(0, 64, 64)
    whole = data.encode(pixels, "PNG")
    at = len(whole) - 12 if behind else 33
    odd = whole[:at] + text + whole[at:]
    np.testing.assert_array_equal(images.decode(odd, 10**6), pixels)
    np.testing.assert_array_equal(images.decode_values(odd, 10**6), pixels)
    np.testing.assert_array_equal(members.decode("seg.png", odd), pixels)


def test_members_are_looked_at_as_well() -> None:
    for content, name in ((data.encode(data.picture(0, 128, 128), kind), kind) for kind in ("PNG", "JPEG", "WEBP")):
        half = content[: len(content) // 2]
        with pytest.raises(Reject):
            members.decode(f"depth.{name.lower()}", half + bytes(len(content) - len(half)))


def test_padding_of_cameras_is_no_damage() -> None:
    whole = data.encode(data.picture(0, 256, 256))
    padded = whole[:-2] + b"\x00" * 20 + whole[-2:]
    np.testing.assert_array_equal(images.decode(padded, 10**6), images.decode(whole, 10**6))
    np.testing.assert_array_equal(images.decode(whole + b"trailer", 10**6), images.decode(whole, 10**6))


def test_flat_pictures_are_no_holes() -> None:
    """Lossy ones are coded as long runs of zeros."""
    flat = np.zeros((1024, 1024, 3), np.uint8)
    mixed = flat.copy()
    mixed[:256] = data.picture(0, 1024, 256)
    for pixels in (flat, mixed):
        for options in ({"quality": 100, "method": 0}, {"quality": 1, "method": 0, "lossless": True}):
            assert taken(data.encode(Image.fromarray(pixels), "WEBP", **options)) is not None
