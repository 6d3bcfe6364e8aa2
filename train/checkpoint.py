"""Checkpoints on any storage: a folder of files and a marker written last; without the marker there is no checkpoint.

FOLDER/step-00001000/{whatever, ..., complete.json}
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
    """A complete checkpoint: its step (optimizer steps done) and its folder."""

    step: int
    url: str

    def read(self, name: str) -> bytes:
        return storage.read_bytes(storage.join(self.url, name))

    def marker(self) -> dict[str, Any]:
        """What the marker says. ValueError if it is damaged."""
        try:
            return json.loads(self.read(MARKER))
        except ValueError as error:  # no JSON, or not UTF-8
            raise ValueError(f"{MARKER} is damaged ({error})") from None

    def damage(self) -> str:
        """What is wrong with its files, "" if nothing is. Their sizes are looked at, their content is not."""
        try:
            sizes: dict[str, int] = self.marker().get("files", {})
        except (ValueError, FileNotFoundError) as error:
            return str(error)
        for name, size in sizes.items():
            found = storage.stat(storage.join(self.url, name))
            if found is None or found.size < size:
                return f"{name} has {found.size} of {size} bytes" if found else f"{name} is missing"
        return ""


def save(folder: str, step: int, files: dict[str, bytes], keep: int) -> Checkpoint:
    """Write a checkpoint and then its marker; afterwards delete all but the newest `keep`."""
    url = step_url(folder, step)
    for name, data in files.items():
        storage.put(storage.join(url, name), data)
    return mark(folder, step, {"files": {name: len(data) for name, data in files.items()}}, keep)


def step_url(folder: str, step: int) -> str:
    return storage.join(folder, f"step-{step:08d}")


def mark(folder: str, step: int, told: dict[str, Any], keep: int) -> Checkpoint:
    """Make a checkpoint whose files are all there complete, and delete all that are older than the newest `keep`.

    What killed writers have left goes with the old ones.

    Args:
        told: what the marker holds beside the step, as JSON; "files": {name: bytes} at least, which `newest` compares.
    """
    url = step_url(folder, step)
    storage.put(storage.join(url, MARKER), json.dumps({"step": step, **told}).encode())
    # A later one is damaged: nobody would have come here again from it. It must not count as one that is kept.
    oldest = [one for one in complete(folder) if one.step <= step][-keep:][0].step
    for old in _folders(folder):
        if old.step < oldest:
            _delete(old)
    return Checkpoint(step, url)


def complete(folder: str) -> list[Checkpoint]:
    """All complete checkpoints of a run, oldest first."""
    return [one for one in _folders(folder) if storage.exists(storage.join(one.url, MARKER))]


def _folders(folder: str) -> list[Checkpoint]:
    """Those that are complete and those that are not, oldest first."""
    steps = {int(match[1]): name for name in storage.list_names(folder) if (match := _STEP.fullmatch(name))}
    return [Checkpoint(step, storage.join(folder, steps[step])) for step in sorted(steps)]


def newest(folder: str, notes: list[str] | None = None) -> Checkpoint | None:
    """The newest complete checkpoint of a run whose files are all there, or None if there is no complete one.

    Args:
        notes: gets a sentence for each newer one that is damaged, and was passed over.

    Raises:
        ValueError: there are complete ones, and all are damaged: nothing begins at step 0 without being told to.
    """
    damaged: list[str] = []
    for one in reversed(complete(folder)):
        if not (damage := one.damage()):
            if notes is not None:
                notes += [f"{said}; passed over for step {one.step}" for said in damaged]
            return one
        damaged.append(f"{one.url}: {damage}")
    if damaged:
        raise ValueError(
            f"{'; '.join(damaged)}; there is no other checkpoint: bring the files back, or delete {folder}"
        )
    return None


def at(url: str) -> Checkpoint | None:
    """The complete checkpoint whose own folder this is, or None."""
    step = _STEP.fullmatch(url.rstrip("/").rpartition("/")[2])
    return Checkpoint(int(step[1]), url) if step and storage.exists(storage.join(url, MARKER)) else None


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

    return torch.load(io.BytesIO(data), map_location=device, weights_only=True)
