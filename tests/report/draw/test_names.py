"""Names on pictures of small images: readable, inside, beside what they name."""

from __future__ import annotations

import base64
import io
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

from fourmill.report.draw import labels as draw
from fourmill.report.draw import names
from fourmill.tokenize.id_colors import id_colors

GREY = (90, 120, 150)


def pixels(panel: draw.Panel) -> np.ndarray:
    assert isinstance(panel, draw.Picture)
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(panel.uri.split(",", 1)[1])))).astype(int)


Asked = tuple[str, tuple[float, float], tuple[float, float, float, float]]  # a name, its centre, what it names


def written(worth: np.ndarray, *asked: Asked) -> np.ndarray:
    """Which pixels of a black picture names are written on."""
    found, canvas = names.Names(worth), Image.new("RGB", worth.shape[::-1])
    for name, where, within in asked:
        found.add(name, GREY, where, within)
    found.write(canvas)
    return np.asarray(canvas).any(-1)


def test_a_name_covers_nothing_of_a_thing_with_room_beside() -> None:
    worth = np.zeros((200, 200))
    worth[80:120, 80:120] = 1 / 1600
    shown = written(worth, ("cylinder", (100, 100), (80, 80, 120, 120)))
    assert shown.any() and not shown[80:120, 80:120].any()
    rows, columns = np.nonzero(shown)
    assert rows.max() == 79 or rows.min() == 120, "it touches the thing"
    assert abs(columns.mean() - 100) < 3, "above or below it"


def test_a_name_stands_on_a_thing_that_is_large() -> None:
    worth = np.full((200, 200), 1 / 40_000)
    rows, columns = np.nonzero(written(worth, ("floor", (100, 140), (0, 0, 200, 200))))
    assert abs(rows.mean() - 140) < 2 and abs(columns.mean() - 100) < 2


@pytest.mark.parametrize("corner", [(0, 0), (0, 190), (190, 0), (190, 190)])
def test_names_at_the_edge_stay_inside(corner: tuple[int, int]) -> None:
    x, y = corner
    shown = written(np.zeros((200, 200)), ("cylinder 0.83", (x + 5, y), (x, y, x + 9, y + 9)))
    whole = written(np.zeros((200, 200)), ("cylinder 0.83", (100, 100), (0, 0, 200, 200)))
    assert shown.sum() == whole.sum() > 0, "no letter is cut off"


def test_no_name_stands_on_another() -> None:
    asked: Asked = ("person 0.91", (100.0, 100.0), (60.0, 60.0, 140.0, 140.0))
    areas = [written(np.zeros((200, 200)), *[asked] * count).sum() for count in range(1, 30)]
    one = areas[0]
    assert all(area % one == 0 for area in areas), "each is seen whole"
    assert all(b - a in (0, one) for a, b in pairwise(areas))
    assert areas[2] == 3 * one and areas[-1] < 15 * one, "what finds no place is left out"


def test_a_name_wider_than_the_picture_is_cut() -> None:
    shown = written(np.zeros((60, 60)), ("x" * 300, (30, 30), (0, 0, 60, 60)))
    assert 45 <= np.ptp(np.nonzero(shown)[1]) < 60
    assert not written(np.zeros((8, 4)), ("cylinder", (2, 2), (0, 0, 4, 8))).any()


def test_boxes_on_a_small_image_leave_the_thing_to_be_seen() -> None:
    image = np.full((64, 64, 3), 200, np.uint8)
    image[25:40, 25:40] = (250, 20, 20)
    panel = draw.draw("det", [{"box": [25 / 64, 25 / 64, 40 / 64, 40 / 64], "label": "cylinder", "score": 0.83}], image)
    assert isinstance(panel, draw.Picture) and (panel.width, panel.height) == (320, 320)
    inside = pixels(panel)[132:193, 132:193]
    assert np.abs(inside - [250, 20, 20]).mean() < 12


def test_segments_of_a_small_image_leave_the_thing_to_be_seen() -> None:
    classes = np.zeros((64, 64), np.uint8)
    classes[25:38, 25:38] = 2
    shown = pixels(draw.draw("semseg", classes, classes={"semseg": ("floor", "ball", "cylinder")}))
    thing = (np.abs(shown - id_colors(np.array(2))).max(-1) < 3)[125:190, 125:190]
    assert shown.shape == (320, 320, 3) and thing.all()
    assert (np.abs(shown - id_colors(np.array(2))).max(-1) < 3).sum() > thing.sum() + 500, "its name has its colour"
