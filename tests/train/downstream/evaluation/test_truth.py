"""The truth is read by a way of its own: members of tars, cut to the crop, by hand."""

from __future__ import annotations

import gzip
import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from fourmill_tests import data
from PIL import Image
from pyarrow import parquet

from fourmill.tokenize import crops
from fourmill.train.downstream.evaluation import truth


def npy(values: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, values)
    return buffer.getvalue()


def test_members_by_shard_and_key(tmp_path: Path) -> None:
    entries = [("a.depth.npy", b"1"), ("./b/c.d.Depth.NPY", b"2"), ("b/c.d.png", b"3"), ("a.normal.npy", b"4")]
    (tmp_path / "s.tar").write_bytes(data.tar(entries))
    (tmp_path / "t.tar").write_bytes(data.tar([("a.depth.npy", b"5")]))
    urls = {name: str(tmp_path / f"{name}.tar") for name in "st"}
    places = [("s", "a", 0), ("s", "b/c.d", 1), ("s", "gone", 2), ("t", "a", 0)]
    found = truth.members(urls, places, ["depth.npy", "png"])
    assert found == {
        ("s", "a"): {"depth.npy": b"1"}, ("s", "b/c.d"): {"depth.npy": b"2", "png": b"3"}, ("s", "gone"): {},
        ("t", "a"): {"depth.npy": b"5"},
    }  # fmt: skip


def test_parquet_is_known_by_content_and_damage_is_said(tmp_path: Path) -> None:
    parquet.write_table(pa.table({"agb": [1.5], "id": ["a"]}), tmp_path / "rows.bin")
    found = truth.members({"s": str(tmp_path / "rows.bin")}, [("s", "a", 0)], ["agb"], "id")
    assert np.load(io.BytesIO(found["s", "a"]["agb"])) == 1.5
    whole = data.tar([("a.x.npy", b"1" * 5000)])
    for content in (whole[:2000], gzip.compress(whole)[:60], b"no tar at all"):
        (tmp_path / "s.tar").write_bytes(content)
        with pytest.raises(ValueError, match=r"evaluate: the tar .*s.tar is damaged or cut off"):
            truth.members({"s": str(tmp_path / "s.tar")}, [("s", "a", 0)], ["x.npy"])


def test_the_crop_is_the_middle_by_nearest_pixels() -> None:
    values = np.arange(4 * 7).reshape(4, 7)
    assert truth.crop(values, 4).tolist() == values[:, 1:5].tolist()
    assert truth.crop(values, 2).tolist() == [[values[1, 2], values[1, 4]], [values[3, 2], values[3, 4]]]
    assert truth.crop(values[:, :4], 8).tolist() == np.repeat(np.repeat(values[:, :4], 2, 0), 2, 1).tolist()


@pytest.mark.parametrize("shape", [(40, 40), (37, 64), (80, 41)])
@pytest.mark.parametrize("size", [16, 32])
def test_the_crop_is_where_that_of_the_tokens_is(shape: tuple[int, int], size: int) -> None:
    """Of the same windows two ways of cutting differ by less than a pixel: columns and rows as values."""
    height, width = shape
    (window,) = crops.crops(0, "", width, height, 1)
    for axis in (0, 1):
        ramp = np.broadcast_to(np.indices(shape)[axis].astype(np.float32), shape)
        theirs = crops.apply(window, ramp, size, "linear")
        assert np.abs(truth.crop(ramp, size) - theirs).max() <= 1


def test_depth_and_normals_that_are_not_known() -> None:
    values, valid = truth.depth(np.array([[1.5, 0], [np.inf, np.nan]], np.float32), 2)
    assert valid.tolist() == [[True, False], [False, False]] and values.tolist() == [[1.5, 0], [0, 0]]
    normals = np.array([[[0, 0, 1], [0, 0, 0]], [[0.6, 0, 0.8], [np.nan, 0, 1]]])
    assert truth.normals(normals, 2)[1].tolist() == [[True, False], [True, False]]


def test_classes_are_those_of_the_label() -> None:
    ids = np.array([[0, 1], [2, 300]], np.uint16)
    assert truth.classes(ids, 2, {0: 7, 2: 0}).tolist() == [[7, 255], [0, 255]]
    assert truth.classes(ids, 2, None).tolist() == [[0, 1], [2, 255]]
    with pytest.raises(ValueError, match="expected ids of classes"):
        truth.classes(ids.astype(np.float32), 2, None)


