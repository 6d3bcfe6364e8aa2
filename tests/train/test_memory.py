"""A process that keeps its freed memory does not fetch it again page by page."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
import numpy as np
from fourmill.train import memory
kept = {"keep": memory.keep_freed_memory, "some": lambda: memory.keep_freed_memory(2**27)}.get(sys.argv[1], bool)()
size = 2_000_000
np.ones(size)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    a, b = np.ones(size), np.ones(size)
    del a, b
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="mallopt is glibc's")
def test_freed_memory_is_used_again() -> None:
    def faults(mode: str) -> tuple[str, int]:
        done = subprocess.run([sys.executable, "-c", PROGRAM, mode], capture_output=True, text=True, check=True)
        kept, count = done.stdout.split()
        return kept, int(count)

    _, plain = faults("plain")
    for mode in ("keep", "some"):
        kept, few = faults(mode)
        assert kept == "True" and few < plain / 4 and plain > 4000
