"""Members of a tar are read as what they hold, and damaged ones are rejects with a reason."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from fourmill_tests import data
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from fourmill.pipelines import members, source
from fourmill.pipelines.reject import Reject

NUMBERS = st.one_of(
    arrays.boolean_dtypes(), arrays.integer_dtypes(), arrays.unsigned_integer_dtypes(), arrays.floating_dtypes()
)


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    return buffer.getvalue()


@given(arrays.arrays(NUMBERS, arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)), st.booleans())
def test_arrays_are_what_numpy_saved(array: np.ndarray, fortran: bool) -> None:
    read = members.decode("a.npy", npy(np.asfortranarray(array) if fortran else array))
    assert read.dtype == array.dtype
    np.testing.assert_array_equal(read, array)


@given(st.binary(max_size=200), st.integers(0, 300))
def test_damaged_arrays_are_rejects_or_arrays(noise: bytes, at: int) -> None:
    whole = npy(np.arange(12, dtype=np.int16).reshape(3, 4))
    for damaged in (noise, whole[:at], whole[:at] + noise):
        try:
            assert members.decode("a.npy", damaged).size < 200
        except Reject as reject:
            assert reject.reason.startswith("a.npy: ")


def test_a_header_takes_no_memory_that_has_no_bytes() -> None:
    buffer = io.BytesIO()
    huge = {"descr": "<f4", "fortran_order": False, "shape": (8_000_000, 8_000_000)}
    np.lib.format.write_array_header_1_0(buffer, huge)
    with pytest.raises(Reject, match=r"^depth.npy: cut off or damaged: 4 bytes of values, expected 256000000000000"):
        members.decode("depth.npy", buffer.getvalue() + bytes(4))


@pytest.mark.parametrize(
    "array", [np.array([{"a": 1}, None]), np.array(["text"]), np.zeros(2, "f4,i2"), np.zeros(2, "c8")]
)
def test_arrays_of_no_numbers_are_rejects(array: np.ndarray) -> None:
    with pytest.raises(Reject, match=r"a.npy: (an array of|not an array)"):
        members.decode("a.npy", npy(array))


IDS = np.arange(12, dtype=np.uint8).reshape(3, 4)
DEEP = np.dstack([IDS.astype(np.uint16) * n for n in (1000, 2000, 3000)])  # 16 bits a channel


def _palette() -> Image.Image:
    image = Image.fromarray(IDS, "P")
    image.putpalette([*range(255, -1, -1)] * 3)
    return image


@pytest.mark.parametrize(
    ("encoded", "expected"),
    [
        (lambda: data.encode(Image.fromarray(IDS), "PNG"), IDS),
        (lambda: data.encode(_palette(), "PNG"), IDS),  # the indices, not their colours
        (lambda: data.encode(Image.fromarray(IDS > 5), "PNG"), (IDS > 5).astype(np.uint8)),
        (lambda: data.encode(Image.fromarray(IDS.astype(np.uint16) * 5000), "PNG"), IDS.astype(np.uint16) * 5000),
        (lambda: cv2.imencode(".png", DEEP[..., ::-1])[1].tobytes(), DEEP),
    ],
)  # fmt: skip
def test_pictures_are_the_numbers_that_they_store(encoded: Callable[[], bytes], expected: np.ndarray) -> None:
    read = members.decode("semseg.png", encoded())
    assert read.dtype == expected.dtype
    np.testing.assert_array_equal(read, expected)


def test_pictures_are_not_turned_by_exif() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    assert members.decode("a.png", data.encode(Image.fromarray(IDS), "PNG", exif=exif)).shape == (3, 4)


@pytest.mark.parametrize(
    ("name", "content", "value"),
    [
        ("boxes.json", b'[{"label": "ball"}]', [{"label": "ball"}]),
        ("story.txt", "\ufeffcaf\u00e9\n".encode(), "caf\u00e9\n"),
        ("cls", b"7\n", 7),
        ("cls", b"tench", "tench"),
        ("scan.tif", b"II*\0", b"II*\0"),
    ],
)
def test_other_members_are_what_they_say(name: str, content: bytes, value: Any) -> None:
    assert members.decode(name, content) == value


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.png", b"", "a.png: not a PNG, JPEG or WebP file"),
        ("a.png", data.encode(Image.fromarray(IDS), "PNG")[:40], "a.png: "),
        ("a.json", b"{", "a.json: not valid JSON"),
        ("a.txt", b"\xff\xfe\xfd", "a.txt: not UTF-8"),
        ("depth.npy", b"x" * 300, "depth.npy: not an array"),
    ],
)
def test_what_is_damaged_is_a_reject(name: str, content: bytes, reason: str) -> None:
    with pytest.raises(Reject) as caught:
        members.decode(name, content)
    assert caught.value.reason.startswith(reason)


def test_large_members_are_rejected_before_they_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(members, "MAX_PIXELS", 11)
    monkeypatch.setattr(members, "MAX_BYTES", 100)
    with pytest.raises(Reject, match=r"a.png: 4 x 3 px, expected at most 11 pixels"):
        members.decode("a.png", data.encode(Image.fromarray(IDS), "PNG"))
    entries = [("a.txt", b"text"), ("a.x.json", json.dumps(["long"] * 99).encode()), ("a.Y.JSON", b"[1]")]
    (tmp_path / "a.tar").write_bytes(data.tar(entries))
    with source.open_shard(str(tmp_path / "a.tar"), tmp_path) as shard:
        (sample,) = shard.samples
        with pytest.raises(Reject, match=r"x.json: \d+ bytes, expected at most 100"):
            shard.member(sample, "x.json")
        assert shard.member(sample, "y.json") == [1] and shard.member(sample, "txt") == "text"
        with pytest.raises(Reject, match=r"z.json: there is none"):
            shard.member(sample, "z.json")
