"""Arrays of NumPy's .npy from bytes: nothing is unpickled, and no header is believed."""

from __future__ import annotations

import io
import math
import threading

import numpy as np

# NumPy parses a header as Python. CPython 3.11 counts the depth of that for all threads together, and may raise
# SystemError (AST constructor recursion depth mismatch) where two of them parse at once (python/cpython issue 106905).
_PARSING = threading.RLock()


def read(data: bytes) -> np.ndarray:
    """The array of a .npy file, of its own dtype, read-only. ValueError if it is damaged, or holds Python objects."""
    file = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(file)
        header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        with _PARSING:
            shape, fortran, dtype = header(file)
    except (ValueError, TypeError, SyntaxError, UnicodeError, RecursionError) as error:
        raise ValueError("not an array of NumPy's .npy, or a damaged one") from error
    if dtype.hasobject:
        raise ValueError("an array of object, expected numbers: it is a pickle and is not read")
    # Compared before anything of that size is made: a header may say anything.
    found, expected = len(data) - file.tell(), math.prod(shape) * dtype.itemsize
    if found != expected:
        raise ValueError(f"cut off or damaged: {found} bytes of values, expected {expected} for {shape}")
    return np.frombuffer(data, dtype, offset=file.tell()).reshape(shape, order="F" if fortran else "C")
