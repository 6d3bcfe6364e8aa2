"""Arrays of .npy: as NumPy reads them, refused where they are damaged, from several threads."""

from __future__ import annotations

import gc
import io
import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from fourmill.infra.formats import npy


def written(array: np.ndarray) -> bytes:
    sink = io.BytesIO()
    np.save(sink, array, allow_pickle=True)
    return sink.getvalue()


@given(arrays.arrays(arrays.scalar_dtypes(), arrays.array_shapes(min_dims=0, min_side=0)), st.booleans())
def test_they_are_as_numpy_reads_them(array: np.ndarray, fortran: bool) -> None:
    data = written(np.asfortranarray(array) if fortran else array)
    found, expected = npy.read(data), np.load(io.BytesIO(data))
    assert found.dtype == expected.dtype and found.shape == expected.shape
    assert found.tobytes() == expected.tobytes() and found.flags.fnc == expected.flags.fnc


@pytest.mark.parametrize("cut", [0, 5, 9, 60, 128, 150])
def test_cut_off_arrays_are_refused(cut: int) -> None:
    with pytest.raises(ValueError, match=r"^(not an array|cut off)"):
        npy.read(written(np.arange(4))[:cut])


def test_python_objects_are_refused() -> None:
    with pytest.raises(ValueError, match="of object"):
        npy.read(written(np.array([{}])))


class Cycle:
    """Garbage whose finalizer lets other threads run, wherever it is collected: also while a header is parsed."""

    def __init__(self) -> None:
        self.itself = self

    def __del__(self) -> None:
        os.sched_yield()


def test_threads_may_read_at_once() -> None:
    data, thresholds = written(np.zeros(1)), gc.get_threshold()

    def read(_: int) -> int:
        Cycle()
        return len(npy.read(data))

    gc.set_threshold(20)
    try:
        with ThreadPoolExecutor(4) as pool:
            assert sum(pool.map(read, range(300))) == 300
    finally:
        gc.set_threshold(*thresholds)
