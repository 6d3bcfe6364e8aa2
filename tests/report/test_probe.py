"""A room that is known: the frame and the direction of depth that a model's answer implies."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from fourmill_tests import runs
from fourmill_tests.tiny.sees import SeesDepth, SeesNormals

from fourmill.pipelines.scenes.room import room
from fourmill.pipelines.specialists.base import Specialist
from fourmill.pipelines.specialists.dense.normals_geometry import NormalsFromDepth
from fourmill.pipelines.specialists.members.member import Member
from fourmill.report import probe
from fourmill.report.html.probe import render_probe
from fourmill.tokenize import frames

SIZE = 48


def _probe(label: str, *specialists: Specialist) -> probe.Probed:
    return probe.probe(label, {one.label: one for one in specialists}, "cpu", SIZE)


def _frames() -> list[str]:
    pairs = (("right", "left"), ("up", "down"), ("toward", "away"))
    return [
        frames.canonical(", ".join(f"{axis} {word}" for axis, word in zip(order, words, strict=True)))
        for order in ("xyz", "xzy", "zxy")
        for words in itertools.product(*pairs)
    ]


@pytest.mark.parametrize("axes", _frames())
def test_every_frame_is_found(axes: str) -> None:
    found = _probe("normal", SeesNormals(weights="someone/model", axes=axes))
    assert found.found == axes and not found.agrees
    assert f'write labels.specialists.normal.frame: "{axes}"' in found.sentence
    stated = _probe("normal", SeesNormals(weights="someone/model", axes=axes, frame=axes))
    assert stated.agrees and "as the recipe states" in stated.sentence
    truth = room(SIZE).rendered.normal
    np.testing.assert_allclose(np.float32(probe.in_label(found)), np.float32(truth), atol=2e-3)


def test_a_table_that_were_wrong_would_show() -> None:
    right = _probe("normal", SeesNormals(axes="x left, y up, z toward the viewer"))  # of TIPSv2, the default
    assert right.agrees and "as is known of it" in right.sentence
    wrong = _probe("normal", SeesNormals(axes=frames.DECLARED))
    assert not wrong.agrees and "and not x left" in wrong.sentence


def test_a_model_that_does_not_see_the_room_implies_nothing() -> None:
    found = _probe("normal", SeesNormals(weights="someone/model", noise=0.8))
    assert not found.found and not found.agrees and "does not tell the walls" in found.sentence


@pytest.mark.parametrize("inverse", [True, False])
def test_the_direction_of_depth_is_found(inverse: bool) -> None:
    grows = "inverse_depth" if inverse else "depth"
    unknown = _probe("depth", SeesDepth(weights="someone/model", inverse=inverse))
    assert unknown.found == grows and f"predicts: {grows}" in unknown.sentence and not unknown.agrees
    stated = _probe("depth", SeesDepth(weights="someone/model", inverse=inverse, predicts=grows))
    assert stated.agrees and "1.00 in inverse distance" in stated.sentence if inverse else "1.00 in distance"
    near = np.float64(probe.in_label(unknown))
    assert np.corrcoef(near.ravel(), room(SIZE).rendered.depth.ravel())[0, 1] > 0.8


def test_geometry_is_probed_with_the_depth_that_it_needs() -> None:
    depth = SeesDepth(weights="someone/model", inverse=True, predicts="inverse_depth")
    found = _probe("normal", depth, NormalsFromDepth(smoothing=0, focal=0.69, far_ratio=3))
    assert found.agrees, found.sentence


def test_what_cannot_be_probed_says_why() -> None:
    with pytest.raises(ValueError, match="makes no normal"):
        _probe("normal")
    with pytest.raises(ValueError, match=r"comes with the data \(normal\.npy\)"):
        _probe("normal", Member(label="normal", name="normal.npy"))
    with pytest.raises(ValueError, match=r"depth comes with the data"):
        _probe("normal", Member(label="depth", name="depth.npy"), NormalsFromDepth(depth_is="linear"))


def test_the_page_shows_what_was_found() -> None:
    found = _probe("normal", SeesNormals(weights="someone/model", axes="x left, y up, z toward"))
    page = render_probe(found)
    assert page.count("<img") == 4 and "x left, y up, z toward the viewer" in page
    for wall in ("floor", "ceiling", "left wall", "right wall", "facing wall"):
        assert f'<th scope="row">{wall}</th>' in page


def test_the_verb_asks_the_recipes_model(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"root: {tmp_path / 'out'}\nsamples: {{train: {tmp_path / 'a.tar'}}}\nmodalities: [rgb]\n"
        "labels: {keep: [depth], specialists: {depth: {specialist: 'fourmill_tests.tiny.sees:SeesDepth', weights: a/b, "
        "inverse: true}}}\n"
    )
    (tmp_path / "a.tar").write_bytes(b"\0" * 10240)
    status, out, err = runs.command("view", str(recipe), "--probe", "depth")
    assert status == 1 and "predicts: inverse_depth" in out, out + err
    assert "<img" in (tmp_path / "out" / "probe-depth.html").read_text()
    stated = ("--set", "labels.specialists.depth.predicts=inverse_depth", "--out", str(tmp_path / "page.html"))
    status, out, _ = runs.command("view", str(recipe), "--probe", "depth", *stated)
    assert status == 0 and "what is near is 0" in out and (tmp_path / "page.html").exists()
    status, out, err = runs.command("view", str(recipe), "--probe", "normals")
    assert status == 2 and "makes no normal" in out + err
