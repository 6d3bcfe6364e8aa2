"""A window of an image, and what follows it: maps, boxes, people, instances."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fourmill.pipelines.borders.window import Window
from fourmill.pipelines.specialists.members.records import instances
from fourmill.tokenize.text import smpl

WINDOW = Window(0, 20, 100, 60, 100, 100)


def test_maps_are_cut() -> None:
    values = np.arange(100 * 100).reshape(100, 100)
    np.testing.assert_array_equal(WINDOW.cut(values), values[20:80])
    assert Window.whole(100, 100).cut(values) is values
    assert WINDOW.cut_away == pytest.approx(0.4) and WINDOW.size == (60, 100)
    assert WINDOW.scaled(50, 50) == Window(0, 10, 50, 30, 50, 50)


def test_boxes_follow_and_those_in_a_bar_are_left_out() -> None:
    boxes = [
        {"box": [0.1, 0.2, 0.5, 0.5], "label": "a"},
        {"box": [0.1, 0.1, 0.5, 0.9], "label": "b"},
        {"box": [0.0, 0.0, 1.0, 0.2], "label": "bar"},
    ]
    found = WINDOW.follow("det", boxes)
    assert [one["label"] for one in found] == ["a", "b"]
    assert found[0]["box"] == pytest.approx([0.1, 0, 0.5, 0.5])
    assert found[1]["box"] == pytest.approx([0.1, 0, 0.5, 1])
    assert WINDOW.follow("caption", "a boat") == "a boat"
    assert Window.whole(9, 9).follow("det", boxes) is boxes


def test_people_keep_their_place_in_the_image() -> None:
    """The camera of a person whose box is cut sees their origin at the same pixel as before."""
    people = [{"box": [0.2, 0.1, 0.5, 0.7], "camera": [0.9, 0.1, -0.2]}, {"box": [0, 0, 1, 0.1], "camera": [1, 0, 0]}]
    (found,) = WINDOW.follow("human_poses", people)
    assert found["box"] == pytest.approx([0.2, 0, 0.5, 50 / 60])

    def origin(human: dict[str, list[float]], width: int, height: int, top: int) -> list[float]:
        edges = [c * side for c, side in zip(human["box"], (width, height) * 2, strict=True)]
        (x, y, side), (scale, tx, ty) = smpl.person_square(edges), human["camera"]
        return [x + scale * tx * side / 2, y + scale * ty * side / 2 + top, scale * side]

    assert origin(found, 100, 60, 20) == pytest.approx(origin(people[0], 100, 100, 0))


@given(st.integers(0, 2**32 - 1))
def test_instances_are_those_of_the_map_that_was_cut(seed: int) -> None:
    ids = np.kron(np.random.default_rng(seed).integers(0, 4, (5, 5)), np.ones((20, 20), np.int64))
    followed = {one["mask"]["counts"]: one for one in WINDOW.follow("sam_instance", instances(ids))}
    expected = instances(WINDOW.cut(ids))
    assert {one["mask"]["counts"] for one in expected} == set(followed)
    for one in expected:
        other = followed[one["mask"]["counts"]]
        assert other["mask"] == one["mask"] and other["area"] == one["area"]
        left, top, right, bottom = np.subtract(other["box"], one["box"])  # what lay in a bar is cut off the box
        assert max(left, top) < 1e-9 and min(right, bottom) > -1e-9
