"""A process that keeps its freed memory does not fetch it again page by page."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
import numpy as np
from fourmill.train import memory
kept = memory.keep_freed_memory() if sys.argv[1] == "keep" else False
np.ones(8_000_000)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    np.ones(8_000_000)
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="mallopt is glibc's")
def test_freed_memory_is_used_again() -> None:
    def faults(mode: str) -> tuple[str, int]:
        done = subprocess.run([sys.executable, "-c", PROGRAM, mode], capture_output=True, text=True, check=True)
        kept, count = done.stdout.split()
        return kept, int(count)

    (_, plain), (kept, few) = faults("plain"), faults("keep")
    assert kept == "True" and few < 100 < plain
