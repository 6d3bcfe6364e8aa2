"""Rows of different lengths lying end to end in one flat array. Row i holds `flat[starts[i]:][:lengths[i]]`."""

from __future__ import annotations

import numpy as np


def exclusive_cumsum(lengths: np.ndarray) -> np.ndarray:
    """Where each row begins: int64 (rows,)."""
    ends: np.ndarray = np.cumsum(lengths, dtype=np.int64)
    ends -= lengths
    return ends


def ranks(lengths: np.ndarray) -> np.ndarray:
    """0, 1, ..., length - 1 for each row: int64 (sum of lengths,)."""
    return spread(-exclusive_cumsum(lengths), lengths) + np.arange(int(lengths.sum()))


def spread(per_row: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """A value for each row, given to each of its elements: (sum of lengths,)."""
    return np.repeat(per_row, lengths)


def indices(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Of the elements of some rows (or windows) of a flat array, row by row: int64 (sum of lengths,)."""
    return spread(starts - exclusive_cumsum(lengths), lengths) + np.arange(int(lengths.sum()))


def row_sums(flat: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Sums of a flat array's rows: int64 (rows,). Empty rows sum to 0."""
    ends = np.concatenate([[0], np.cumsum(flat, dtype=np.int64)])
    starts = exclusive_cumsum(lengths)
    sums: np.ndarray = ends[starts + lengths] - ends[starts]
    return sums
