"""Bytes from the web become upright 8-bit RGB, or a reject with its reason."""

from __future__ import annotations

import io
import random
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageChops, ImageOps
from skimage import data as photos

from fourmill.pipelines.images import decode, decode_values
from fourmill.pipelines.reject import Reject

LIMIT = 10_000_000


def encode(image: Image.Image, format: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def photo(size: int = 64) -> Image.Image:
    return Image.fromarray(photos.astronaut()).resize((size, size * 3 // 4))


def png(width: int, height: int, depth: int, colour: int, rows: bytes, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG written by hand, for kinds that Pillow does not write."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    middle = b"".join(chunk(*c) for c in chunks)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + middle
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("format", ["PNG", "BMP", "WEBP", "GIF"])
def test_lossless_formats_come_back_exactly(format: str) -> None:
    image = photo()
    if format == "GIF":
        image = image.quantize(64)
    pixels = decode(encode(image, format, **({"lossless": True} if format == "WEBP" else {})), LIMIT)
    np.testing.assert_array_equal(pixels, np.array(image.convert("RGB")))
    assert pixels.dtype == np.uint8 and pixels.flags.c_contiguous and pixels.flags.writeable


@pytest.mark.parametrize(
    "options", [{}, {"progressive": True}, {"subsampling": 0, "quality": 95}, {"keep_rgb": True}, {"quality": 5}]
)
def test_jpegs_are_what_pillow_decodes(options: dict[str, Any]) -> None:
    data = encode(photo(), "JPEG", **options)
    np.testing.assert_array_equal(decode(data, LIMIT), np.array(Image.open(io.BytesIO(data)).convert("RGB")))


def test_bytes_after_the_end_of_a_jpeg_do_no_harm() -> None:
    data = encode(photo(), "JPEG")
    np.testing.assert_array_equal(decode(data + b"trailer of a phone", LIMIT), decode(data, LIMIT))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_orientation_is_applied(format: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(photo(), format, exif=exif, **({"lossless": True} if format == "WEBP" else {}))
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    assert (expected.width < expected.height) == (orientation >= 5)
    np.testing.assert_array_equal(decode(data, LIMIT), np.array(expected))


@pytest.mark.parametrize("value", [0, 9, 65_535])
def test_impossible_orientations_are_ignored(value: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = value
    np.testing.assert_array_equal(
        decode(encode(photo(), "JPEG", exif=exif), LIMIT), decode(encode(photo(), "JPEG"), LIMIT)
    )


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
@pytest.mark.parametrize(
    "exif", [b"Exif\0\0garbage", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff"]
)
def test_damaged_exif_is_ignored(exif: bytes) -> None:
    plain = decode(encode(photo(), "JPEG"), LIMIT)
    assert np.array_equal(decode(encode(photo(), "JPEG", exif=exif), LIMIT), plain)


def test_grey_and_one_bit() -> None:
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
    np.testing.assert_array_equal(decode(encode(Image.fromarray(grey)), LIMIT), np.stack([grey] * 3, axis=2))
    bits = Image.fromarray(grey).point(lambda v: 255 * (v > 99)).convert("1")
    np.testing.assert_array_equal(decode(encode(bits), LIMIT)[..., 0], np.where(grey > 99, 255, 0))
    jpeg = decode(encode(Image.fromarray(grey), "JPEG", quality=100), LIMIT)
    assert jpeg.shape == (16, 16, 3)
    assert np.abs(jpeg[..., 1].astype(int) - grey).max() <= 2


def test_sixteen_bit_grey_is_scaled_by_257() -> None:
    values = np.array([[0, 128, 129, 257, 32_767, 65_406, 65_407, 65_535]], np.uint16)
    expected = np.floor(values / 257 + 0.5).astype(np.uint8)
    pixels = decode(encode(Image.fromarray(values)), LIMIT)
    np.testing.assert_array_equal(pixels, np.stack([expected] * 3, axis=2))


def test_sixteen_bit_colour() -> None:
    values = np.array([[[0, 257 * 7, 65_535], [257 * 200, 0, 257]]], ">u2")
    pixels = decode(png(2, 1, 16, 2, b"\0" + values.tobytes()), LIMIT)
    np.testing.assert_array_equal(pixels, (values // 257).astype(np.uint8))


@pytest.mark.parametrize("format", ["PNG", "WEBP"])
def test_alpha_is_composited_on_white(format: str) -> None:
    rgba = np.array([[[255, 0, 0, 255], [255, 0, 0, 0], [0, 0, 0, 51]]], np.uint8)
    pixels = decode(encode(Image.fromarray(rgba), format, **({"lossless": True} if format == "WEBP" else {})), LIMIT)
    np.testing.assert_array_equal(pixels, [[[255, 0, 0], [255, 255, 255], [204, 204, 204]]])


def test_grey_with_alpha_and_transparent_colours() -> None:
    la = np.array([[[0, 255], [0, 0]]], np.uint8)
    np.testing.assert_array_equal(decode(encode(Image.fromarray(la, "LA")), LIMIT)[0, :, 0], [0, 255])
    palette = Image.fromarray(np.array([[0, 1]], np.uint8)).convert("P")
    palette.putpalette([10, 20, 30, 40, 50, 60])
    pixels = decode(encode(palette, transparency=1), LIMIT)
    np.testing.assert_array_equal(pixels, [[[10, 20, 30], [255, 255, 255]]])
    key = png(2, 1, 8, 2, b"\0" + bytes([1, 2, 3, 4, 5, 6]), (b"tRNS", bytes([0, 1, 0, 2, 0, 3])))
    np.testing.assert_array_equal(decode(key, LIMIT), [[[255, 255, 255], [4, 5, 6]]])


def without_adobe(data: bytes) -> bytes:
    start = data.index(b"\xff\xee")
    return data[:start] + data[start + 2 + int.from_bytes(data[start + 2 : start + 4], "big") :]


def test_cmyk_jpeg_with_and_without_adobes_inversion() -> None:
    red = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    adobe = encode(red, "JPEG", quality=100)  # Pillow writes Adobe's marker and inverted ink
    assert b"Adobe" in adobe
    assert np.abs(decode(adobe, LIMIT).astype(int) - [255, 0, 0]).max() <= 3
    plain = without_adobe(encode(ImageChops.invert(red), "JPEG", quality=100))
    assert b"Adobe" not in plain
    assert np.abs(decode(plain, LIMIT).astype(int) - [255, 0, 0]).max() <= 3


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG"])
def test_the_first_frame_of_an_animation(format: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue", "lime")]
    options = {"lossless": True} if format == "WEBP" else {}
    data = encode(frames[0], format, save_all=True, append_images=frames[1:], duration=50, **options)
    np.testing.assert_array_equal(decode(data, LIMIT)[0, 0], [255, 0, 0])


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "image: 0 bytes"),
        (b"text that calls itself .jpg", "image: not a"),
        (b"\xff\xd8\xff", "image: "),
        (b"GIF89a", "image: "),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "image: not a"),
    ],
)
def test_what_is_no_image_is_rejected(data: bytes, reason: str) -> None:
    with pytest.raises(Reject, match=reason):
        decode(data, LIMIT)


@pytest.mark.parametrize(
    "options", [("JPEG", {}), ("JPEG", {"progressive": True}), ("PNG", {}), ("WEBP", {}), ("GIF", {})]
)
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.99])
def test_truncated_images_are_rejected(options: tuple[str, dict[str, Any]], share: float) -> None:
    data = encode(photo(256), options[0], **options[1])
    with pytest.raises(Reject, match="image: "):
        decode(data[: int(len(data) * share)], LIMIT)


def test_a_jpeg_that_lacks_only_its_last_byte_is_rejected() -> None:
    with pytest.raises(Reject, match="truncated"):
        decode(encode(photo(), "JPEG")[:-1], LIMIT)


def test_the_limit_holds_before_decoding() -> None:
    bomb = png(60_000, 60_000, 8, 2, b"")  # no pixels behind the header: decoding would give another reason
    with pytest.raises(Reject, match="pixels"):
        decode(bomb, 10**12)  # Pillow's own limit
    with pytest.raises(Reject, match="image: 9000 x 9000 px, expected at most 10000000 pixels"):
        decode(png(9_000, 9_000, 8, 2, b""), LIMIT)
    with pytest.raises(Reject, match="image: 70000 x 1 px, expected sides"):
        decode(png(70_000, 1, 8, 2, b""), LIMIT)
    assert decode(encode(Image.new("RGB", (100, 100))), 10_000).shape == (100, 100, 3)


@pytest.mark.parametrize("size", [(1, 1), (1, 65_535), (65_535, 1), (5000, 7)])
def test_extreme_shapes(size: tuple[int, int]) -> None:
    assert decode(encode(Image.new("RGB", size, "red")), LIMIT).shape == (size[1], size[0], 3)


def test_an_image_without_area_is_rejected() -> None:
    with pytest.raises(Reject, match="image: "):
        decode(png(0, 5, 8, 2, b""), LIMIT)


def test_a_gif_frame_larger_than_its_screen_counts() -> None:
    gif = bytearray(encode(Image.new("RGB", (4, 4)), "GIF"))
    frame = gif.index(b",", 13)
    gif[frame + 5 : frame + 9] = struct.pack("<HH", 9000, 9000)
    assert struct.unpack("<HH", gif[6:10]) == (4, 4)
    with pytest.raises(Reject, match="9000 x 9000 px"):
        decode(bytes(gif), LIMIT)


def test_damaged_bytes_never_raise_anything_but_reject() -> None:
    rng = random.Random(0)
    for format in ("JPEG", "PNG", "WEBP", "GIF", "BMP"):
        clean = encode(photo(48), format)
        for _ in range(60):
            data = bytearray(clean)
            for _ in range(rng.randint(1, 10)):
                data[rng.randrange(len(data) if rng.random() < 0.5 else 64)] = rng.randrange(256)
            try:
                pixels = decode(bytes(data), LIMIT)
            except Reject:
                continue
            assert pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3


def test_threads_do_not_disturb_each_other() -> None:
    images = [photo(40 + i) for i in range(24)]
    encoded = [encode(image, ("JPEG", "PNG", "WEBP")[i % 3]) for i, image in enumerate(images)] * 4
    with ThreadPoolExecutor(8) as pool:
        for data, pixels in zip(encoded, pool.map(lambda d: decode(d, LIMIT), encoded), strict=True):
            np.testing.assert_array_equal(pixels, decode(data, LIMIT))


def test_numbers_of_a_picture_are_not_changed() -> None:
    """Ids, 16-bit depth, the indices of a palette: what `decode` would turn into colours."""
    ids = np.arange(48, dtype=np.uint8).reshape(6, 8)
    deep = np.arange(0, 48_000, 1000, dtype=np.uint16).reshape(6, 8)
    indexed = Image.fromarray(ids).convert("P")
    indexed.putdata(ids.reshape(-1))
    indexed.putpalette([200, 10, 10] * 256)
    rgba = np.dstack([photo(8), np.full((6, 8), 9, np.uint8)])
    for image, expected in (
        (Image.fromarray(ids), ids), (Image.fromarray(deep), deep), (indexed, ids),
        (Image.fromarray(ids > 20), np.where(ids > 20, 255, 0)), (Image.fromarray(rgba), rgba), (photo(8), photo(8)),
    ):  # fmt: skip
        np.testing.assert_array_equal(decode_values(encode(image), LIMIT), np.asarray(expected))
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = decode_values(encode(Image.fromarray(ids), exif=exif), LIMIT)
    np.testing.assert_array_equal(turned, np.rot90(ids, -1))
    with pytest.raises(Reject, match="not a JPEG, PNG"):
        decode_values(b"words", LIMIT)
    with pytest.raises(Reject, match="expected at most 10 pixels"):
        decode_values(encode(photo()), 10)
