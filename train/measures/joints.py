"""Errors of the joints of bodies in space (MPJPE), as 3DPW is measured. Legend: J joints."""

from __future__ import annotations

import numpy as np


def mpjpe(predicted: np.ndarray, true: np.ndarray) -> float:
    """Mean distance of joints (J, 3), in their unit, after both pelves (joint 0) are put at the origin."""
    return float(np.linalg.norm((predicted - predicted[:1]) - (true - true[:1]), axis=1).mean())


def pa_mpjpe(predicted: np.ndarray, true: np.ndarray) -> float:
    """The same after the best rotation, scale and shift (Procrustes), no mirror image."""
    a, b = predicted - predicted.mean(0), true - true.mean(0)
    u, strength, v = np.linalg.svd(a.T @ b)
    sign = np.array([1.0, 1.0, np.sign(np.linalg.det(u @ v))])
    scale = (strength * sign).sum() / max(np.square(a).sum(), 1e-12)
    return float(np.linalg.norm(scale * a @ (u * sign) @ v - b, axis=1).mean())
