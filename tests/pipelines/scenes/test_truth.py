"""Truth of rendered scenes against formulas that share nothing with the ray caster."""

from __future__ import annotations

import numpy as np
import pytest
from fourmill_tests.tiny import scenes

from fourmill.pipelines.scenes import kinds
from fourmill.pipelines.scenes.render import PLACES, render
from fourmill.pipelines.scenes.seen import seen

SIZE = scenes.SIZE
HALVES = {
    "ball": (0.6, 0.6, 0.6), "box": (0.5, 0.6, 0.4), "cylinder": (0.5, 0.6, 0.5), "cone": (0.6, 0.7, 0.6),
    "capsule": (0.35, 0.7, 0.35), "pyramid": (0.6, 0.6, 0.6), "dome": (0.8, 0.4, 0.8), "wedge": (0.7, 0.5, 0.5),
}  # fmt: skip


def test_depth_of_a_ball_is_the_root_of_its_equation() -> None:
    one = scenes.scene(scenes.thing("ball", (0.2, 0.7, -0.5), (0.7, 0.7, 0.7)))
    depth, instances = render(one, SIZE).depth, render(one, SIZE).instances
    rays = scenes.rays(one)
    centre = one.camera.rotation.T @ (np.array([0.2, 0.7, -0.5]) - one.camera.position)
    a, b, c = (rays**2).sum(-1), rays @ centre, centre @ centre - 0.7**2
    root = b**2 - a * c
    nearest = (b - np.sqrt(np.maximum(root, 0))) / a
    inside = root > 1e-4
    assert inside.sum() > 300
    assert (instances[inside] == 1).all() and not instances[root < -1e-4].any()
    np.testing.assert_allclose(depth[inside], nearest[inside], rtol=2e-5)


def test_depth_of_the_floor_is_height_over_slope() -> None:
    one = scenes.scene(position=(1.0, 1.3, 3.0), target=(-0.5, 0.2, -2.0))
    got = render(one, SIZE)
    slope = scenes.in_world(one, scenes.rays(one))[..., 1]
    expected = 1.3 / np.maximum(-slope, 1e-9)
    is_floor = (slope < 0) & (expected < 59)
    assert is_floor.sum() > 1000
    np.testing.assert_allclose(got.depth[is_floor], expected[is_floor], rtol=2e-5)
    assert (got.semseg[is_floor] == kinds.FLOOR).all()
    up = scenes.in_world(one, got.normal.astype(np.float64))
    np.testing.assert_allclose(up[is_floor], np.broadcast_to([0, 1, 0], up[is_floor].shape), atol=1e-3)


def test_the_sky_alone_has_no_depth_and_no_normal() -> None:
    for one in scenes.drawn(12):
        got = render(one, 48)
        is_sky = got.semseg == kinds.SKY
        np.testing.assert_array_equal(np.isnan(got.depth), is_sky)
        length = np.linalg.norm(got.normal.astype(np.float64), axis=-1)
        assert not length[is_sky].any() and np.abs(length[~is_sky] - 1).max() < 2e-3
        assert (got.depth[~is_sky] > 0).all()


