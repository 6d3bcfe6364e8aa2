"""What a figure needs beside it: the command that gave it, the commit, the day and the machine."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).parents[1]


def state(script: str, arguments: Sequence[str] | None = None) -> None:
    """Print the circumstances of a run, above its table.

    Args:
        script: `__file__` of the benchmark.
        arguments: of its `main`; those of the command line if None.
    """
    words = sys.argv[1:] if arguments is None else arguments
    print(f"command:  python {Path(script).resolve().relative_to(ROOT)} {' '.join(words)}".rstrip())
    print(f"commit:   {commit()}")
    print(f"date:     {datetime.now(UTC):%Y-%m-%d %H:%M} UTC")
    print(f"hardware: {hardware()}\n", flush=True)


def commit() -> str:
    """The commit of this tree, with a mark if files differ from it."""
    head = _git("rev-parse", "--short", "HEAD")
    changed = _git("status", "--porcelain", "--untracked-files=no")
    return (head + (", with changes" if changed else "")) if head else "unknown: this is no git repository"


def hardware() -> str:
    """Cores that this process may use, the name of the CPU, the GPU if one may be used, Python and PyTorch."""
    torch = sys.modules.get("torch")  # benchmarks without it use no GPU
    gpu = f", {torch.cuda.get_device_name()}" if torch is not None and torch.cuda.is_available() else ""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{cores} cores of {_cpu()}{gpu}; Python {platform.python_version()}, torch {version('torch')}"


def _cpu() -> str:
    """Its name as Linux has it; elsewhere the architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())


def _git(*words: str) -> str:
    done = subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 else ""
