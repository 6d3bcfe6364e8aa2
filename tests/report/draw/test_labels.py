from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fourmill.modalities import LABELS
from fourmill.report.draw import labels as draw
from fourmill.tokenize.text.sentences import METADATA_TYPES


def pixels(panel: draw.Panel) -> np.ndarray:
    """The picture in a data URI, as a browser would decode it."""
    assert isinstance(panel, draw.Picture)
    head, data = panel.uri.split(",", 1)
    assert head == "data:image/webp;base64"
    image = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))
    assert image.shape[:2] == (panel.height, panel.width)
    return image


def test_pictures_keep_their_aspect_and_are_never_enlarged() -> None:
    image = np.zeros((300, 600, 3), np.uint8)
    assert pixels(draw.draw_rgb(image, size=200)).shape == (100, 200, 3)
    assert pixels(draw.draw_rgb(image[:5, :7], size=200)).shape == (5, 7, 3)
    assert draw.fit(np.zeros((1, 1000), np.uint8), 10).shape == (1, 10)


def test_picture_of_wrong_dtype_or_shape_is_refused() -> None:
    with pytest.raises(ValueError, match=r"float32 \(4, 4, 3\)"):
        draw.picture(np.zeros((4, 4, 3), np.float32), "")
    for shape in ((4, 4, 2), (0, 4, 3), (4,), (2, 4, 4, 3)):
        with pytest.raises(ValueError, match="a picture is uint8"):
            draw.picture(np.zeros(shape, np.uint8), "")


def test_edges_survive_exactly() -> None:
    edges = (np.indices((20, 30)).sum(0) % 3 == 0).astype(np.uint8) * 255
    assert np.array_equal(pixels(draw.draw_edges(edges))[..., 0], edges)
    assert np.array_equal(pixels(draw.draw_edges(edges[..., None]))[..., 0], edges)


def test_id_colors_are_stable_and_tell_ids_apart() -> None:
    ids = np.arange(16_384)
    colors = draw.id_colors(ids)
    assert np.array_equal(colors[[5, 9_000]], draw.id_colors(np.array([5, 9_000])))
    assert len(np.unique(colors, axis=0)) > 0.99 * len(ids)
    neighbours = np.abs(colors[1:].astype(int) - colors[:-1].astype(int)).sum(-1)
    assert neighbours.min() > 30


def test_tokens_are_drawn_row_by_row() -> None:
    tokens = np.arange(9, dtype=np.uint16)
    picture = draw.draw_tokens(tokens)
    assert np.array_equal(pixels(picture), draw.id_colors(tokens.reshape(3, 3)))
    assert picture.pixelated
    assert picture.alt == "3 x 3 tokens, 9 different ids"
    assert pixels(draw.draw_tokens(tokens[:7])).shape == (1, 7, 3)


def test_boxes_are_drawn_where_they_are() -> None:
    image = np.full((200, 320, 3), 128, np.uint8)
    panel = draw.draw_boxes([{"box": [0.25, 0.5, 0.75, 0.9], "label": "cat", "score": 0.5}], image)
    changed = np.argwhere(np.abs(pixels(panel).astype(int) - 128).max(-1) > 40)
    (top, left), (bottom, right) = changed.min(0), changed.max(0)
    assert abs(left - 80) <= 4
    assert abs(right - 240) <= 4
    assert abs(bottom - 180) <= 4
    assert 75 <= top <= 104  # the name stands above the box
    assert isinstance(panel, draw.Picture)
    assert panel.alt == "1 box: cat 0.50"
    inside = pixels(panel)[120:165, 100:200].astype(int)
    assert np.abs(inside - 128).max() < 12


def test_boxes_outside_of_the_image_are_cut_not_refused() -> None:
    image = np.zeros((20, 20, 3), np.uint8)
    boxes = [{"box": [-1.0, 0.5, 3.0, 0.4], "label": "dog"}, {"box": [1, 1, 1, 1], "label": "x" * 300}]
    assert pixels(draw.draw_boxes(boxes, image)).any()


