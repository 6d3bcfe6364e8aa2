"""Frames of normals: in words, and turned; against what publishers' own notebooks show."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest

from fourmill.tokenize import frames

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "normals.json").read_text())
FACES = {"right": (0, 1), "left": (0, -1), "up": (1, 1), "toward the viewer": (2, 1)}  # in the declared frame


@pytest.mark.parametrize("surface", GOLDEN["omnidata"]["surfaces"], ids=lambda one: one["what"])
def test_omnidatas_frame_is_what_its_notebook_shows(surface: dict[str, object]) -> None:
    published = np.zeros(3)
    published["xyz".index(str(surface["axis"]))] = surface["value"]
    axis, sign = FACES[str(surface["faces"])]
    turned = frames.turn(published, frames.OMNIDATA)
    assert np.sign(turned[axis]) == sign and np.abs(turned).argmax() == axis


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("x right, y up, z toward the viewer", frames.DECLARED),
        ("Z away,y down ,  X right", frames.OMNIDATA),
        ("x right, y down, z away from the viewer", frames.OMNIDATA),
        ("x left, y up, z towards the viewer", "x left, y up, z toward the viewer"),
        ("x right, y away, z up", "x right, y away from the viewer, z up"),
    ],
)
def test_a_frame_is_said_in_words(said: str, meant: str) -> None:
    assert frames.canonical(said) == meant


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ("opencv", "'opencv' is no axis"),
        ("x right, y up", "says 2 of 3 axes"),
        ("x right, y left, z up", "two axes along one line"),
        ("x right, x up, z toward", "comes twice"),
        ("", "is no axis"),
    ],
)
def test_what_is_no_frame_is_refused_with_an_example(said: str, why: str) -> None:
    with pytest.raises(ValueError, match=why) as caught:
        frames.canonical(said)
    assert "x right, y up, z toward the viewer" in str(caught.value)


def _all() -> list[str]:
    pairs = (("right", "left"), ("up", "down"), ("toward", "away"))
    return [
        frames.canonical(", ".join(f"{axis} {word}" for axis, word in zip(order, words, strict=True)))
        for order in itertools.permutations("xyz")
        for words in itertools.product(*pairs)
    ]


def test_every_frame_turns_there_and_back() -> None:
    vectors = np.random.default_rng(0).standard_normal((4, 5, 3)).astype(np.float16)
    made = set()
    for frame in _all():
        turned = frames.turn(vectors, frame)
        assert turned.dtype == np.float16
        np.testing.assert_array_equal(frames.turn(turned, frames.DECLARED, to=frame), vectors)
        made.add(turned.tobytes())
    assert len(made) == len(_all()) == 48  # no two frames are the same


def test_axes_change_places() -> None:
    """A floor is up, whatever axis says so."""
    np.testing.assert_array_equal(frames.turn(np.array([0.0, 0.0, 1.0]), "x right, y away, z up"), [0, 1, 0])
    np.testing.assert_array_equal(frames.turn(np.array([0.0, 0.5, 0.0]), "x right, y away, z up"), [0, 0, -0.5])


def test_flips_are_frames_and_frames_flips() -> None:
    assert frames.flipped("yz") == frames.OMNIDATA and frames.flips(frames.OMNIDATA) == "yz"
    assert frames.flipped("") == frames.DECLARED and frames.flips(frames.DECLARED) == ""
    assert frames.flips("x right, y away, z up") is None
    vectors = np.random.default_rng(0).standard_normal((7, 3))
    np.testing.assert_array_equal(frames.turn(vectors, frames.flipped("x")), vectors * [-1, 1, 1])
