"""Sentences of SAM instances: the released form, masks where they belong, and readers that survive anything."""

from __future__ import annotations

import re
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fourmill.tokenize import masks as run_lengths
from fourmill.tokenize.crops import Crop, crops
from fourmill.tokenize.text.instance_sentences import (
    GRID,
    MASK_SIZE,
    Queried,
    instance_masks,
    instances_to_chunks,
    own_points,
    paste_masks,
    queried_to_label,
    query,
    text_to_instances,
)
from fourmill.tokenize.text.wordpiece import SENTENCE_WORDS, WordPiece

HEIGHT, WIDTH = 300, 400
WHOLE = Crop(50, 0, 300, 300)


def instance(mask: np.ndarray) -> dict[str, Any]:
    """A SAM instance as its specialist gives it."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    height, width = mask.shape
    box = [columns[0] / width, rows[0] / height, (columns[-1] + 1) / width, (rows[-1] + 1) / height]
    return {"box": box, "mask": run_lengths.encode(mask), "point": [0.5, 0.5], "area": float(mask.mean())}


def shape(kind: str, *numbers: int, size: tuple[int, int] = (HEIGHT, WIDTH)) -> np.ndarray:
    mask = np.zeros(size, np.uint8)
    if kind == "disc":
        cv2.circle(mask, numbers[:2], numbers[2], 1, -1)
    else:
        left, top, right, bottom = numbers
        mask[top:bottom, left:right] = 1
    return mask


SCENE = [shape("box", 60, 20, 360, 290), shape("disc", 200, 150, 100), shape("box", 180, 100, 330, 200)]
LABEL = [instance(mask) for mask in SCENE]


def crop_of(mask: np.ndarray, crop: Crop) -> np.ndarray:
    window = mask[crop.top : crop.top + crop.height, crop.left : crop.left + crop.width]
    return window[:, ::-1] if crop.flip else window


def iou(first: np.ndarray, second: np.ndarray) -> float:
    return float((first & second).sum() / max((first | second).sum(), 1))


def text(queried: Queried, ids: np.ndarray) -> str:
    return " ".join(instances_to_chunks(queried, ids))


def test_the_released_form_by_hand() -> None:
    ids = np.array([[0, 511, 512, 1023] * 4])
    queried = Queried(np.array([[3, 4, 224, 200]]), np.ones((1, 64, 64), np.uint8), (((7, 9), (0,)), ((5, 2), ())))
    code = "v0=0 v0=511 v1=0 v1=511 " * 4
    expected = f"point v0=9 v1=7 polygon v0=3 v1=4 v2=224 v3=200 {code}point v0=2 v1=5 none"
    assert text(queried, ids) == expected
    (one,) = text_to_instances(expected)
    assert one["tokens"] == ids[0].tolist()
    assert one["box"] == [3 / 224, 4 / 224, 1, 200 / 224] and one["point"] == [7.5 / 224, 9.5 / 224]


def test_nothing_found_is_none_at_every_point() -> None:
    chunks = instances_to_chunks(query([], WIDTH, HEIGHT, WHOLE, 0, "k", 0), np.zeros((0, 16)))
    assert len(chunks) == 7
    assert all(re.fullmatch(r"point v0=\d+ v1=\d+ none", chunk) for chunk in chunks)


def test_points_without_instances_take_four_words() -> None:
    for words, points in ((3, 0), (4, 1), (7, 1), (8, 2), (27, 6), (28, 7)):
        assert len(query([], WIDTH, HEIGHT, WHOLE, 0, "k", 0, max_words=words).points) == points


def test_the_last_pixel_of_an_image_holds_its_points() -> None:
    corner = np.zeros((8, 8), np.uint8)
    corner[7, 7] = 1
    queried = query([instance(corner)], 8, 8, Crop(0, 0, 8, 8), 0, "k", 0, points=400, max_words=100_000)
    assert {bool(holders) for _, holders in queried.points} == {True, False}
    for (x, y), holders in queried.points:
        assert len(holders) == (x >= 196 and y >= 196)  # 28 cells a pixel


@pytest.mark.parametrize("flip", [False, True])
def test_points_hold_what_the_image_shows_there(flip: bool) -> None:
    crop = Crop(50, 0, 300, 300, flip)
    windows = [crop_of(mask, crop) for mask in SCENE]
    seen = set()
    for index in range(20):
        queried = query(LABEL, WIDTH, HEIGHT, crop, 0, "k", index, max_words=1000)
        pasted = {tuple(one["box"]): run_lengths.decode(one["mask"]) for one in queried_to_label(queried)}
        for (x, y), holders in queried.points:
            row, column = int((y + 0.5) / GRID * 300), int((x + 0.5) / GRID * 300)
            assert len(holders) == sum(window[row, column] for window in windows)
            for holder in holders:
                mask = pasted[tuple((queried.boxes[holder] / GRID).tolist())]
                assert mask[max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2].any()
                seen.add(tuple(queried.boxes[holder].tolist()))
    assert len(seen) == 3


@pytest.mark.parametrize("crop", [WHOLE, Crop(50, 0, 300, 300, True), Crop(100, 90, 120, 120), Crop(0, 40, 260, 260)])
def test_pasted_masks_lie_where_the_crop_shows_them(crop: Crop) -> None:
    queried = query(LABEL, WIDTH, HEIGHT, crop, 0, "k", 1, points=100, max_words=10_000)
    label = queried_to_label(queried)
    assert len(label) == 3 and [one["area"] for one in label] == sorted((o["area"] for o in label), reverse=True)
    shown = [
        cv2.resize(crop_of(mask, crop).astype(np.float32), (GRID, GRID), interpolation=cv2.INTER_LINEAR) >= 0.5
        for mask in SCENE
    ]
    for one in label:
        assert max(iou(run_lengths.decode(one["mask"]) > 0, mask) for mask in shown) > 0.96


def test_masks_fill_their_boxes() -> None:
    masks = instance_masks(LABEL, WIDTH, HEIGHT, WHOLE)
    assert masks.shape == (3, MASK_SIZE, MASK_SIZE) and masks.dtype == np.uint8
    assert masks[0].all() and masks[2].all()  # boxes are full
    disc = np.zeros((MASK_SIZE, MASK_SIZE), np.uint8)
    cv2.circle(disc, (32, 32), 32, 1, -1)
    assert iou(masks[1], disc) > 0.95
    assert instance_masks([], WIDTH, HEIGHT, WHOLE).shape == (0, MASK_SIZE, MASK_SIZE)


def test_a_mirrored_crop_gives_mirrored_masks_and_boxes() -> None:
    slope = np.triu(np.ones((HEIGHT, WIDTH), np.uint8))
    plain, mirrored = (
        query([instance(slope)], WIDTH, HEIGHT, Crop(40, 30, 200, 200, flip), 0, "k", 0, points=50) for flip in (0, 1)
    )
    assert np.array_equal(plain.masks, mirrored.masks[..., ::-1])
    assert np.array_equal(plain.boxes[:, [0, 2]], GRID - mirrored.boxes[:, [2, 0]])


def test_instances_outside_and_tiny_ones_are_left_out() -> None:
    corner = Crop(300, 200, 100, 100)
    label = [instance(shape("box", 0, 0, 290, 190)), instance(shape("box", 310, 210, 311, 212))]
    assert len(instance_masks(label, WIDTH, HEIGHT, corner)) == 0
    thin = instance_masks([instance(np.eye(200, dtype=np.uint8))], 200, 200, Crop(0, 0, 200, 200))
    assert thin.any(), "a diagonal line fills half of no cell, but is no empty mask"


def test_masks_of_another_size_than_the_image() -> None:
    half = [instance(cv2.resize(mask, (WIDTH // 2, HEIGHT // 2), interpolation=cv2.INTER_NEAREST)) for mask in SCENE]
    crop = Crop(61, 33, 201, 201)
    small, full = (instance_masks(label, WIDTH, HEIGHT, crop) for label in (half, LABEL))
    assert all(iou(a, b) > 0.95 for a, b in zip(small, full, strict=True))


def test_queries_are_a_pure_function_of_seed_key_and_crop() -> None:
    def points(*args: Any) -> Any:
        return query(LABEL, WIDTH, HEIGHT, WHOLE, *args).points

    assert points(0, "k", 0) == points(0, "k", 0)
    assert len({points(0, "k", 0), points(1, "k", 0), points(0, "l", 0), points(0, "k", 1)}) == 4
    spread = np.array([p for i in range(200) for p, _ in points(0, "k", i)])
    assert abs(spread.mean() - 111.5) < 4 and spread.min() >= 0 and spread.max() <= 223


@pytest.fixture(scope="module")
def wordpiece() -> WordPiece:
    return WordPiece.fit(["a photo of a dog"], vocab_size=6000)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10_000), st.integers(0, 6), st.integers(4, 300), st.booleans())
def test_whole_instances_fit_the_length_and_come_back(
    wordpiece: WordPiece, seed: int, count: int, max_tokens: int, flip: bool
) -> None:
    rng = np.random.default_rng(seed)
    label = [instance(shape("disc", *rng.integers(0, 300, 2), *rng.integers(5, 200, 1))) for _ in range(count)]
    window = crops(seed, "k", WIDTH, HEIGHT, 2)[1]
    crop = Crop(window.left, window.top, window.width, window.height, flip)
    queried = query(label, WIDTH, HEIGHT, crop, seed, "k", 1, max_words=max_tokens - 1)
    ids = rng.integers(0, 1024, (len(queried.boxes), 16))
    chunks = instances_to_chunks(queried, ids)
    tokens = wordpiece.encode_chunks(chunks, max_tokens)
    assert len(tokens) <= max_tokens
    said = " ".join(chunks)
    assert wordpiece.decode(tokens) == said, "all that was queried fits"
    back = text_to_instances(said)
    written = [(point, i) for point, holders in queried.points for i in holders]
    assert [b["tokens"] for b in back] == [ids[i].tolist() for _, i in written]
    for one, ((x, y), i) in zip(back, written, strict=True):
        assert np.allclose(np.array(one["box"]) * GRID, queried.boxes[i])
        assert np.allclose(np.array(one["point"]) * GRID, [x + 0.5, y + 0.5])
    direct = queried_to_label(queried)
    pasted = paste_masks(back, np.array([queried.masks[i] for _, i in written]).reshape(-1, 64, 64))
    assert pasted == direct


def test_words_of_sentences_are_single_tokens(wordpiece: WordPiece) -> None:
    assert len(wordpiece.encode(" ".join(SENTENCE_WORDS), 100)) == len(SENTENCE_WORDS) + 1


def test_broken_sentences_keep_what_is_whole() -> None:
    whole = "polygon v0=1 v1=2 v2=30 v3=40" + " v0=5" * 16
    swapped = "polygon v0=30 v1=2 v2=1 v3=40" + " v0=5" * 16
    outside = "polygon v0=1 v1=2 v2=225 v3=40" + " v0=5" * 16
    short = "polygon v0=1 v1=2 v2=30 v3=40" + " v0=5" * 15
    large = "polygon v0=1 v1=2 v2=30 v3=40" + " v1=511" * 16
    said = f"{short} {whole} none {swapped} point v0=300 v1=0 {outside} polygon {large} point v0=1 v1=3 {whole} {short}"
    instances = text_to_instances(said, codes=1023)
    assert [f["point"] for f in instances] == [None, [3.5 / 224, 1.5 / 224]]
    assert all(f["tokens"] == [5] * 16 for f in instances)
    assert len(text_to_instances(said)) == 3


WORDS = st.sampled_from(["point", "polygon", "none", "v0=1", "v1=2", "v2=7", "v3=9", "v0=999", "v1=1000", "dog"])


@settings(deadline=None)
@given(st.lists(WORDS, max_size=60).map(" ".join) | st.text())
def test_the_reader_never_raises(said: str) -> None:
    for one in text_to_instances(said):
        assert all(0 <= c <= 1 for c in one["box"]) and len(one["tokens"]) == 16


def test_bad_ids_and_masks_are_refused() -> None:
    queried = query(LABEL, WIDTH, HEIGHT, WHOLE, 0, "k", 0, points=50)
    for ids in (np.full((len(queried.boxes), 16), 1024), np.zeros((len(queried.boxes), 4), int)):
        with pytest.raises(ValueError, match=r"1023|, 4\); expected"):
            instances_to_chunks(queried, ids)
    broken = LABEL[0] | {"mask": {"size": [HEIGHT, WIDTH], "counts": "11"}}
    with pytest.raises(ValueError, match="mask: got runs"):
        query([broken], WIDTH, HEIGHT, WHOLE, 0, "k", 0)


@pytest.mark.parametrize("flip", [False, True])
def test_what_a_person_drew_is_asked_for_inside_of_it(flip: bool) -> None:
    crop = Crop(WHOLE.left, WHOLE.top, WHOLE.width, WHOLE.height, flip)
    drawn = [one | {"query": None} for one in LABEL] + [instance(shape("box", 0, 0, 40, 300)) | {"query": None}]
    points = own_points(drawn, WIDTH, HEIGHT, crop)
    assert points is not None and len(points) == 3, "what the crop does not show has no point"
    for mask, (x, y) in zip(SCENE, points, strict=False):
        shown = cv2.resize(crop_of(mask, crop), (GRID, GRID), interpolation=cv2.INTER_NEAREST)
        assert shown[y, x]
    queried = query(drawn, WIDTH, HEIGHT, crop, 0, "key", 0, at=points)
    assert len(queried.boxes) == 3
    assert [point for point, _ in queried.points] == points
    # A point of the person's own is taken if the crop shows it there.
    asked = own_points([LABEL[1] | {"query": [0.5, 0.4]}], WIDTH, HEIGHT, crop)
    assert asked == [(GRID // 2, int(0.4 * GRID))]
    outside = own_points([LABEL[1] | {"query": [0.05, 0.05]}], WIDTH, HEIGHT, crop)
    assert outside == [points[1]]
    assert own_points(LABEL, WIDTH, HEIGHT, crop) is None
