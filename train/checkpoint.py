"""Checkpoints on any storage: a folder of files and a marker written last; without the marker there is no checkpoint.

FOLDER/step-00001000/{FILE, ..., complete.json}
"""

from __future__ import annotations

import io
import json
import logging
import re
import shutil
from dataclasses import dataclass
from typing import Any

from ..infra import storage, sums

logger = logging.getLogger(__name__)

MARKER = "complete.json"
_STEP = re.compile(r"step-(\d+)")


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint: its step (optimizer steps done) and its folder."""

    step: int
    url: str

    def read(self, name: str) -> bytes:
        """One of its files, whole. ValueError if it is not the one that was written."""
        data = storage.read_bytes(storage.join(self.url, name))
        expected = self.marker().get("sums", {}).get(name) if name != MARKER else None
        if expected is not None and sums.of(data) != expected:
            raise ValueError(f"{storage.join(self.url, name)} is damaged; move {self.url} away to go on without it")
        return data

    def marker(self) -> dict[str, Any]:
        """The content of the marker. ValueError if it is damaged."""
        try:
            return sums.opened(json.loads(self.read(MARKER)))
        except (ValueError, TypeError) as error:  # no JSON, not UTF-8, or other values
            raise ValueError(f"{MARKER} is damaged ({error})") from None

    def damage(self, whole: bool = False) -> str:
        """What is wrong with its files, "" if nothing is.

        Args:
            whole: read them, and compare their sums; else their sizes alone are compared.
        """
        # Reading the content would take minutes for 100 GB; `sharded.load` notices tensors that were cut.
        try:
            marker = self.marker()
        except (ValueError, FileNotFoundError) as error:
            return str(error)
        sizes: dict[str, int] = marker.get("files", {})
        for name, size in sizes.items():
            place = storage.join(self.url, name)
            stat = storage.stat(place)
            if stat is None or stat.size < size:
                return f"{name} has {stat.size} of {size} bytes" if stat else f"{name} is missing"
            if whole and name in marker.get("sums", {}) and sums.of_url(place) != marker["sums"][name]:
                return f"{name} is damaged"
        return ""


def save(folder: str, step: int, files: dict[str, bytes], keep: int) -> Checkpoint:
    """Write a checkpoint and then its marker; afterwards delete all but the newest `keep`. See `mark`."""
    url = step_url(folder, step)
    known = {name: put(storage.join(url, name), data) for name, data in files.items()}
    return mark(folder, step, {"files": {name: len(data) for name, data in files.items()}, "sums": known}, keep)


def put(url: str, data: bytes) -> str:
    """Write a file of a checkpoint and read it back; returns its sum. OSError if it is not the one that was written."""
    storage.put(url, data)
    known = sums.of(data)
    if sums.of_url(url) != known:
        raise OSError(f"{url}: what is read back is not what was written; the checkpoints before it are kept")
    return known


def step_url(folder: str, step: int) -> str:
    return storage.join(folder, f"step-{step:08d}")


def mark(folder: str, step: int, content: dict[str, Any], keep: int) -> Checkpoint:
    """Complete a checkpoint whose files are all written, and delete those older than the newest `keep`.

    Incomplete checkpoints of killed writers are deleted with the old ones. Nothing is deleted before this one can be
    relied on: each file was read back when it was written (`put`), and here sizes and the marker are looked at.

    Args:
        content: of the marker beside the step, as JSON; at least "files": {name: bytes}, whose sizes `newest` compares;
            and "sums" of these files.

    Raises:
        OSError: it is not as it was written.
    """
    url = step_url(folder, step)
    put(storage.join(url, MARKER), json.dumps(sums.sealed({"step": step, **content})).encode())
    if damage := Checkpoint(step, url).damage():
        raise OSError(f"{url}: {damage}, though it was written just now; the checkpoints before it are kept")
    logger.info("checkpoint of step %d is complete: %s", step, url)
    # A complete checkpoint of a later step is damaged, or training would have resumed from it. It must not count as one
    # of the `keep`: with keep=1 it would have the only good checkpoint deleted.
    oldest = [one for one in complete(folder) if one.step <= step][-keep:][0].step
    for old in _folders(folder):
        if old.step < oldest:
            _delete(old)
    return Checkpoint(step, url)


def complete(folder: str) -> list[Checkpoint]:
    """All complete checkpoints of a run, oldest first."""
    return [one for one in _folders(folder) if storage.exists(storage.join(one.url, MARKER))]


def _folders(folder: str) -> list[Checkpoint]:
    """Complete and incomplete checkpoints, oldest first."""
    steps = {int(match[1]): name for name in storage.list_names(folder) if (match := _STEP.fullmatch(name))}
    return [Checkpoint(step, storage.join(folder, steps[step])) for step in sorted(steps)]


def newest(folder: str, notes: list[str] | None = None) -> Checkpoint | None:
    """The newest complete checkpoint of a run whose files are all there, or None if there is no complete one.

    Args:
        notes: a sentence is appended for each newer one that is damaged and was skipped.

    Raises:
        ValueError: there are complete ones, and all are damaged. A run does not start over at step 0 by itself.
    """
    damaged: list[str] = []
    for one in reversed(complete(folder)):
        if not (damage := one.damage()):
            if notes is not None:
                notes += [f"{problem}; passed over for step {one.step}" for problem in damaged]
            return one
        logger.warning("skipped a damaged checkpoint: %s: %s", one.url, damage)
        damaged.append(f"{one.url}: {damage}")
    if damaged:
        raise ValueError(
            f"{'; '.join(damaged)}; there is no other checkpoint: bring the files back, or delete {folder}"
        )
    return None


def at_step(folder: str, step: int) -> Checkpoint:
    """The complete checkpoint of a step. ValueError naming those that there are."""
    found = complete(folder)
    if not (chosen := [one for one in found if one.step == step]):
        there = ", ".join(str(one.step) for one in found) or "none"
        raise ValueError(f"{folder}: there is no complete checkpoint of step {step}, but of the steps {there}")
    return chosen[0]


def go_back(folder: str, step: int) -> list[int]:
    """Take later checkpoints away, so that training goes on from the one of a step. Returns their steps.

    ValueError if there is none of that step.
    """
    at_step(folder, step)
    later = [one for one in complete(folder) if one.step > step]
    for one in reversed(later):  # killed in between, the newest that is left is still the newest
        _delete(one)
    return [one.step for one in later]


def at(url: str) -> Checkpoint | None:
    """The complete checkpoint whose own folder this is, or None."""
    step = _STEP.fullmatch(url.rstrip("/").rpartition("/")[2])
    return Checkpoint(int(step[1]), url) if step and storage.exists(storage.join(url, MARKER)) else None


def _delete(checkpoint: Checkpoint) -> None:
    # The marker goes first: a half-deleted checkpoint must not look whole.
    storage.delete(storage.join(checkpoint.url, MARKER))
    if storage.is_local(checkpoint.url):
        # Temporary files of killed writers go too. A file that cannot be deleted (another job deletes it at the same
        # time, or NFS keeps it open) must not end a run.
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
