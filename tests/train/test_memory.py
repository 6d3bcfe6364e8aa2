"""A process that keeps its freed memory does not hand it back to the kernel, up to what it was allowed."""

from __future__ import annotations

import subprocess
import sys

import pytest

# Resident memory, not page faults: how many bytes a fault brings is the kernel's choice.
PROGRAM = """
import os, sys
import numpy as np
from fourmill.train import memory

MB = 2**20

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

kept = {"all": memory.keep_freed_memory, "some": lambda: memory.keep_freed_memory(128 * MB)}.get(sys.argv[1], bool)()
start = resident()
held = [np.ones(16 * MB // 8) for _ in range(int(sys.argv[2]))]
full = resident()
del held
print(kept, (full - start) // MB, (resident() - start) // MB)
"""


def freed(mode: str, blocks: int) -> tuple[str, int, int]:
    """What `keep_freed_memory` returned, the MB that blocks of 16 MB took, and those still held when they are freed."""
    command = [sys.executable, "-c", PROGRAM, mode, str(blocks)]
    kept, full, left = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    return kept, int(full), int(left)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="mallopt is glibc's")
def test_freed_memory_is_kept() -> None:
    kept, full, left = freed("plain", 4)
    assert kept == "False" and full >= 60 and left < 16
    for mode in ("all", "some"):
        kept, full, left = freed(mode, 4)
        assert kept == "True" and full >= 60 and left >= 60


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="mallopt is glibc's")
def test_no_more_is_kept_than_allowed() -> None:
    _, full, left = freed("some", 16)
    assert full >= 250 and left <= 140
    _, full, left = freed("all", 16)
    assert full >= 250 and left >= 250
