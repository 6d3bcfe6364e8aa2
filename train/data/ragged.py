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
    return indices(np.zeros_like(lengths), lengths)


def spread(per_row: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """A value for each row, given to each of its elements: (sum of lengths,)."""
    return np.repeat(per_row, lengths)


def indices(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Of the elements of some rows (or windows) of a flat array, row by row: int64 (sum of lengths,)."""
    # One addition to a range, in place of a loop over rows: each row's offset from where it lies in the result.
    index = spread(starts - exclusive_cumsum(lengths), lengths)
    index += np.arange(len(index))
    return index


def counts(flat: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """How many of each row of a flat bool array are true: int64 (rows,)."""
    counted = np.zeros(len(lengths), np.int64)
    if len(flat):
        some = lengths > 0  # `reduceat` takes no empty rows
        counted[some] = np.add.reduceat(flat.view(np.uint8), exclusive_cumsum(lengths)[some], dtype=np.int32)
    return counted