@pytest.mark.parametrize("shape", list(kinds.SHAPES))
@pytest.mark.parametrize("lying", [False, True])
def test_normals_are_those_of_the_back_projected_depth(shape: str, lying: bool) -> None:
    x, y, z = HALVES[shape]
    one = scenes.thing(shape, (0.0, x if lying else y, 0.0), (x, y, z), turn=0.7)
    if lying:
        one.rotation[:] = one.rotation @ [[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]
    side = scenes.scene(one, walls=(scenes.wall((0, 0, 1), -1.5),), position=(0.6, 1.6, 2.6), target=(0, 0.5, 0))
    got = render(side, 96)
    points = scenes.rays(side, 96) * got.depth[..., None]
    across, down = np.gradient(points, axis=1), np.gradient(points, axis=0)
    normal = np.cross(across, -down)
    normal /= np.linalg.norm(normal, axis=-1, keepdims=True)
    stored = got.normal.astype(np.float64)
    smooth = np.ones((96, 96), bool)
    for axis in (0, 1):
        for step in (1, -1):
            near = np.roll(got.instances, step, axis) == got.instances
            smooth &= near & ((np.roll(stored, step, axis) * stored).sum(-1) > 0.98)
    smooth[[0, -1]] = smooth[:, [0, -1]] = False
    on_thing = smooth & (got.instances == 1)
    assert on_thing.sum() > 250
    agreement = (normal * stored).sum(-1)
    assert agreement[smooth].min() > 0.97 and np.median(agreement[on_thing]) > 0.999
    # Nothing that is seen looks away.
    assert ((scenes.rays(side, 96) * stored).sum(-1) < 1e-3).all()


def test_signs_of_normals_on_floor_walls_and_sides() -> None:
    box = scenes.thing("box", (0.0, 0.5, 0.0), (0.5, 0.5, 0.5), turn=np.pi / 4)
    walls = (scenes.wall((0, 0, 1), -2.0), scenes.wall((1, 0, 0), -1.8))
    one = scenes.scene(box, walls=walls, position=(0.0, 0.8, 4.0), target=(0.0, 0.8, 0.0))
    got = render(one, SIZE)
    normal = got.normal.astype(np.float64)
    np.testing.assert_allclose(normal[-1, SIZE // 2], [0, 1, 0], atol=1e-3)  # floor: up
    np.testing.assert_allclose(normal[2, SIZE // 2], [0, 0, 1], atol=1e-3)  # wall behind: toward the viewer
    np.testing.assert_allclose(normal[2, 0], [1, 0, 0], atol=1e-3)  # wall on the left: to the right
    left, right = normal[SIZE // 2 + 4, SIZE // 2 - 4], normal[SIZE // 2 + 4, SIZE // 2 + 4]
    np.testing.assert_allclose(left, [-(0.5**0.5), 0, 0.5**0.5], atol=1e-3)
    np.testing.assert_allclose(right, [0.5**0.5, 0, 0.5**0.5], atol=1e-3)


def test_boxes_are_the_extents_of_instances_and_classes_theirs() -> None:
    for one in scenes.drawn(12):
        got = render(one, 48)
        shown = seen(one, got)
        assert {s.thing.id for s in shown} == set(np.unique(got.instances)) - {0}
        for s in shown:
            mask = got.instances == s.thing.id
            columns, rows = np.flatnonzero(mask.any(0)), np.flatnonzero(mask.any(1))
            extent = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
            np.testing.assert_allclose(np.array(s.box) * 48, extent)
            assert set(got.semseg[mask]) == {kinds.CLASSES.index(s.thing.shape)}
        assert got.semseg[got.instances == 0].max() <= kinds.WALL


def test_visible_is_the_share_that_nothing_stands_before() -> None:
    behind = scenes.thing("box", (0.0, 0.5, -1.0), (0.5, 0.5, 0.2), id=1)
    before = scenes.thing("ball", (0.3, 0.4, 1.0), (0.3, 0.3, 0.3), id=2)
    alone = np.count_nonzero(render(scenes.scene(behind), SIZE).instances == 1)
    both = render(scenes.scene(behind, before), SIZE)
    left = np.count_nonzero(both.instances == 1)
    assert 0 < left < alone
    assert both.visible == {1: pytest.approx(left / alone), 2: 1.0}


def test_the_image_is_smooth_and_its_truth_is_not() -> None:
    """Along the border of a white ball before a dark wall there are tones between; in the classes there are none."""
    ball = scenes.thing("ball", (0.0, 0.6, 0.0), (0.6, 0.6, 0.6), colour="white")
    got = render(scenes.scene(ball, walls=(scenes.wall((0, 0, 1), -2.0),)), SIZE)
    assert set(np.unique(got.semseg)) == {kinds.FLOOR, kinds.WALL, kinds.CLASSES.index("ball")}
    assert len(set(map(tuple, PLACES.T))) == len(set(PLACES[0])) == len(set(PLACES[1])) == 8
    row = np.flatnonzero(got.instances.any(1))[8]
    edge = np.flatnonzero(got.instances[row])[0]
    before, border, after = got.rgb[row, [edge - 3, edge, edge + 3]].astype(int).sum(-1)
    outside = got.rgb[row, edge - 1].astype(int).sum(-1)
    assert min(before, after) < border < max(before, after) or min(before, after) < outside < max(before, after)


def test_light_is_kept_off_by_what_stands_in_its_way() -> None:
    ball = scenes.thing("ball", (0.0, 0.5, 0.0), (0.5, 0.5, 0.5))
    one = scenes.scene(ball, light=(0.0, 6.0, 0.0), position=(0.0, 2.5, 4.0))
    got = render(one, SIZE).rgb.astype(int).sum(-1)
    points = one.camera.position + scenes.in_world(one, scenes.rays(one)) * render(one, SIZE).depth[..., None]
    is_floor = render(one, SIZE).semseg == kinds.FLOOR
    from_axis = np.hypot(points[..., 0], points[..., 2])
    shadow, lit = is_floor & (from_axis < 0.42), is_floor & (from_axis > 1.0) & (from_axis < 1.5)
    assert shadow.sum() > 5 and lit.sum() > 100
    assert got[shadow].max() < 0.6 * got[lit].min()
