"""Progress that a person can read: done of total, rate, time left, failures by reason.

On a terminal one line is rewritten; elsewhere (a log file, CI) a line is printed every few seconds, so that logs stay
short and nothing is lost.
"""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType

SAY_SECONDS = 20.0  # between two lines of `said`


def duration(seconds: float) -> str:
    """12.3 -> "12 s", 75 -> "1:15", 3700 -> "1:01:40"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes}:{rest:02d}"
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


@contextmanager
def said(what: str) -> Iterator[None]:
    """As long as the block lasts, say every `SAY_SECONDS` what is waited for: of calls that say nothing themselves."""
    start, ended = time.monotonic(), threading.Event()

    def say() -> None:
        while not ended.wait(SAY_SECONDS):
            print(f"{what} ({duration(time.monotonic() - start)})", file=sys.stderr, flush=True)

    thread = threading.Thread(target=say, name="fourmill-said", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


class Progress:
    """A stage's progress. Use as a context manager; call `update` as often as you like.

    Args:
        stage: the verb, e.g. "tokenize".
        total: how many units there are; the time left is estimated from them.
        unit: what is counted, e.g. "samples".
        every: seconds between lines when the output is no terminal.
        start: units that were done before; they count as done, but not into the rate.
    """

    def __init__(self, stage: str, total: float, unit: str, every: float = 10.0, start: float = 0.0) -> None:
        self.stage, self.total, self.unit = stage, total, unit
        self.done = self._before = start
        self.notes = ""
        self.failures: Counter[str] = Counter()
        self._terminal = sys.stderr.isatty()
        self._interval = 0.2 if self._terminal else every
        self._start = time.monotonic()
        # The first line comes after a full interval in a log: by then there is a rate to tell.
        self._last = self._start if not self._terminal else 0.0

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._print(final=True)

    def update(self, done: float = 0.0, *, notes: str | None = None, failures: dict[str, int] | None = None) -> None:
        """Add `done` units; `notes` is free text shown at the end; `failures` adds counts by reason."""
        self.done += done
        if notes is not None:
            self.notes = notes
        if failures:
            self.failures.update(failures)
        if time.monotonic() - self._last >= self._interval:
            self._print()

    def say(self, text: str) -> None:
        """Print a sentence on a line of its own."""
        sys.stderr.write(("\r\x1b[2K" if self._terminal else "") + f"{self.stage:<9} {text}\n")
        sys.stderr.flush()

    def line(self) -> str:
        """The line as it would be shown now."""
        elapsed = max(time.monotonic() - self._start, 1e-6)
        rate = (self.done - self._before) / elapsed
        parts = [f"{self.done:,.0f}/{self.total:,.0f} {self.unit}", f"{rate:,.1f} {self.unit}/s", duration(elapsed)]
        if rate and self.done < self.total:
            parts.append(f"{duration((self.total - self.done) / rate)} left")
        if self.notes:
            parts.append(self.notes)
        if self.failures:
            worst = ", ".join(f"{reason} x{n}" for reason, n in self.failures.most_common(3))
            parts.append(f"{self.failures.total()} rejects ({worst})")
        return f"{self.stage:<9} " + "  ".join(parts)

    def _print(self, final: bool = False) -> None:
        self._last = time.monotonic()
        if self._terminal:
            sys.stderr.write("\r\x1b[2K" + self.line()[:200] + ("\n" if final else ""))
        else:
            sys.stderr.write(self.line() + "\n")
        sys.stderr.flush()
