"""Logging for the operators of a cluster: what level, to which file, in the driver and in its workers.

Modules log with `logging.getLogger(__name__)`. Without options nothing below a warning is shown. The options reach the
workers of a local Ray as environment variables; of a running cluster, whose workers have another environment, warnings
are in Ray's own logs. Each line says what was worked on: [shard=00012 key=000012034].
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from types import MappingProxyType

from .secrets import hide

LEVELS = ("debug", "info", "warning", "error")
LEVEL, FILE = "FOURMILL_LOG_LEVEL", "FOURMILL_LOG_FILE"
FORMAT = "%(asctime)s %(levelname)s %(process)d %(name)s: %(about)s%(message)s"

_ABOUT: ContextVar[Mapping[str, str]] = ContextVar("fourmill-about", default=MappingProxyType({}))


@contextmanager
def about(**what: str) -> Iterator[None]:
    """Within, lines of this thread say what they are about: `about(shard="00012")`."""
    token = _ABOUT.set({**_ABOUT.get(), **what})
    try:
        yield
    finally:
        _ABOUT.reset(token)


def inherited() -> Callable[[], None]:
    """What a new thread calls first, so that its lines say what those of this thread say now."""
    what = _ABOUT.get()

    def take() -> None:
        _ABOUT.set(what)

    return take


class _Formatter(logging.Formatter):
    """Events with what they are about, without passwords and signatures of URLs."""

    def format(self, record: logging.LogRecord) -> str:
        what = " ".join(f"{name}={value}" for name, value in _ABOUT.get().items())
        record.about = f"[{what}] " if what else ""
        return hide(super().format(record))


def configure(level: str | None = None, file: str | None = None) -> None:
    """Set up logging of this process, and of the workers that it starts.

    Args:
        level: one of LEVELS; of the file if there is one, else of stderr. "info" for a file, else "warning" if None.
        file: a local path, which is appended to. OSError if it cannot be opened.
    """
    chosen = (level or ("info" if file else "warning")).upper()
    os.environ[LEVEL] = chosen.lower()
    screen = logging.StreamHandler(sys.stderr)
    screen.setLevel(logging.WARNING if file else chosen)
    handlers: list[logging.Handler] = [screen]
    if file:
        os.environ[FILE] = os.path.abspath(file)
        try:
            handlers.append(logging.FileHandler(file, encoding="utf-8"))
        except OSError as error:
            raise OSError(f"log file {file}: cannot be opened: {error.strerror}") from error
        handlers[-1].setLevel(chosen)
    else:
        os.environ.pop(FILE, None)
    logger = logging.getLogger("fourmill")
    for old in logger.handlers[:]:
        logger.removeHandler(old)
        old.close()
    for handler in handlers:
        handler.setFormatter(_Formatter(FORMAT))
        logger.addHandler(handler)
    logger.setLevel(min(handler.level for handler in handlers))
    logger.propagate = False


def configure_worker() -> None:
    """In a worker: with the options of the process that started its Ray."""
    configure(os.environ.get(LEVEL), os.environ.get(FILE))
