"""Checkpoints on any storage: a folder of files and a marker written last; without the marker there is no checkpoint.

ROOT/runs/NAME/FINGERPRINT/checkpoints/step-00001000/{model.safetensors, ..., complete.json}
"""

from __future__ import annotations

import io
import json
import re
import shutil
from dataclasses import dataclass
from typing import Any

from ..infra import storage

MARKER = "complete.json"
_STEP = re.compile(r"step-(\d+)")


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint: its step (optimiser steps done) and its folder."""

    step: int
    url: str

    def read(self, name: str) -> bytes:
        return storage.read_bytes(storage.join(self.url, name))


def save(folder: str, step: int, files: dict[str, bytes], keep: int) -> Checkpoint:
    """Write a checkpoint and then its marker; afterwards delete all but the newest `keep`."""
    url = storage.join(folder, f"step-{step:08d}")
    for name, data in files.items():
        storage.put(storage.join(url, name), data)
    marker = {"step": step, "files": {name: len(data) for name, data in files.items()}}
    storage.put(storage.join(url, MARKER), json.dumps(marker).encode())
    for old in complete(folder)[:-keep]:
        _delete(old)
    return Checkpoint(step, url)


def complete(folder: str) -> list[Checkpoint]:
    """All complete checkpoints of a run, oldest first."""
    found = []
    for name in storage.list_names(folder):
        match = _STEP.fullmatch(name)
        url = storage.join(folder, name)
        if match and storage.exists(storage.join(url, MARKER)):
            found.append(Checkpoint(int(match[1]), url))
    return sorted(found, key=lambda checkpoint: checkpoint.step)


def newest(folder: str) -> Checkpoint | None:
    """The newest complete checkpoint of a run, or None."""
    found = complete(folder)
    return found[-1] if found else None


def _delete(checkpoint: Checkpoint) -> None:
    # The marker goes first: a half-deleted checkpoint must not look whole.
    storage.delete(storage.join(checkpoint.url, MARKER))
    if storage.is_local(checkpoint.url):
        # With what a killed writer left. A file that cannot go (another job deletes it too, NFS) must not end a run.
        shutil.rmtree(storage.local_path(checkpoint.url), ignore_errors=True)
        return
    for name in storage.list_names(checkpoint.url):
        storage.delete(storage.join(checkpoint.url, name))


def pack(state: dict[str, Any]) -> bytes:
    """A state of tensors, numbers, strings, lists and dicts as bytes that `unpack` reads without pickled code."""
    import torch

    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def unpack(data: bytes, device: str = "cpu") -> dict[str, Any]:
    """The inverse of `pack`; refuses anything but tensors and plain values."""
    import torch

    state: dict[str, Any] = torch.load(io.BytesIO(data), map_location=device, weights_only=True)
    return state
