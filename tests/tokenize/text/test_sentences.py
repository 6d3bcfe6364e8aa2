"""Sentences: the exact forms of 4M-21, and readers that survive anything."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fourmill.modalities import COCO_CLASSES
from fourmill.tokenize.crops import Crop
from fourmill.tokenize.text.sentences import (
    METADATA_TYPES,
    boxes_to_text,
    metadata_to_chunks,
    palette_to_text,
    pick_palette,
    text_to_boxes,
    text_to_metadata,
    text_to_palette,
)

GOLDEN = json.loads((Path(__file__).parents[2] / "golden/data/text_forms.json").read_text())
WHOLE = Crop(0, 0, 100, 100)


def box(corners: list[float], label: str = "dog", score: float = 1.0) -> dict[str, object]:
    return {"box": corners, "label": label, "score": score}


# Boxes


@pytest.mark.parametrize("case", GOLDEN["detection"])
def test_boxes_outside_of_the_crop_are_left_out_as_recorded(case: dict) -> None:
    """The recording fed pixels where relative boxes were due: all lie outside of the frame, and the text is empty."""
    top, left, height, width = case["crop_top_left_h_w"]
    boxes = [box(i["boxes"], i["class_name"], i["score"]) for i in case["instances"]]
    source_height, source_width = case["orig_size_hw"]
    crop = Crop(left, top, width, height, case["hflip"])
    assert boxes_to_text(boxes, source_width, source_height, crop) == case["text"]


@pytest.mark.parametrize(
    ("flip", "text"),
    [
        # 640 x 480, crop 480 x 480 at left 80. Pixels: dog 320..560 x 120..360, car 0..200 x 240..480 (cut at 80).
        (False, "v0=0 v1=500 v2=250 v3=999 car v0=500 v1=250 v2=999 v3=749 dog"),
        (True, "v0=0 v1=250 v2=500 v3=749 dog v0=749 v1=500 v2=999 v3=999 car"),
    ],
)
def test_boxes_by_hand(flip: bool, text: str) -> None:
    boxes = [box([0.5, 0.25, 0.875, 0.75]), box([0.0, 0.5, 0.3125, 1.0], "car", 0.6), box([0, 0, 1, 1], "cat", 0.59)]
    assert boxes_to_text(boxes, 640, 480, Crop(80, 0, 480, 480, flip)) == text


def test_box_order_and_rounding() -> None:
    """Nearest to the top left first; equals keep their order; halves go to even (999 x 0.5 = 499.5 -> 500)."""
    boxes = [box([0.5, 0.0, 0.75, 0.5], "cat"), box([0.0, 0.5, 0.5, 0.75]), box([0.1, 0.1, 0.2, 0.2], "bed")]
    words = [w for w in boxes_to_text(boxes, 100, 100, WHOLE).split() if "=" not in w]
    assert words == ["bed", "cat", "dog"]
    assert boxes_to_text([box([0.5, 0.5, 1, 1])], 100, 100, WHOLE) == "v0=500 v1=500 v2=999 v3=999 dog"


def test_score_threshold_and_touching_boxes() -> None:
    assert boxes_to_text([box([0, 0, 1, 1], score=0.3)], 10, 10, Crop(0, 0, 10, 10), min_score=0.3) != ""
    assert boxes_to_text([box([0, 0, 0.5, 1])], 10, 10, Crop(5, 0, 5, 5)) == ""  # shares one side with the crop
    assert boxes_to_text([], 10, 10, Crop(0, 0, 10, 10)) == ""


def test_unknown_classes_and_broken_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="'unicorn'"):
        boxes_to_text([box([0, 0, 1, 1], "unicorn")], 10, 10, WHOLE)
    with pytest.raises(ValueError, match="finite"):
        boxes_to_text([box([0, 0, float("nan"), 1])], 10, 10, WHOLE)


CORNER = st.floats(0, 1)
BOXES = st.lists(
    st.builds(
        lambda x, y, label: box([*sorted(x)[:1], *sorted(y)[:1], *sorted(x)[1:], *sorted(y)[1:]], label),
        st.tuples(CORNER, CORNER), st.tuples(CORNER, CORNER), st.sampled_from(COCO_CLASSES),
    ),
    max_size=5,
)  # fmt: skip


@settings(deadline=None)
@given(BOXES, st.booleans())
def test_boxes_come_back(boxes: list[dict], flip: bool) -> None:
    text = boxes_to_text(boxes, 100, 100, Crop(0, 0, 100, 100, flip))
    back = text_to_boxes(text)
    kept = [b for b in boxes if b["box"][0] < b["box"][2] and b["box"][1] < b["box"][3]]
    assert sorted(b["label"] for b in back) == sorted(b["label"] for b in kept)
    again = boxes_to_text([b | {"score": 1.0} for b in back], 999, 999, Crop(0, 0, 999, 999))
    assert sorted(text_to_boxes(again), key=str) == sorted((b for b in back if area(b)), key=str)
    for one in back:
        left, top, right, bottom = one["box"]
        corners = np.array([1 - right, top, 1 - left, bottom] if flip else one["box"])
        same = [k for k in kept if k["label"] == one["label"]]
        assert min(np.abs(corners - k["box"]).max() for k in same) <= 0.5 / 999 + 1e-9


def area(one: dict) -> float:
    left, top, right, bottom = one["box"]
    return (right - left) * (bottom - top)


def test_broken_box_sentences_keep_what_is_whole() -> None:
    whole, unknown = "v0=1 v1=2 v2=300 v3=400 traffic light", "v0=5 v1=5 v2=6 v3=7 unicorn"
    swapped = "v0=9 v1=9 v2=1 v3=1 dog"
    text = f"v1=3 cat {whole} v0=10 {unknown} {swapped} v0="
    assert text_to_boxes(text) == [{"box": [1 / 999, 2 / 999, 300 / 999, 400 / 999], "label": "traffic light"}]


def test_longer_class_names_win() -> None:
    corners = "v0=0 v1=0 v2=9 v3=9"
    boxes = text_to_boxes(f"{corners} hot dog {corners} bear {corners} teddy bear {corners} dogs")
    assert [b["label"] for b in boxes] == ["hot dog", "bear", "teddy bear"]


# Palettes


@pytest.mark.parametrize("case", GOLDEN["color_palette"])
def test_palettes_as_recorded(case: dict) -> None:
    colours = np.array(case["colors"]).reshape(-1, 3).tolist()
    assert palette_to_text(colours) == case["text"]
    assert text_to_palette(case["text"]) == colours


def test_broken_palettes_keep_whole_colours() -> None:
    assert text_to_palette("v1=3 v0=1 v0=2 v0=3 v0=4 v0=5") == [[1, 2, 3]]
    assert text_to_palette("v0=9 v1=1 v0=1 v0=2 v0=300 v0=4 v0=5 v0=6") == [[1, 2, 255]]
    assert text_to_palette("v1=2 dog v0=1 v0=2 v0=3") == []
    assert text_to_palette("") == []


@pytest.mark.parametrize("palette", [[], [[1, 2]], [[0, 0, 256]], [[0, 0, 0]] * 8])
def test_bad_palettes_are_refused(palette: list[list[int]]) -> None:
    with pytest.raises(ValueError, match="color_palette"):
        palette_to_text(palette)


def test_each_palette_size_is_as_likely() -> None:
    palettes = [[[n, n, n]] * n for n in range(1, 8)]
    counts = np.bincount([len(pick_palette(palettes, 0, str(key))) for key in range(7000)], minlength=8)
    assert counts[0] == 0 and (abs(counts[1:] - 1000) < 120).all()
    assert pick_palette(palettes, 5, "k") is pick_palette(palettes, 5, "k")


# Metadata


@pytest.mark.parametrize("case", GOLDEN["metadata"])
def test_metadata_as_recorded(case: dict) -> None:
    assert metadata_to_chunks(case["metadata"]) == case["chunks"]


def test_metadata_ids_as_recorded() -> None:
    assert {name: f"v1={kind.id}" for name, kind in METADATA_TYPES.items()} == GOLDEN["metadata_id_map"]


def test_metadata_out_of_range_counts_as_the_ends() -> None:
    assert metadata_to_chunks({"brightness": 1e9, "caption_n_chars": 5000, "entropy": -1.0}) == [
        "v1=2 v0=999", "v1=10 v0=49", "v1=13 v0=0",
    ]  # fmt: skip
    assert metadata_to_chunks({"watermark_score": 0.5, "aesthetic_score": 5.5}) == ["v1=19 v0=1", "v1=20 v0=2"]


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(list(METADATA_TYPES)), st.floats(-10, 1200)))
def test_metadata_come_back_to_the_same_bins(metadata: dict[str, float]) -> None:
    chunks = metadata_to_chunks(metadata)
    assert metadata_to_chunks(text_to_metadata(chunks)) == chunks


def test_shuffled_metadata_are_the_same_pairs() -> None:
    metadata = GOLDEN["metadata"][0]["metadata"]
    shuffled = metadata_to_chunks(metadata, np.random.default_rng(0))
    assert shuffled != metadata_to_chunks(metadata)
    assert sorted(shuffled) == sorted(metadata_to_chunks(metadata))


def test_bad_metadata_are_refused() -> None:
    with pytest.raises(ValueError, match="sharpness"):
        metadata_to_chunks({"sharpness": 1.0})
    with pytest.raises(ValueError, match="finite"):
        metadata_to_chunks({"entropy": float("nan")})


WORDS = st.sampled_from(["v0=1", "v1=2", "v2=7", "v3=999", "v0=1000", "v0=", "dog", "hot dog", "[S_1]", "none", "\0"])


@settings(deadline=None)
@given(st.lists(WORDS).map(" ".join) | st.text())
def test_readers_never_raise(text: str) -> None:
    for one in text_to_boxes(text):
        assert one["label"] in COCO_CLASSES and all(0 <= c <= 1 for c in one["box"])
    assert all(len(c) == 3 and all(0 <= v <= 255 for v in c) for c in text_to_palette(text))
    assert set(text_to_metadata(text)) <= set(METADATA_TYPES)
