"""Where the photo ends and bars begin: exact without losses, and what is no bar."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from fourmill_tests import data, pictures
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from skimage import data as photos

from fourmill.pipelines.borders.find import find
from fourmill.pipelines.borders.window import Window

COLOURS = [pictures.WHITE, (0, 0, 0), (128, 128, 128), (30, 90, 200)]
WIDE, TALL = (96, 61), (50, 96)  # width, height


def window_of(photo: np.ndarray, middle: bool = True) -> Window:
    """Where `pictures.padded` puts a photo."""
    height, width = photo.shape[:2]
    side = max(height, width)
    top, left = ((side - height) // 2, (side - width) // 2) if middle else (0, 0)
    return Window(left, top, width, height, side, side)


def whole(image: np.ndarray) -> Window:
    return Window.whole(image.shape[1], image.shape[0])


def white_sky(size: tuple[int, int] = WIDE) -> np.ndarray:
    """A photo whose upper half is white above roofs of many heights."""
    photo = data.picture(3, *size)
    for column, roof in enumerate(np.random.default_rng(0).integers(5, size[1] // 2, size[0])):
        photo[:roof, column] = 255
    return photo


@pytest.mark.parametrize("colour", COLOURS)
@pytest.mark.parametrize("middle", [True, False])
@pytest.mark.parametrize("size", [WIDE, TALL])
@pytest.mark.parametrize("sidecar", [True, False])
def test_bars_are_found_to_the_pixel(size: tuple[int, int], middle: bool, colour: Any, sidecar: bool) -> None:
    for number in range(3):
        photo = data.picture(number, *size)
        info = {"original_width": size[0] * 7, "original_height": size[1] * 7} if sidecar else {}
        assert find(pictures.padded(photo, colour, middle), info) == window_of(photo, middle)


@settings(max_examples=40, deadline=None)
@given(st.integers(20, 300), st.integers(20, 300), st.integers(32, 128), st.booleans())
def test_the_sidecar_says_where_img2dataset_put_the_photo(width: int, height: int, side: int, white: bool) -> None:
    """Also of a photo whose own edges have the bars' colour, where pixels say nothing."""
    photo = pictures.shrunk(data.picture(1, width, height), side)
    if white:
        photo[: len(photo) // 3] = 255
    found = find(pictures.padded(photo), {"original_width": width, "original_height": height})
    assert found == window_of(photo) or (photo.shape[0] == photo.shape[1] and found.is_whole)


@pytest.mark.parametrize("info", [{}, {"original_width": 960, "original_height": 610}])
def test_a_white_sky_is_the_photos_own(info: dict[str, int]) -> None:
    assert find(white_sky(), info) == whole(white_sky())
    straight = data.picture(3, *WIDE)
    straight[:20] = 255  # with a straight end: the sidecar alone can say that nothing was added
    assert find(straight, info).is_whole == bool(info)


def test_a_white_sky_in_white_bars_stays() -> None:
    photo = white_sky()
    for info in ({}, {"original_width": 960, "original_height": 610}):  # the bar below is seen, and that above follows
        found = find(pictures.padded(photo), info)
        assert (found.left, found.width) == (0, 96)
        assert abs(found.height - 61) <= (0 if info else 1) and found.top in (17, 18)


def test_a_night_sky_over_a_white_bar_stays() -> None:
    photo = data.picture(1, *WIDE)
    photo[:40] = np.where(np.arange(96)[None, :, None] % 9 + 5 > np.arange(40)[:, None, None], 0, photo[:40])
    found = find(pictures.padded(photo, middle=False), {})
    assert found == window_of(photo, middle=False)


def test_borders_of_all_sides_are_the_photos_own() -> None:
    framed = np.zeros((90, 90, 3), np.uint8)
    framed[8:-8, 8:-8] = data.picture(2, 74, 74)
    assert find(framed, {}).is_whole
    photo = framed[5:-5]  # and stay in white bars
    assert find(pictures.padded(photo), {}) == window_of(photo)


@pytest.mark.parametrize("name", ["page", "text", "coins", "horse", "camera", "logo", "retina"])
def test_pages_scans_and_drawings_are_left_alone(name: str) -> None:
    image = getattr(photos, name)()
    image = image.astype(np.uint8) * 255 if image.dtype == bool else image
    image = np.ascontiguousarray(np.stack([image] * 3, 2) if image.ndim == 2 else image[..., :3])
    assert find(image, {}).is_whole


def test_pictures_of_one_colour_and_tiny_ones_are_left_alone() -> None:
    for shape in ((1, 1, 3), (1, 40, 3), (40, 1, 3), (30, 30, 3)):
        assert find(np.full(shape, 7, np.uint8), {}).is_whole
        assert find(np.full(shape, 7, np.uint8), {"original_width": 3, "original_height": 2}).height >= 1
    line = np.full((64, 64, 3), 255, np.uint8)
    line[32] = 0  # a line is no photo
    assert find(line, {}).is_whole


@pytest.mark.parametrize(
    "info",
    [
        {"original_width": float("nan"), "original_height": 2},
        {"original_width": "960", "original_height": None},
        {"original_width": 0, "original_height": -3},
        {"original_width": True, "original_height": True},
        {"original_width": 10**400, "original_height": float("inf")},
    ],
)
def test_sizes_that_are_none_count_as_missing(info: dict[str, Any]) -> None:
    photo = data.picture(0, *WIDE)
    assert find(pictures.padded(photo), info) == find(pictures.padded(photo), {}) == window_of(photo)


def test_a_centre_crop_has_no_bars() -> None:
    """Its aspect is another than the photo's, and nothing was added."""
    assert find(data.picture(4, 64, 64), {"original_width": 900, "original_height": 600}).is_whole


@pytest.mark.parametrize(("kind", "options"), [("JPEG", {"quality": 95}), ("JPEG", {"quality": 75}), ("WEBP", {})])
def test_lossy_bars_are_found(kind: str, options: dict[str, int]) -> None:
    """By the sidecar exactly; by pixels alone at the edge, at most a block beside it where it is faint."""
    for number, colour in enumerate(COLOURS):
        photo = data.picture(number, 128, 75 + number)
        coded = data.encode(pictures.padded(photo, colour), kind, **options)
        image = np.asarray(Image.open(io.BytesIO(coded)).convert("RGB"))
        true, info = window_of(photo), {"original_width": 1280, "original_height": 10 * (75 + number)}
        assert find(image, info) == true
        if kind == "JPEG":
            assert find(image, {}) == true
