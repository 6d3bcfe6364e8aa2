"""Ctrl-C at a command that runs in this process."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any

from . import runs


def interrupted(
    arguments: Sequence[str], when: Callable[[], bool], timeout: float = 240.0, again: float | None = None
) -> tuple[int, str, str]:
    """A verb that gets SIGINT as soon as `when()`: exit status, stdout, stderr. It must be one that would go on.

    Args:
        again: seconds after which it gets another one, as of a person who sees that nothing happens: Python drops an
            exception that a signal raises inside a callback of C code.
    """
    ended = threading.Event()

    def watch() -> None:
        for _ in range(int(timeout / 0.05)):
            if ended.wait(0.05):
                return
            if when():
                break
        while not ended.is_set():
            os.kill(os.getpid(), signal.SIGINT)
            if ended.wait(again):
                return

    # In the background (`nohup`, `&` in a script) the shell has SIGINT ignored, and Python leaves it so.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        return runs.command(*arguments)
    finally:
        ended.set()
        watcher.join()
        signal.signal(signal.SIGINT, before)


def main_thread_is_in(function: Callable[..., Any]) -> bool:
    """Whether the main thread is within a call of a function."""
    frame: FrameType | None = sys._current_frames()[threading.main_thread().ident or 0]
    while frame is not None:
        if frame.f_code is function.__code__:
            return True
        frame = frame.f_back
    return False