def test_boxes_without_an_image_are_a_table_surest_first() -> None:
    boxes = [{"box": [0, 0, 1, 1], "label": "cat", "score": 0.5}, {"box": [0, 0, 0.5, 1], "label": "dog", "score": 0.9}]
    panel = draw.draw_boxes(boxes, None)
    assert panel == draw.TablePanel(
        (("dog 0.90", "0.000 0.000 0.500 1.000", ""), ("cat 0.50", "0.000 0.000 1.000 1.000", ""))
    )
    assert draw.draw_boxes([], None) == draw.TextPanel("nothing found", quiet=True)


def test_palettes_one_or_many() -> None:
    assert draw.draw_palettes([[[255, 0, 16]], [[1, 2, 3], [300, -1, 0]]]) == draw.Swatches(
        (("#ff0010",), ("#010203", "#ff0000"))
    )
    assert draw.draw_palettes([[1, 2, 3], [4, 5, 6]]) == draw.Swatches((("#010203", "#040506"),))
    assert isinstance(draw.draw_palettes([]), draw.TextPanel)


def test_metadata_has_names_units_and_bins() -> None:
    panel = draw.draw_metadata({"sharpness": 0.25, "brightness": 120, "original_width": 1024, "entropy": float("nan")})
    assert panel == draw.TablePanel(
        (
            ("Original width", "1,024 px", "bin 32"),
            ("Brightness", "120.0 of 255", "bin 23"),
            ("Entropy", "nan bits", ""),
            ("Sharpness", "0.250", ""),
        )
    )


def test_every_metadata_type_has_a_readable_name() -> None:
    assert list(draw.METADATA_FIELDS) == list(METADATA_TYPES)


def test_arrays_are_drawn_by_what_they_are() -> None:
    ramp = np.linspace(0, 9, 64, dtype=np.float32).reshape(8, 8)
    depth = pixels(draw.draw("depth", ramp)).astype(int)
    assert depth[-1, -1].sum() + 300 < depth[0, 0].sum()  # near is bright
    ramp[0, 0] = np.nan
    assert pixels(draw.draw("depth", ramp)).shape == (8, 8, 3)
    normals = np.zeros((8, 8, 3), np.float16)
    normals[..., 2] = 1
    assert np.abs(pixels(draw.draw("normal", normals)).astype(int) - [127, 127, 255]).max() < 12
    classes = np.repeat(np.arange(4, dtype=np.uint8), 4)[:, None].repeat(8, 1)
    shown = {tuple(color) for color in pixels(draw.draw("semseg", classes)).reshape(-1, 3)}
    assert {tuple(color) for color in draw.id_colors(np.arange(4))} <= shown
    assert draw.draw("t5_caption", np.zeros((14, 512), np.float32)) != draw.TextPanel("none", quiet=True)
    assert draw.draw("mine", np.zeros((14, 14, 512), np.float16)) == draw.TextPanel(
        "array, float16 14 x 14 x 512", quiet=True
    )


@pytest.mark.parametrize("name", sorted(LABELS))
@pytest.mark.parametrize(
    "broken",
    [5, "text", [], {}, [[]], [{"box": [0, 1]}], {"brightness": "bright"}, np.zeros(0), np.full((2, 2), np.nan)],
)
def test_a_broken_label_becomes_a_panel_never_an_error(name: str, broken: object) -> None:
    panel = draw.draw(name, broken, np.zeros((8, 8, 3), np.uint8))
    assert isinstance(panel, draw.Picture | draw.TextPanel | draw.Swatches | draw.TablePanel)


def test_a_label_that_cannot_be_drawn_says_why() -> None:
    panel = draw.draw("rgb", np.zeros((2, 2), np.float32))
    assert isinstance(panel, draw.TextPanel)
    assert "cannot be drawn as rgb" in panel.text
    assert "float32 (2, 2)" in panel.text
    assert draw.draw("det", None) == draw.TextPanel("none", quiet=True)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(*[st.floats(allow_nan=False, allow_infinity=True)] * 4), max_size=5), st.text(max_size=20))
def test_any_boxes_can_be_drawn(corners: list[tuple[float, ...]], label: str) -> None:
    boxes = [{"box": list(box), "label": label, "score": 0.5} for box in corners]
    panel = draw.draw_boxes(boxes, np.zeros((40, 30, 3), np.uint8))
    assert isinstance(panel, draw.Picture) == bool(boxes)
