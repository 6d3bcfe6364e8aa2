"""Make the items of a generator in a thread, some of them ahead of the consumer."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Generator
from typing import TypeVar

Item = TypeVar("Item")

_POLL_SECONDS = 0.1  # how often the producer checks whether the consumer has gone


def prefetch(items: Generator[Item], depth: int) -> Generator[Item]:
    """The same items, made by a thread up to `depth` ahead. Closing this generator ends the thread and closes `items`.

    What `items` raises is raised here, after the items before it.
    """
    ready: queue.Queue[Item | _Failure | None] = queue.Queue(depth)
    gone = threading.Event()

    def put(item: Item | _Failure | None) -> None:
        # No endless wait: a consumer that stopped will never take anything out of a full queue.
        while not gone.is_set():
            try:
                return ready.put(item, timeout=_POLL_SECONDS)
            except queue.Full:
                continue

    def produce() -> None:
        try:
            for item in items:
                put(item)
                if gone.is_set():
                    break
            put(None)
        except BaseException as error:  # of any kind: the consumer would wait for ever
            put(_Failure(error))
        finally:
            items.close()  # in the thread that runs it: a generator cannot be closed while it runs elsewhere

    thread = threading.Thread(target=produce, name="prefetch", daemon=True)
    thread.start()
    try:
        while (item := ready.get()) is not None:
            if isinstance(item, _Failure):
                raise item.error
            yield item
    finally:
        gone.set()
        with contextlib.suppress(queue.Empty):
            ready.get_nowait()  # a producer that waits for room need not wait for the next poll
        thread.join()


class _Failure:
    """What the items raised."""

    def __init__(self, error: BaseException) -> None:
        self.error = error
