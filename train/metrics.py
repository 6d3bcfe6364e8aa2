"""Metrics of a run: metrics.jsonl (one line for each logged step), and the same numbers as TensorBoard events and on
the trackers that the recipe names (trackers.py).

After a resume the lines beyond the checkpoint's step are dropped: the file has one line for each logged step.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ..infra import storage
from .trackers import CLOSE_SECONDS, Watcher

ABANDON_SECONDS = 2.0  # that a run which stops early waits for each tracker
FLUSH_SECONDS = 20.0  # between two writes: metrics.jsonl of a long run has some 10 MB (10,000 lines)


class Metrics:
    """The log of one run; only rank 0 has one.

    Args:
        folder: URL of the run.
        step: of the checkpoint that the run goes on from; later lines of an earlier attempt are dropped.
        trackers: that get every line too.
    """

    def __init__(self, folder: str, step: int, trackers: Sequence[Watcher] = ()) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.url = storage.join(folder, "metrics.jsonl")
        self.rows = [row for row in read(folder) if row["step"] <= step]
        self._events = storage.join(folder, "tensorboard")
        self._scratch = tempfile.TemporaryDirectory(prefix="fourmill-events-")
        self._writer = SummaryWriter(self._scratch.name, purge_step=step + 1)
        self._trackers = trackers
        self._text = bytearray().join(map(_line, self.rows))
        # Object stores cannot append: both files are written as a whole, by a thread while training goes on.
        self._thread = ThreadPoolExecutor(1, "fourmill-log")
        self._putting: Future[None] | None = None
        self._flushed = time.monotonic()

    def log(self, step: int, kind: str, values: dict[str, float]) -> None:
        """Add a line. `kind` is "train" or "val"; names with a slash group curves, as in "loss/caption"."""
        # Six significant digits: a float32 has no more than seven.
        self._add({"step": step, "kind": kind, **{name: float(f"{v:.6g}") for name, v in values.items()}})
        for name, value in values.items():
            self._writer.add_scalar(f"{kind}/{name}", value, step)
        for tracker in self._trackers:
            tracker.log(step, {f"{kind}/{name}": value for name, value in values.items()})
        if time.monotonic() - self._flushed > FLUSH_SECONDS:
            self.flush(wait=False)

    def skipped(self, line: dict[str, Any]) -> None:
        """Add a line of kind "skipped", see `Window.take_skipped`."""
        self._add({"step": line["step"], "kind": "skipped", **line})

    def _add(self, row: dict[str, Any]) -> None:
        self.rows.append(row)
        self._text += _line(row)

    def last(self, kind: str, prefix: str = "") -> dict[str, float]:
        """The values of the newest line of a kind, their names with a prefix; {} if there is none."""
        rows = [row for row in self.rows if row["kind"] == kind]
        row = rows[-1] if rows else {}
        return {prefix + name: value for name, value in row.items() if name not in ("step", "kind")}

    def flush(self, wait: bool = True) -> None:
        """Put both files. OSError if they could not be put, now or at an earlier time.

        Args:
            wait: return when they are written; else a thread writes them, unless it is still writing.
        """
        if self._putting is not None and (wait or self._putting.done()):
            putting, self._putting = self._putting, None
            putting.result()
        self._flushed = time.monotonic()
        if wait:
            self._put(bytes(self._text))
        elif self._putting is None:
            self._putting = self._thread.submit(self._put, bytes(self._text))

    def _put(self, text: bytes) -> None:
        storage.put(self.url, text)
        self._writer.flush()
        for path in Path(self._scratch.name).iterdir():
            storage.put(storage.join(self._events, path.name), path.read_bytes())

    def close(self) -> None:
        """The run is complete. OSError if its log could not be put."""
        self.flush()
        self._release(complete=True)

    def abandon(self) -> None:
        """The run stopped before its end, and may go on later: write the lines so far, if possible."""
        self._thread.shutdown()
        with contextlib.suppress(Exception):  # an error here would hide why the run stopped
            self._put(bytes(self._text))
        self._release(complete=False)

    def _release(self, complete: bool) -> None:
        for tracker in self._trackers:
            tracker.finish(complete)
        for tracker in self._trackers:
            tracker.wait(CLOSE_SECONDS if complete else ABANDON_SECONDS)
        self._thread.shutdown()
        self._writer.close()
        self._scratch.cleanup()


def _line(row: dict[str, Any]) -> bytes:
    return json.dumps(row).encode() + b"\n"


def read(folder: str) -> list[dict[str, Any]]:
    """The lines of a run's metrics.jsonl; [] if there is none yet."""
    try:
        text = storage.read_bytes(storage.join(folder, "metrics.jsonl")).decode()
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in text.splitlines() if line.strip()]
