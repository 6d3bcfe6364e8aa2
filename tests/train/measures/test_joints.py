"""Errors of joints with known answers."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial import procrustes
from scipy.spatial.transform import Rotation

from fourmill.train.measures.joints import mpjpe, pa_mpjpe

RNG = np.random.default_rng(0)
TRUE = RNG.normal(size=(24, 3))


def test_the_pelvis_is_aligned() -> None:
    assert mpjpe(TRUE + np.array([1, 2, 3]), TRUE) == pytest.approx(0)
    moved = TRUE.copy()
    moved[5] += [0.3, 0.4, 0]  # one joint of 24 by half a metre
    assert mpjpe(moved, TRUE) == pytest.approx(0.5 / 24)


def test_procrustes_takes_rotation_scale_and_shift() -> None:
    turn = Rotation.from_euler("xyz", [20, 50, -70], degrees=True).as_matrix()
    assert pa_mpjpe(2.5 * TRUE @ turn + [1, 0, 2], TRUE) == pytest.approx(0, abs=1e-9)
    mirrored = TRUE * [-1, 1, 1]
    assert pa_mpjpe(mirrored, TRUE) > 0.1  # no mirror image


def test_procrustes_is_scipys() -> None:
    found = TRUE + 0.1 * RNG.normal(size=TRUE.shape)
    a, b, _ = procrustes(TRUE, found)  # both at norm 1, the second fitted to the first
    size = np.linalg.norm(TRUE - TRUE.mean(0))
    assert pa_mpjpe(found, TRUE) == pytest.approx(size * np.linalg.norm(a - b, axis=1).mean())
