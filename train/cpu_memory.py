"""Training and generation on CPUs: keep the memory that the process frees. Not used on GPUs."""

from __future__ import annotations

import ctypes
import sys

# Numbers of mallopt's parameters, from <malloc.h> of glibc.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4
_NEVER = 2**31 - 1
_LARGEST_THRESHOLD = 2**25  # glibc takes no more


def keep_freed_memory(most: int | None = None) -> bool:
    """Let this process keep the memory that it frees, for its next allocations; returns whether it could.

    Args:
        most: bytes that it keeps, below 2 GiB, at the end of its heap, and then only of blocks up to 32 MiB; all of all
            if None.

    A step allocates and frees gradients of hundreds of MB. glibc hands such blocks back to the kernel at once, and the
    next step takes them again page by page, each zeroed: 7 % of the CPU time of a 4M-B step on 2 cores, and of a chain
    of generation. Only Linux's glibc is asked. Without a limit the process holds its peak until it ends: call it so in
    a process that only trains.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    if most is None:
        return bool(mallopt(_MMAP_MAX, 0) and mallopt(_TRIM_THRESHOLD, _NEVER))
    return bool(mallopt(_MMAP_THRESHOLD, _LARGEST_THRESHOLD) and mallopt(_TRIM_THRESHOLD, most))
