"""Drawn scenes: the same from the same numbers, others from others, and possible ones."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from fourmill_tests.tiny import scenes
from hypothesis import given, settings
from hypothesis import strategies as st

from fourmill.pipelines.scenes import kinds
from fourmill.pipelines.scenes.draw import draw
from fourmill.pipelines.scenes.render import render
from fourmill.pipelines.scenes.seen import seen
from fourmill.pipelines.scenes.world import Scene


def values(scene: Scene) -> str:
    """Everything that is drawn but for the names."""
    return repr((scene.things, scene.surfaces, scene.sky, scene.lights, scene.ambient, scene.camera))


@given(st.integers(0, 2**40), st.integers(0, 10**9), st.sampled_from(list(kinds.LEVELS)))
@settings(max_examples=40, deadline=None)
def test_scenes_are_possible(seed: int, index: int, clutter: str) -> None:
    scene = draw(seed, "train", index, clutter)
    fewest, most = kinds.LEVELS[clutter].things
    assert fewest <= len(scene.things) <= most
    assert [thing.id for thing in scene.things] == list(range(1, len(scene.things) + 1))
    by_id = {thing.id: thing for thing in scene.things}
    for thing in scene.things:
        lowest = thing.corners()[1].min() if thing.shape not in ("ball", "capsule") else thing.centre[1] - _below(thing)
        ground = by_id[thing.support].centre[1] + by_id[thing.support].half[1] if thing.support else 0.0
        assert lowest == pytest.approx(ground, abs=1e-9)
        np.testing.assert_allclose(thing.rotation @ thing.rotation.T, np.eye(3), atol=1e-12)
    for one, other in combinations([thing for thing in scene.things if not thing.support], 2):
        apart = np.hypot(*(one.centre - other.centre)[[0, 2]])
        assert apart > max(min(one.half[0], one.half[2]), min(other.half[0], other.half[2]))
    assert scene.camera.position[1] > 0.2
    for wall in scene.walls:  # the things, the camera and the lights are in the room
        inside = [scene.camera.position, *(light.position for light in scene.lights), *(t.centre for t in scene.things)]
        assert all(wall.normal @ place > wall.offset for place in inside)


def _below(thing) -> float:
    return thing.half[1] if thing.shape == "ball" or thing.upright else thing.half[0]


def test_training_and_validation_share_no_scene() -> None:
    train = {values(draw(3, "train", index)) for index in range(40)}
    val = {values(draw(3, "val", index)) for index in range(40)}
    other = {values(draw(4, "train", index)) for index in range(40)}
    assert len(train | val | other) == 120
    assert train == {values(draw(3, "train", index)) for index in range(40)}


def test_every_kind_is_drawn_and_most_things_are_clear() -> None:
    drawn = scenes.drawn(150)
    things = [thing for scene in drawn for thing in scene.things]
    assert {thing.shape for thing in things} == set(kinds.SHAPES)
    assert {thing.colour for thing in things} == set(kinds.COLOURS)
    assert {thing.material for thing in things} == set(kinds.MATERIALS)
    assert {thing.size for thing in things} == set(kinds.SIZES)
    assert any(thing.support for thing in things)
    shown = [one for scene in drawn[:30] for one in seen(scene, render(scene, 48))]
    count = sum(len(scene.things) for scene in drawn[:30])
    assert len(shown) > 0.9 * count and sum(one.clear for one in shown) > 0.75 * count


@pytest.mark.parametrize("clutter", ["7", 7])
def test_a_number_of_things(clutter: str | int) -> None:
    assert {len(draw(0, "val", index, clutter).things) for index in range(5)} == {7}


@pytest.mark.parametrize("clutter", ["many", "0", "41", "2.5", ""])
def test_unknown_clutter_is_a_sentence(clutter: str) -> None:
    with pytest.raises(ValueError, match=r"clutter: got .*, expected plain, simple, medium, cluttered, or a number"):
        draw(0, "train", 0, clutter)


def test_plain_scenes_have_no_patterns_and_no_walls() -> None:
    for index in range(40):
        scene, same = draw(3, "train", index, "plain"), draw(3, "train", index, "plain")
        assert len(scene.surfaces) == 1 and scene.surfaces[0].pattern == "plain"
        assert 1 <= len(scene.things) <= 2
        assert all(not thing.second and thing.material in ("matte", "shiny") for thing in scene.things)
        assert [thing.colour for thing in scene.things] == [thing.colour for thing in same.things]


def test_plain_scenes_have_few_shapes_and_no_patterns() -> None:
    scenes = [draw(5, "train", index, "plain") for index in range(60)]
    assert {thing.shape for scene in scenes for thing in scene.things} == {"ball", "box", "cylinder", "cone"}
    assert {thing.material for scene in scenes for thing in scene.things} == {"matte", "shiny"}
    assert all([surface.pattern for surface in scene.surfaces] == ["plain"] for scene in scenes)
