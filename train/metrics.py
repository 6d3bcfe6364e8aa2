"""Metrics of a run: metrics.jsonl (one line for each logged step), and the same numbers as TensorBoard events and on
the trackers that the recipe names (trackers.py).

After a resume the lines beyond the checkpoint's step are dropped: the file has one line for each logged step.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import socket
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from ..infra import side_files, storage
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
        self.url = storage.join(folder, "metrics.jsonl")
        self.rows = [row for row in read(folder) if row["step"] <= step]
        self._events = _Events(storage.join(folder, "tensorboard"), step + 1)
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
            self._events.add(f"{kind}/{name}", value, step)
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
            self._put(*self._contents())
        elif self._putting is None:
            self._putting = self._thread.submit(self._put, *self._contents())

    def _contents(self) -> tuple[bytes, bytes]:
        return bytes(self._text), self._events.content()

    def _put(self, text: bytes, events: bytes) -> None:
        storage.put(self.url, text)
        storage.put(self._events.url, events)

    def close(self) -> None:
        """The run is complete. OSError if its log could not be put."""
        self.flush()
        self._release(complete=True)

    def abandon(self) -> None:
        """The run stopped before its end, and may go on later: write the lines so far, if possible."""
        self._thread.shutdown()
        with contextlib.suppress(Exception):  # an error here would hide why the run stopped
            self._put(*self._contents())
        self._release(complete=False)

    def _release(self, complete: bool) -> None:
        for tracker in self._trackers:
            tracker.finish(complete)
        for tracker in self._trackers:
            tracker.wait(CLOSE_SECONDS if complete else ABANDON_SECONDS)
        self._thread.shutdown()


class _Events:
    """A file of TensorBoard events, in memory: torch's writer needs a folder, which a killed run would leave behind.

    Args:
        folder: URL of the run's events. purge: TensorBoard drops what earlier files say of this step and later ones.
    """

    def __init__(self, folder: str, purge: int) -> None:
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.summary.writer.record_writer import RecordWriter

        self._event, self._summary = Event, Summary
        # TensorBoard reads files in the order of their names, which begin with the time.
        name = f"events.out.tfevents.{time.time():017.6f}.{socket.gethostname()}.{os.getpid()}"
        self.url, self._buffer = storage.join(folder, name), io.BytesIO()
        self._records = RecordWriter(self._buffer)
        self._write(Event(wall_time=time.time(), file_version="brain.Event:2"))
        self._write(Event(wall_time=time.time(), step=purge, session_log=SessionLog(status=SessionLog.START)))

    def add(self, name: str, value: float, step: int) -> None:
        summary = self._summary(value=[self._summary.Value(tag=name, simple_value=value)])
        self._write(self._event(wall_time=time.time(), step=step, summary=summary))

    def content(self) -> bytes:
        return self._buffer.getvalue()

    def _write(self, event: Any) -> None:
        self._records.write(event.SerializeToString())


def _line(row: dict[str, Any]) -> bytes:
    return json.dumps(row).encode() + b"\n"


def read(folder: str) -> list[dict[str, Any]]:
    """The lines of a run's metrics.jsonl, without those that were damaged or cut; [] if there is none yet."""
    return side_files.read_lines(storage.join(folder, "metrics.jsonl"), ("step", "kind"))
