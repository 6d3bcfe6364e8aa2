"""A command that is asked to stop: Ctrl-C, SIGTERM (schedulers, spot instances, containers), SIGHUP, SIGUSR1 (Slurm).

All of them raise `KeyboardInterrupt` in the main thread, so that whatever is saved at one is saved at all.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

# What batch systems and clouds send before they kill. SIGINT raises KeyboardInterrupt in any case.
SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)


class Stopped(KeyboardInterrupt):
    """The command ends early.

    Attributes:
        signum: of the signal that asked for it.
        said: what is kept and where the next start goes on, for people; "" if nobody knows.
    """

    def __init__(self, signum: int = signal.SIGINT, said: str = "") -> None:
        super().__init__(said)
        self.signum, self.said = signum, said


def because_of(interrupt: KeyboardInterrupt, said: str) -> Stopped:
    """The same with what is kept."""
    return Stopped(interrupt.signum if isinstance(interrupt, Stopped) else signal.SIGINT, said)


@contextmanager
def heeded() -> Iterator[None]:
    """Within, signals that end the process raise `Stopped`. Those that somebody ignores or handles stay as they are."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}
    ours = [number for number, handler in before.items() if handler is signal.SIG_DFL]
    for number in ours:
        signal.signal(number, _stop)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, before[number])


@contextmanager
def kept() -> Iterator[None]:
    """Around code that puts handlers of its own in place of those of `heeded`, as `ray.init` does: ours come back."""
    main = threading.current_thread() is threading.main_thread()
    ours = [number for number in SIGNALS if main and signal.getsignal(number) is _stop]
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, _stop)


class Deferred:
    """Whether a signal has come, within `deferred`; 0 for none."""

    signum = 0


@contextmanager
def deferred() -> Iterator[Deferred]:
    """Within, a first signal is only noted, for work that ends between two of its steps; a second one raises."""
    noted, main = Deferred(), threading.current_thread() is threading.main_thread()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, *SIGNALS) if main}
    ours = [number for number, handler in before.items() if handler in (_stop, signal.default_int_handler)]

    def note(signum: int, frame: FrameType | None) -> None:
        if noted.signum:
            raise Stopped(signum)
        noted.signum = signum

    for number in ours:
        signal.signal(number, note)
    try:
        yield noted
    finally:
        for number in ours:
            signal.signal(number, before[number])


def _stop(signum: int, frame: FrameType | None) -> None:
    raise Stopped(signum)
