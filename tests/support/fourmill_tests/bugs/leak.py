"""A mistake in masking, planted in each process that imports it: tokens of grids that are to be predicted are inputs.

A recipe names it in `modules`, so that the workers of training import it as any module of a user's.
"""

from __future__ import annotations

import numpy as np

from fourmill.train.data.draws import Draws
from fourmill.train.masking import masking

_disjoint = masking.choose_disjoint


def overlapping(length: int, first: np.ndarray, second: np.ndarray, draws: Draws) -> tuple[np.ndarray, np.ndarray]:
    """As `masking.choose_disjoint`, but both subsets are the first of the same order: the smaller is in the larger."""
    none = np.zeros_like(first)
    return _disjoint(length, first, none, draws)[0], _disjoint(length, second, none, draws)[0]


masking.choose_disjoint = overlapping
