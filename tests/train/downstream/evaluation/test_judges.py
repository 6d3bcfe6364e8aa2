"""Judges of maps, captions, boxes, masks, people and vectors, with answers worked out by hand."""

from __future__ import annotations

import io
import json
from typing import Any

import numpy as np
import pytest
from scipy.spatial.transform import Rotation
from sklearn.neighbors import KNeighborsClassifier

from fourmill.modalities import Form
from fourmill.tokenize import masks
from fourmill.tokenize.text.instance_sentences import GRID
from fourmill.train.downstream.evaluation.judges import Captions, Judge, Maps, seen_objects
from fourmill.train.downstream.evaluation.records import Boxes, Instances, People, boxes_of
from fourmill.train.downstream.evaluation.settings import Truth
from fourmill.train.downstream.evaluation.truth import Frame
from fourmill.train.downstream.evaluation.vectors import Neighbours
from fourmill.train.measures.detections import Found


def value(judge: Judge, answers: list[Any], references: list[Any], name: str = "") -> float:
    statistic = judge.statistic(answers, references)
    assert statistic is not None
    return float(statistic(np.ones((1, len(answers)), np.int64))[name or judge.measures[0]][0])


def maps(form: Form, **given: Any) -> Maps:
    return Maps(form, 2, Truth(member="x.npy", **given) if given else None, ("sky", "cup", "book"))


def test_samples_without_answer_or_reference_do_not_count() -> None:
    judge, flat = maps(Form.CLASSES), np.zeros((2, 2), np.uint8)
    assert value(judge, [(flat, None), None, (flat, None)], [(flat, None), (flat, None), None]) == 1
    assert judge.statistic([None], [(flat, None)]) is None


def test_the_constant_class_is_each_pixels_most_frequent() -> None:
    judge = maps(Form.CLASSES)
    rows = [[[1, 2], [255, 0]], [[1, 1], [255, 0]], [[0, 2], [255, 2]]]
    constant, _ = judge.constant([(np.array(row, np.uint8), None) for row in rows])
    assert constant.tolist() == [[1, 2], [0, 0]]  # where nobody has a class, the lowest


def test_the_constant_normal_is_the_mean_direction() -> None:
    judge = maps(Form.NORMALS)
    left, right = (np.tile(np.array(one, np.float32), (2, 2, 1)) for one in ([0.6, 0, 0.8], [-0.6, 0, 0.8]))
    constant, _ = judge.constant([(left, None), (right, None)])
    np.testing.assert_allclose(constant[0, 0], [0, 0, 1])
    valid = np.array([[True, False], [True, True]])
    constant, _ = judge.constant([(left, valid), (right, None)])
    np.testing.assert_allclose(constant[0], [[0, 0, 1], [-0.6, 0, 0.8]], atol=1e-6)


def test_the_constant_depth_is_the_mean_of_standardized_maps() -> None:
    judge = maps(Form.DEPTH)
    one = np.array([[0.0, 1], [2, 3]])  # median 1.5, mean deviation 1
    constant, _ = judge.constant([(one, None), (10 * one + 7, None)])
    np.testing.assert_allclose(constant, one - 1.5)
    assert value(judge, [(constant, None)], [(one, None)]) == pytest.approx(0)


def test_an_ensemble_of_maps() -> None:
    depths = [(np.full((2, 2), one, np.float32), None) for one in (1.0, 2.0, 6.0)]
    assert maps(Form.DEPTH).together(depths)[0].tolist() == [[3, 3], [3, 3]]
    votes = [(np.full((2, 2), one, np.uint8), None) for one in (2, 1, 2)]
    assert maps(Form.CLASSES).together(votes)[0].tolist() == [[2, 2], [2, 2]]


def test_distances_are_no_label_of_depth() -> None:
    """Labels have the scale of their specialist: a tokenizer of them cannot encode metres."""
    judge, values = maps(Form.DEPTH, classes=None, name="label"), np.array([[1.0, 0], [3, 2]])
    assert judge.as_label((values, values > 0)) is None