def test_boxes_are_cut_to_the_crop() -> None:
    # An image of 200 x 100: the crop is its middle, columns 50 to 150.
    value = [
        {"box": [0.25, 0, 0.5, 0.5], "label": "cup"},
        {"box": [0.0, 0, 0.3, 1], "label": "book"},
        {"box": [0.8, 0, 1, 1], "label": "outside"},
    ]
    assert truth.boxes(value, truth.Frame(200, 100)) == [
        {"box": [0, 0, 0.5, 0.5], "label": "cup"},
        {"box": [0, 0, pytest.approx(0.1), 1], "label": "book"},
    ]
    with pytest.raises(ValueError, match="expected box"):
        truth.boxes([{"box": [0, 1], "label": "cup"}], truth.Frame(10, 10))


def test_truth_follows_where_bars_were_cut_off() -> None:
    # Of 200 x 200 rows 40 to 160 were labelled: the crop is 120 wide, from 40.
    frame = truth.Frame(200, 200, (0, 40, 200, 120))
    values = np.arange(200 * 200, dtype=np.float32).reshape(200, 200) + 1
    np.testing.assert_array_equal(truth.shown(values, frame), values[40:160])
    np.testing.assert_array_equal(truth.shown(values[::2, ::2], frame), values[40:160:2, ::2])
    cut = values[40:160]  # that was written without bars
    assert truth.shown(cut, frame) is cut and truth.shown(cut, truth.Frame(200, 120)) is cut
    boxes = [{"box": [0.2, 0.2, 0.5, 0.5], "label": "cup"}, {"box": [0, 0, 1, 0.2], "label": "bar"}]
    assert truth.boxes(boxes, frame) == [{"box": [0, 0, pytest.approx(0.5), pytest.approx(0.5)], "label": "cup"}]
    assert truth.boxes(boxes[:1], truth.Frame(200, 200))[0]["box"] == pytest.approx([0.2, 0.2, 0.5, 0.5])


def test_the_frame_is_that_of_the_upright_image() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    image = data.encode(np.zeros((20, 30, 3), np.uint8), exif=exif)
    assert truth.image_size({"jpg": image}) == (20, 30)
    assert truth.image_size({"jpg": data.encode(np.zeros((20, 30, 3), np.uint8))}) == (30, 20)
    assert truth.image_size({"jpg": b"no image"}) is None and truth.image_size({}) is None


def test_instances_are_those_that_the_crop_shows() -> None:
    ids = np.zeros((4, 8), np.uint8)
    ids[0, 0], ids[1, 3], ids[2:, 5] = 1, 2, 3
    masks = truth.instances(ids, 4)
    assert [mask.sum() for mask in masks] == [1, 2]


@pytest.mark.parametrize(
    ("read", "message"),
    [
        (lambda: truth.array(b"no", "depth.npy"), "depth.npy"),
        (lambda: truth.array(b"no", "semseg.png"), "semseg.png"),
        (lambda: truth.record(b"{", "boxes.json"), "boxes.json"),
        (lambda: truth.depth(np.zeros((2, 2, 3)), 2), r"expected a map \(H, W\)"),
        (lambda: truth.normals(np.zeros((2, 2)), 2), r"expected normals \(H, W, 3\)"),
    ],
)
def test_what_is_no_truth_is_said(read: object, message: str) -> None:
    assert callable(read)
    with pytest.raises(ValueError, match=message):
        read()


def test_arrays_and_pictures_are_read_as_stored() -> None:
    values = np.array([[1, 70_000]], np.uint32)
    assert (truth.array(npy(values), "a.npy") == values).all()
    deep = np.array([[1, 40_000]], np.uint16)
    assert (truth.array(data.encode(Image.fromarray(deep), "PNG"), "a.png") == deep).all()
    indexed = Image.fromarray(np.array([[3, 1]], np.uint8), "P")
    indexed.putpalette([9] * 768)
    assert truth.array(data.encode(indexed, "PNG"), "a.png").tolist() == [[3, 1]]
    assert truth.record(json.dumps([1]).encode(), "a.json") == [1]
