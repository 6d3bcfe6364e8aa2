"""Which specialists a recipe needs, in which order, and what is said when one is not there."""

from __future__ import annotations

import importlib
import sys

import pytest

from fourmill import recipe as recipes
from fourmill.modalities import MODALITIES
from fourmill.pipelines.specialists import registry
from fourmill.pipelines.specialists.base import Specialist
from fourmill.pipelines.specialists.classical.canny import Canny
from fourmill.pipelines.specialists.instances.sam_edges import SamEdges
from fourmill.recipe import Recipe, RecipeError


def build(recipe: Recipe) -> dict[str, Specialist]:
    return registry.build(recipe.modalities, recipe.labels)


def recipe(modalities: list[str], **labels: object) -> Recipe:
    return recipes.parse({"root": "out", "samples": "a.tar", "modalities": modalities, "labels": labels})


@pytest.mark.parametrize(
    ("modalities", "expected"),
    [
        (["rgb"], []),
        (["tok_rgb", "caption"], ["caption"]),
        (["metadata"], ["metadata"]),  # it uses what others ask for
        (["metadata", "det"], ["det", "metadata"]),
        (["tok_normal", "metadata", "sam_instance"], ["normal", "sam_instance", "metadata"]),
        (["human_poses"], ["det", "human_poses"]),
        (["tok_sam_edge"], ["sam_instance", "sam_edge", "canny_edge"]),  # its tokenizer is fitted on Canny edges
        (["tok_canny_edge", "rgb", "color_palette"], ["canny_edge", "color_palette"]),
    ],
)
def test_specialists_come_in_the_order_they_need_each_other(modalities: list[str], expected: list[str]) -> None:
    assert list(build(recipe(modalities))) == expected


def test_kept_labels_need_their_specialists_too() -> None:
    assert list(build(recipe(["rgb"], keep=["sam_edge", "rgb"]))) == ["sam_instance", "sam_edge"]


def test_all_labels_come_after_what_they_need_and_use() -> None:
    built = build(recipe(list(MODALITIES)))
    order = list(built)
    for label, specialist in built.items():
        assert all(order.index(before) < order.index(label) for before in (*specialist.needs, *specialist.looks_at()))


class Circular(Canny):
    needs = ("sam_edge",)


class CircularToo(SamEdges):
    needs = ("canny_edge",)


def test_labels_that_need_each_other_are_told() -> None:
    specialists = {
        "canny_edge": {"specialist": f"{__name__}.x:Circular"}, "sam_edge": {"specialist": f"{__name__}.x:CircularToo"}
    }  # fmt: skip
    sys.modules[f"{__name__}.x"] = sys.modules[__name__]
    with pytest.raises(RecipeError, match="canny_edge needs sam_edge needs canny_edge"):
        build(recipe(["tok_canny_edge"], specialists=specialists))


def test_another_specialist_takes_its_options() -> None:
    built = build(
        recipe(
            ["tok_canny_edge"], specialists={"canny_edge": {"specialist": "fourmill_tests.specialists:Slow", "low": 9}}
        )
    )
    identity = built["canny_edge"].identity()
    assert identity["specialist"] == "fourmill_tests.specialists:Slow" and identity["options"]["low"] == 9


def test_a_users_module_hides_no_specialist() -> None:
    labels = recipe(["tok_canny_edge"]).labels
    assert type(registry.build(["tok_canny_edge"], labels, modules=["canny"])["canny_edge"]) is Canny


@pytest.mark.parametrize("name", registry.SPECIALISTS)
def test_each_name_is_that_of_its_class(name: str) -> None:
    module, attribute = registry.SPECIALISTS[name].place
    cls = getattr(importlib.import_module(module), attribute)
    assert cls.name == name and cls.is_registered() and cls.full_name() == name


class Impostor(Canny):
    """A user's class with the name of one of ours."""

    name = "canny"


def test_a_users_class_with_our_name_is_another_specialist() -> None:
    assert not Impostor.is_registered()
    assert Impostor().fingerprint_parts() != Canny().fingerprint_parts()
