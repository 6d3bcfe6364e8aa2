"""The run of the day with a GPU: dry on a CPU, and parts that fail cost their own figures alone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"
# One of each kind; the others differ in sizes.
DRY = ["machine", "step-B", "loader", "labels", "generation-1", "tok_dinov2"]
# A process that asks torch for GPUs cannot start others that use them: importing all parts must not ask.
IMPORTS = f"""
import sys
sys.path.insert(0, {str(FOLDER)!r})
import torch
def asked(*_): raise AssertionError("torch was asked for GPUs")
real = torch.cuda.is_available, torch.cuda.device_count, torch._C._cuda_getDeviceCount
torch.cuda.is_available = torch.cuda.device_count = torch._C._cuda_getDeviceCount = asked
import gpu
names = [part.name for part in gpu.parts([])]
assert len(set(names)) == len(names) > 5
torch.cuda.is_available, torch.cuda.device_count, torch._C._cuda_getDeviceCount = real
"""


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(FOLDER))
    import gpu

    return gpu


def dry(file: Path, *only: str, script: Sequence[str] = (str(FOLDER / "gpu.py"),)) -> dict[str, Any]:
    command = [sys.executable, *script, "--device", "cpu", "--tiny", "--json", str(file), "--only", *only]
    done = subprocess.run(command, capture_output=True, text=True, cwd="/")
    assert done.returncode == 0, done.stderr
    described: dict[str, Any] = json.loads(file.read_text())
    for name, figures in described["parts"].items():
        assert "error" not in figures, f"{name}: {figures['error']}\n{done.stderr}"
        assert all(f"| {name} | {figure} | " in done.stdout for figure in figures)
    return described


def test_it_runs_dry(tmp_path: Path) -> None:
    described = dry(tmp_path / "gpu.json", *DRY, script=("-c", f"{IMPORTS}\ngpu.main()"))
    assert list(described["parts"]) == DRY and described["commit"] and described["hardware"]
    parts = described["parts"]
    assert parts["step-B"]["ms a step"] > 0 and 0 <= parts["step-B"]["waiting"] < 1
    assert parts["loader"]["samples/s"] > 0 and parts["labels"]["images/s"] > 0 and "rejects" not in parts["labels"]
    assert parts["tok_dinov2"]["encoded images/s"] > 0 and parts["generation-1"]["ms a token"] > 0


@pytest.mark.slow
def test_the_rest_runs_dry(tmp_path: Path) -> None:
    dry(tmp_path / "gpu.json", "eager-step-B", "labels-SAM", "tok_rgb")


def test_parts_that_fail_say_why(gpu: Any, tmp_path: Path) -> None:
    def raises(place: Any) -> Any:
        raise ValueError("there is | no\nroom")

    place = gpu.Place("cpu", True, tmp_path)
    cases = {
        "ValueError: there is": raises,
        "its process ended with 3": lambda place: os._exit(3),
        "it took longer than 0 s": lambda place: signal.pause(),
    }
    for why, run in cases.items():
        said = gpu.alone(gpu.Part("part", run, 1.0), place, 0.3 if "longer" in why else 30.0)
        assert said["error"].startswith(why), said
        assert "|" not in gpu.shown(said["error"]) and "\n" not in gpu.shown(said["error"])
    assert gpu.alone(gpu.Part("part", lambda place: {"ms": 2.0}, 1.0), place, 30.0)["ms"] == 2.0
    assert gpu.alone(gpu.Part("part", raises, 1.0), place, 0.0) == {"error": "no time was left"}
