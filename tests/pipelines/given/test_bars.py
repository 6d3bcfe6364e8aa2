"""What a person gives with a photo that has bars follows the photo without them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from fourmill_tests import data, pictures

from fourmill.pipelines.given.bars import without_bars
from fourmill.pipelines.given.labels import read
from fourmill.tokenize import masks

LABELS = {"photo": "rgb", "depth": "depth", "boxes": "det", "text": "caption", "masks": "sam_instance"}


def test_maps_boxes_and_masks_follow_the_photo(tmp_path: Path) -> None:
    photo = data.picture(0, 96, 60)
    square = pictures.padded(photo)
    values = np.linspace(0, 1, 96 * 96).reshape(96, 96).astype(np.float32)
    outline = [[10, 10], [50, 10], [50, 60], [10, 60]]
    inputs = {
        "photo": square,
        "depth": values[::2, ::2],  # at another size
        "boxes": [{"class": "dog", "box": [10, 28, 50, 68]}],
        "text": "a dog",
        "masks": [{"polygon": outline, "point": [20, 40]}],
    }
    given = {name: read(LABELS[name], value, 10**6, (96, 96)) for name, value in inputs.items()}
    found = without_bars(given, LABELS)
    np.testing.assert_array_equal(found["photo"].value, photo)
    assert found["photo"].size == (96, 60) and "96 x 60 px are left of 96 x 96" in found["photo"].notes[-1]
    np.testing.assert_array_equal(found["depth"].value, given["depth"].value[9:39])
    (box,) = found["boxes"].value
    np.testing.assert_allclose(box["box"], [10 / 96, 10 / 60, 50 / 96, 50 / 60])
    (mask,) = found["masks"].value
    drawn = masks.decode(given["masks"].value[0]["mask"])
    np.testing.assert_array_equal(masks.decode(mask["mask"]), drawn[18:78])
    np.testing.assert_allclose(mask["query"], [20 / 96, 22 / 60])
    assert mask["box"][1] == 0 and found["text"] == given["text"]


def test_without_a_photo_or_without_bars_nothing_changes() -> None:
    photo = read("rgb", data.picture(1, 90, 64), 10**6)
    assert without_bars({"photo": photo}, LABELS) == {"photo": photo}
    text = read("caption", "a boat", 10**6)
    assert without_bars({"text": text}, LABELS) == {"text": text}
    known = np.ones((96, 96), bool)
    square = replace(read("rgb", pictures.padded(data.picture(0, 60, 96)), 10**6), known=known)
    found = without_bars({"photo": square}, LABELS)["photo"]
    assert found.known is not None and found.known.shape == (96, 60) == found.value.shape[:2]