def test_relative_depth_is_compared_by_inverse_distance() -> None:
    """A label that is right, but for scale and shift of the inverse, has no error; by distances it has one."""
    distances = np.geomspace(1, 20, 64, dtype=np.float32).reshape(8, 8)
    buffer = io.BytesIO()
    np.save(buffer, distances)
    inverse = 1 / distances
    label = 1 - (inverse - inverse.min()) / (inverse.max() - inverse.min())
    for given, right in ((Truth(member="d.npy", inverse=True), True), (Truth(member="d.npy"), False)):
        judge = Maps(Form.DEPTH, 8, given, ())
        answers, references = [judge.of_label(label)], [judge.of_truth(buffer.getvalue(), Frame(8, 8))]
        for name in ("l1", "abs_rel"):
            assert (value(judge, answers, references, name) < 1e-3) == right


def test_classes_of_the_truth_are_named() -> None:
    judge = maps(Form.CLASSES, classes=[None, "book", "sky"])
    assert judge._table == {1: 2, 2: 0}
    with pytest.raises(ValueError, match="the label has no class 'dog'"):
        maps(Form.CLASSES, classes=["dog"])


SCENE = {"objects": [
    {"shape": "cup", "colour": "red", "second": "white", "visible": 0.5},
    {"shape": "book", "colour": None, "visible": 1.0},
    {"shape": "cup", "colour": "blue", "visible": 0.05}, {"shape": "moon", "colour": "red", "visible": 1.0},
]}  # fmt: skip
SAYS = Truth(
    member="scene.json", objects="objects", name="shape", colours=["colour", "second"], visible="visible", least=0.1
)


def test_captions_are_judged_by_what_can_be_seen() -> None:
    judge = Captions(SAYS.model_copy(update={"words": {"book": ["volume"]}}), ("cup", "book"), ("red", "blue"))
    reference = judge.of_truth(json.dumps(SCENE).encode(), Frame(1, 1))
    assert reference == ({"cup", "book"}, {"red cup", "white cup"})
    answer = judge.of_label("A red volume beside a blue cup.")
    assert answer == ({"cup", "book"}, {"red book", "blue cup"})
    assert value(judge, [answer], [reference]) == 1 and value(judge, [answer], [reference], "colour_f1") == 0
    nothing = judge.of_label("nothing")
    assert value(judge, [answer, nothing], [reference, reference]) == pytest.approx(2 * 2 / (2 + 4))


def test_the_constant_caption_and_the_ensembles() -> None:
    judge = Captions(None, ("cup", "book"), ("red",))
    texts = ["a red cup", "a cup", "a red cup and a book"]
    each = [judge.of_label(text) for text in texts]
    assert judge.constant(each) == ({"cup"}, {"red cup"})
    assert judge.together(each) == ({"cup"}, {"red cup"})


@pytest.mark.parametrize("broken", [b"[]", b'{"objects": 3}', b'{"objects": [{"colour": "red"}]}'])
def test_a_scene_without_objects_is_said(broken: bytes) -> None:
    with pytest.raises(ValueError, match=r"scene.json: it has no list of objects with 'shape'"):
        seen_objects(broken, SAYS)


def box(name: str, *edges: float) -> Found:
    return Found(name, tuple(1000 * edge for edge in edges))


def test_the_constant_boxes_are_the_most_frequent_set() -> None:
    judge = Boxes(None)
    rows = [[box("cup", 0, 0, 0.2, 0.2)], [box("cup", 0.2, 0, 0.4, 0.2)], [box("book", 0, 0, 1, 1)]]
    (only,) = judge.constant(rows)
    assert only.name == "cup" and only.where == pytest.approx((100, 0, 300, 200))
    assert judge.constant([[], [], rows[0]]) == []


