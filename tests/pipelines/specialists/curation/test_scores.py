"""What samples are chosen by: sizes, borders, and scores that come with the data."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fourmill import recipe as recipes
from fourmill.pipelines.borders.window import Window
from fourmill.pipelines.reject import Reject
from fourmill.pipelines.specialists import registry
from fourmill.pipelines.specialists.base import ImageItem, Item, Specialist
from fourmill.recipe import RecipeError

# A row of COYO-700M, as img2dataset writes it into a sample's JSON.
COYO = {
    "clip_similarity_vitb32": 0.3, "clip_similarity_vitl14": 0.25, "nsfw_score_opennsfw2": 0.01, "watermark_score": 0.2,
    "aesthetic_score_laion_v2": 5.1, "original_width": 640, "original_height": 480,
}  # fmt: skip
LAION = {"pwatermark": 0.7, "punsafe": 0.9, "similarity": 0.31, "AESTHETIC_SCORE": 6.5}


def made(label: str, **options: Any) -> Specialist:
    labels = {"keep": [label], "specialists": {label: options} if options else {}}
    recipe = recipes.parse({"root": "out", "samples": "a.tar", "modalities": ["rgb"], "labels": labels})
    return registry.build(recipe.modalities, recipe.labels)[label]


def item(value: Any, name: str = "json") -> Item:
    return Item("a", None, None, members={name: value})


def plain(values: list[Any]) -> list[Any]:
    """Values, and of what was rejected the reason."""
    return [value.reason if isinstance(value, Reject) else value for value in values]


@pytest.mark.parametrize(
    ("label", "coyo", "laion"),
    [("watermark", 0.2, 0.7), ("aesthetic", 5.1, 6.5), ("nsfw", 0.01, 0.9), ("similarity", 0.3, 0.31)],
)
def test_the_columns_of_coyo_and_laion_are_known(label: str, coyo: float, laion: float) -> None:
    one = made(label)
    assert one.reads() == ("json",) and not one.needs_image and not one.why_not({})
    assert one([item(COYO), item(LAION)]) == [coyo, laion]


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({}, "watermark: json: watermark_score or pwatermark: there is no number"),
        ({"watermark_score": None}, "watermark: json: watermark_score or pwatermark: there is no number"),
        ({"watermark_score": "high"}, "watermark: json: watermark_score is 'high', expected a number"),
        ({"pwatermark": True}, "watermark: json: pwatermark is True, expected a number"),
        ({"watermark_score": float("nan")}, "watermark: json: watermark_score is nan, expected a number"),
        ([1], "watermark: json: list, expected an object"),
    ],
)
def test_a_score_that_is_none_has_its_reason(value: Any, said: str) -> None:
    assert plain(made("watermark")([item(value)])) == [said]


def test_any_column_of_any_member_can_be_named() -> None:
    assert made("nsfw", field="safety.nsfw")([item({"safety": {"nsfw": 0.4}})]) == [0.4]
    assert made("nsfw", name="meta.json", field="a.b")([item({"a.b": 3}, "meta.json")]) == [3]
    prints = {str(made("nsfw", **o).fingerprint_parts()) for o in ({}, {"field": "x"}, {"name": "meta.json"})}
    assert len(prints) == 3


def test_a_field_of_a_member_is_a_label() -> None:
    one = made("caption", specialist="member", name="page.json", field="image.alt")
    assert plain(one([item(value, "page.json") for value in ({"image": {"alt": "a dog"}}, {}, 3)])) == [
        "a dog",
        "caption: page.json: image.alt: there is none",
        "caption: page.json: image.alt: there is none",
    ]
    with pytest.raises(RecipeError, match="field: it has no meaning"):
        made("depth", specialist="member", name="depth.npy", field="x")
    # A member whose field is not named is the label that it was before there were fields.
    assert "field" not in made("caption", specialist="member", name="page.json").fingerprint_parts()["options"]


def test_a_score_that_nobody_publishes_needs_its_column() -> None:
    one = made("caption", specialist="score")
    assert "labels.specialists.caption.field" in one.why_not({})


def test_sizes_are_of_the_image_in_the_shard() -> None:
    image = np.zeros((48, 64, 3), np.uint8)
    one = made("size")
    assert one([ImageItem("a", image, None)]) == [
        {"width": 64, "height": 48, "original_width": 64, "original_height": 48, "aspect": 64 / 48}
    ]
    cut = ImageItem("a", image, None, info=COYO, window=Window(0, 8, 64, 48, 64, 64))
    assert one([cut]) == [{"width": 64, "height": 64, "original_width": 640, "original_height": 480, "aspect": 1.0}]
    assert set(one([cut])[0]) == set(one.record_fields)


def test_borders_are_those_that_trimming_would_cut_off() -> None:
    rng = np.random.default_rng(0)
    photo = rng.integers(0, 256, (40, 64, 3), np.uint8)
    padded = np.full((64, 64, 3), 255, np.uint8)
    padded[12:52] = photo
    one = made("borders")
    none = {"share": 0.0, "left": 0, "top": 0, "right": 0, "bottom": 0}
    bars = {"share": 24 / 64, "left": 0, "top": 12, "right": 0, "bottom": 12}
    assert one([ImageItem("a", photo, None), ImageItem("b", padded, None)]) == [none, bars]
    assert one([ImageItem("c", photo, None, window=Window(0, 12, 64, 40, 64, 64))]) == [bars]
    assert set(bars) == set(one.record_fields)
