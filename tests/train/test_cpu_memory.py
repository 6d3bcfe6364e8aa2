"""A process that keeps its freed memory does not hand it back to the kernel."""

from __future__ import annotations

import subprocess
import sys

import pytest

# Resident memory, not page faults: how many bytes a fault brings is the kernel's choice.
PROGRAM = """
import os, sys
import numpy as np
from fourmill.train.cpu_memory import keep_freed_memory

MB = 2**20

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

kept = {"all": keep_freed_memory, "some": lambda: keep_freed_memory(128 * MB)}.get(sys.argv[1], bool)()
start = resident()
held = [np.ones(int(sys.argv[3]) * MB // 8) for _ in range(int(sys.argv[2]))]
full = resident()
del held
print(kept, (full - start) // MB, (resident() - start) // MB)
"""


def freed(mode: str, blocks: int, size: int) -> tuple[str, int, int]:
    """What `keep_freed_memory` returned, the MB that blocks of `size` MB took, and those still held when freed."""
    command = [sys.executable, "-c", PROGRAM, mode, str(blocks), str(size)]
    kept, full, left = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    return kept, int(full), int(left)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="mallopt is glibc's")
def test_freed_memory_is_kept() -> None:
    kept, full, left = freed("plain", 4, 16)
    assert kept == "False" and full >= 60 and left < 16
    for mode in ("all", "some"):
        kept, full, left = freed(mode, 4, 16)
        assert kept == "True" and full >= 60 and left >= 60


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="mallopt is glibc's")
def test_large_blocks_are_kept_only_without_a_limit() -> None:
    _, full, left = freed("some", 4, 64)
    assert full >= 250 and left < 16
    _, full, left = freed("all", 4, 64)
    assert full >= 250 and left >= 250