def test_boxes_of_an_ensemble_vote() -> None:
    judge = Boxes(None)
    together = judge.together([
        [box("cup", 0, 0, 0.4, 0.4), box("book", 0, 0, 0.4, 0.4)],
        [box("cup", 0.02, 0, 0.42, 0.4)],
        [box("cup", 0.6, 0.6, 0.9, 0.9)],
    ])  # fmt: skip
    said = {(one.name, round(one.score, 3)): one.where for one in together}
    assert said[("cup", 0.667)] == pytest.approx((10, 0, 410, 400))
    assert {("book", 0.333), ("cup", 0.333)} < said.keys() and len(said) == 3
    # Two boxes of one answer are two things, however they overlap.
    twice = judge.together([[box("cup", 0, 0, 0.4, 0.4), box("cup", 0, 0, 0.39, 0.4)]])
    assert [one.score for one in twice] == [1, 1]
    unsure = Found("cup", (0.0, 0.0, 400.0, 400.0), 0.5)
    assert [one.score for one in judge.together([[unsure], [box("cup", 0, 0, 0.4, 0.4)], []])] == [0.5]


def test_stored_instances_are_cut_to_the_crop() -> None:
    mask = np.zeros((10, 20), np.uint8)
    mask[:5, 4:7] = 1  # columns 5 to 15 are the crop
    (found,) = Instances(None).of_frame([{"mask": masks.encode(mask)}, {"mask": masks.encode(mask[:, ::-1] * 0)}])
    assert boxes_of([found]) == [(0, 0, 45, GRID // 2)] and found.where.sum() == 45 * GRID // 2


def test_people_are_matched_by_their_boxes() -> None:
    joints = np.random.default_rng(0).normal(size=(24, 3))
    judge = People(Truth(member="people.json"))
    there = [{"box": [0, 0, 0.5, 1], "joints": joints.tolist()}, {"box": [0.5, 0, 1, 1], "joints": joints.tolist()}]
    reference = judge.of_truth(json.dumps(there).encode(), Frame(100, 100))
    moved = joints.copy()
    moved[3] += [0, 0.24, 0]
    answer = [(np.array([0.0, 0, 0.5, 0.9]), moved + 5)]
    assert value(judge, [answer], [reference]) == pytest.approx(10)  # 24 cm at one joint of 24
    assert value(judge, [answer], [reference], "found") == 0.5
    constant = judge.constant([reference, reference])
    assert value(judge, [constant], [reference]) == pytest.approx(0, abs=1e-9)
    with pytest.raises(ValueError, match=r"people.json: .*expected a list of people"):
        judge.of_truth(b'[{"box": [0, 0, 1, 1], "joints": [1]}]', Frame(9, 9))


def test_poses_are_compared_by_their_joints() -> None:
    turns = Rotation.random(24, rng=np.random.default_rng(0)).as_matrix().reshape(24, 9)
    human = {"box": [0, 0, 1, 1], "global_orient": turns[0].tolist(), "body_pose": turns[1:].reshape(-1).tolist()}
    judge = People(None)
    posed = judge.of_label([human, {"box": [0, 0, 1, 1]}])
    assert len(posed) == 1 and posed[0][1].shape == (24, 3)
    assert value(judge, [posed], [posed]) == 0


def test_neighbours_are_those_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    train, classes = rng.normal(size=(60, 5)), rng.integers(0, 4, 60).astype(str)
    query, true = rng.normal(size=(30, 5)), rng.integers(0, 4, 30).astype(str)
    judge = Neighbours(Truth(member="cls"))
    judge.learn([*train, None], [*classes, "9"])
    expected = KNeighborsClassifier(20, weights=lambda d: np.exp((1 - d) / 0.07), metric="cosine").fit(train, classes)
    assert value(judge, list(query), list(true)) == pytest.approx(expected.score(query, true))
    assert value(judge, [judge.constant(["1", "1", "0"])] * 30, list(true)) == (true == "1").mean()
    with pytest.raises(ValueError, match="no training sample has both a vector and the member cls"):
        judge.learn([None], ["1"])
