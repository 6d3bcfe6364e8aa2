"""Metrics of a run: metrics.jsonl (one line for each logged step), and the same numbers as TensorBoard events and on
the trackers that the recipe names (trackers.py).

Both files are rewritten as a whole in one PUT, since object stores cannot append. After a resume the lines beyond the
checkpoint's step are dropped, so that the file tells one story.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..infra import storage
from .trackers import Tracker

FLUSH_SECONDS = 20.0


class Metrics:
    """The log of one run; only rank 0 has one.

    Args:
        folder: URL of the run.
        step: of the checkpoint that the run goes on from; later lines of an earlier attempt are dropped.
        trackers: that get every line too.
    """

    def __init__(self, folder: str, step: int, trackers: Sequence[Tracker] = ()) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.url = storage.join(folder, "metrics.jsonl")
        self.rows = [row for row in read(folder) if row["step"] <= step]
        self._events = storage.join(folder, "tensorboard")
        self._scratch = tempfile.TemporaryDirectory(prefix="fourmill-events-")
        self._writer = SummaryWriter(self._scratch.name, purge_step=step + 1)
        self._trackers = trackers
        self._flushed = time.monotonic()

    def log(self, step: int, kind: str, values: dict[str, float]) -> None:
        """Add a line. `kind` is "train" or "val"; names with a slash group curves, as in "loss/caption"."""
        self.rows.append({"step": step, "kind": kind, **{name: float(f"{v:.6g}") for name, v in values.items()}})
        for name, value in values.items():
            self._writer.add_scalar(f"{kind}/{name}", value, step)
        for tracker in self._trackers:
            tracker.log(step, {f"{kind}/{name}": value for name, value in values.items()})
        if time.monotonic() - self._flushed > FLUSH_SECONDS:
            self.flush()

    def last(self, kind: str, prefix: str = "") -> dict[str, float]:
        """The values of the newest line of a kind, their names with a prefix; {} if there is none."""
        rows = [row for row in self.rows if row["kind"] == kind]
        row = rows[-1] if rows else {}
        return {prefix + name: value for name, value in row.items() if name not in ("step", "kind")}

    def flush(self) -> None:
        """Put both files."""
        storage.put(self.url, "".join(json.dumps(row) + "\n" for row in self.rows).encode())
        self._writer.flush()
        for path in Path(self._scratch.name).iterdir():
            storage.put(storage.join(self._events, path.name), path.read_bytes())
        self._flushed = time.monotonic()

    def close(self) -> None:
        self.flush()
        self._writer.close()
        for tracker in self._trackers:
            tracker.close()
        self._scratch.cleanup()


def read(folder: str) -> list[dict[str, Any]]:
    """The lines of a run's metrics.jsonl; [] if there is none yet."""
    try:
        text = storage.read_bytes(storage.join(folder, "metrics.jsonl")).decode()
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in text.splitlines() if line.strip()]
