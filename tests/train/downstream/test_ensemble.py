"""Averages of several generations."""

from __future__ import annotations

import numpy as np
import pytest

from fourmill.modalities import Form
from fourmill.train.downstream.ensemble import average


def test_classes_are_voted() -> None:
    members = np.array([[[0, 1, 255]], [[0, 2, 255]], [[3, 2, 1]]], np.uint8)
    assert average(Form.CLASSES, members).tolist() == [[0, 2, 255]]
    assert average(Form.CLASSES, members).dtype == np.uint8
    assert average(Form.CLASSES, np.array([[[5]], [[4]]], np.uint8)).tolist() == [[4]]


def test_normals_stay_of_length_one() -> None:
    members = np.array([[[1.0, 0, 0]], [[0, 1.0, 0]]], np.float32)
    np.testing.assert_allclose(average(Form.NORMALS, members), [[0.5**0.5, 0.5**0.5, 0]], rtol=1e-6)
    assert average(Form.NORMALS, np.stack([members[0], -members[0]])).tolist() == [[0, 0, 0]]


@pytest.mark.parametrize("form", [Form.DEPTH, Form.FEATURES, Form.VECTOR])
def test_numbers_are_averaged(form: Form) -> None:
    members = np.random.default_rng(0).random((4, 2, 3, 3)).astype(np.float32)
    np.testing.assert_allclose(average(form, members), members.mean(0), rtol=1e-6)


def test_pictures_are_averaged_and_rounded() -> None:
    members = np.array([[[0, 255, 10]], [[255, 255, 11]], [[255, 255, 12]]], np.uint8)
    averaged = average(Form.COLORS, members)
    assert averaged.dtype == np.uint8 and averaged.tolist() == [[170, 255, 11]]


@pytest.mark.parametrize("form", [Form.CLASSES, Form.NORMALS, Form.COLORS, Form.DEPTH])
def test_one_member_is_itself(form: Form) -> None:
    rng = np.random.default_rng(1)
    one = rng.integers(0, 9, (1, 2, 4, 3)).astype(np.uint8) if form in (Form.CLASSES, Form.COLORS) else None
    if one is None:
        vectors = rng.standard_normal((1, 2, 4, 3)).astype(np.float32)
        one = vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
    np.testing.assert_allclose(average(form, one), one[0], atol=1e-6)
