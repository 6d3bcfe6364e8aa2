"""Which specialists a recipe needs, in which order, and what is said when one is not there."""

from __future__ import annotations

import pytest

from fourmill import recipe as recipes
from fourmill.modalities import LABELS
from fourmill.pipelines.specialists import registry
from fourmill.recipe import Recipe, RecipeError


def recipe(modalities: list[str], **labels: object) -> Recipe:
    return recipes.parse({"root": "out", "samples": "a.tar", "modalities": modalities, "labels": labels})


@pytest.mark.parametrize(
    ("modalities", "expected"),
    [
        (["rgb"], []),
        (["tok_rgb", "caption"], ["caption"]),
        (["metadata"], ["det", "metadata"]),  # boxes are counted
        (["metadata", "det"], ["det", "metadata"]),
        (["tok_canny_edge", "rgb", "color_palette"], ["canny_edge", "color_palette"]),
    ],
)
def test_specialists_come_in_the_order_they_need_each_other(modalities: list[str], expected: list[str]) -> None:
    assert list(registry.build(recipe(modalities))) == expected


def test_kept_labels_need_their_specialists_too() -> None:
    assert list(registry.build(recipe(["rgb"], keep=["metadata", "rgb"]))) == ["det", "metadata"]


@pytest.mark.parametrize("label", sorted(LABELS))
def test_needs_come_before_what_needs_them(label: str) -> None:
    order = registry.with_needs(label)
    assert order[-1] == label
    for one in order:
        assert all(order.index(need) < order.index(one) for need in LABELS[one].needs)


def test_another_specialist_takes_its_options() -> None:
    built = registry.build(
        recipe(
            ["tok_canny_edge"], specialists={"canny_edge": {"specialist": "fourmill_tests.specialists:Slow", "low": 9}}
        )
    )
    identity = built["canny_edge"].identity()
    assert identity["specialist"] == "fourmill_tests.specialists:Slow" and identity["options"]["low"] == 9


def test_a_label_that_needs_an_unconfigured_one_names_the_modality_that_asked() -> None:
    with pytest.raises(
        RecipeError, match=r"^tok_sam_edge: the label sam_instance needs a model.*leave out the modality tok_sam"
    ):
        registry.build(recipe(["tok_sam_edge"]))
